# SPDX-License-Identifier: Apache-2.0
"""Rules of the order that hold for any load: credit, claims, batch, bounds of the queue, exact replay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TenantConfig, TierConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Effect, Granted
from sluicegate.broker.core.events import Acquire, Attach, Cancel, Configure, Event, Observe, SessionLost, Settle, Tick
from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.tiers import Tier
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Criticality, Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import ErrorClass, Latency, Provider, Reason, Resource
from tests.fairness.world import OVERHEAD, Offer, run

TIERS = (TierConfig("Critical"), TierConfig("Standard"), TierConfig("Free"))


def policy(*tiers: TierConfig, per_minute: float = 6000.0, depth: int = 1000, of_tenant: int = 1000) -> Snapshot:
    """One pool `gpt`, and for each tier the tenants `a/<tier>0` to `a/<tier>2`."""
    limits = (LimitConfig(Resource.TOKENS, per_minute, 60.0),)
    pool = PoolConfig("gpt", Provider.OPENAI, "https://x", ("gpt",), limits, tiers=tiers, max_queue_depth=depth)
    names = [(f"a/{tier.name}{n}", tier.name) for tier in tiers for n in range(3)]
    tenants = {name: TenantConfig(name, "a", tier, max_queue_depth=of_tenant, max_wait=1e6) for name, tier in names}
    return Snapshot("v", {"gpt": pool}, tenants)


def ask(name: str, tenant: str, tokens: int, latency: Latency | None = None, session: str = "s") -> Acquire:
    estimate = Estimate(tokens - OVERHEAD, exact=True)
    return Acquire(name, session, Workload(), None, "gpt", estimate, Criticality(latency=latency), tenant=tenant)


def empty(dispatcher: Dispatcher) -> None:
    """The pool's bucket is known, and empty at time 0."""
    dispatcher.handle(ask("first", "a/Critical0", 5), 0.0)
    dispatcher.handle(Observe("first", (MeterReading(Resource.TOKENS, 60.0, 6000.0, 0.0, 0.0, 60.0),)), 0.0)
    dispatcher.handle(Settle("first", usage=Usage(1, 0)), 0.0)


def let_pass(dispatcher: Dispatcher, until: float) -> list[tuple[float, Granted]]:
    """Grants by the time that they came."""
    grants: list[tuple[float, Granted]] = []
    while (wake := dispatcher.next_wakeup()) is not None and wake <= until:
        grants += [(wake, effect) for effect in dispatcher.handle(Tick(), wake) if isinstance(effect, Granted)]
    return grants


# ---- credit

busy_and_idle = st.lists(
    st.tuples(st.sampled_from(["busy", "parked", "idle"]), st.floats(0.01, 5), st.integers(1, 300)), max_size=20
)


@given(st.integers(1, 100), busy_and_idle)
def test_credit_is_capped_and_accrues_only_while_the_tier_is_backlogged(
    percent: int, phases: list[tuple[str, float, int]]
) -> None:
    tier = Tier(TierConfig("Free", percent), 0, 1, 0.0)
    now = backlogged = largest = 0.0
    for index, (kind, seconds, size) in enumerate(phases):
        call = Call(ask(str(index), "a/x", size + OVERHEAD), now, index)
        call.vector = (float(size),)
        flow = tier.flow("a/x", 1, None)
        if kind != "idle":
            tier.enter(call, flow, now)
        if kind == "parked":
            tier.park(flow, now + seconds, now)
        now += seconds
        if kind == "parked":
            tier.unpark(flow, now)
        if kind == "busy":
            backlogged += seconds
        if kind != "idle":
            tier.accrue(now, [10.0])
            tier.due(call, now, [10.0])
            largest = max(largest, size)
            assert tier._credit[0] <= min(0.1 * percent * backlogged, largest + 0.1 * percent) + 1e-6
            tier.leave(call, now)


# ---- the claim

arrivals = st.lists(
    st.tuples(st.floats(0.0, 0.5), st.sampled_from(["Standard1", "Standard2", "Free0", "Free1"]), st.integers(5, 200)),
    max_size=30,
)


@settings(max_examples=60)
@given(st.integers(100, 1500), arrivals, st.booleans())
def test_the_head_keeps_its_claim_and_only_a_higher_call_takes_it_over(
    size: int, small: list[tuple[float, str, int]], higher: bool
) -> None:
    dispatcher = Dispatcher(policy(*TIERS), 0.0, trust_claims=True)
    empty(dispatcher)
    dispatcher.handle(ask("head", "a/Standard0", size), 0.0)
    now = 0.0
    grants: list[tuple[float, Granted]] = []
    for index, (pause, tenant, tokens) in enumerate(small):
        now += pause
        grants += let_pass(dispatcher, now)
        dispatcher.handle(ask(f"c{index}", f"a/{tenant}", tokens), now)
        if higher and not index and not grants:
            effects = dispatcher.handle(ask("higher", "a/Critical0", 50), now)
            grants += [(now, effect) for effect in effects if isinstance(effect, Granted)]
    grants += let_pass(dispatcher, now + 1000.0)
    order = [effect.call_id for _, effect in grants]
    expected = ["higher", "head"] if "higher" in order else ["head"]
    assert order[: len(expected)] == expected
    work = size + 50 * len(expected[1:])
    assert {effect.call_id: at for at, effect in grants}["head"] == pytest.approx(work / 100.0, abs=0.05)


