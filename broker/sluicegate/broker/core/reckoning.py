# SPDX-License-Identifier: Apache-2.0
"""What a figure says about the account when our own charges since are known: dead reckoning from `remaining`.

A figure R was taken at some moment s of [d, t]. A call granted after s is surely not in it, so at t no more is left
than

    R + most over s in [d, t] of (rate x (t - s) - what we drew in (s, t])

`Drawn` keeps that maximum for any d: the candidates are d and the moments at which we drew, and only those count whose
value no later one reaches, a stack that a bisection searches. It holds whenever the figure was taken, and it is much
nearer than R + rate x (t - d) where calls overlap; a foreign lump shows at once.

From below nothing so near can be proven, since a call may be admitted late. But where figures have followed from each
other by the times of dispatch, again and again, calls are admitted as they come, or all with one delay, which does not
matter: what is drawn later then refills meanwhile. There at least

    R + least over s in [d, t] of (rate x (t - s) - what we drew in (s, t])

is left. `InStep` says whether figures have followed. One that does not, which is foreign use or another provider's
habit, takes that away until enough have again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from sluicegate.broker.core.history import Log

_LONGEST = 8_192
_INSTANT = 1e-9
_APART = 3.0
_ENOUGH = 4
_AFTER_429 = 20
_MOST_AFTER_429 = 1_280
_JITTER = 0.25  # seconds of the rate by which figures that fit may differ


class _Extremes:
    """Extremes of values over any stretch of time that ends now; `sign` 1 for the most, -1 for the least."""

    __slots__ = ("_sign", "_times", "_values")

    def __init__(self, sign: float) -> None:
        self._sign = sign
        self._times: list[float] = []
        self._values: list[float] = []  # x sign, decreasing

    def add(self, value: float, now: float) -> float | None:
        """Returns since when the extremes are known, where that changed."""
        times, values = self._times, self._values
        value *= self._sign
        while values and values[-1] <= value:
            times.pop()
            values.pop()
        times.append(now)
        values.append(value)
        if len(values) <= _LONGEST:
            return None
        half = _LONGEST // 2
        since = times[half]
        del times[:half], values[:half]
        return since

    def since(self, time: float) -> float | None:
        index = bisect_left(self._times, time)
        return None if index == len(self._values) else self._values[index] * self._sign

    def clear(self) -> None:
        self._times.clear()
        self._values.clear()


class Drawn:
    """What was drawn of a bucket, less what came back. Times in seconds, not decreasing; O(log n)."""

    __slots__ = ("_drawn", "_highs", "_lows", "_net", "_rate", "_since")

    def __init__(self) -> None:
        self._drawn = Log()
        self._net = Log()  # less what a figure gave back because calls cost less than we drew
        self._highs = _Extremes(1.0)  # drawn - rate x time, after each draw
        self._lows = _Extremes(-1.0)  # the same, before each draw
        self._rate = 0.0
        self._since = 0.0

    def add(self, amount: float, rate: float, now: float, *, lifted: bool = False) -> None:
        """`lifted`: it is what a figure gave back, which nobody draws."""
        if rate != self._rate:
            if self._rate:
                self._since = now
            self._rate = rate
            self._highs.clear()
            self._lows.clear()
        self._net.add(amount, now)
        forgotten = self._highs.add(self._net.sum - rate * now, now)
        if not lifted:
            forgotten = self._lows.add(self._drawn.sum - rate * now, now) or forgotten
            self._drawn.add(amount, now)
        if forgotten is not None:
            self._since = max(self._since, forgotten)

    def most_left(self, dispatched: float, rate: float, now: float) -> float:
        """The most by which a figure of [`dispatched`, `now`] may have grown by `now`."""
        loosest = rate * max(0.0, now - dispatched)
        if rate != self._rate or dispatched < self._since:
            return loosest
        high = self._net.at(dispatched) - rate * dispatched
        later = self._highs.since(dispatched)
        if later is not None and later > high:
            high = later
        return min(loosest, max(0.0, high + rate * now - self._net.sum))

    def least_left(self, dispatched: float, own: float, overtaking: float, rate: float, now: float) -> float | None:
        """The least by which a figure that holds `own`, and what was drawn `overtaking` seconds before, may have grown
        (mostly negative); None where that is not known any more."""
        if rate != self._rate or dispatched - overtaking < self._since:
            return None
        low = self._drawn.at(dispatched - overtaking) + own - rate * dispatched
        later = self._lows.since(dispatched + _INSTANT)
        if later is not None and later < low:
            low = later
        return min(0.0, low + rate * now - self._drawn.sum)


class InStep:
    """Whether figures follow from each other by the times of dispatch."""

    __slots__ = ("_fits", "_last", "_penalty")

    def __init__(self) -> None:
        self._fits = 0
        self._penalty = _AFTER_429
        self._last: tuple[float, float, float] | None = None  # dispatched, remaining, least drawn

    def __bool__(self) -> bool:
        return self._fits >= _ENOUGH

    def distrust(self) -> None:
        """The provider refused what should have fitted: each time more must fit before it is believed again."""
        if self:
            self._penalty = min(2 * self._penalty, _MOST_AFTER_429)
        self._fits = min(self._fits, -self._penalty)
        self._last = None

    def restart(self) -> None:
        """A new limit: what came before cannot be compared with what comes."""
        self._fits = min(self._fits, 0)
        self._last = None

    def compare(
        self, dispatched: float, remaining: float, width: float, drawn: Sequence[float], rate: float, size: float
    ) -> None:
        """One figure; `drawn`: the least and the most that we had drawn about its time of dispatch."""
        last = self._last
        if last is not None:
            seconds = dispatched - last[0]
            if seconds < _APART:
                return
            expected = min(size, last[1] + rate * seconds) - (drawn[1] - last[2])
            if remaining + width + _JITTER * rate < expected:
                self._fits = min(0, self._fits)
            else:
                self._fits += 1
        self._last = (dispatched, remaining, drawn[0])
