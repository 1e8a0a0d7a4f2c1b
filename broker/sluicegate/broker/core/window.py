# SPDX-License-Identifier: Apache-2.0
"""A limit that is full again at the end of each window, and not before.

The window's end comes from a reset header or a quota 429; until one is seen it is counted from the first use. When a
window ends, calls that are still unanswered may be charged in the new one, so their charges leave it at once.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import ClassVar

from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.foreign import Sample
from sluicegate.broker.core.meter import Interval, Meter, Terms
from sluicegate.wire.words import Algorithm

_TRUNCATED = 1.0  # seconds by which a reset in whole seconds may be short


class FixedWindow(Meter):
    """See the module's text. `end`: when this window ends (None: none has begun)."""

    algorithm: ClassVar = Algorithm.FIXED_WINDOW

    def __init__(self, terms: Terms, now: float, anomalies: Counter[str]) -> None:
        super().__init__(terms, now, anomalies)
        self.end: float | None = None
        self._told = False
        self._stale_before = -math.inf
        self._balance = self.limit

    @property
    def capacity(self) -> float:
        return self.limit

    @property
    def _declared_capacity(self) -> float:
        return self.terms.limit

    def refill(self, now: float) -> float:
        return 0.0

    def advance(self, now: float) -> None:
        if now > self._at:
            self._at = now
        if self.end is None or now < self.end:
            return
        begun = self.end + self.key.window * math.floor((now - self.end) / self.key.window)
        self._stale_before = begun
        self.end = begun + self.key.window if self._told else None
        self._balance = self.limit - (self.reserved if self.terms.on_completion else self.history.unanswered)
        self.foreign.forget_spans()

    def grant(self, charge: float, now: float) -> None:
        super().grant(charge, now)
        if self.end is None:
            self.end = now + self.key.window

    def _ready_at(self, need: float, now: float) -> float:
        return now if self.end is None else max(self.end, now)

    def _upper(self, interval: Interval, dispatched: float, now: float) -> float:
        return self.limit if dispatched < self._stale_before else interval.high

    def _bound(self, interval: Interval, dispatched: float, own: float, now: float) -> None:
        if dispatched < self._stale_before:
            return  # the figure may be of the window before: it says nothing about this one
        super()._bound(interval, dispatched, own, now)

    def _compare(self, sample: Sample) -> None:
        if sample.dispatched >= self._stale_before:
            self.foreign.observe(sample, 0.0, self.limit, self.quantum)

    def _resize(self, limit: float) -> None:
        self._balance += limit - self.limit
        super()._resize(limit)

    def _shape(self, interval: Interval, reset: float | None, dispatched: float, now: float) -> None:
        if reset is None or reset <= 0:
            return
        late = now + reset + (_TRUNCATED if reset == math.floor(reset) else 0.0)
        early = dispatched + reset
        if self.end is None or not self._told or not early <= self.end <= late:
            self._align(late, now)

    def _align(self, end: float, now: float) -> None:
        self._told = True
        self.end = end if end - now <= self.key.window + _TRUNCATED else now + self.key.window

    def reject(self, charge: float, retry_after: float | None, dispatched: float, now: float) -> None:
        self.advance(now)
        wait = sane(retry_after, high=self.key.window)
        if wait:
            self._align(now + wait, now)
        elif self.end is None:
            self.end = now + self.key.window
        self._balance = min(self._balance, 0.0)
        self.foreign.rejected(max(charge, self.quantum), self.limit, now)
