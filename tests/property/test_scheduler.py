# SPDX-License-Identifier: Apache-2.0
"""The scheduler under random schedules: replay, order, one answer a call, no reservation left behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TenantConfig, TierConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Effect, FellBack, Granted, Rejected, Settled
from sluicegate.broker.core.events import Acquire, Cancel, Configure, Event, SessionLost, Settle, Tick
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Chain, Criticality, Estimate, Usage, UseDegraded, UsePool
from sluicegate.wire.words import ErrorClass, Latency, Outcome, Provider, Resource

TIERS = (
    TierConfig("Critical", guaranteed_percent=20, reserved_headroom_percent=10),
    TierConfig("Standard", guaranteed_percent=10),
    TierConfig("Free", ceiling_percent=50),
)
LIMITS = (LimitConfig(Resource.TOKENS, 6000, 60.0), LimitConfig(Resource.REQUESTS, 120, 60.0))
POOLS = {
    name: PoolConfig(name, Provider.OPENAI, "https://x", (name,), LIMITS, tiers=TIERS, max_queue_depth=20)
    for name in ("gpt", "other")
}
TENANTS = {
    f"a/{tier.name}{i}": TenantConfig(f"a/{tier.name}{i}", "a", tier.name, weight=i + 1, max_queue_depth=6, max_wait=30)
    for tier in TIERS
    for i in range(2)
}
SNAPSHOT = Snapshot("v", POOLS, TENANTS)
SMALLER = Snapshot("w", {"gpt": POOLS["gpt"]}, TENANTS)

acquires = st.builds(
    lambda tenant, tokens, latency, wait, fallback, chain, session: (
        "acquire",
        (tenant, tokens, latency, wait, fallback, chain, session),
    ),
    st.sampled_from(sorted(TENANTS)),
    st.integers(1, 1500),
    st.sampled_from([None, *Latency]),
    st.sampled_from([None, 0.0, 2.0, 20.0]),
    st.sampled_from([(), (UsePool("other"),), (UseDegraded("busy"),)]),
    st.sampled_from([None, Chain("c", 1, 3), Chain("c", 3, 3)]),
    st.sampled_from(["s1", "s2"]),
)
settles = st.tuples(
    st.just("settle"),
    st.tuples(st.integers(0, 50), st.sampled_from(ErrorClass), st.booleans(), st.booleans()),
)
others = st.tuples(st.sampled_from(["cancel", "lost", "configure", "repeat"]), st.integers(0, 50))
steps = st.lists(st.tuples(st.floats(0, 3), st.one_of(acquires, acquires, settles, others)), max_size=60)


def play(schedule: list[tuple[float, tuple[str, Any]]]) -> tuple[list[Effect], dict[str, int], Dispatcher]:
    broker = Dispatcher(SNAPSHOT, 0.0, trust_claims=True)
    log: list[Effect] = []
    asked: dict[str, int] = {}
    held: list[str] = []
    known: list[Acquire] = []
    now = 0.0

    def handle(event: Event) -> None:
        for effect in broker.handle(event, now):
            log.append(effect)
            if isinstance(effect, Granted) and effect.call_id not in held:
                held.append(effect.call_id)
            elif isinstance(effect, Settled):
                held.remove(effect.call_id)

    def until(time: float) -> None:
        nonlocal now
        while (wake := broker.next_wakeup()) is not None and wake <= time:
            now = max(now, wake)
            handle(Tick())
        now = max(now, time)

    for pause, (what, detail) in schedule:
        until(now + pause)
        match what, detail:
            case "acquire", (str(tenant), int(tokens), latency, wait, fallback, chain, str(session)):
                name = f"c{len(known)}"
                criticality = Criticality(latency=latency, max_wait=wait, fallback=fallback, chain=chain)
                estimate = Estimate(tokens, 0, 0)
                known.append(Acquire(name, session, Workload(), None, "gpt", estimate, criticality, tenant=tenant))
                asked[name] = 0
                handle(known[-1])
            case "settle", (int(index), ErrorClass() as error, bool(again), bool(sent)) if held:
                usage = Usage(10, 5) if error is ErrorClass.NONE else None
                handle(Settle(held[index % len(held)], error, retriable=again, dispatched=sent, usage=usage))
            case "cancel", int(index) if known:
                handle(Cancel(known[index % len(known)].call_id))
            case "lost", int(index):
                handle(SessionLost(f"s{index % 2 + 1}"))
            case "configure", int(index):
                handle(Configure(SMALLER if index % 2 else SNAPSHOT))
            case _:
                pass
    until(now + 100.0)
    while held:
        handle(Settle(held[0], usage=Usage(10, 5)))
    until(now + 100.0)
    return log, asked, broker


@settings(max_examples=120)
@given(steps)
def test_rules_hold(schedule: list[tuple[float, tuple[str, Any]]]) -> None:
    log, asked, broker = play(schedule)
    decisions = [effect for effect in log if isinstance(effect, Decision)]
    assert audit(decisions) == []
    refused: Counter[str] = Counter()
    for effect in log:
        match effect:
            case FellBack() | Rejected() | Decision(outcome=Outcome.CANCELLED):
                refused[effect.call_id] += 1
            case _:
                pass
    grants = Counter(e.call_id for e in log if isinstance(e, Granted))
    settled = Counter(e.call_id for e in log if isinstance(e, Settled))
    assert grants == settled
    for call_id in asked:
        assert refused[call_id] <= 1
        assert grants[call_id] or refused[call_id]
    assert broker.next_wakeup() is None
    for pool in broker.pool_status(1e9):
        assert pool.in_flight == 0
        assert sum(tier.waiting for tier in pool.tiers) == 0


@settings(max_examples=40)
@given(steps)
def test_replay_gives_the_same(schedule: list[tuple[float, tuple[str, Any]]]) -> None:
    assert play(schedule)[0] == play(schedule)[0]
