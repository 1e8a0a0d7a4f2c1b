# SPDX-License-Identifier: Apache-2.0
"""Reads usage, ends and errors out of a response while its bytes pass through, and hides what the app did not ask for.

A reader is fed with `receive_data(bytes)` as chunks arrive and with `receive_end()` once; both return a `Read`: the
bytes to hand on now and what was learned. However the provider's bytes are cut into chunks, the bytes handed on in
all and the facts learned are the same.

`EventReader` reads server-sent events. It hands every chunk on at once, unless usage is hidden: then it
holds an event back until it is whole, takes out the chunk that bears only usage and the `"usage": null` of
the others, and changes no other byte. Events are parsed only when a byte search finds that they could matter.
`JsonReader` reads one JSON body. Both hold a bounded amount: an event or body larger than that passes unread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import orjson

from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.wire.values import Usage

MAX_HELD = 4 * 1024 * 1024
_TAIL = 64 * 1024
_MAX_TOKENS = 10**9

# One blank line. A CR at the very end waits for its LF, so that a cut between them changes nothing.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_NULL_USAGE = re.compile(rb'"usage"\s*:\s*null')
_SOME_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_LAST_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_INTERESTING = {
    Wire.CHAT: re.compile(rb'"usage"|\[DONE\]|"error"|event: ?error'),
    Wire.COMPLETIONS: re.compile(rb'"usage"|\[DONE\]|"error"|event: ?error'),
    Wire.EMBEDDINGS: re.compile(rb'"usage"|\[DONE\]|"error"'),
    Wire.RESPONSES: re.compile(rb'response\.(?:completed|incomplete|failed)|"type" ?: ?"error"|event: ?error'),
    Wire.MESSAGES: re.compile(rb'"message_(?:start|delta|stop)"|"error"|event: ?error'),
}


@dataclass(frozen=True, slots=True)
class Read:
    """What one step gave: `data` to hand on, and whether this step learned something new."""

    data: bytes = b""
    news: bool = False


def _tokens(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS:
            return value
    return None


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def usage_of(wire: Wire, body: object, before: Usage | None = None) -> Usage | None:
    """The usage object in a response body or event. `before`: what earlier events of the stream said (Anthropic
    repeats cumulative values, so what is said again replaces). None where nothing readable is said."""
    usage = _mapping(_mapping(body).get("usage"))
    if not usage:
        return before
    if wire is Wire.MESSAGES:
        fresh = _tokens(usage, "input_tokens")
        read = _tokens(usage, "cache_read_input_tokens")
        written = _tokens(usage, "cache_creation_input_tokens") or 0
        output = _tokens(usage, "output_tokens")
        old = before or Usage(0, 0)
        if fresh is None and output is None:
            return before
        cached = old.cached_input_tokens if read is None else read
        given = old.input_tokens if fresh is None else fresh + cached + written
        return Usage(given, old.output_tokens if output is None else output, cached)
    given_or_none = _tokens(usage, "prompt_tokens", "input_tokens")
    if given_or_none is None:
        return before
    details = _mapping(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    output = _tokens(usage, "completion_tokens", "output_tokens") or 0
    return Usage(given_or_none, output, min(given_or_none, _tokens(details, "cached_tokens") or 0))


class EventReader:
    """Server-sent events of one response.

    Attributes: `usage` so far, `error` the error object that came inside the stream, `finished` whether its end
    was announced, `broken`: how many events could not be read, `events`: about how many came.
    """

    def __init__(self, wire: Wire, *, hide_usage: bool = False, max_held: int = MAX_HELD) -> None:
        self.usage: Usage | None = None
        self.error: dict[str, Any] | None = None
        self.finished = False
        self.broken = 0
        self.events = 0
        self._wire = wire
        self._hide = hide_usage and wire in (Wire.CHAT, Wire.COMPLETIONS)
        self._max = max_held
        self._interesting = _INTERESTING[wire]
        self._held = bytearray()
        self._skipping = False

    def receive_data(self, data: bytes) -> Read:
        """One chunk, cut anywhere."""
        held = self._held
        scan_from = max(0, len(held) - 4)
        held += data
        end = self._last_boundary(held, scan_from)
        if end < 0:
            if len(held) <= self._max:
                return Read(b"" if self._hide else data)
            # Too large to be read: what is held goes on as it is, up to the next boundary.
            given = bytes(held) if self._hide else data
            self._skip()
            return Read(given)
        whole = bytes(held[:end])
        del held[:end]
        if self._skipping:
            return self._resume(whole, data)
        news = self._interesting.search(whole) is not None
        if not self._hide:
            if news:
                news = self._read_events(whole)
            self.events += whole.count(b"\n\n")
            return Read(data, news)
        self.events += whole.count(b"\n\n")
        if not news:
            return Read(whole)
        return self._filtered(whole)

    def receive_end(self) -> Read:
        """No more bytes. What is still held is handed on; an event cut short is read as far as it makes sense."""
        rest = bytes(self._held)
        self._held.clear()
        if not rest or self._skipping:
            return Read(rest if self._hide else b"")
        if self._hide:
            return self._filtered(rest)
        return Read(b"", self._read_events(rest))

    def _skip(self) -> None:
        if not self._skipping:
            self.broken += 1
        self._skipping = True
        tail = bytes(self._held[-3:])
        self._held.clear()
        if not self._hide:
            self._held += tail

    def _resume(self, whole: bytes, data: bytes) -> Read:
        """The oversized event ended somewhere in `whole`: what follows is read again."""
        self._skipping = False
        first = _BOUNDARY.search(whole + b"\0")
        rest = whole[first.end() :] if first else b""
        if self._hide:
            kept = whole[: len(whole) - len(rest)]
            read = self._filtered(rest)
            return Read(kept + read.data, read.news)
        return Read(data, self._read_events(rest))

    @staticmethod
    def _last_boundary(held: bytearray, start: int) -> int:
        if b"\r" not in held:
            at = held.rfind(b"\n\n", start)
            return at + 2 if at >= 0 else -1
        end = -1
        for found in _BOUNDARY.finditer(held, start):
            end = found.end()
        return end

    def _read_events(self, whole: bytes) -> bool:
        news = False
        for event in self._split(whole):
            if self._interesting.search(event) is not None:
                news = self._read(event) or news
        return news

    @staticmethod
    def _split(whole: bytes) -> list[bytes]:
        events: list[bytes] = []
        at = 0
        for found in _BOUNDARY.finditer(whole + b"\0"):
            events.append(whole[at : found.end()])
            at = found.end()
        if at < len(whole):
            events.append(whole[at:])
        return events

    def _filtered(self, whole: bytes) -> Read:
        kept: list[bytes] = []
        news = False
        for event in self._split(whole):
            if self._interesting.search(event) is None:
                kept.append(event)
                continue
            if _SOME_USAGE.search(event) or b'"usage"' not in event:
                news = self._read(event) or news
            kept.append(_without_usage(event))
        return Read(b"".join(kept), news)

    def _read(self, event: bytes) -> bool:
        """Learns from one event; says whether there was anything new."""
        name, data = _fields(event)
        if data == b"[DONE]":
            self.finished = True
            return True
        dull = self._wire in (Wire.CHAT, Wire.COMPLETIONS) and name != b"error" and b'"error"' not in data
        if not data or (dull and not _SOME_USAGE.search(data)):
            return False
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.broken += 1
            if name == b"error":
                self.error = {}
                return True
            return False
        return self._learn(name, cast("dict[str, Any]", body)) if isinstance(body, dict) else False

    def _learn(self, name: bytes, body: dict[str, Any]) -> bool:
        kind = body.get("type")
        if name == b"error" or kind == "error" or kind == "response.failed" or body.get("error"):
            if self.error is None:
                self.error = body
            self.usage = usage_of(self._wire, body.get("response"), self.usage)
            return True
        match self._wire:
            case Wire.MESSAGES:
                source = body.get("message") if kind == "message_start" else body
                self.usage = usage_of(Wire.MESSAGES, source, self.usage)
                self.finished = self.finished or kind == "message_stop"
            case Wire.RESPONSES:
                if kind in ("response.completed", "response.incomplete"):
                    self.usage = usage_of(Wire.RESPONSES, body.get("response"), self.usage)
                    self.finished = True
            case Wire.CHAT | Wire.COMPLETIONS | Wire.EMBEDDINGS:
                self.usage = usage_of(self._wire, body, self.usage)
        return True


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """The event's name and its data lines joined, as the event stream format says."""
    name = b""
    data: list[bytes] = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return name, (data[0] if len(data) == 1 else b"\n".join(data)).strip()


