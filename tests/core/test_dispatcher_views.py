# SPDX-License-Identifier: Apache-2.0
"""Introspection tells what waits for what, and changes nothing."""

from __future__ import annotations

import pytest

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.effects import Decision, Party
from sluicegate.wire.words import Outcome, Reason
from tests.scenarios.transcript import Transcript

SETUP = """\
pool gpt tokens/1m=600
tiers gpt Critical | Free
tenant a/c tier=Critical max-wait=500
tenant a/f tier=Free max-wait=500 ceiling=gpt:tokens/1m=150
tenant a/b tier=Free max-wait=500
configured
fill gpt tokens/1m=105
0 call f1 tenant=a/f tokens=100
0 call f2 tenant=a/f tokens=100
0 call c1 tenant=a/c tokens=100 chain=x:1/2
0 call b1 tenant=a/b tokens=100 latency=batch
0 call b2 tenant=a/b tokens=100"""


def world() -> Transcript:
    transcript = Transcript()
    for line in SETUP.splitlines():
        transcript.run(line)
    return transcript


def test_queue_in_order_with_what_each_waits_for() -> None:
    broker = world().dispatcher
    assert broker is not None
    calls = broker.queue("gpt", 1.0, 10)
    assert calls[0].call_id == "c1"
    assert {call.call_id for call in calls} == {"c1", "f2", "b1", "b2"}
    assert calls[0].waits_for is Reason.BINDING_LIMIT
    assert calls[0].chain_id == "x"
    assert all(call.waited == 1.0 and call.predicted_wait > 0.0 for call in calls)
    assert len(broker.queue("gpt", 1.0, 2)) == 2
    assert broker.queue("nope", 1.0, 2) == []


def test_pools_tenants_and_safe_shares() -> None:
    broker = world().dispatcher
    assert broker is not None
    (pool,) = broker.pool_status(2.0)
    assert (pool.name, pool.in_flight, str(pool.binding)) == ("gpt", 1, "tokens/1m")
    assert [(tier.name, tier.waiting, tier.oldest_wait) for tier in pool.tiers] == [
        ("Critical", 1, 2.0),
        ("Free", 3, 2.0),
    ]
    tenants = {tenant.name: tenant for tenant in broker.tenant_status(2.0)}
    assert (tenants["a/f"].granted, tenants["a/f"].in_flight, tenants["a/f"].waiting) == (1, 1, 1)
    assert [(share.pool, share.amount) for share in broker.safe_shares(broker.sharers("s1"))] == [("gpt", 150.0)]


def test_views_change_nothing() -> None:
    plain, watched = world(), world()
    assert watched.dispatcher is not None
    watched.dispatcher.queue("gpt", 1.0, 10)
    watched.dispatcher.pool_status(1.0)
    assert plain.run("until 100") == watched.run("until 100")


@pytest.mark.parametrize(("reason", "found"), [(Reason.TIER_ORDER, 1), (Reason.GUARANTEE, 0), (Reason.BACKFILL, 0)])
def test_audit_finds_an_inversion_unless_a_rule_allows_it(reason: Reason, found: int) -> None:
    waiting = (("Critical", 2), ("Free", 5))
    decision = Decision(1.0, "x", Party("a/f", "Free", ""), "gpt", "m", Outcome.GRANTED, reason, 0.0, 1, None, waiting)
    inversions = audit([decision])
    assert len(inversions) == found
    if inversions:
        assert "2 of Critical" in str(inversions[0])
