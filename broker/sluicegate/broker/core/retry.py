# SPDX-License-Identifier: Apache-2.0
"""What becomes of a call after an attempt that failed before anything reached the app.

    error class                               then
    quota                                     again when the budget says that it fits, up to the pool's max attempts
    overload, server, network                 again after a back-off or what the provider asked, three attempts in all
    billing, auth, invalid, context length,   never: the sidecar passes the provider's error through
    content policy

A pool's circuit breaker bounds the second row for the whole fleet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from zlib import crc32

from sluicegate.broker.core.events import Settle
from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.units import Charge
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import ErrorClass, Reason

TRANSIENT_ATTEMPTS = 3
_BACKOFF = 0.5
_MAX_BACKOFF = 30.0


@dataclass(frozen=True, slots=True)
class Again:
    """Back into the queue, eligible at `at` (absolute seconds)."""

    at: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Final:
    """No further attempt. `wait`: seconds after which a new call has a chance; inf: never."""

    reason: Reason
    wait: float
    message: str


def judge(call: Call, event: Settle, ready: float, max_attempts: int, now: float) -> Again | Final:
    """The verdict on the attempt that `event` ended. `ready`: when the budget has room again, after a quota 429."""
    match event.error_class:
        case ErrorClass.QUOTA:
            if event.quota is not None and event.quota.never_fits:
                return Final(Reason.NEVER_FITS, inf, "the provider says that the call can never fit")
            exhausted = call.attempt >= max_attempts
            again = Again(max(ready, now), Reason.QUOTA_REQUEUED)
        case ErrorClass.OVERLOAD | ErrorClass.SERVER | ErrorClass.NETWORK:
            call.transient += 1
            exhausted = call.transient >= TRANSIENT_ATTEMPTS or call.attempt >= max_attempts
            again = Again(now + max(event.retry_after or 0.0, _backoff(call)), Reason.RETRY)
        case ErrorClass.BILLING:
            return Final(Reason.BILLING, inf, "the provider's account of this pool cannot pay")
        case _:
            return Final(Reason.INVALID_REQUEST, inf, f"the provider refused the call: {event.error_class}")
    if exhausted:
        message = f"{call.attempt} attempts failed, the last one with {event.error_class}"
        return Final(Reason.ATTEMPTS_EXHAUSTED, again.at - now, message)
    return again


def _backoff(call: Call) -> float:
    """Seconds: doubles with each attempt; the jitter comes from the call's name, so that a replay agrees."""
    spread = crc32(f"{call.call_id}/{call.attempt}".encode()) / 2**32
    return min(_MAX_BACKOFF, _BACKOFF * 2.0 ** (call.transient - 1)) * (0.5 + spread)


def estimated_usage(estimate: Estimate) -> Charge:
    """The most that a call of this estimate is expected to use, for ceilings."""
    output = max(estimate.output_tokens, estimate.max_output_tokens or 0) * max(1, estimate.choices)
    return Charge(1.0, estimate.input_tokens + output, estimate.input_tokens, output)


def real_usage(usage: Usage) -> Charge:
    """What a call used, for ceilings."""
    return Charge(1.0, usage.total, usage.input_tokens, usage.output_tokens)
