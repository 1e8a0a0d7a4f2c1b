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

from bisect import bisect_left

_LONGEST = 8_192


class History:
    """The charges of one meter. Amounts in the meter's unit, times in seconds, not decreasing."""

    __slots__ = ("_before", "_sums", "_times", "answered", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self.answered = 0.0
        self._times: list[float] = []
        self._sums: list[float] = []  # _sums[i]: answered up to and with _times[i]
        self._before = 0.0  # answered up to what fell off the log; 0 while nothing fell off

    def grant(self, amount: float) -> None:
        self.total += amount

    def revoke(self, amount: float) -> None:
        """An unanswered call turned out to cost this much less (negative: more)."""
        self.total -= amount

    def answer(self, amount: float, now: float) -> None:
        """A granted charge is in every figure that belongs to a call dispatched after `now`."""
        self.answered += amount
        if self._times and self._times[-1] >= now:
            self._sums[-1] = self.answered
            return
        self._times.append(now)
        self._sums.append(self.answered)
        if len(self._times) > _LONGEST:
            half = _LONGEST // 2
            self._before = self._sums[half - 1]
            del self._times[:half], self._sums[:half]

    @property
    def unanswered(self) -> float:
        return max(0.0, self.total - self.answered)

    def not_included(self, dispatched: float, own: float) -> float | None:
        """What a figure of a call dispatched then, charged `own`, may lack; None when the log does not reach back."""
        index = bisect_left(self._times, dispatched)
        if index == 0 and self._before > 0:
            return None
        answered = self._sums[index - 1] if index else self._before
        return max(0.0, self.total - answered - own)
