# SPDX-License-Identifier: Apache-2.0
"""Under a load far above the limit the budget uses the limit up, and the provider never has to say no."""

from __future__ import annotations

import pytest

from sluicegate.testing.foreign import ForeignConfig
from sluicegate.testing.limits import AdmissionRule, MeterConfig
from sluicegate.wire.words import Provider
from tests.property.budget_world import Setup, World

OPENAI = (MeterConfig("requests", 5000), MeterConfig("tokens", 200_000))
SMALL = (MeterConfig("requests", 500), MeterConfig("tokens", 30_000))
ANTHROPIC = (MeterConfig("requests", 1000), MeterConfig("input_tokens", 60_000), MeterConfig("output_tokens", 30_000))
RULES: tuple[AdmissionRule, ...] = ("sum", "max", "chars")


@pytest.mark.parametrize("latency", [(0.3, 0.3), (2.0, 2.0), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_uses_the_limit_up_without_a_429(rule: AdmissionRule, latency: tuple[float, float]):
    world = World(Setup(OPENAI, rule=rule, latency=latency), seed=1)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.97


@pytest.mark.parametrize("seed", range(3))
def test_a_small_pool_of_few_large_calls(seed: int):
    world = World(Setup(SMALL, latency=(2.0, 2.0)), seed)
    world.run(240)
    assert world.rejected == []
    assert world.utilization(0, 240) >= 0.97


@pytest.mark.parametrize("rule", ["sum", "chars"])
def test_a_provider_that_takes_its_figures_when_it_answers(rule: AdmissionRule):
    world = World(Setup(SMALL, rule=rule, sampled_at_answer=True), seed=1)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.97


def test_kinds_of_calls_that_share_a_pool():
    world = World(Setup(OPENAI, rule="chars", mixed=True), seed=2)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.97


def test_invisible_max_tokens_are_learned_where_bounding_alone_cannot_help():
    """With half a minute in flight the lower bound never lifts the account: only a learned share can."""
    setup = Setup(OPENAI, rule="chars", latency=(5.0, 30.0))
    world = World(setup, seed=1)
    world.run(360)
    charge = world.budget.charge(world._next_call().estimate, "m")
    assert charge.tokens < charge.input_tokens + 0.3 * charge.output_tokens
    assert world.rejected == []


@pytest.mark.parametrize("seed", range(2))
def test_anthropic_with_rounded_figures_and_output_charged_as_produced(seed: int):
    world = World(Setup(ANTHROPIC, wire="anthropic"), seed)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.97


def test_requests_bind():
    meters = (MeterConfig("requests", 120), MeterConfig("tokens", 2_000_000))
    world = World(Setup(meters, latency=(0.5, 2.0)), seed=1)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.97


def test_a_fixed_window():
    meters = (
        MeterConfig("requests", 5000),
        MeterConfig("tokens", 100_000, algorithm="fixed_window", anchor=17.0),
    )
    world = World(Setup(meters, latency=(0.5, 2.0)), seed=1)
    world.run(256)
    assert len(world.rejected) <= 1  # the first window's end is not known before the first answer
    assert world.utilization(76, 256) >= 0.97


def test_lost_headers_and_calls_that_never_leave():
    world = World(Setup(OPENAI, headers=0.3, lost=0.05), seed=3)
    world.run(180)
    assert world.rejected == []
    assert world.utilization(0, 180) >= 0.96


@pytest.mark.parametrize("latency", [(0.5, 0.5), (2.0, 2.0), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("lump", [None, 1000.0])
def test_foreign_use_of_a_third_costs_at_most_one_429_in_a_hundred(latency: tuple[float, float], lump: float | None):
    setup = Setup(OPENAI, latency=latency, foreign=ForeignConfig(30.0, call_tokens=lump))
    granted = rejected = 0
    for seed in range(2):
        world = World(setup, seed)
        world.run(240)
        granted += world.granted
        rejected += len(world.rejected)
        assert world.utilization(60, 240) >= 0.85
    assert rejected <= 0.01 * granted


@pytest.mark.parametrize("lump", [200.0, 1000.0])
@pytest.mark.parametrize("latency", [(0.2, 0.2), (0.5, 2.0), (2.0, 10.0)], ids=str)
@pytest.mark.parametrize("percent", [10.0, 30.0, 50.0])
def test_foreign_lumps_on_a_small_pool(percent: float, latency: tuple[float, float], lump: float):
    """Use counts what calls were charged of what flowed in and others left, once the first pile is drawn."""
    setup = Setup(SMALL, latency=latency, foreign=ForeignConfig(percent, call_tokens=lump))
    granted = rejected = 0
    ours = left = 0.0
    for seed in range(4):
        world = World(setup, seed)
        world.run(600)
        granted += world.granted
        rejected += len(world.rejected)
        tokens = world.provider.utilization(120, 600)[1]
        ours += tokens.ours
        left += 480 * 500 - tokens.foreign
    assert rejected <= 0.01 * granted
    assert ours >= 0.97 * left


@pytest.mark.parametrize("latency", [(5.0, 30.0), (20.0, 30.0), (30.0, 30.0)], ids=str)
@pytest.mark.parametrize("rule", ["sum", "chars"])
def test_slow_calls_use_the_limit_up(rule: AdmissionRule, latency: tuple[float, float]):
    world = World(Setup(SMALL, rule=rule, latency=latency, stream=(0.0, 30.0)), seed=1)
    world.run(600)
    assert world.rejected == []
    assert world.utilization(60, 600) >= 0.97


def test_calls_that_are_admitted_late_and_in_any_order():
    """No real provider is so bad; what was learned from figures must not make it worse than a few refusals."""
    world = World(Setup(SMALL, latency=(5.0, 20.0), network=(0.0, 5.0)), seed=1)
    world.run(400)
    assert len(world.rejected) <= 0.01 * world.granted
    assert world.utilization(60, 400) >= 0.9


def test_foreign_use_on_anthropic():
    setup = Setup(ANTHROPIC, wire="anthropic", foreign=ForeignConfig(30.0))
    worlds = [World(setup, seed) for seed in range(3)]
    for world in worlds:
        world.run(240)
    assert sum(len(w.rejected) for w in worlds) <= 0.012 * sum(w.granted for w in worlds)


def test_foreign_use_that_stops_is_forgotten():
    setup = Setup(OPENAI, foreign=ForeignConfig(30.0, start=30.0, stop=120.0))
    world = World(setup, seed=1)
    world.run(110)
    assert max(s.foreign_rate / s.limit * s.key.window for s in world.budget.status(110)) > 0.1
    world.run(240)
    assert world.utilization(150, 240) >= 0.95
    assert len(world.rejected) <= 0.01 * world.granted


def test_a_limit_that_falls_and_rises_again():
    world = World(Setup(OPENAI), seed=1)
    world.run(60)
    world.provider.set_limit(60.0, "tokens", 100_000)
    world.run(150)
    before = len(world.rejected)
    tokens = next(s for s in world.budget.status(150) if s.key.resource == "tokens")
    assert tokens.limit == 100_000
    world.provider.set_limit(150.0, "tokens", 300_000)
    world.run(300)
    assert before <= 0.02 * world.granted
    assert len(world.rejected) == before
    assert world.utilization(200, 300) >= 0.95


def test_enforcement_in_slices_that_no_header_shows():
    meters = (MeterConfig("requests", 300, slice=1.0), MeterConfig("tokens", 2_000_000))
    world = World(Setup(meters, latency=(0.5, 1.0), network=(0.005, 0.01)), seed=1)
    world.run(60)
    early, granted = len(world.rejected), world.granted
    world.run(300)
    assert len(world.rejected) - early <= 0.01 * (world.granted - granted)
    assert world.granted - granted >= 0.95 * 240 * 300 / 60


@pytest.mark.parametrize("requests", [60, 300, 600, 3000])
@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_documented_slices_cost_no_429_and_no_rate(requests: int, seconds: float):
    meters = (MeterConfig("requests", requests, slice=seconds), MeterConfig("tokens", 50_000_000))
    azure = Setup(meters, "openai", latency=(0.5, 1.0), network=(0.001, 0.002), provider=Provider.AZURE_OPENAI)
    world = World(azure, seed=1)
    world.run(10)
    early = world.granted
    world.run(70)
    assert world.rejected == []
    assert world.granted - early >= 0.97 * requests