# ---- batch


@settings(max_examples=5)
@given(st.integers(0, 40))
def test_batch_gets_its_tenants_guarantee_and_beyond_it_yields(percent: int) -> None:
    offers = [Offer("a/chat", rate=15), Offer("a/night", rate=15, latency=Latency.BATCH)]
    result = run(offers, [TierConfig("Standard", percent)], seconds=60, warm_up=10)
    assert result.share("a/night") == pytest.approx(percent / 100, abs=0.01)


# ---- bounds

asked = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 2), st.sampled_from(["Critical", "Free"]), st.integers(5, 400)),
    max_size=50,
)


@settings(max_examples=60)
@given(asked, st.integers(1, 6), st.integers(1, 10))
def test_no_more_wait_than_the_bounds_of_tenant_and_pool(
    calls: list[tuple[float, int, str, int]], of_tenant: int, depth: int
) -> None:
    dispatcher = Dispatcher(policy(*TIERS, depth=depth, of_tenant=of_tenant), 0.0, trust_claims=True)
    empty(dispatcher)
    now = 0.0
    for index, (pause, tenant, tier, tokens) in enumerate(calls):
        now += pause
        let_pass(dispatcher, now)
        before = dispatcher.queue("gpt", now, 1000)
        name = f"a/{tier}{tenant}"
        effects = dispatcher.handle(ask(f"c{index}", name, tokens), now)
        waiting = dispatcher.queue("gpt", now, 1000)
        assert len(waiting) <= depth
        assert max(Counter(call.tenant for call in waiting).values(), default=0) <= of_tenant
        for effect in effects:
            if getattr(effect, "reason", None) is Reason.QUEUE_FULL_TENANT:
                assert sum(call.tenant == name for call in before) == of_tenant
            elif getattr(effect, "reason", None) is Reason.QUEUE_FULL_POOL:
                assert len(before) == depth


# ---- replay

names = st.integers(0, 12).map(lambda n: f"c{n}")
tenants = st.sampled_from([f"a/{tier.name}{n}" for tier in TIERS for n in range(2)])
acquires = st.builds(
    ask, names, tenants, st.integers(5, 2000), st.sampled_from([None, *Latency]), st.sampled_from(["s", "t"])
)
readings = st.builds(
    MeterReading, st.just(Resource.TOKENS), st.just(60.0), st.just(6000.0), st.floats(0, 6000), st.none(), st.none()
)
SMALLER = policy(*TIERS[1:], per_minute=3000.0)
events: st.SearchStrategy[Event] = st.one_of(
    acquires,
    acquires,
    st.builds(Settle, names, st.sampled_from(ErrorClass), retriable=st.booleans(), dispatched=st.booleans()),
    st.builds(Settle, names, usage=st.builds(Usage, st.integers(0, 900), st.integers(0, 900))),
    st.builds(
        Settle,
        names,
        st.just(ErrorClass.QUOTA),
        retriable=st.just(True),
        quota=st.builds(QuotaRejection, retry_after=st.floats(0, 9)),
    ),
    st.builds(Observe, names, st.tuples(readings)),
    st.builds(Attach, acquires, st.booleans(), st.floats(0, 30), st.integers(1, 3)),
    st.builds(Cancel, names),
    st.builds(SessionLost, st.sampled_from(["s", "t"])),
    st.builds(Configure, st.sampled_from([SMALLER, policy(*TIERS)])),
)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.floats(0, 4), events), max_size=60))
def test_a_replay_of_any_events_gives_the_same_effects(schedule: list[tuple[float, Any]]) -> None:
    def play() -> list[tuple[float, Effect]]:
        dispatcher, now = Dispatcher(policy(*TIERS), 0.0, trust_claims=True), 0.0
        log: list[tuple[float, Effect]] = []
        for pause, event in schedule:
            while (wake := dispatcher.next_wakeup()) is not None and wake <= now + pause:
                now = max(now, wake)
                log += [(now, effect) for effect in dispatcher.handle(Tick(), now)]
            now += pause
            log += [(now, effect) for effect in dispatcher.handle(event, now)]
            for meter in dispatcher.pool_status(now)[0].meters:
                assert 0.0 <= meter.available <= meter.capacity <= 6000.0
                assert meter.reserved >= 0.0
        return log

    assert play() == play()
