# SPDX-License-Identifier: Apache-2.0
"""Views of pools, queues and tenants for introspection. They look at everything and decide nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from sluicegate.broker.core.breaker import Breaker, BreakerState
from sluicegate.broker.core.flow import LATENCY, Call, State
from sluicegate.broker.core.ledger import Ledger
from sluicegate.broker.core.pool import Pool
from sluicegate.broker.core.status import BreakerStatus, PoolStatus, TenantStatus, TierStatus, WaitingCall
from sluicegate.broker.core.tiers import Tier
from sluicegate.wire.words import ErrorClass, Reason


def pool_status(pool: Pool, now: float) -> PoolStatus:
    """One pool as it stands; O(waiting calls)."""
    waiting: dict[int, list[Call]] = {tier.index: [] for tier in pool.queue.tiers}
    for call in pool.calls():
        if call.state is not State.GRANTED:
            waiting[call.tier].append(call)
    tiers = tuple(_tier_status(tier, waiting[tier.index], now) for tier in pool.queue.tiers)
    config = pool.config
    return PoolStatus(
        name=config.name,
        provider=config.provider,
        endpoint=config.endpoint,
        models=config.models,
        meters=pool.budget.status(now),
        tiers=tiers,
        in_flight=len(pool.granted),
        binding=pool.binding,
        oddities=pool.budget.oddities,
        breaker=breaker_status(pool.breaker, now),
    )


def breaker_status(breaker: Breaker, now: float) -> BreakerStatus:
    """The circuit as it stands. An open one whose time has come is still open: no call has asked yet."""
    return BreakerStatus(breaker.state, breaker.cause, breaker.ready_in(now), tuple(breaker.transitions.items()))


def _tier_status(tier: Tier, calls: list[Call], now: float) -> TierStatus:
    oldest = min((call.arrival for call in calls), default=now)
    return TierStatus(tier.name, len(calls), len({call.party.tenant for call in calls}), max(0.0, now - oldest))


def tenant_status(ledger: Ledger, calls: Iterable[Call]) -> list[TenantStatus]:
    """Every tenant with an account."""
    waiting: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    for call in calls:
        (in_flight if call.state is State.GRANTED else waiting)[call.party.tenant] += 1
    return [
        TenantStatus(
            name=name,
            tier=account.tier,
            weight=account.weight,
            waiting=waiting[name],
            in_flight=in_flight[name],
            granted=account.granted,
            rejected=account.rejected,
            tokens_used=account.tokens_used,
        )
        for name, account in sorted(ledger.accounts.items())
    ]


def waiting_calls(pool: Pool, now: float) -> Iterator[WaitingCall]:
    """Interactive calls before batch, then by tier, in a tier its tenants by turns; parked and delayed ones last."""
    first = pool.blocked
    seen: set[str] = set()
    if first is not None:
        seen.add(first.call_id)
        yield _waiting_call(pool, first, now, _head_reason(pool, first, now))
    for batch in (False, True):
        for tier in pool.queue.tiers:
            flows = (tier.everyone if batch else tier.interactive).flows()
            columns = [[call for call in flow.calls() if call.batch == batch] for flow in flows]
            for index in range(max((len(column) for column in columns), default=0)):
                for column in columns:
                    if index < len(column) and column[index].call_id not in seen:
                        seen.add(column[index].call_id)
                        reason = Reason.TIER_CEILING if tier.parked_until > now else Reason.QUEUED_BEHIND
                        yield _waiting_call(pool, column[index], now, reason)
    for call in pool.calls():
        if call.state is State.WAITING and call.call_id not in seen:
            yield _waiting_call(pool, call, now, Reason.TENANT_CEILING)
    for call in pool.queue.delayed.values():
        yield _waiting_call(pool, call, now, Reason.NOT_YET_ELIGIBLE)


def _gated(pool: Pool) -> Reason | None:
    """What keeps all calls of the pool, whatever their place."""
    if pool.breaker.state is BreakerState.CLOSED:
        return None
    return Reason.BILLING if pool.breaker.cause is ErrorClass.BILLING else Reason.BREAKER_OPEN


def _head_reason(pool: Pool, head: Call, now: float) -> Reason:
    """Why the head of the order waits."""
    lack = pool.budget.lack(head.charge, now, pool.held_back[head.tier])
    return Reason.HEADROOM if lack is not None and lack.headroom else Reason.BINDING_LIMIT


def _waiting_call(pool: Pool, call: Call, now: float, waits_for: Reason) -> WaitingCall:
    return WaitingCall(
        call_id=call.call_id,
        tenant=call.party.tenant,
        tier=call.party.tier,
        task_type=call.party.task_type,
        latency=LATENCY[call.rank],
        waited=max(0.0, now - call.arrival),
        predicted_wait=pool.predicted_wait(call, now),
        waits_for=_gated(pool) or waits_for,
        binding=pool.binding,
        attempt=call.attempt,
        chain_id="" if call.chain is None else call.chain.id,
    )
