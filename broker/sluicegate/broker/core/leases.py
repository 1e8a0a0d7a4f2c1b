# SPDX-License-Identifier: Apache-2.0
"""Grants of callers that hold no stream, whose going away nobody would notice: each has a time until which it counts.

A grant that is settled in time leaves its entry behind, which means nothing when its time comes. Entries that outnumber
what is outstanding are dropped as the core asks for the next time; O(log n) each.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

from sluicegate.broker.core.flow import Call, State


class Leases:
    """Times by which granted calls must have been settled."""

    __slots__ = ("_entries", "_order")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Call, int]] = []
        self._order = 0

    def begin(self, call: Call, now: float) -> None:
        """`call` was granted; where its acquire has a lease it runs from now."""
        if call.acquire.lease < inf:
            self._order += 1
            heappush(self._entries, (now + call.acquire.lease, self._order, call, call.attempt))

    def next_end(self) -> float:
        """When the first lease of a call that is still granted ends; inf: never."""
        entries = self._entries
        while entries and not self._holds(entries[0]):
            heappop(entries)
        return entries[0][0] if entries else inf

    def ended(self, now: float) -> list[Call]:
        """The calls whose lease is over, each once."""
        calls: list[Call] = []
        while self.next_end() <= now:
            calls.append(heappop(self._entries)[2])
        return calls

    @staticmethod
    def _holds(entry: tuple[float, int, Call, int]) -> bool:
        _, _, call, attempt = entry
        return call.state is State.GRANTED and call.attempt == attempt
