# SPDX-License-Identifier: Apache-2.0
"""Fairness and access for any weights and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.config import AccessRule, LimitConfig, PoolConfig, Snapshot, TenantConfig, TierConfig
from sluicegate.broker.core.resolve import Refusal, Resolver
from sluicegate.broker.core.units import Workload
from sluicegate.wire.words import Provider, Reason, Resource
from tests.fairness.world import Offer, run

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


@settings(max_examples=3)
@given(st.integers(1, 30), st.integers(1, 30))
def test_guarantees_are_kept_and_not_exceeded_under_a_higher_tier_that_takes_all(premium: int, free: int) -> None:
    tiers = [TierConfig("Critical"), TierConfig("Premium", premium), TierConfig("Free", free)]
    offers = [Offer(f"a/{tier.name}", tier=tier.name, rate=12, tokens=(50, 150)) for tier in tiers]
    result = run(offers, tiers, seconds=90, warm_up=30)
    for name, percent in (("Premium", premium), ("Free", free)):
        assert result.share(f"a/{name}") == pytest.approx(percent / 100, rel=0.1, abs=0.006)


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
