# SPDX-License-Identifier: Apache-2.0
"""Readers of bodies that are no event stream: one JSON value, a stream that is one JSON array, and what is not read."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

from sluicegate.sidecar.core.fault import stream_fault
from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.sidecar.core.usage.counts import Tally, mapping, usage_of
from sluicegate.sidecar.core.usage.reading import MAX_HELD, Read
from sluicegate.wire.values import Usage

_TAIL = 64 * 1024
_LAST_USAGE = re.compile(rb'"(usage|usageMetadata)"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')


def ends_generation(body: dict[str, Any]) -> bool:
    """Whether a chunk of Google's says that it is the last: it gives a reason to stop, or blocked the prompt."""
    if mapping(body.get("promptFeedback")).get("blockReason"):
        return True
    candidates = body.get("candidates")
    return isinstance(candidates, list) and any(
        mapping(candidate).get("finishReason") for candidate in cast("list[object]", candidates)
    )


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
            said = mapping(body)
            if said.get("error") or stream_fault(said):
                self.error = said
        self._held.clear()
        return Read(b"", True)

    def _from_tail(self) -> Usage | None:
        found = None
        for match in _LAST_USAGE.finditer(self._held):
            found = match
        if found is None:
            return None
        try:
            return usage_of(self._wire, {found.group(1).decode(): orjson.loads(found.group(2))})
        except orjson.JSONDecodeError:
            return None


class ArrayReader:
    """Google's stream without `alt=sse`: one JSON array whose elements come as they are made.

    Chunks are handed on at once. An element is read when it is whole; one larger than `max_held` passes unread.
    `finished` once an element gave its reason to stop, or the body is no array (an error, say) and has ended.
    """

    def __init__(self, *, max_held: int = MAX_HELD) -> None:
        self.error: dict[str, Any] | None = None
        self.finished = False
        self.broken = 0
        self.events = 0
        self._tally = Tally(Wire.GENERATE)
        self._max = max_held
        self._held = bytearray()
        self._depth = 0
        self._inside = False  # of a string
        self._escaped = False
        self._oversized = False
        self._array: bool | None = None

    @property
    def usage(self) -> Usage | None:
        """So far."""
        return self._tally.usage

    def receive_data(self, data: bytes) -> Read:
        """One chunk, cut anywhere."""
        if self._array is None:
            head = data.lstrip()
            if head:
                self._array = head.startswith(b"[")
        top = 1 if self._array else 0
        at, start, news = 0, 0 if self._depth > top else -1, False
        while at < len(data):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._inside else _OUTSIDE).search(data, at)
            if found is None:
                break
            at = found.end()
            mark = data[found.start()]
            if mark == 0x5C:
                self._escaped = True
            elif mark == 0x22:
                self._inside = not self._inside
            elif mark in b"{[":
                if self._depth == top and mark == 0x7B:
                    start = found.start()
                self._depth += 1
            else:
                self._depth = max(0, self._depth - 1)
                if self._depth == top and start >= 0:
                    self._keep(data[start:at])
                    news = self._element() or news
                    start = -1
        if start >= 0:
            self._keep(data[start:])
        return Read(data, news)

    def receive_end(self) -> Read:
        """No more bytes."""
        if self._array is False and self._depth == 0:
            self.finished = True
        self._held.clear()
        return Read()

    def _keep(self, piece: bytes) -> None:
        if self._oversized or len(self._held) + len(piece) > self._max:
            self._oversized = True
            self._held.clear()
        else:
            self._held += piece

    def _element(self) -> bool:
        self.events += 1
        element, oversized = bytes(self._held), self._oversized
        self._held.clear()
        self._oversized = False
        try:
            body = mapping(None if oversized else orjson.loads(element))
        except orjson.JSONDecodeError:
            body = {}
        if not body:
            self.broken += 1
            return False
        if body.get("error"):
            self.error = self.error or body
        self._tally.fold(body)
        self.finished = self.finished or ends_generation(body)
        return True


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
