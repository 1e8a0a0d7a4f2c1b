# SPDX-License-Identifier: Apache-2.0
"""Measured shares against deserved ones, with more load than the pool can take."""

from __future__ import annotations

import pytest

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.config import TierConfig
from sluicegate.wire.words import Latency
from tests.fairness.world import Offer, run

ONE = [TierConfig("Standard")]


def test_weights_1_2_4() -> None:
    offers = [Offer(f"a/w{weight}", weight=weight, rate=15) for weight in (1, 2, 4)]
    result = run(offers, ONE, seconds=120)
    for weight in (1, 2, 4):
        assert result.share(f"a/w{weight}") == pytest.approx(weight / 7, rel=0.03)
    assert result.quota_rejections == 0
    assert audit(result.decisions) == []


def test_ten_tenants_of_mixed_sizes_get_the_same() -> None:
    offers = [Offer(f"a/t{i}", rate=30 / (i + 1), tokens=(20 * (i + 1), 60 * (i + 1))) for i in range(10)]
    result = run(offers, ONE, seconds=400)
    for offer in offers:
        assert result.share(offer.tenant) == pytest.approx(0.1, rel=0.06)


def test_unwanted_share_goes_to_the_others() -> None:
    offers = [Offer("a/modest", rate=1), Offer("a/greedy", rate=30), Offer("a/keen", rate=30)]
    result = run(offers, ONE, seconds=120)
    assert result.granted["a/modest"] == pytest.approx(120, abs=4)
    assert result.share("a/greedy") == pytest.approx(result.share("a/keen"), rel=0.03)


def test_batch_takes_what_interactive_calls_leave() -> None:
    offers = [
        Offer("a/chat", rate=5),
        Offer("a/night", rate=20, latency=Latency.BATCH),
        Offer("a/night2", rate=20, latency=Latency.BATCH),
    ]
    result = run(offers, ONE, seconds=120)
    assert result.share("a/chat") == pytest.approx(0.52, abs=0.03)
    assert result.share("a/night") == pytest.approx(result.share("a/night2"), rel=0.05)


def test_guarantees_hold_though_a_higher_tier_takes_all() -> None:
    tiers = [
        TierConfig("Critical", reserved_headroom_percent=10),
        TierConfig("Premium", guaranteed_percent=25),
        TierConfig("Free", guaranteed_percent=5),
    ]
    offers = [Offer(f"a/{tier.name}", tier=tier.name, rate=30) for tier in tiers]
    result = run(offers, tiers, seconds=200)
    assert result.share("a/Premium") == pytest.approx(0.25, rel=0.02)
    assert result.share("a/Free") == pytest.approx(0.05, rel=0.02)
    assert audit(result.decisions) == []
    assert sum(result.tokens.values()) >= 0.97 * 1000 * 180


def test_a_guarantee_holds_though_each_call_takes_most_of_another_meter() -> None:
    """Half of Free's calls take more of the tokens than of the requests, half more of the requests: on average as much.

    What a call leaves on one meter is there for the next one, which takes more of it.
    """
    tiers = [TierConfig("Critical"), TierConfig("Free", guaranteed_percent=5)]
    requests, seconds, warm_up = 600.0, 1000.0, 20.0  # at 100 tokens a call
    offers = [
        Offer("a/Critical", tier="Critical", rate=11),
        Offer("a/Free", tier="Free", rate=2, tokens=(1, 191)),
    ]
    result = run(offers, tiers, seconds=seconds, requests=requests, warm_up=warm_up)
    got = [size for at, size in result.served["Free"] if at >= warm_up]
    of_tokens = sum(got) / (1000 * (seconds - warm_up))
    of_requests = len(got) / (requests / 60 * (seconds - warm_up))
    assert of_tokens == pytest.approx(of_requests, rel=0.08)
    assert max(of_tokens, of_requests) == pytest.approx(0.05, rel=0.03)
    assert audit(result.decisions) == []


def test_a_guarantee_holds_at_the_headroom_of_a_tier_that_leaves_it() -> None:
    """Free's large calls need more than the small ones above it, before which the same headroom is held back."""
    tiers = [
        TierConfig("Critical", guaranteed_percent=30, reserved_headroom_percent=10),
        TierConfig("Standard", guaranteed_percent=10),
        TierConfig("Free", guaranteed_percent=5),
    ]
    offers = [
        Offer("a/Critical", tier="Critical", rate=2),
        Offer("a/Standard", tier="Standard", rate=30, tokens=(20, 60)),
        Offer("a/Free", tier="Free", rate=5, tokens=(300, 500)),
    ]
    result = run(offers, tiers, seconds=300)
    assert result.share("a/Free") == pytest.approx(0.05, rel=0.03)
    assert max(result.waits["Critical"]) < 0.2
    assert audit(result.decisions) == []
    assert result.quota_rejections == 0


def test_strict_order_without_guarantees() -> None:
    tiers = [TierConfig("Critical"), TierConfig("Free")]
    result = run([Offer(f"a/{tier.name}", tier=tier.name, rate=30) for tier in tiers], tiers, seconds=60)
    assert result.tokens["a/Free"] == 0


def test_ceiling_bounds_a_tier_and_the_rest_borrows() -> None:
    tiers = [TierConfig("Critical"), TierConfig("Free", ceiling_percent=50)]
    offers = [Offer("a/Critical", tier="Critical", rate=1), Offer("a/Free", tier="Free", rate=30)]
    result = run(offers, tiers, seconds=120)
    assert result.tokens["a/Free"] / 100_000 == pytest.approx(0.5, rel=0.04)


def test_predicted_waits_are_near_the_real_ones() -> None:
    offers = [Offer("a/x", rate=6, max_wait=4.0), Offer("a/y", rate=6, max_wait=4.0)]
    result = run(offers, ONE, seconds=120)
    assert result.quota_rejections == 0
    # A queue of four seconds is held: neither is it refused too early nor does anyone wait longer.
    assert max(result.waits["Standard"]) <= 4.0 + 1e-6
    late = result.waits["Standard"][len(result.waits["Standard"]) // 2 :]
    assert sum(late) / len(late) > 2.0


STEADY = {
    "one tenant": ([Offer("a/x", rate=12, max_wait=30)], ONE),
    "equal tenants": ([Offer(f"a/t{i}", rate=4, tokens=(50, 150), max_wait=20) for i in range(4)], ONE),
    "weights": ([Offer(f"a/w{weight}", weight=weight, rate=8, max_wait=20) for weight in (1, 2)], ONE),
    "below a higher tier": (
        [Offer("a/high", tier="Critical", rate=5), Offer("a/low", tier="Free", rate=8, max_wait=30)],
        [TierConfig("Critical"), TierConfig("Free", guaranteed_percent=5)],
    ),
    "batch under chat": (
        [Offer("a/chat", rate=5), Offer("a/night", rate=8, latency=Latency.BATCH, max_wait=60)],
        ONE,
    ),
}


@pytest.mark.parametrize("name", STEADY)
def test_predictions_in_a_steady_load(name: str) -> None:
    offers, tiers = STEADY[name]
    result = run(offers, tiers, seconds=240, warm_up=60)
    errors = sorted(abs(said - real) / real for said, real in result.errors if real > 1.0)
    assert len(errors) > 100
    assert errors[len(errors) // 2] <= 0.15
    assert errors[len(errors) * 9 // 10] <= 0.4
    # Never absurd: no wait is said to be longer than what the tenant's whole queue can take.
    assert all(said <= 4 * max(real, 5.0) for said, real in result.errors)
