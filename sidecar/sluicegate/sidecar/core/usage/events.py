# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, read while they pass.

Every chunk is handed on at once, unless usage is hidden: then an event is held back until it is whole, the chunk that
bears only usage and the `"usage": null` of the others are taken out, and no other byte changes. Events are parsed only
when a byte search finds that they could matter. An event larger than the bound passes unread.
"""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

from sluicegate.sidecar.core.fault import stream_fault
from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.sidecar.core.usage.bodies import ends_generation
from sluicegate.sidecar.core.usage.counts import Tally
from sluicegate.sidecar.core.usage.reading import MAX_HELD, Read
from sluicegate.wire.values import Usage

# One blank line. A CR at the very end waits for its LF, so that a cut between them changes nothing.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_NULL_USAGE = re.compile(rb'"usage"\s*:\s*null')
_SOME_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_OPENAI = re.compile(rb'"usage"|\[DONE\]|"error"|event: ?error')
_GOOGLE = re.compile(rb'"usageMetadata"|"finishReason"|"blockReason"|"error"|event: ?error')
_INTERESTING = {
    Wire.CHAT: _OPENAI,
    Wire.COMPLETIONS: _OPENAI,
    Wire.FIM: _OPENAI,
    Wire.EMBEDDINGS: _OPENAI,
    Wire.RESPONSES: re.compile(rb'response\.(?:completed|incomplete|failed)|"type" ?: ?"error"|event: ?error'),
    Wire.MESSAGES: re.compile(rb'"message_(?:start|delta|stop)"|"error"|event: ?error'),
    Wire.GENERATE: _GOOGLE,
    Wire.EMBED: _GOOGLE,
}
# Google counts in every event, each time in full: only the last of them need be read, and those that say more.
_MORE = re.compile(rb'"finishReason"|"blockReason"|"error"|event: ?error')
_CHUNKS = (Wire.CHAT, Wire.COMPLETIONS, Wire.FIM)


class EventReader:
    """Server-sent events of one response.

    Attributes: `usage` so far, `error` the error object that came inside the stream, `finished` whether its end
    was announced, `broken`: how many events could not be read, `events`: about how many came.
    """

    def __init__(self, wire: Wire, *, hide_usage: bool = False, max_held: int = MAX_HELD) -> None:
        self.error: dict[str, Any] | None = None
        self.finished = False
        self.broken = 0
        self.events = 0
        self._wire = wire
        self._tally = Tally(wire)
        self._hide = hide_usage and wire in (Wire.CHAT, Wire.COMPLETIONS)
        self._max = max_held
        self._interesting = _INTERESTING[wire]
        self._held = bytearray()
        self._skipping = False
        self._counts = b""  # the last events of Google's that only count, unread

    @property
    def usage(self) -> Usage | None:
        """So far."""
        self._catch_up()
        return self._tally.usage

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
        if self._wire is Wire.GENERATE and b'"promptTokenCount"' in whole and not _MORE.search(whole):
            self._counts = whole
            return True
        self._catch_up()
        return self._read_all(whole)

    def _catch_up(self) -> None:
        counts, self._counts = self._counts, b""
        if counts:
            self._read_all(counts)

    def _read_all(self, whole: bytes) -> bool:
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
        dull = self._wire in _CHUNKS and name != b"error" and b'"error"' not in data
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
        if name == b"error" or kind == "error" or kind == "response.failed" or body.get("error") or stream_fault(body):
            if self.error is None:
                self.error = body
            self._tally.fold(body.get("response"))
            return True
        match self._wire:
            case Wire.MESSAGES:
                self._tally.fold(body.get("message") if kind == "message_start" else body)
                self.finished = self.finished or kind == "message_stop"
            case Wire.RESPONSES:
                if kind in ("response.completed", "response.incomplete"):
                    self._tally.fold(body.get("response"))
                    self.finished = True
            case Wire.GENERATE | Wire.EMBED:
                self._tally.fold(body)
                self.finished = self.finished or ends_generation(body)
            case Wire.CHAT | Wire.COMPLETIONS | Wire.EMBEDDINGS | Wire.FIM:
                self._tally.fold(body)
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
