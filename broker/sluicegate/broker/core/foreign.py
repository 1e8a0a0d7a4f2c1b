# SPDX-License-Identifier: Apache-2.0
"""Consumers outside Sluicegate, seen only in the headers.

What flows in is what `remaining` rose plus what was charged: over a span between two observations

    foreign = inflow - (R2 - R1) - our charges of the span

When in [d, t] a figure was taken is unknown, and calls sent at the same moment may overtake each other, so the sum is
made twice, by the times of dispatch and by the times of arrival, each with the most that we can have charged in
between, and the smaller result counts. It counts only for a while after real evidence, the account above its upper
bound or a quota 429: overlaps alone must never look like foreign use. Sums over sliding spans of some ten seconds are
smoothed, and rounding is taken off. The rate comes off the refill.

Foreign calls come in lumps, so a margin is held as well: the rate x the age of the newest figure, three deviations of a
Poisson stream of such lumps, and one lump. A lump is what the account lay above its upper bound, the largest of late
(our own calls' size until one was seen); the rate for the margin is the highest of late, since between two lumps nobody
is seen for a while. A margin is a stock, held once: it costs no rate, so it may be generous. A quota 429 grows it, time
shrinks it. Before spans can tell, the last call's worth of a large first pile is left alone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_SPAN = 12.0
_LONGEST_SPAN = 30.0
_SHORTEST_SPAN = 3.0
_SPACING = 0.25
_SMOOTHING = 3.0
_SUSPICION = 600.0
_FORGET = 15.0
_BOOST_HALF_LIFE = 40.0
_LUMP_HALF_LIFE = 120.0
_PEAK_HALF_LIFE = 60.0
_MOST_LUMP = 0.25
_NOTHING = 1e-4
_OBVIOUS = 0.1
_MOST = 0.9
_CAUTIOUS = 12.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure, taken between `dispatched` and `arrived`; `width`: how far rounding makes it uncertain.

    `early`: the least and the most that we had charged about the time of dispatch, `late`: about the time of arrival.
    """

    dispatched: float
    arrived: float
    remaining: float
    width: float
    early: tuple[float, float]
    late: tuple[float, float]


