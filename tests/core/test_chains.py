# SPDX-License-Identifier: Apache-2.0
"""Chains over several sidecars: what has begun finishes first, deadlines are inherited, an orchestrator leads."""

from __future__ import annotations

from typing import Any

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Effect, Granted, Rejected
from sluicegate.broker.core.events import Acquire, Settle, Tick
from sluicegate.broker.core.flow import Call, Chains
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Chain, Criticality, Estimate
from sluicegate.wire.words import ErrorClass, Provider, Reason, Resource

POOL = PoolConfig("p", Provider.OPENAI, "https://x", ("m",), (LimitConfig(Resource.REQUESTS, 60.0, 60.0, burst=1.0),))


def acquire(name: str, session: str, **said: Any) -> Acquire:
    criticality = Criticality(max_wait=said.pop("max_wait", 600.0), **said)
    return Acquire(name, session, Workload("acme", "chat"), Provider.OPENAI, "m", Estimate(1), criticality)


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.broker = Dispatcher(Snapshot("v", {"p": POOL}, {}), 0.0)
        self.granted: list[str] = []
        self.refused: dict[str, Reason] = {}

    def ask(self, name: str, session: str, **said: Any) -> None:
        self.take(self.broker.handle(acquire(name, session, **said), self.now))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Granted):
                self.granted.append(effect.call_id)
                settle = Settle(effect.call_id, ErrorClass.NONE, attempt=1)
                self.take(self.broker.handle(settle, self.now))
            elif isinstance(effect, Rejected):
                self.refused[effect.call_id] = effect.reason
            else:
                assert effect is not None or isinstance(effect, Decision)

    def run(self, until: float) -> list[str]:
        while (wakeup := self.broker.next_wakeup()) is not None and wakeup <= until:
            self.now = max(self.now, wakeup)
            self.take(self.broker.handle(Tick(), self.now))
        self.now = until
        return self.granted


def test_a_chain_that_has_begun_finishes_before_others_start_whatever_pod_asks():
    world = World()
    world.ask("a1", "pod-1", chain=Chain("a", 1, 3))
    for i in range(4):
        world.ask(f"new{i}", "pod-1", chain=Chain(f"n{i}", 1, 3))
    world.ask("a2", "pod-2", chain=Chain("a", 2, 3))
    order = world.run(30.0)
    assert order[0] == "a1"
    assert order.index("a2") < order.index("new1")


def test_a_later_step_inherits_the_chains_deadline():
    world = World()
    world.ask("first", "pod-1", chain=Chain("a", 1), deadline=20.0)
    for i in range(30):
        world.ask(f"other{i}", "pod-1")
    world.ask("later", "pod-2", chain=Chain("a", 2))
    order = world.run(15.0)
    assert "later" in order[:3]
    world.run(120.0)
    assert world.refused == {}


def test_what_cannot_start_before_the_inherited_deadline_is_told_so():
    world = World()
    world.ask("first", "pod-1", chain=Chain("a", 1), deadline=5.0)
    for i in range(20):
        world.ask(f"begun{i}", "pod-1", chain=Chain(f"x{i}", 2))
    world.ask("later", "pod-2", chain=Chain("a", 2))
    assert world.refused == {"later": Reason.DEADLINE}


def test_an_orchestrator_is_not_starved_by_its_own_agents():
    world = World()
    world.ask("start", "pod-1", chain=Chain("a", 1))
    for i in range(20):
        world.ask(f"agent{i}", "pod-2", chain=Chain("a", 2))
    world.ask("lead", "pod-1", chain=Chain("a", 2), orchestrator=True)
    order = world.run(60.0)
    assert order.index("lead") <= 2


def test_chains_are_forgotten_an_hour_after_their_last_call():
    chains = Chains()
    for i in range(1_000):
        call = Call(acquire(f"c{i}", "s", chain=Chain(f"chain{i}", 1)), i * 10.0, i)
        call.chain = call.acquire.criticality.chain
        chains.enter(call, orchestrator=False)
    assert len(chains) <= 361
