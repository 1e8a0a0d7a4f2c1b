# SPDX-License-Identifier: Apache-2.0
"""Chains over several sidecars: what has begun finishes first, deadlines are inherited, an orchestrator leads."""

from __future__ import annotations

from typing import Any

from sluicegate.broker.core.chains import Chains
from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TaskConfig, TenantConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Effect, Granted, Party, Rejected
from sluicegate.broker.core.events import Acquire, Attach, Settle, Tick
from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Chain, Criticality, Estimate
from sluicegate.wire.words import ErrorClass, Latency, Provider, Reason, Resource

POOL = PoolConfig("p", Provider.OPENAI, "https://x", ("m",), (LimitConfig(Resource.REQUESTS, 60.0, 60.0, burst=1.0),))


def acquire(name: str, session: str, **said: Any) -> Acquire:
    criticality = Criticality(max_wait=said.pop("max_wait", 600.0), **said)
    return Acquire(name, session, Workload("acme", "chat"), Provider.OPENAI, "m", Estimate(1), criticality)


class World:
    def __init__(self, broker: Dispatcher | None = None) -> None:
        self.now = 0.0
        self.broker = broker or Dispatcher(Snapshot("v", {"p": POOL}, {}), 0.0)
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


def test_a_later_step_goes_by_its_chains_deadline_whatever_its_own_is():
    for own in (None, 600.0):
        world = World()
        world.ask("first", "pod-1", chain=Chain("a", 1), deadline=20.0)
        for i in range(8):
            world.ask(f"other{i}", "pod-1", chain=Chain(f"x{i}", 2), deadline=100.0)
        world.ask("later", "pod-2", chain=Chain("a", 2), deadline=own)
        assert world.run(60.0)[:3] in (["first", "later", "other0"], ["first", "other0", "later"]), own
        assert world.refused == {}


def test_a_deadline_that_a_later_call_brings_holds_for_those_that_wait():
    world = World()
    world.ask("first", "pod-1", chain=Chain("a", 1))
    for i in range(8):
        world.ask(f"other{i}", "pod-1", chain=Chain(f"x{i}", 2), deadline=100.0)
    world.ask("waits", "pod-2", chain=Chain("a", 2))
    world.ask("hurried", "pod-3", chain=Chain("a", 2), deadline=30.0)
    order = world.run(60.0)
    assert order.index("waits") < order.index("hurried") < order.index("other1")


def test_after_the_chains_deadline_nothing_of_it_is_begun():
    world = World()
    world.ask("start", "pod-1", chain=Chain("a", 1), deadline=5.0)
    world.run(6.0)
    world.ask("later", "pod-2", chain=Chain("a", 2))
    world.ask("lead", "pod-2", chain=Chain("a", 2), orchestrator=True)
    assert world.refused == {"later": Reason.DEADLINE, "lead": Reason.DEADLINE}


def test_an_orchestrator_gives_up_at_its_chains_deadline():
    world = World()
    world.ask("start", "pod-1", chain=Chain("a", 1), deadline=5.0)
    for i in range(8):
        world.ask(f"other{i}", "pod-1", chain=Chain(f"x{i}", 2), deadline=4.5)
    world.ask("lead", "pod-1", chain=Chain("a", 2), orchestrator=True)
    world.run(60.0)
    assert world.refused.pop("lead") is Reason.DEADLINE


def test_a_deadline_of_the_task_type_is_no_deadline_of_the_chain():
    task = TaskConfig("enrich", deadline=10.0)
    tenant = TenantConfig("acme/acme", "acme", tier="Standard", tasks={"enrich": task})
    world = World(Dispatcher(Snapshot("v", {"p": POOL}, {"acme/acme": tenant}), 0.0))
    world.ask("start", "pod-1", chain=Chain("a", 1), task_type="enrich")
    world.run(11.0)
    world.ask("later", "pod-1", chain=Chain("a", 2), task_type="enrich")
    assert world.run(30.0) == ["start", "later"]


def test_the_last_steps_of_a_chain_share_its_deadline_and_the_next_run_of_its_id_does_not():
    world = World()
    world.ask("start", "pod-1", chain=Chain("a", 1, 2), deadline=20.0)
    world.ask("last", "pod-1", chain=Chain("a", 2, 2))
    world.run(3.0)
    for i in range(6):
        world.ask(f"other{i}", "pod-1", chain=Chain(f"x{i}", 2))
    world.ask("other last", "pod-2", chain=Chain("a", 2, 2))
    order = world.run(60.0)
    assert order.index("other last") <= 3
    world.ask("again", "pod-1", chain=Chain("a", 1, 2))
    assert world.run(90.0)[-1] == "again"
    assert world.refused == {}