class ForeignUse:
    """Foreign use of one meter. `rate` in units per second."""

    __slots__ = (
        "_boost",
        "_boost_at",
        "_first",
        "_lump",
        "_lump_at",
        "_peak",
        "_peak_at",
        "_samples",
        "_seen",
        "_suspect_until",
        "_touched",
        "rate",
    )

    def __init__(self) -> None:
        self.rate = 0.0
        self._touched = False  # whether a margin may be due
        self._samples: deque[Sample] = deque()
        self._seen: float | None = None
        self._suspect_until = -math.inf
        self._first: float | None = None
        self._boost = 0.0
        self._boost_at = 0.0
        self._lump = 0.0
        self._lump_at = 0.0
        self._peak = 0.0
        self._peak_at = 0.0

    def forget_spans(self) -> None:
        """What came before cannot be compared with what comes (a new limit, a new window)."""
        self._samples.clear()

    def suspect(self, now: float) -> None:
        """The account lay above its upper bound: somebody else draws on the meter."""
        self._suspect_until = now + _SUSPICION

    def jumped(self, amount: float, now: float) -> None:
        """The account lay `amount` above its upper bound: somebody else took that at least, in one lump or more."""
        self._lump = max(amount, self._lump_left(now))
        self._lump_at = now
        self._touched = True
        self.suspect(now)

    def suspected(self, now: float) -> bool:
        """Whether there was evidence of somebody else lately."""
        return now < self._suspect_until

    def observe(self, new: Sample, inflow: float, size: float, quantum: float) -> None:
        """Fold one figure of a meter that refills at `inflow`, holds `size` and is drawn in lumps of `quantum`."""
        if self._seen is None and new.remaining >= 0.5 * size:
            self._first = new.arrived
        samples = self._samples
        last = samples[-1] if samples else None
        self._seen = new.dispatched if self._seen is None else max(self._seen, new.dispatched)
        if last is not None and new.arrived - last.arrived < _SPACING:
            return
        if last is not None and inflow > 0:
            gap = max(0.0, new.dispatched - last.dispatched)
            if new.remaining >= 0.98 * size or last.remaining + inflow * gap >= size:
                samples.clear()  # it may have been full: what flowed in meanwhile was lost
                self.rate *= 0.7  # and whoever leaves it full takes little
        span = _SPAN
        if inflow > 0:
            span = min(_LONGEST_SPAN, max(_SPAN, 20 * new.width / inflow))
        while samples and new.arrived - samples[0].arrived > span:
            samples.popleft()
        if samples and last is not None:
            measured = self._excess(samples[0], new, inflow, quantum)
            if measured is not None:
                if measured > _OBVIOUS * inflow + quantum / _SPAN:
                    self.suspect(new.arrived)
                if new.arrived >= self._suspect_until:
                    measured = min(measured, 0.0)
                if inflow > 0:
                    measured = min(measured, _MOST * inflow)
                weight = 1 - math.exp(-(new.arrived - last.arrived) / _SMOOTHING)
                self.rate = max(0.0, self.rate + weight * (measured - self.rate))
                if self.rate > self._peak_left(new.arrived):
                    self._touched = True
                    self._peak, self._peak_at = self.rate, new.arrived
        samples.append(new)

    @staticmethod
    def _excess(old: Sample, new: Sample, inflow: float, quantum: float) -> float | None:
        by_dispatch = new.dispatched - old.dispatched
        by_arrival = new.arrived - old.arrived
        shortest = min(by_dispatch, by_arrival)
        if shortest < _SHORTEST_SPAN:
            return None
        rise = new.remaining - old.remaining
        rates = (
            (inflow * by_dispatch - rise - (new.early[1] - old.early[0])) / by_dispatch,
            (inflow * by_arrival - rise - (new.late[1] - old.late[0])) / by_arrival,
        )
        doubt = 0.25 * (old.width + new.width) / shortest
        return min(rates) - doubt

    def rejected(self, quantum: float, size: float, now: float) -> None:
        """A quota 429: somebody took what we thought was there."""
        self.suspect(now)
        self._touched = True
        self._boost = min(0.3 * size, 1.5 * self._boost_left(now) + quantum)
        self._boost_at = now

    @property
    def watched(self) -> bool:
        """Whether `margin` or `caution` may be above 0."""
        return self._touched or self._first is not None

    def margin(self, now: float, quantum: float, size: float) -> float:
        """What to leave untouched at `now`: at most half of `size`."""
        if not self._touched:
            return 0.0
        boost = self._boost_left(now)
        lump = min(self._lump_left(now), _MOST_LUMP * size)
        rate = max(self._rate_left(now), self._peak_left(now))
        if rate <= 1e-3 * max(quantum, 1e-9):
            left = min(boost + lump, 0.5 * size)
            if left > _NOTHING * size:
                return left
            self._touched = False
            self._boost = self._lump = self._peak = 0.0
            return 0.0
        age = 0.0 if self._seen is None else max(0.0, now - self._seen)
        lump = max(lump, quantum)
        return min(0.5 * size, rate * age + 3 * math.sqrt(rate * age * lump) + lump + boost)

    def caution(self, now: float, quantum: float, size: float) -> float:
        """What to leave of a large first pile while it is too early to tell: one call, until spans were compared."""
        if self._first is None:
            return 0.0
        if self.rate > 0 or now >= self._first + 2 * _CAUTIOUS:
            self._first = None
            return 0.0
        left = 1 - (now - self._first - _CAUTIOUS) / _CAUTIOUS
        return min(1.0, max(0.0, left)) * min(quantum, 0.1 * size)

    def drain(self, now: float) -> float:
        """The rate to take off the refill at `now`; without news it fades."""
        if not self.rate:
            return 0.0
        return self._rate_left(now)

    def _rate_left(self, now: float) -> float:
        silent = 0.0 if self._seen is None else max(0.0, now - self._seen - _FORGET)
        return self.rate * math.exp2(-silent / _FORGET)

    def _lump_left(self, now: float) -> float:
        return self._lump * math.exp2(-max(0.0, now - self._lump_at) / _LUMP_HALF_LIFE)

    def _peak_left(self, now: float) -> float:
        return self._peak * math.exp2(-max(0.0, now - self._peak_at) / _PEAK_HALF_LIFE)

    def _boost_left(self, now: float) -> float:
        return self._boost * math.exp2(-max(0.0, now - self._boost_at) / _BOOST_HALF_LIFE)
