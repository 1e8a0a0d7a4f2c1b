# SPDX-License-Identifier: Apache-2.0
"""Where a conversation's history may be cut, so that what is left is one that its provider accepts.

A turn is what a user says and all that follows up to what a user says next: answers, tool calls, tool results. Turns
are left out whole and oldest first; instructions (system, developer) and the last turn always stay. A cut is allowed
only where no tool call is parted from its result, whatever lies between them, and never past an item that refers to
what the provider holds, such as a result whose call is not in the request. A history of which any item is not
understood is left alone. It goes by the request's own shape: `messages` (chat completions of all dialects, Anthropic),
`contents` (Google), `input` (OpenAI's responses).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

_FIELDS = ("messages", "contents", "input")
_KEPT_ROLES = ("system", "developer")
_CALL = ("functionCall", "function_call")
_RESPONSE = ("functionResponse", "function_response")
_REST_ROLES = ("assistant", "model", "tool", "function")


class _Kind(Enum):
    KEPT = 1  # instructions: they belong to no turn
    START = 2  # a user speaks
    REST = 3
    PIN = 4  # it stands for something that is not in the request
    UNKNOWN = 5


@dataclass(frozen=True, slots=True)
class History:
    """The conversation of one request: the field that holds it, and its turns, oldest first, as positions of items.

    `cuts`: how many of the oldest turns may be left out; each number that is allowed, ascending, at least one.
    """

    field: str
    turns: tuple[tuple[int, ...], ...]
    cuts: tuple[int, ...]


def history_of(body: dict[str, Any]) -> History | None:
    """The history of a request; None where nothing of it may be left out."""
    field = next((name for name in _FIELDS if isinstance(body.get(name), list)), None)
    if field is None:
        return None
    items = cast("list[Any]", body[field])
    turns = _turns(items)
    if turns is None or len(turns) < 2:
        return None
    cuts = tuple(_allowed(items, turns))
    return History(field, tuple(map(tuple, turns)), cuts) if cuts else None


def trimmed(body: dict[str, Any], history: History, cut: int) -> tuple[dict[str, Any], int]:
    """The request without its `cut` oldest turns, everything else as it was; and how many items that leaves out."""
    dropped = {at for turn in history.turns[:cut] for at in turn}
    kept = [item for at, item in enumerate(cast("list[Any]", body[history.field])) if at not in dropped]
    return {**body, history.field: kept}, len(dropped)


def _turns(items: list[Any]) -> list[list[int]] | None:
    turns: list[list[int]] = []
    before: _Kind | None = None
    for at, item in enumerate(items):
        kind = _kind(item)
        if kind is _Kind.UNKNOWN:
            return None
        if kind is _Kind.KEPT:
            continue
        # What a user says in several messages is one start.
        if not turns or (kind is _Kind.START and before is not _Kind.START):
            turns.append([])
        turns[-1].append(at)
        before = kind
    return turns


def _allowed(items: list[Any], turns: list[list[int]]) -> Iterator[int]:
    """How many of the oldest turns may go, each number that is allowed, ascending; never all."""
    called: set[str] = set()
    calls = [{name for at in turn for name in _calls(items[at])} for turn in turns]
    results = [{name for at in turn for name in _results(items[at])} for turn in turns]
    every = set[str]().union(*calls)
    later: list[set[str]] = [set() for _ in range(len(turns) + 1)]
    for number in reversed(range(len(turns))):
        later[number] = later[number + 1] | results[number]
    for number in range(len(turns) - 1):
        pinned = any(_kind(items[at]) is _Kind.PIN for at in turns[number])
        if pinned or not results[number] <= every:
            return
        called |= calls[number]
        if not called & later[number + 1]:
            yield number + 1


def _kind(item: object) -> _Kind:
    if not isinstance(item, dict):
        return _Kind.UNKNOWN
    entry = cast("dict[str, Any]", item)
    role, kind = entry.get("role"), entry.get("type")
    if kind == "item_reference":
        return _Kind.PIN
    if role is None:
        if isinstance(kind, str):
            return _Kind.REST  # an item of the responses API: a call, its output, reasoning
        role = "user" if isinstance(entry.get("parts"), list) else None  # Google's default
    if role in _KEPT_ROLES:
        return _Kind.KEPT
    if role == "user":
        return _Kind.REST if _answers(entry) else _Kind.START
    return _Kind.REST if role in _REST_ROLES else _Kind.UNKNOWN


def _parts(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("content", "parts"):
        content = entry.get(name)
        if isinstance(content, list):
            for part in cast("list[object]", content):
                if isinstance(part, dict):
                    yield cast("dict[str, Any]", part)


def _answers(entry: dict[str, Any]) -> bool:
    """Whether a user's message brings the result of a tool, as in Anthropic's and Google's wires."""
    return any(part.get("type") == "tool_result" or _object(part, *_RESPONSE) for part in _parts(entry))


def _object(part: dict[str, Any], *names: str) -> dict[str, Any] | None:
    """The first of `names` that is there; Google's API takes both spellings of its fields."""
    found = next((part[name] for name in names if isinstance(part.get(name), dict)), None)
    return cast("dict[str, Any] | None", found)


def _named(*values: object) -> Iterator[str]:
    return (value for value in values if isinstance(value, str) and value)


def _calls(item: object) -> Iterator[str]:
    entry = cast("dict[str, Any]", item)
    calls = entry.get("tool_calls")
    for call in cast("list[object]", calls) if isinstance(calls, list) else ():
        if isinstance(call, dict):
            yield from _named(cast("dict[str, Any]", call).get("id"))
    if "role" not in entry and not str(entry.get("type", "")).endswith("_output"):
        yield from _named(entry.get("call_id"))
    for part in _parts(entry):
        if str(part.get("type", "")).endswith("tool_use"):
            yield from _named(part.get("id"))
        yield from _named((_object(part, *_CALL) or {}).get("id"))


def _results(item: object) -> Iterator[str]:
    entry = cast("dict[str, Any]", item)
    yield from _named(entry.get("tool_call_id"))
    if str(entry.get("type", "")).endswith("_output"):
        yield from _named(entry.get("call_id"))
    for part in _parts(entry):
        if str(part.get("type", "")).endswith("tool_result"):
            yield from _named(part.get("tool_use_id"))
        yield from _named((_object(part, *_RESPONSE) or {}).get("id"))
