# SPDX-License-Identifier: Apache-2.0
"""What of the granted charges an observation may not have seen yet.

An observation of a call dispatched at d surely contains the calls answered before d. `total` is every charge that was
granted and not taken back; the log says how much of it had been answered by any moment, so that

    total - answered_before(d)

is the charge of all calls that R may not contain: those still unanswered and those answered since d. Answers are
logged in the order of time, so a bisection finds d. The log is bounded: what falls off counts as answered before every
moment that the log can still speak of, and a d older than the log gets no answer (None): that observation bounds the
account from above only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

_LONGEST = 8_192


class Log:
    """A running sum and what it was at any recent time. Times in seconds, not decreasing; bounded in length."""

    __slots__ = ("_forgotten", "_sums", "_times", "sum")

    def __init__(self) -> None:
        self.sum = 0.0
        self._times: list[float] = []
        self._sums: list[float] = []  # _sums[i]: the sum up to and with _times[i]
        self._forgotten: float | None = None  # the sum when the log begins, once something fell off

    def add(self, amount: float, now: float) -> None:
        self.sum += amount
        if self._times and self._times[-1] >= now:
            self._sums[-1] = self.sum
            return
        self._times.append(now)
        self._sums.append(self.sum)
        if len(self._times) > _LONGEST:
            half = _LONGEST // 2
            self._forgotten = self._sums[half - 1]
            del self._times[:half], self._sums[:half]

    def before(self, time: float) -> float | None:
        """The sum of what was added before `time`; None when the log does not reach back."""
        return self._up_to(bisect_left(self._times, time))

    def at(self, time: float) -> float:
        """The sum of what was added until `time`, that included; where the log does not reach back, what fell off."""
        known = self._up_to(bisect_right(self._times, time))
        return known if known is not None else self._forgotten or 0.0

    def _up_to(self, count: int) -> float | None:
        if count:
            return self._sums[count - 1]
        return 0.0 if self._forgotten is None else None


class History:
    """The charges of one meter, in the meter's unit."""

    __slots__ = ("_answered", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._answered = Log()

    def grant(self, amount: float) -> None:
        self.total += amount

    def revoke(self, amount: float) -> None:
        """An unanswered call turned out to cost this much less (negative: more)."""
        self.total -= amount

    def answer(self, amount: float, now: float) -> None:
        """A granted charge is in every figure that belongs to a call dispatched after `now`."""
        self._answered.add(amount, now)

    @property
    def unanswered(self) -> float:
        return max(0.0, self.total - self._answered.sum)

    def not_included(self, dispatched: float, own: float) -> float | None:
        """What a figure of a call dispatched then, charged `own`, may lack; None when the log does not reach back."""
        answered = self._answered.before(dispatched)
        return None if answered is None else max(0.0, self.total - answered - own)
