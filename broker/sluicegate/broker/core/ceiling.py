# SPDX-License-Identifier: Apache-2.0
"""A tenant's ceilings in one pool: the most that it may use over a window, by real usage.

Theory of operation. Each ceiling is a sliding window cut into `SLOTS` slots. A grant debits the estimate to the
slot of its time and the settlement corrects that slot to what was really used. The window counts one slot more
than its length, so that over no interval of the window's length more than the limit is used, at the price of
holding back up to 1/SLOTS of it. Work and memory are bounded by the number of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf

from sluicegate.broker.core.config import Ceiling
from sluicegate.broker.core.units import Charge

SLOTS = 24


class _Window:
    __slots__ = ("ceiling", "slots", "total", "width")

    def __init__(self, ceiling: Ceiling) -> None:
        self.ceiling = ceiling
        self.width = ceiling.window / SLOTS
        self.slots: dict[int, float] = {}  # slot -> used, oldest first
        self.total = 0.0

    def expire(self, now: float) -> None:
        oldest = floor(now / self.width) - SLOTS
        while self.slots and (slot := next(iter(self.slots))) < oldest:
            self.total -= self.slots.pop(slot)
        if not self.slots:
            self.total = 0.0

    def ready_at(self, amount: float, now: float) -> float:
        self.expire(now)
        excess = self.total + amount - self.ceiling.limit
        if excess <= 1e-9:
            return now
        for slot, used in self.slots.items():
            excess -= used
            if excess <= 1e-9:
                return (slot + SLOTS + 1) * self.width
        return inf

    def debit(self, amount: float, now: float) -> None:
        self.expire(now)
        slot = floor(now / self.width)
        self.slots[slot] = self.slots.get(slot, 0.0) + amount
        self.total += amount

    def correct(self, change: float, debited_at: float, now: float) -> None:
        self.expire(now)
        slot = floor(debited_at / self.width)
        if slot in self.slots:
            corrected = max(0.0, self.slots[slot] + change)
            self.total += corrected - self.slots[slot]
            self.slots[slot] = corrected
        elif change > 0.0:
            self.debit(change, now)


class TenantCeilings:
    """All ceilings of one tenant in one pool."""

    __slots__ = ("_windows",)

    def __init__(self, ceilings: Sequence[Ceiling]) -> None:
        self._windows = [_Window(ceiling) for ceiling in ceilings]

    def never_fits(self, usage: Charge) -> Ceiling | None:
        """The ceiling that is smaller than this one call's usage."""
        for window in self._windows:
            if usage.of(window.ceiling.resource) > window.ceiling.limit:
                return window.ceiling
        return None

    def ready_at(self, usage: Charge, now: float) -> float:
        """When `usage` fits under every ceiling: `now` or later, absolute seconds."""
        ready = now
        for window in self._windows:
            ready = max(ready, window.ready_at(usage.of(window.ceiling.resource), now))
        return ready

    def debit(self, usage: Charge, now: float) -> None:
        for window in self._windows:
            window.debit(usage.of(window.ceiling.resource), now)

    def correct(self, debited: Charge, used: Charge, debited_at: float, now: float) -> None:
        """What was debited as `debited` at `debited_at` turned out to be `used`."""
        for window in self._windows:
            resource = window.ceiling.resource
            window.correct(used.of(resource) - debited.of(resource), debited_at, now)