def _without_usage(event: bytes) -> bytes:
    """The event as the app would have got it without asking for usage; empty when the event bears only usage."""
    name, data = _fields(event)
    if name or not data.startswith(b"{"):
        return event
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return event
    if "usage" not in body:
        return event
    if body["usage"] is not None:
        return b"" if body.get("choices") == [] else event
    found = list(_NULL_USAGE.finditer(event))
    if len(found) != 1:
        return event
    start, end = found[0].span()
    before = event[:start].rstrip(b" \t")
    if before.endswith(b","):
        return before[:-1] + event[end:]
    after = event[end:].lstrip(b" \t")
    return event[:start] + (after[1:].lstrip(b" \t") if after.startswith(b",") else event[end:])


class JsonReader:
    """One JSON body: its usage, once it has ended. Bodies beyond `max_held` are read from their last 64 KiB."""

    def __init__(self, wire: Wire, *, max_held: int = MAX_HELD) -> None:
        self.usage: Usage | None = None
        self.error: dict[str, Any] | None = None
        self.finished = False
        self.broken = 0
        self.events = 0
        self._wire = wire
        self._max = max_held
        self._held = bytearray()
        self._cut = False

    def receive_data(self, data: bytes) -> Read:
        """One chunk; it is handed on as it is."""
        self._held += data
        if len(self._held) > self._max:
            self._cut = True
            del self._held[:-_TAIL]
        return Read(data)

    def receive_end(self) -> Read:
        """Reads what was kept."""
        self.finished = True
        if self._cut:
            self.usage = self._from_tail()
        else:
            try:
                body = orjson.loads(self._held)
            except orjson.JSONDecodeError:
                self.broken += 1
                body = None
            self.usage = usage_of(self._wire, body)
            error = _mapping(body).get("error")
            if error:
                self.error = _mapping(body)
        self._held.clear()
        return Read(b"", True)

    def _from_tail(self) -> Usage | None:
        found = None
        for match in _LAST_USAGE.finditer(self._held):
            found = match
        if found is None:
            return None
        try:
            return usage_of(self._wire, {"usage": orjson.loads(found.group(1))})
        except orjson.JSONDecodeError:
            return None


class OpaqueReader:
    """A body that nothing is read from: an unknown content type or coding."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.error: dict[str, Any] | None = None
        self.finished = False
        self.broken = 0
        self.events = 0

    def receive_data(self, data: bytes) -> Read:
        """One chunk; it is handed on as it is."""
        return Read(data)

    def receive_end(self) -> Read:
        """Nothing more."""
        self.finished = True
        return Read()


Reader = EventReader | JsonReader | OpaqueReader


def reader_for(wire: Wire, content_type: str, *, hide_usage: bool = False) -> Reader:
    """The reader for a response of this content type."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return EventReader(wire, hide_usage=hide_usage)
    if kind.endswith("json") or kind == "application/octet-stream":
        return JsonReader(wire)
    return OpaqueReader()
