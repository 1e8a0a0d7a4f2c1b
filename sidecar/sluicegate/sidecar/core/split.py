# SPDX-License-Identifier: Apache-2.0
"""An embeddings request in parts, and the parts' answers made one again: in order, usage summed.

Each input is embedded by itself, so that the parts give together what the whole would have given. `input` is a list of
texts or of token lists (OpenAI, Azure, Mistral); `requests` that of Google's batchEmbedContents, `instances` that of
Vertex's predict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

_ANSWERS = {"input": "data", "inputs": "data", "requests": "embeddings", "instances": "predictions"}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one request: the field that holds them, at least two. `sizes`: tokens, or characters of texts."""

    field: str
    items: tuple[Any, ...]
    sizes: tuple[int, ...]


class UnmergeableError(ValueError):
    """A part's answer that is not what its provider documents."""


def inputs_of(body: dict[str, Any]) -> Inputs | None:
    """The inputs of an embeddings request that may be sent in parts; None where there are fewer than two."""
    for field in _ANSWERS:
        value = body.get(field)
        if isinstance(value, list):
            items = cast("list[object]", value)
            kind = type(items[0]) if items else None
            if len(items) < 2 or kind not in (str, list, dict) or any(type(item) is not kind for item in items):
                return None
            return Inputs(field, tuple(items), tuple(map(_size, items)))
    return None


def _size(item: object) -> int:
    if isinstance(item, str):
        return len(item)
    return len(cast("list[object]", item)) if isinstance(item, list) else len(orjson.dumps(item))


def divide(inputs: Inputs, tokens: int, *, most_items: int = 0, most_tokens: int = 0) -> list[range]:
    """Consecutive parts, each within the bounds (0: none); an input larger than `most_tokens` is a part by itself.

    `tokens`: of all inputs together; each counts by its share of the whole size.
    """
    unit = tokens / max(1, sum(inputs.sizes))
    parts: list[range] = []
    start, held = 0, 0.0
    for at, size in enumerate(inputs.sizes):
        weight = size * unit
        full = (most_items and at - start >= most_items) or (most_tokens and held + weight > most_tokens)
        if full and at > start:
            parts.append(range(start, at))
            start, held = at, 0.0
        held += weight
    parts.append(range(start, len(inputs.items)))
    return parts


def balanced(inputs: Inputs, tokens: int, *, most_items: int = 0, most_tokens: int = 0) -> list[range]:
    """As `divide`, with parts of about one size where that takes no more of them."""
    parts = divide(inputs, tokens, most_items=most_items, most_tokens=most_tokens)
    items = math.ceil(len(inputs.items) / len(parts))
    even = divide(
        inputs,
        tokens,
        most_items=min(items, most_items) if most_items else items,
        most_tokens=most_tokens,
    )
    return even if len(even) == len(parts) else parts


def part_of(body: dict[str, Any], inputs: Inputs, part: range) -> dict[str, Any]:
    """The request for some of the inputs; everything else as it was."""
    return {**body, inputs.field: list(inputs.items[part.start : part.stop])}


def merge(inputs: Inputs, parts: Sequence[range], answers: Sequence[object]) -> dict[str, Any]:
    """One answer out of those of all parts, in their order. Raises UnmergeableError."""
    name = _ANSWERS[inputs.field]
    merged: list[Any] = []
    whole: dict[str, Any] = {}
    for part, answer in zip(parts, answers, strict=True):
        found = cast("dict[str, Any]", answer).get(name) if isinstance(answer, dict) else None
        if not isinstance(found, list) or len(cast("list[object]", found)) != len(part):
            raise UnmergeableError(f"a part of {len(part)} inputs was not answered by as many embeddings in `{name}`")
        body = cast("dict[str, Any]", answer)
        entries = cast("list[dict[str, Any]]", found)
        if name == "data":
            entries = _renumbered(entries, part.start)
        merged += entries
        rest = {key: value for key, value in body.items() if key != name}
        whole = _summed(whole, rest) if whole else rest
    return {**whole, name: merged}


def _renumbered(entries: list[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    try:
        ordered = sorted(entries, key=lambda entry: entry["index"])
        if [entry["index"] for entry in ordered] != list(range(len(ordered))):
            raise UnmergeableError("a part's `index` fields are not 0, 1, 2, ...")
        return [{**entry, "index": start + entry["index"]} for entry in ordered]
    except (TypeError, KeyError):
        raise UnmergeableError("a part's embeddings have no `index`") from None


def _summed(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`one` with the usage of both; what else they say is the first one's."""
    total = dict(one)
    for name in ("usage", "usageMetadata", "metadata"):
        if isinstance(other.get(name), dict):
            total[name] = _added(total.get(name), other[name])
    return total


def _added(one: object, other: object) -> object:
    """Numbers added, in mappings key by key; of anything else the first one."""
    first, second = _mapping(one), _mapping(other)
    if first is not None and second is not None:
        return {key: _added(first.get(key), second.get(key)) for key in first | second}
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return other if one is None else one


def _mapping(value: object) -> dict[str, object] | None:
    return cast("dict[str, object]", value) if isinstance(value, dict) else None
