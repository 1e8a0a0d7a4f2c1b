# SPDX-License-Identifier: Apache-2.0
"""Fairness and access for any weights and sizes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.config import AccessRule, LimitConfig, PoolConfig, Snapshot, TenantConfig, TierConfig
from sluicegate.broker.core.resolve import Refusal, Resolver
from sluicegate.broker.core.units import Workload
from sluicegate.wire.words import Provider, Reason, Resource
from tests.fairness.world import OVERHEAD, Offer, run

weighted = st.lists(st.tuples(st.integers(1, 8), st.sampled_from([100, 250, 500])), min_size=2, max_size=5)


@settings(max_examples=3)
@given(weighted)
def test_backlogged_tenants_get_what_their_weights_say(tenants: list[tuple[int, int]]) -> None:
    offers = [
        Offer(f"a/t{i}", weight=weight, rate=1300 / size, tokens=(size, size))
        for i, (weight, size) in enumerate(tenants)
    ]
    result = run(offers, [TierConfig("Standard")], seconds=40, warm_up=10)
    whole = sum(weight for weight, _ in tenants)
    for offer in offers:
        deserved = offer.weight / whole
        granularity = 2 * (offer.tokens[0] + 4) / sum(result.tokens.values())
        assert result.share(offer.tenant) == pytest.approx(deserved, rel=0.03, abs=granularity)
    assert result.quota_rejections == 0
    assert audit(result.decisions) == []


def most_owed(served: list[tuple[float, int]], rate: float, begin: float, end: float) -> float:
    """The most by which any window of [begin, end] got less than `rate` per second."""
    most = least = owed = 0.0
    at = begin
    for when, size in [*(entry for entry in served if begin <= entry[0] <= end), (end, 0)]:
        owed += rate * (when - at)
        most = max(most, owed - least)
        owed -= size
        least = min(least, owed)
        at = when
    return most


sizes = st.sampled_from([(20, 60), (50, 150), (40, 700), (300, 900)])


LIMIT_RATE = 1000.0  # tokens per second of tests.fairness.world's pool


@settings(max_examples=8)
@given(st.integers(1, 30), st.integers(1, 30), sizes, sizes)
@example(20, 23, (300, 900), (20, 60))
def test_guarantees_are_kept_and_not_exceeded_under_a_higher_tier_that_takes_all(
    premium: int, free: int, low: tuple[int, int], high: tuple[int, int]
) -> None:
    tiers = [TierConfig("Critical"), TierConfig("Premium", premium), TierConfig("Free", free)]
    offers = [
        Offer(f"a/{tier.name}{weight}", tier.name, weight, rate=1500 / sum(span), tokens=span)
        for tier, span in zip(tiers, (high, low, low), strict=True)
        for weight in (1, 2)
    ]
    seconds = 60.0
    result = run(offers, tiers, seconds=seconds, warm_up=20)
    for name, percent in (("Premium", premium), ("Free", free)):
        rate = 10.0 * percent
        one = low[1] + OVERHEAD
        # In any window at least the guarantee less the credit's cap, which is one call's charge and a second's worth,
        # and less what is due while a call of the other guaranteed tier and one of the highest flow in before it: a
        # claim is kept until its call fits.
        before = rate * (one + high[1] + OVERHEAD) / LIMIT_RATE
        assert most_owed(result.served[name], rate, 20.0, seconds) <= one + rate + before
        got = sum(size for at, size in result.served[name] if at >= 20.0)
        assert got == pytest.approx(rate * (seconds - 20.0), rel=0.01, abs=one + rate)


TIERS = (TierConfig("Critical"), TierConfig("Standard"), TierConfig("Free"))
LIMITS = (LimitConfig(Resource.REQUESTS, 60, 60.0),)


@pytest.mark.parametrize(
    ("rules", "tier", "weight", "expected"),
    [
        (None, "Critical", 5, ("Critical", 5)),
        ((AccessRule(("*",)),), "Critical", 5, ("Critical", 5)),
        ((AccessRule(("a",), max_tier="Standard", max_weight=2),), "Critical", 5, ("Standard", 2)),
        ((AccessRule(("a",), max_tier="Standard"),), "Free", 5, ("Free", 5)),
        ((AccessRule(("b",)), AccessRule(("*",), max_tier="Free")), "Critical", 1, ("Free", 1)),
        ((AccessRule(("b",)),), "Critical", 1, None),
        ((), "Critical", 1, None),
    ],
)
def test_access_rules_bound_tier_and_weight_or_refuse(
    rules: tuple[AccessRule, ...] | None, tier: str, weight: int, expected: tuple[str, int] | None
) -> None:
    pool = PoolConfig("p", Provider.OPENAI, "https://x", ("m",), LIMITS, tiers=TIERS, access=rules)
    tenant = TenantConfig("a/t", "a", tier, weight)
    resolver = Resolver(Snapshot("v", {"p": pool}, {"a/t": tenant}), trust_claims=False)
    standing = resolver.standing(tenant, pool, Workload("a", "default"))
    if expected is None:
        assert isinstance(standing, Refusal)
        assert standing.reason is Reason.ACCESS_DENIED
    else:
        assert not isinstance(standing, Refusal)
        assert (standing.tier_name, standing.weight) == expected
