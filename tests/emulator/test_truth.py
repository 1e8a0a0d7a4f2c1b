# SPDX-License-Identifier: Apache-2.0
"""The ground truth: what is booked, for whom, and that memory is bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.testing.faults import Episode, Fault, FaultPlan
from sluicegate.testing.foreign import ForeignConfig, ForeignUse
from sluicegate.testing.limits import Admitted, Demand, LimitsConfig, MeterConfig
from sluicegate.testing.text import OutputLength, pieces
from sluicegate.testing.truth import AccountedLimits

TOKENS = LimitsConfig("openai", (MeterConfig("requests", 600), MeterConfig("tokens", 6_000)))


def test_utilization_is_admitted_charge_over_level_and_inflow() -> None:
    pool = AccountedLimits(TOKENS)
    pool.admit(0.5, Demand(tokens=3_000))
    pool.admit(10.2, Demand(tokens=500), foreign=True)
    (_, use) = pool.utilization(0, 20)
    assert (use.ours, use.foreign, use.allowed) == (3_000, 500, pytest.approx(6_000 + 20 * 100))
    assert (use.ratio, use.ours_ratio) == (pytest.approx(3_500 / 8_000), pytest.approx(3_000 / 8_000))
    (_, later) = pool.utilization(10, 20)
    assert later.allowed == pytest.approx(3_000 + 950 + 1_000)
    assert (later.ours, later.foreign) == (0, 500)


@given(
    st.lists(st.tuples(st.floats(0, 4), st.integers(1, 3_000), st.booleans()), min_size=1, max_size=80),
    st.sampled_from(["bucket", "fixed_window"]),
)
def test_use_never_exceeds_what_the_limit_allows(steps: list[tuple[float, int, bool]], algorithm: str) -> None:
    meter = MeterConfig("tokens", 6_000, algorithm=algorithm)  # type: ignore[arg-type]
    pool, now, ours, foreign = AccountedLimits(LimitsConfig("openai", (meter,))), 0.0, 0.0, 0.0
    for pause, tokens, other in steps:
        now += pause
        if isinstance(pool.admit(now, Demand(tokens=tokens), foreign=other), Admitted):
            ours, foreign = ours + tokens * (not other), foreign + tokens * other
    (use,) = pool.utilization(0, now + 1)
    assert (use.ours, use.foreign) == (ours, foreign)
    assert use.ratio <= 1 + 1e-9


def test_what_rejected_calls_cost_is_waste_not_use() -> None:
    pool = AccountedLimits(TOKENS)
    pool.admit(0, Demand(tokens=6_000))
    for _ in range(5):
        pool.admit(0, Demand(tokens=100))
    (requests, tokens) = pool.utilization(0, 1)
    assert (requests.ours, requests.wasted, tokens.wasted) == (1, 5, 0)
    assert (pool.counts.admitted, pool.counts.exhausted, pool.counts.quota_429) == (1, 5, 5)


def test_a_changed_limit_changes_what_is_allowed_from_then_on() -> None:
    pool = AccountedLimits(TOKENS)
    pool.admit(0, Demand(tokens=6_000))
    pool.set_limit(10, "tokens", 12_000)
    (_, use) = pool.utilization(1, 20)
    assert use.allowed == pytest.approx(100 + 9 * 100 + 10 * 200)


def test_memory_is_bounded_and_totals_are_not_lost() -> None:
    pool = AccountedLimits(TOKENS, history=10)
    for second in range(100):
        pool.admit(second, Demand(tokens=50))
    pool.admit(100_000, Demand(tokens=50))
    assert len(pool.series(1)) <= 11
    snapshot = pool.snapshot(100_000)
    assert snapshot["meters"][1]["ours"] == 101 * 50  # type: ignore[index]
    with pytest.raises(ValueError, match="nothing is remembered before"):
        pool.utilization(0, 100_000)
    with pytest.raises(ValueError, match="ends after it begins"):
        pool.utilization(5, 5)


def test_anthropic_output_and_corrections_are_booked() -> None:
    pool = AccountedLimits(
        LimitsConfig("anthropic", (MeterConfig("input_tokens", 6_000), MeterConfig("output_tokens", 6_000)))
    )
    pool.admit(0, Demand(input_tokens=100))
    pool.adjust_input(0.5, 100, 130)
    pool.produce(1.5, 40)
    pool.produce(1.5, 10, foreign=True)
    (given_, made) = pool.utilization(0, 2)
    assert (given_.ours, made.ours, made.foreign) == (130, 40, 10)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_foreign_use_draws_its_share(wire: str) -> None:
    meters = (
        (MeterConfig("tokens", 30_000),)
        if wire == "openai"
        else (MeterConfig("input_tokens", 30_000), MeterConfig("output_tokens", 30_000))
    )
    pool = AccountedLimits(LimitsConfig(wire, meters))  # type: ignore[arg-type]
    foreign = ForeignUse(ForeignConfig(30, call_tokens=200, stop=1_000), pool, seed=3)
    for now in range(2_000):
        foreign.run(now)
    use = pool.utilization(0, 1_000)[0]
    assert use.foreign == pytest.approx(0.3 * 500 * 1_000, rel=0.1)
    assert foreign.next_at == float("inf")


def test_foreign_use_is_the_same_for_the_same_seed() -> None:
    def run(seed: int) -> float:
        pool = AccountedLimits(TOKENS)
        ForeignUse(ForeignConfig(50), pool, seed).run(100)
        return pool.utilization(0, 100)[1].foreign

    assert run(1) == run(1) != run(2)


def test_faults_come_once_then_by_episode_then_by_rate() -> None:
    plan = FaultPlan({Fault.SERVER_ERROR: 0.25}, [Episode(Fault.OVERLOAD, 10, 5)], seed=1)
    plan.push([Fault.HANG])
    assert plan.draw(12) is Fault.HANG
    assert {plan.draw(12) for _ in range(20)} == {Fault.OVERLOAD}
    drawn = [plan.draw(15) for _ in range(4_000)]
    assert drawn.count(Fault.SERVER_ERROR) == pytest.approx(1_000, rel=0.15)
    with pytest.raises(ValueError, match=r"come to 1\.15"):
        plan.set_rates({Fault.BILLING: 0.9})
    plan.clear()
    assert plan.draw(12) is None


def test_text_is_deterministic_and_as_long_as_asked() -> None:
    assert pieces(5, 9_000) == pieces(5, 9_000)
    assert len(pieces(5, 9_000)) == 9_000
    assert pieces(5, 10) != pieces(6, 10)
    assert pieces(1, 0) == ()
    source = random.Random(1)
    drawn = sorted(OutputLength(100, 0.5, 400).draw(source, None)[0] for _ in range(2_001))
    assert drawn[1_000] == pytest.approx(100, rel=0.1)
    assert drawn[-1] <= 400
    assert OutputLength(100).draw(source, 30) == (30, True)


def test_foreign_use_gets_its_share_under_pressure() -> None:
    pool = AccountedLimits(LimitsConfig("openai", (MeterConfig("tokens", 30_000, capacity=1_000),)))
    foreign = ForeignUse(ForeignConfig(30), pool, seed=3)
    for step in range(20_000):
        foreign.run(step / 100)
        pool.admit(step / 100, Demand(tokens=100))
    (use,) = pool.utilization(20, 200)
    assert use.ratio > 0.98
    assert use.foreign / use.allowed > 0.15
    assert pool.counts.rejected_foreign > 0
