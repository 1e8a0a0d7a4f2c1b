# SPDX-License-Identifier: Apache-2.0
"""What a sidecar may spend alone while the broker is away.

The broker hands every sidecar a share of each meter, small enough that all of them together stay within the limit.
The share starts whole and refills evenly over its window; a call goes only if every meter of its
pool has room for it, and then takes from all. A pool without a share may spend nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Resource


@dataclass(frozen=True, slots=True)
class Share:
    """`amount` of `resource` per `window` seconds."""

    resource: Resource
    window: float
    amount: float


@dataclass(slots=True)
class _Account:
    share: Share
    left: float
    at: float

    def refill(self, now: float) -> None:
        rate = self.share.amount / self.share.window
        self.left = min(self.share.amount, self.left + max(0.0, now - self.at) * rate)
        self.at = max(self.at, now)


def cost(resource: Resource, estimate: Estimate) -> float:
    """What a call takes of one meter, on the safe side: the cap where the request sets one."""
    output = estimate.output_tokens * estimate.choices
    if estimate.max_output_tokens is not None:
        output = max(output, estimate.max_output_tokens * estimate.choices)
    match resource:
        case Resource.REQUESTS:
            return 1.0
        case Resource.TOKENS:
            return float(estimate.input_tokens + output)
        case Resource.INPUT_TOKENS:
            return float(estimate.input_tokens)
        case Resource.OUTPUT_TOKENS:
            return float(output)


class SafeShares:
    """The accounts of all pools."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[tuple[Resource, float], _Account]] = {}

    def grant(self, pool: str, share: Share, now: float) -> None:
        """A share as the broker says it now; what is left of it is never more than the new amount."""
        if not (share.window > 0 and share.amount >= 0):
            return
        accounts = self._pools.setdefault(pool, {})
        account = accounts.get((share.resource, share.window))
        left = share.amount if account is None else min(account.left, share.amount)
        accounts[(share.resource, share.window)] = _Account(share, left, now)

    def forget(self, pools: frozenset[str]) -> None:
        """Only `pools` still exist."""
        for name in [name for name in self._pools if name not in pools]:
            del self._pools[name]

    def spend(self, pool: str, estimate: Estimate, now: float) -> bool:
        """Takes the call's cost from all meters of `pool`, or takes nothing and says False."""
        accounts = self._pools.get(pool)
        if not accounts:
            return False
        for account in accounts.values():
            account.refill(now)
        costs = [(account, cost(account.share.resource, estimate)) for account in accounts.values()]
        if any(account.left < amount for account, amount in costs):
            return False
        for account, amount in costs:
            account.left -= amount
        return True