def test_what_cannot_start_before_the_inherited_deadline_is_told_so():
    world = World()
    world.ask("first", "pod-1", chain=Chain("a", 1), deadline=5.0)
    for i in range(20):
        world.ask(f"begun{i}", "pod-1", chain=Chain(f"x{i}", 2))
    world.ask("later", "pod-2", chain=Chain("a", 2))
    assert world.refused == {"later": Reason.DEADLINE}


def test_calls_that_wait_already_go_before_new_chains_once_theirs_has_begun():
    world = World()
    world.ask("first", "pod-1")
    world.ask("a1", "pod-1", chain=Chain("a"))
    for i in range(5):
        world.ask(f"new{i}", "pod-1", chain=Chain(f"c{i}"))
    world.ask("a2", "pod-2", chain=Chain("a"))
    assert world.run(60.0)[:4] == ["first", "a1", "a2", "new0"]


def test_an_orchestrator_goes_before_its_own_agents_whoever_comes_first():
    agents: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"latency": Latency.NEAR_REAL_TIME}, {"latency": Latency.REAL_TIME}),
        ({"latency": Latency.BATCH}, {"latency": Latency.REAL_TIME}),
        ({}, {"deadline": 100.0}),
    ]
    for leads, follows in agents:
        for lead_first in (True, False):
            for begun in (True, False):
                world = World()
                world.ask("start", "pod-1", **({"chain": Chain("a", 1)} if begun else {}))
                if lead_first:
                    world.ask("lead", "pod-1", chain=Chain("a", 1), orchestrator=True, **leads)
                for i in range(10):
                    world.ask(f"agent{i}", "pod-2", chain=Chain("a", 2), **follows)
                if not lead_first:
                    world.ask("lead", "pod-1", chain=Chain("a", 1), orchestrator=True, **leads)
                order = world.run(60.0)
                assert order[1] == "lead", (leads, follows, lead_first, begun, order)
                assert len(order) == 12


def test_an_orchestrator_is_not_predicted_to_wait_behind_its_own_agents():
    world = World()
    world.ask("start", "pod-1", chain=Chain("a", 1))
    for i in range(20):
        world.ask(f"agent{i}", "pod-2", chain=Chain("a", 2))
    world.ask("lead", "pod-1", chain=Chain("a", 2), orchestrator=True, max_wait=5.0)
    assert world.refused == {}
    assert world.run(60.0)[1] == "lead"


def test_an_orchestrator_is_not_kept_out_of_a_queue_that_its_own_agents_fill():
    tenant = TenantConfig("acme/chat", "acme", "Standard", max_queue_depth=5)
    world = World(Dispatcher(Snapshot("v", {"p": POOL}, {"acme/chat": tenant}), 0.0))
    world.ask("start", "pod-1", chain=Chain("a", 1))
    for i in range(8):
        world.ask(f"agent{i}", "pod-2", chain=Chain("a", 2))
    for i in range(6):
        world.ask(f"lead{i}", "pod-1", chain=Chain("a", 2), orchestrator=True)
    full = {"agent5", "agent6", "agent7", "lead5"}
    assert world.refused == dict.fromkeys(full, Reason.QUEUE_FULL_TENANT), "orchestrators have a bound of their own"
    assert world.run(60.0)[1:6] == [f"lead{i}" for i in range(5)]


def test_a_chain_goes_on_with_a_new_broker():
    world = World()
    granted = acquire("a1", "pod-1", chain=Chain("a"))
    world.take(world.broker.handle(Attach(granted, granted=True, age=1.0, attempt=1), 0.0))
    world.ask("first", "pod-1")
    for i in range(4):
        world.ask(f"new{i}", "pod-1", chain=Chain(f"c{i}"))
    world.ask("a2", "pod-2", chain=Chain("a"))
    order = world.run(60.0)
    assert order.index("a2") < order.index("new1")


def test_the_chains_of_one_tenant_do_not_push_out_anothers():
    chains = Chains(1_000)

    def enter(tenant: str, number: int, name: str) -> Call:
        call = Call(acquire(f"{tenant}{number}", "s", chain=Chain(name)), float(number), number)
        call.chain = call.acquire.criticality.chain
        call.party = Party(tenant, "Standard", "")
        chains.enter(call, float(number) / 1_000, orchestrator=False)
        return call

    chains.granted(enter("quiet", 0, "a"), 0.0)
    for number in range(1, 2_000):
        enter("noisy", number, f"n{number}")
    assert enter("quiet", 2_001, "a").begun
    assert len(chains) == 101


def test_chains_are_forgotten_an_hour_after_their_last_call():
    chains = Chains()
    for i in range(1_000):
        call = Call(acquire(f"c{i}", "s", chain=Chain(f"chain{i}", 1)), i * 10.0, i)
        call.chain = call.acquire.criticality.chain
        chains.enter(call, i * 10.0, orchestrator=False)
    assert len(chains) <= 361
