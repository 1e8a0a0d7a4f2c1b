# SPDX-License-Identifier: Apache-2.0
"""The usage objects of all wires, and how what later events say is put together with what earlier ones said.

- OpenAI's wire: one object. `cached_tokens` are part of the prompt; DeepSeek calls them `prompt_cache_hit_tokens`, and
  Groq's streams have the object in `x_groq`.
- Anthropic: cumulative, so what is said again replaces; `input_tokens` excludes both cache fields.
- Google: cumulative too. Vertex says only `trafficType` until the last chunk, so a count that is missing is not zero.
  Thoughts are output, tool use is input, and the prompt includes what was cached. Vertex's embeddings count themselves
  in `predictions[].embeddings.statistics.token_count`.
"""

from __future__ import annotations

from typing import Any, cast

from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.wire.values import Usage

_MAX_TOKENS = 10**9
_ANTHROPIC = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
_GOOGLE = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "cachedContentTokenCount",
    "totalTokenCount",
)


def mapping(value: object) -> dict[str, Any]:
    """`value` where it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _tokens(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS:
            return value
    return None


class Tally:
    """What one response has said of its usage so far. `usage` None: nothing readable yet."""

    def __init__(self, wire: Wire) -> None:
        self.usage: Usage | None = None
        self._wire = wire
        self._said: dict[str, int] = {}

    def fold(self, body: object) -> None:
        """Takes a whole body, or one event of a stream."""
        match self._wire:
            case Wire.MESSAGES:
                if self._hear(mapping(body).get("usage"), _ANTHROPIC):
                    self.usage = self._anthropic()
            case Wire.GENERATE | Wire.EMBED:
                given = mapping(body)
                if self._hear(given.get("usageMetadata") or given.get("usage_metadata"), _GOOGLE):
                    self.usage = self._google() or self.usage
                elif "predictions" in given:
                    self.usage = _predicted(given["predictions"]) or self.usage
            case Wire.CHAT | Wire.COMPLETIONS | Wire.RESPONSES | Wire.EMBEDDINGS | Wire.FIM:
                self.usage = _openai(mapping(body)) or self.usage

    def _hear(self, usage: object, names: tuple[str, ...]) -> bool:
        counts = {name: n for name in names if (n := _tokens(mapping(usage), name)) is not None}
        self._said |= counts
        return bool(counts)

    def _anthropic(self) -> Usage | None:
        said = self._said
        if "input_tokens" not in said and "output_tokens" not in said:
            return None
        read = said.get("cache_read_input_tokens", 0)
        given = said.get("input_tokens", 0) + read + said.get("cache_creation_input_tokens", 0)
        return Usage(given, said.get("output_tokens", 0), read)

    def _google(self) -> Usage | None:
        said = self._said
        prompt = said.get("promptTokenCount")
        total = said.get("totalTokenCount", 0)
        if prompt is None:
            return None
        given = prompt + said.get("toolUsePromptTokenCount", 0)
        output = said.get("candidatesTokenCount", 0) + said.get("thoughtsTokenCount", 0)
        return Usage(given, output or max(0, total - given), min(given, said.get("cachedContentTokenCount", 0)))


def _openai(body: dict[str, Any]) -> Usage | None:
    usage = mapping(body.get("usage")) or mapping(mapping(body.get("x_groq")).get("usage"))
    given = _tokens(usage, "prompt_tokens", "input_tokens")
    if given is None:
        return None
    details = mapping(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    cached = _tokens(details, "cached_tokens")
    if cached is None:
        cached = _tokens(usage, "prompt_cache_hit_tokens") or 0
    return Usage(given, _tokens(usage, "completion_tokens", "output_tokens") or 0, min(given, cached))


def _predicted(predictions: object) -> Usage | None:
    total, found = 0, False
    for item in cast("list[object]", predictions) if isinstance(predictions, list) else []:
        statistics = mapping(mapping(mapping(item).get("embeddings")).get("statistics"))
        count = statistics.get("token_count")
        if isinstance(count, int | float) and 0 <= count <= _MAX_TOKENS:
            total, found = total + int(count), True
    return Usage(total, 0) if found else None


def usage_of(wire: Wire, body: object) -> Usage | None:
    """The usage that a whole body says; None where nothing readable is said."""
    tally = Tally(wire)
    tally.fold(body)
    return tally.usage
