# SPDX-License-Identifier: Apache-2.0
"""What a refusal says: whose fault it is, which limit binds, and what would help."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

from sluicegate.broker.core.budget import Lack
from sluicegate.broker.core.flow import Call
from sluicegate.wire.words import Mitigation, Reason, Resource


@dataclass(frozen=True, slots=True)
class Unserved:
    """A call that its pool cannot serve, and why. `wait`: predicted seconds, inf: never.

    `may_wait`: another place would be better, but where there is none it waits here.
    """

    call: Call
    reason: Reason
    wait: float
    lack: Lack | None = None
    message: str = ""
    may_wait: bool = False


def mitigation_of(item: Unserved) -> tuple[Mitigation, int]:
    """What helps against the limit that binds, and how many tokens would fit now (0 where tokens do not bind)."""
    lack = item.lack
    if lack is None:
        return Mitigation.NONE, 0
    if lack.meter.resource is Resource.REQUESTS:
        return Mitigation.SPACING, 0
    return Mitigation.REDUCE_TOKENS, int(lack.fits_now) if isfinite(lack.fits_now) else 0


def explain(item: Unserved, pool: str, max_queue_depth: int, max_wait: float) -> str:
    """One sentence for people. `max_wait`: seconds from arrival that the call was willing to wait."""
    if item.message:
        return item.message
    call, lack = item.call, item.lack
    wait = "unknown length" if item.wait == inf else f"about {item.wait:.1f} s"
    limit = "" if lack is None else f"; {lack.meter} binds, {lack.fits_now:g} of it would fit now"
    match item.reason:
        case Reason.PREDICTED_WAIT:
            return f"pool {pool!r} predicts a wait of {wait}, longer than the call's max wait of {max_wait:g} s{limit}"
        case Reason.DEADLINE:
            return f"pool {pool!r} would start this call in {wait}, after its deadline{limit}"
        case Reason.MAX_WAIT:
            return f"this call waited its max wait of {max_wait:g} s on pool {pool!r}{limit}"
        case Reason.QUEUE_FULL_TENANT:
            return (
                f"tenant {call.party.tenant!r} has {call.max_depth} calls waiting on pool {pool!r}, its queue.maxDepth"
            )
        case Reason.QUEUE_FULL_POOL:
            return f"pool {pool!r} has {max_queue_depth} calls waiting, its most"
        case Reason.BREAKER_OPEN:
            return f"the provider of pool {pool!r} is overloaded or failing; its next probe goes in {wait}"
        case Reason.BILLING:
            return f"the provider's account of pool {pool!r} cannot pay; it is tried again in {wait}"
        case Reason.NEVER_FITS:
            return f"this call is larger than pool {pool!r} can ever hold for its tier{limit}"
        case _:
            return f"pool {pool!r} cannot serve this call: {item.reason}{limit}"
