# SPDX-License-Identifier: Apache-2.0
"""Whose call it is, and what becomes of grants that nobody settles."""

from __future__ import annotations

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TierConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Granted, Settled
from sluicegate.broker.core.events import Acquire, Cancel, Observe, Settle, Tick
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Estimate, MeterReading, Usage
from sluicegate.wire.words import Provider, Resource

LIMITS = (LimitConfig(Resource.TOKENS, 60_000, 60.0),)
POOL = PoolConfig("gpt", Provider.OPENAI, "https://x", ("gpt",), LIMITS, tiers=(TierConfig("Standard"),))


def broker() -> Dispatcher:
    return Dispatcher(Snapshot("v", {"gpt": POOL}, {}), 0.0)


def acquire(name: str, session: str = "s", lease: float | None = None) -> Acquire:
    call = Acquire(name, session, Workload(), None, "gpt", Estimate(50, 0, 0))
    return call if lease is None else Acquire(name, session, Workload(), None, "gpt", Estimate(50, 0, 0), lease=lease)


def in_flight(machine: Dispatcher, now: float) -> int:
    return machine.pool_status(now)[0].in_flight


def test_another_session_cannot_end_observe_or_cancel_a_call():
    machine = broker()
    assert any(isinstance(effect, Granted) for effect in machine.handle(acquire("a"), 0.0))
    machine.handle(Settle("a", usage=Usage(1, 1), session="thief"), 1.0)
    machine.handle(Observe("a", (MeterReading(Resource.TOKENS, 60.0, 1.0, 0, 0),), "thief"), 1.0)
    assert in_flight(machine, 1.0) == 1
    assert machine.pool_status(1.0)[0].meters[0].limit == 60_000
    waiting = next(n for n in range(100) if not machine.handle(acquire(f"w{n}"), 1.0))
    assert machine.handle(Cancel(f"w{waiting}", "thief"), 2.0) == []
    assert any(isinstance(effect, Decision) for effect in machine.handle(Cancel(f"w{waiting}", "s"), 2.0))
    assert machine.strays == 3
    effects = machine.handle(Settle("a", usage=Usage(1, 1), session="s"), 3.0)
    assert [effect.call_id for effect in effects if isinstance(effect, Settled)] == ["a"]


def test_a_grant_that_is_never_settled_expires_once():
    machine = broker()
    machine.handle(acquire("a", "unary", 10.0), 0.0)
    machine.handle(acquire("b", "unary", 20.0), 0.0)
    machine.handle(acquire("kept"), 0.0)
    assert machine.next_wakeup() == 10.0
    machine.handle(Settle("b", usage=Usage(1, 1), session="unary"), 5.0)
    effects = machine.handle(Tick(), 10.0)
    assert [effect.call_id for effect in effects if isinstance(effect, Settled)] == ["a"]
    assert machine.expired == 1
    assert machine.handle(Settle("a", usage=Usage(1, 1), session="unary"), 11.0) == []
    assert machine.next_wakeup() is None
    assert in_flight(machine, 11.0) == 1
