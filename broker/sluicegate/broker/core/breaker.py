# SPDX-License-Identifier: Apache-2.0
"""A pool's circuit breaker: one for the whole fleet, since the broker grants every call of the pool.

Theory of operation. While it is closed, outcomes are counted in a sliding window. When enough of them failed it opens:
no call of the pool is granted until `open_for` has passed, or what the provider asked for in `retry-after` where that
is longer. Then it is half open: one call, the probe, goes; its success closes the breaker, its failure opens it for
twice as long, up to `max_open_for`. A probe that was cancelled, or whose end nobody tells within `max_open_for`, says
nothing: the next call is the probe. A probe has succeeded as soon as its answer begins: a stream may take minutes.

    state      event                                  next       does
    CLOSED     failure, at least minimum_calls, rate  OPEN       for open_for, or retry-after
    CLOSED     billing                                OPEN       for a minute, or retry-after; cause billing
    CLOSED     success, other failure                 CLOSED     counts
    OPEN       a late failure with retry-after        OPEN       until that time, if it is later
    OPEN       its time                               HALF_OPEN  the next call is the probe
    HALF_OPEN  probe's answer begins, or it succeeds  CLOSED     counts from nothing
    HALF_OPEN  probe fails, billing                   OPEN       for twice as long
    HALF_OPEN  probe neutral, or lost                 HALF_OPEN  the next call is the probe
    any        other bounds                           same       a cause billing is forgotten: CLOSED

Failures are overload, server and network. Neutral, in every state: quota (the budget's business), auth, invalid,
context length and content policy (this call's fault: an answer, but no proof that there is capacity), cancelled. They
neither raise the rate nor dilute it. Billing opens at once, since no call of the account can succeed; its probes are
slow, from a minute to an hour, and a configuration change is believed to have paid.

Only calls granted since the last change of state count: each grant is marked with the `epoch`, so what was in flight
when it opened can neither close it nor open it again. The same events give the same states: no jitter is needed, since
one broker sends one probe.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from math import inf, isfinite

from sluicegate.broker.core.config import BreakerConfig
from sluicegate.wire.words import ErrorClass

FAILURES = frozenset({ErrorClass.OVERLOAD, ErrorClass.SERVER, ErrorClass.NETWORK})
NO_EPOCH = -1

_SLICES = 10
_LONGEST = 3600.0  # the most that a retry-after is believed
_BILLING_FOR = 60.0
_BILLING_MOST = 3600.0


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """One pool's breaker. Times are absolute seconds, monotonic.

    `cause`: the class of the error that opened it, while it is not closed. `transitions`: how often it came to each
    state. `probe`: the call_id of the probe that is out; "": none.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self.config = config
        self.state = BreakerState.CLOSED
        self.cause = ErrorClass.NONE
        self.epoch = 0
        self.probe = ""
        self.until = 0.0  # while open: when it is half open; with a probe out: when that counts as lost
        self.transitions: dict[BreakerState, int] = dict.fromkeys(BreakerState, 0)
        self._openings = 0  # in a row
        self._slices: deque[list[float]] = deque()  # [slice number, calls, failures]

    # ---- questions

    def admits(self, now: float) -> bool:
        """May a call be granted now? Half open, it would be the probe."""
        if self.state is BreakerState.CLOSED:
            return True
        if now < self.until:
            return False
        if self.state is BreakerState.OPEN:
            self._to(BreakerState.HALF_OPEN)
        elif self.probe:  # it never ended
            self.epoch += 1
        self.probe, self.until = "", 0.0
        return True

    def ready_in(self, now: float) -> float:
        """Seconds until it may grant as far as is known; 0: it may now, or as soon as the probe has succeeded."""
        return max(0.0, self.until - now) if self.state is BreakerState.OPEN else 0.0

    def wakes_at(self) -> float:
        """When `admits` may turn true by time alone; inf: closed."""
        return inf if self.state is BreakerState.CLOSED else self.until

    # ---- events

    def granted(self, call_id: str, now: float) -> int:
        """A call was granted, which `admits` allowed. Returns the epoch that `ended` wants to hear."""
        if self.state is BreakerState.HALF_OPEN:
            self.probe = call_id
            self.until = now + self.config.max_open_for
        return self.epoch

    def adopted(self) -> int:
        """A call that was in flight already: it counts while closed, and is never the probe."""
        return self.epoch if self.state is BreakerState.CLOSED else NO_EPOCH

    def accepted(self, epoch: int) -> bool:
        """The answer to a granted call, a success, has begun. Returns whether that closed the breaker."""
        if self.state is not BreakerState.HALF_OPEN or epoch != self.epoch or not self.probe:
            return False
        self._close()
        return True

    def ended(
        self, epoch: int, error: ErrorClass, now: float, *, retry_after: float | None = None, sent: bool = True
    ) -> bool:
        """A granted call ended. `sent`: the provider got it. Returns whether the breaker opened because of this.

        `retry_after`: seconds that the provider asked for; absurd ones are clamped.
        """
        asked = _clamp(retry_after)
        failed = error in FAILURES
        if epoch != self.epoch:
            if failed and self.state is BreakerState.OPEN and self.cause is not ErrorClass.BILLING:
                self.until = max(self.until, now + asked)
            return False
        match self.state:
            case BreakerState.CLOSED:
                if error is ErrorClass.BILLING or (failed and self._too_many(now)):
                    self._open(error, asked, now)
                    return True
                if error is ErrorClass.NONE and sent:
                    self._count(now, 0)
            case BreakerState.HALF_OPEN:
                self.probe, self.until = "", 0.0
                if failed or error is ErrorClass.BILLING:
                    self._open(error, asked, now)
                    return True
                if error is ErrorClass.NONE and sent:
                    self._close()
            case BreakerState.OPEN:
                pass
        return False

    def reconfigure(self, config: BreakerConfig, now: float, *, changed: bool) -> None:
        """Go on with other bounds. `changed`: something of the pool's document is new."""
        if config.window != self.config.window:
            self._slices.clear()
        self.config = config
        if changed and self.cause is ErrorClass.BILLING:
            self._close()
        elif self.cause in FAILURES:
            self.until = min(self.until, now + config.max_open_for)

    # ---- steps

    def _open(self, cause: ErrorClass, asked: float, now: float) -> None:
        if cause is not self.cause and ErrorClass.BILLING in (cause, self.cause):
            self._openings = 0
        billing = cause is ErrorClass.BILLING
        first, most = (_BILLING_FOR, _BILLING_MOST) if billing else (self.config.open_for, self.config.max_open_for)
        self.until = now + max(asked, min(most, first * 2.0 ** min(self._openings, 32)))
        self.cause = cause
        self._openings += 1
        self._to(BreakerState.OPEN)

    def _close(self) -> None:
        self.cause, self.probe, self.until = ErrorClass.NONE, "", 0.0
        self._openings = 0
        self._to(BreakerState.CLOSED)

    def _to(self, state: BreakerState) -> None:
        self.state = state
        self.epoch += 1
        self.transitions[state] += 1
        self._slices.clear()

    def _count(self, now: float, failures: int) -> None:
        number = now * _SLICES // self.config.window
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0, 0])
            while self._slices[0][0] <= number - _SLICES:
                self._slices.popleft()
        last = self._slices[-1]
        last[1] += 1
        last[2] += failures

    def _too_many(self, now: float) -> bool:
        """Count a failure; whether the rate is reached."""
        self._count(now, 1)
        calls = sum(calls for _, calls, _ in self._slices)
        failures = sum(failures for _, _, failures in self._slices)
        return calls >= self.config.minimum_calls and 100.0 * failures >= self.config.failure_rate_percent * calls


def _clamp(seconds: float | None) -> float:
    return min(_LONGEST, max(0.0, seconds)) if seconds is not None and isfinite(seconds) else 0.0
