# SPDX-License-Identifier: Apache-2.0
"""Invariants of the budget under random schedules, alone and against a provider that shares no code with it."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.config import LimitConfig, PoolConfig
from sluicegate.broker.core.units import Charge
from sluicegate.testing.limits import MeterConfig
from sluicegate.wire.values import Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import Algorithm, LearnLimits, Provider, Resource
from tests.property.budget_world import Setup, World

OPENAI = (MeterConfig("requests", 600), MeterConfig("tokens", 60_000))
ANTHROPIC = (MeterConfig("requests", 600), MeterConfig("input_tokens", 60_000), MeterConfig("output_tokens", 30_000))

spans = st.tuples(st.floats(0.05, 4), st.floats(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    wire = draw(st.sampled_from(["openai", "anthropic"]))
    return Setup(
        OPENAI if wire == "openai" else ANTHROPIC,
        wire=wire,
        rule=draw(st.sampled_from(["sum", "chars"])),
        latency=draw(spans),
        stream=draw(spans),
        network=(0.0, draw(st.floats(0, 0.05))),
        sampled_at_answer=draw(st.booleans()),
        headers=draw(st.sampled_from([1.0, 0.5, 0.0])),
        lost=draw(st.sampled_from([0.0, 0.1])),
        chars=(10, draw(st.integers(100, 8000))),
        max_tokens=(1, draw(st.integers(16, 3000))),
    )


@settings(max_examples=40, deadline=None)
@given(setups(), st.integers(0, 1 << 30))
def test_no_quota_429_without_foreign_use(setup: Setup, seed: int):
    world = World(setup, seed)
    world.run(60)
    assert world.rejected == []
    assert world.granted > 0


@settings(max_examples=20, deadline=None)
@given(setups(), st.integers(0, 1 << 30))
def test_what_is_granted_within_a_window_and_available_stays_within_limit_and_burst(setup: Setup, seed: int):
    """By the provider's own figures, at every grant, answer and settlement."""
    world = World(setup, seed)
    recent: deque[tuple[float, float]] = deque()
    seen = 0.0

    def check(w: World) -> None:
        nonlocal seen
        requests = next(s for s in w.budget.status(w.now) if s.key.resource is Resource.REQUESTS)
        if w.granted != seen:
            recent.append((w.now, w.granted - seen))
            seen = w.granted
        while recent and recent[0][0] <= w.now - 60:
            recent.popleft()
        lost = setup.lost > 0  # a call that never left gives its request back
        assert lost or sum(n for _, n in recent) + requests.available <= requests.limit + requests.capacity + 1e-6
        for status in w.budget.status(w.now):
            assert 0 <= status.available <= status.capacity <= status.limit
            assert status.reserved >= 0
            assert math.isfinite(status.foreign_rate)

    world.watch = check
    world.run(45)


@settings(max_examples=10, deadline=None)
@given(setups(), st.integers(0, 1 << 30))
def test_replay_gives_the_same_decisions(setup: Setup, seed: int):
    first, second = World(setup, seed), World(setup, seed)
    first.run(30)
    second.run(30)
    assert first.trace == second.trace
    assert first.budget.status(30) == second.budget.status(30)


absurd = st.one_of(
    st.none(),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, -1e300, 1e-300, 86_400.0]),
    st.floats(),
    st.floats(0, 100_000),
)
readings = st.builds(
    MeterReading, st.sampled_from(list(Resource)), st.one_of(st.none(), absurd), absurd, absurd, absurd, absurd
)
rejections = st.builds(
    QuotaRejection, st.one_of(st.none(), st.sampled_from(list(Resource))), absurd, absurd, st.booleans(), absurd, absurd
)
usages = st.one_of(
    st.none(), st.builds(Usage, st.integers(-10, 10**9), st.integers(-10, 10**9), st.integers(-10, 10**9))
)
estimates = st.builds(
    Estimate,
    st.integers(-5, 5000),
    st.integers(-5, 5000),
    st.one_of(st.none(), st.integers(-5, 5000)),
    st.integers(-5, 20_000),
    st.integers(-5, 5),
)
steps = st.one_of(
    st.tuples(st.just("call"), estimates, st.floats(0, 1)),
    st.tuples(st.just("observe"), st.integers(0, 9), st.lists(readings, max_size=3)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.tuples(st.booleans(), usages)),
    st.tuples(st.just("reject"), st.integers(0, 9), rejections),
    st.tuples(st.just("adopt"), estimates, absurd),
    st.tuples(st.just("wait"), st.floats(-1, 100), st.none()),
)


def pool(provider: Provider, learn: LearnLimits) -> PoolConfig:
    limits = (
        LimitConfig(Resource.REQUESTS, 60, 60.0),
        LimitConfig(Resource.TOKENS, 20_000, 60.0),
        LimitConfig(Resource.INPUT_TOKENS, 30_000, 60.0, Algorithm.FIXED_WINDOW),
        LimitConfig(Resource.OUTPUT_TOKENS, 30_000, 60.0, burst=10.0),
        LimitConfig(Resource.REQUESTS, 1000, 86_400.0),
    )
    return PoolConfig("pool", provider, "https://provider", ("m",), limits, learn)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(Provider)),
    st.sampled_from(list(LearnLimits)),
    st.lists(steps, max_size=40),
)
def test_nothing_that_a_provider_says_breaks_the_account(provider: Provider, learn: LearnLimits, script: list[Any]):
    """Hostile figures, in any order: finite, never below zero, no grant without room, each call settles once."""
    budget = Budget(pool(provider, learn), 0.0)
    now, made = 0.0, 0
    held: list[str] = []
    for what, first, second in script:
        match what:
            case "call":
                charge = budget.charge(first, "m")
                assert all(charge.of(resource) >= 0 for resource in Resource)
                lack = budget.lack(charge, now, second)
                if lack is not None:
                    assert lack.ready_at > now or budget.never_fits(charge)
                    assert 0 <= lack.fits_now < math.inf
                    continue
                made += 1
                budget.reserve(f"c{made}", charge, now)
                held.append(f"c{made}")
            case "observe" if held:
                budget.observe(held[first % len(held)], second, now)
            case "settle" if held:
                dispatched, usage = second
                name = held.pop(first % len(held))
                final = budget.settle(name, dispatched=dispatched, usage=usage, now=now)
                assert final is not None
                assert budget.settle(name, dispatched=dispatched, usage=usage, now=now) is None
            case "reject" if held:
                name = held.pop(first % len(held))
                assert budget.reject(name, second, now) >= now
                assert budget.settle(name, dispatched=True, usage=None, now=now) is None
            case "adopt":
                made += 1
                budget.adopt(f"c{made}", budget.charge(first, "m"), second or 0.0, now)
                held.append(f"c{made}")
            case "wait":
                now += first
        assert budget.outstanding == len(held)
        for status in budget.status(now):
            assert 0 <= status.available <= status.capacity <= status.limit * 1.0000001 or status.limit < 1
            assert 0 <= status.foreign_rate < math.inf
            assert 0 <= status.reserved < math.inf
            assert math.isfinite(status.limit)
    for name in held:
        assert budget.settle(name, dispatched=True, usage=None, now=now) is not None
    assert all(status.reserved == 0 for status in budget.status(now))
    small = Charge(1.0, 1.0, 1.0, 1.0)
    if budget.never_fits(small) is None:
        assert budget.lack(small, now + 10 * 86_400.0) is None  # whatever was said, the pool comes back
