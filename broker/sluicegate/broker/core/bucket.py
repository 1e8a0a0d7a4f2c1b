# SPDX-License-Identifier: Apache-2.0
"""A limit that refills continuously, up to the size of its bucket.

`remaining + reset x rate` tells that size, which is not the limit: headroom and burst are shares of it.

How full a bucket is before anything was observed nobody knows. One of at most an hour counts as just emptied: it starts
with a second of the rate, and where answers come and no header ever names it, it is believed to be as declared after
some. One of a day starts as declared: a second of its rate is less than a call, and it would stay unobserved, since
providers' headers speak of the minute. A header or a quota 429 corrects both.

A quota 429 while there was plenty means enforcement over shorter slices than headers admit: the size that we let pile
up then shrinks by rungs (10 s of the rate, 1 s, one call) and figures no longer lift the account. That is for good, and
survives another configuration: what it costs is bursts, not rate, and forgetting it would cost a 429 each time. Where
the provider documents its slices (`Terms.slice`) nobody has to learn them: calls are spaced from the first.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.foreign import Sample
from sluicegate.broker.core.meter import OVERTAKING, STEEP, Interval, Meter, Terms
from sluicegate.broker.core.reckoning import Drawn, InStep
from sluicegate.wire.words import Algorithm, LearnLimits, Resource

_LONG = 3600.0  # seconds: beyond, a bucket starts full
_ANSWERS = 5  # that never named it, after which a bucket is believed
_UNSEEN = 2.0  # seconds of the rate that are left alone where nothing will ever correct us
_SLACK = 0.5  # seconds of the rate that reckoning by the times of dispatch may be off
_PACE = 0.98  # of the rate, where calls are spaced: n calls in a slice need n + 1 spaces


class Bucket(Meter):
    """See the module's text."""

    algorithm: ClassVar = Algorithm.BUCKET
    _RUNGS = (10.0, 1.0, 0.0)

    def __init__(self, terms: Terms, now: float, anomalies: Counter[str]) -> None:
        super().__init__(terms, now, anomalies)
        self._burst = terms.default_burst if terms.burst is None else terms.burst
        self._capacity = self._floor(self.limit * self._burst / self.key.window)
        self._rung = 0
        self._rung_at = now
        self._drawn = Drawn()
        self._in_step = InStep()
        long = self.key.window > _LONG
        self._start = self._balance = self.size if long else min(self.size, self._floor(self.rate))
        self._withheld = self.size - self._balance  # what it would hold more had it started full
        self._unnamed = 0
        self._shrunk: float | None = None  # when the call was granted that said a much smaller capacity

    def _floor(self, amount: float) -> float:
        return max(1.0, amount) if self.key.resource is Resource.REQUESTS else amount

    @property
    def capacity(self) -> float:
        return self._capacity

    @property
    def _declared_capacity(self) -> float:
        return self._floor(self.terms.limit * self._burst / self.key.window)

    def _restore(self, declared: float) -> None:
        super()._restore(declared)
        self._in_step.restart()
        self._capacity = max(self._capacity, self._declared_capacity)

    @property
    def size(self) -> float:
        if not self._rung and not self.terms.slice:
            return self._capacity
        pile = self._capacity if self._rung == 0 else self.rate * self._RUNGS[self._rung - 1]
        if self.terms.slice:
            pile = min(pile, (1.0 - _PACE) * self.rate * self.terms.slice)
        return min(self._capacity, max(self.quantum, pile))

    @property
    def _headroom_base(self) -> float:
        # A share of a bucket that nobody has seen would be more than what it is believed to hold.
        unseen = not self.observed and not self.refused and self._unnamed < _ANSWERS
        return self._start if unseen else self.size

    @property
    def _liftable(self) -> bool:
        return not self._rung and not self.terms.slice and not self._overfull

    def refill(self, now: float) -> float:
        paced = _PACE if self.terms.slice or self._rung == len(self._RUNGS) else 1.0
        return max(0.05 * self.rate, paced * self.rate - self.foreign.drain(now))

    def advance(self, now: float) -> None:
        if now <= self._at:
            return
        self._balance = min(self.size, self._balance + self.refill(now) * (now - self._at))
        self._withheld = min(self._withheld, self.size - self._balance)
        self._at = now

    def served(self, now: float) -> None:
        # What is charged as it is produced lags behind the answers that are counted here.
        if self.observed or self.refused or self.terms.on_completion:
            return
        self._unnamed += 1
        if self._unnamed == _ANSWERS:
            self.advance(now)
            self._lift(min(self.size, self._balance + max(0.0, self._withheld - _UNSEEN * self.rate)), now)

    def _ready_at(self, need: float, now: float) -> float:
        return now + (need - self._balance) / self.refill(now)

    def inherit(self, old: Meter) -> None:
        super().inherit(old)
        if isinstance(old, Bucket):
            self._rung, self._rung_at, self.quantum = old._rung, old._rung_at, old.quantum
            self._balance = min(self._balance, self.size)

    def _take(self, amount: float) -> None:
        super()._take(amount)
        self._drawn.add(amount, self.rate, self._at)

    def _lift(self, balance: float, now: float) -> None:
        self._drawn.add(self._balance - balance, self.rate, now, lifted=True)
        super()._lift(balance, now)

    def _upper(self, interval: Interval, dispatched: float, now: float) -> float:
        if self.terms.on_completion:
            return min(self.size, interval.high + self.rate * max(0.0, now - dispatched))
        return min(self.size, interval.high + self._drawn.most_left(dispatched, self.rate, now))

    def _reckoned(self, interval: Interval, dispatched: float, own: float, now: float) -> float:
        if not self._in_step or self.terms.on_completion or self.foreign.suspected(now):
            return -self.capacity
        grown = self._drawn.least_left(dispatched, own, OVERTAKING, self.rate, now)
        return -self.capacity if grown is None else interval.low + grown - _SLACK * self.rate - self.quantum

    def _compare(self, sample: Sample) -> None:
        self.foreign.observe(sample, self.rate, self._capacity, self.quantum)
        self._in_step.compare(
            sample.dispatched, sample.remaining, sample.width, sample.early, self.rate, self._capacity
        )

    def _resize(self, limit: float) -> None:
        self._in_step.restart()
        self._capacity = self._floor(self._capacity * limit / self.limit)
        super()._resize(limit)

    def _shape(self, interval: Interval, reset: float | None, dispatched: float, now: float) -> None:
        if self.terms.learn is LearnLimits.OFF or self._overfull:
            return
        least, most = interval.low, interval.high
        if reset is not None and reset > 0:
            least += max(0.0, reset - self.terms.blur) * self.rate
            most += (reset + self.terms.blur) * self.rate
        elif interval.low <= self._capacity:
            return
        if least <= self._capacity <= most:
            self._shrunk = None
            return
        if least > 1.05 * self.limit:
            self.anomalies["reset_out_of_range"] += 1
            return
        if least <= self.limit <= most:
            learned = self.limit
        else:
            learned = least if most < self._capacity or reset is None else (least + most) / 2
        if most < self._capacity and most < 0.5 * self.rate:
            self.anomalies["capacity_out_of_range"] += 1
            return
        if learned < STEEP * self._capacity and self._shrunk in (None, dispatched):
            self._shrunk = dispatched
            self.anomalies["capacity_fell"] += 1
            return
        self._shrunk = None
        self._capacity = self._floor(min(self.limit, learned))

    def reject(self, charge: float, retry_after: float | None, dispatched: float, now: float) -> None:
        self.advance(now)
        if self._plenty(charge, dispatched) and self._rung < len(self._RUNGS) and dispatched >= self._rung_at:
            self._rung += 1
            self._rung_at = now
        wait = sane(retry_after, high=min(self.key.window, charge / self.rate + self.capacity / self.rate))
        if not wait:
            wait = 0.25 * charge / self.rate if retry_after is not None else charge / self.rate
        self._balance = min(self._balance, charge - wait * self.rate, self.size)
        self._balance = max(-self.capacity, self._balance)
        self._in_step.distrust()
        self.foreign.rejected(max(charge, self.quantum), self.capacity, now)

    def _plenty(self, charge: float, dispatched: float) -> bool:
        if self.terms.on_completion or charge <= 0 or (self.key.window > _LONG and not self.observed):
            return False
        if self._last is not None and self._last[0] == dispatched:
            return self._last[1].low >= charge
        return self._balance >= 3 * charge and self._balance >= 0.3 * self.capacity and self.foreign.rate <= 0
