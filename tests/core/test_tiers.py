# SPDX-License-Identifier: Apache-2.0
"""A tier's guarantee by itself, where rates and meters change under it."""

from __future__ import annotations

from sluicegate.broker.core.config import TierConfig
from sluicegate.broker.core.events import Acquire
from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.tiers import Tier
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Estimate

FREE = TierConfig("Free", guaranteed_percent=5)


def waiting(tier: Tier, vector: tuple[float, ...], now: float) -> Call:
    call = Call(Acquire("c", "s", Workload(), None, "gpt", Estimate(1)), now, 0)
    call.vector = vector
    tier.enter(call, tier.flow("a/free", 1, None), now)
    return call


def due(tier: Tier, call: Call, now: float, rates: tuple[float, ...]) -> bool:
    if tier.surely_not_due(call, now):
        return False
    tier.accrue(now, rates)
    return tier.due(call, now, rates)


def test_a_call_that_waits_for_its_guarantee_is_asked_again_when_rates_rise() -> None:
    tier = Tier(FREE, 0, 2, now=0.0)
    call = waiting(tier, (100.0, 1.0), 0.0)
    assert not due(tier, call, 0.1, (50.0, 0.5))  # others use nearly all: 40 s to come
    assert due(tier, call, 2.1, (1000.0, 10.0))


def test_a_guarantee_outlives_a_configuration_only_on_the_same_meters() -> None:
    rates = (1000.0, 10.0)
    for same in (True, False):
        old = Tier(FREE, 0, 2, now=0.0)
        waiting(old, (100.0, 1.0), 0.0)
        tier = Tier(FREE, 0, 2, now=2.0)
        tier.take_over(old, 2.0, same_meters=same)
        assert due(tier, waiting(tier, (100.0, 1.0), 2.0), 2.0, rates) is same
