# SPDX-License-Identifier: Apache-2.0
"""Calls keep the name that their pool had; a scrape holds up nobody."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sluicegate.broker import admin
from sluicegate.broker.admin import page
from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot
from sluicegate.broker.core.effects import Decision, Party
from sluicegate.broker.core.events import Acquire, Configure
from sluicegate.broker.core.units import Workload
from sluicegate.broker.decisions import DecisionLog
from sluicegate.broker.metrics import Metrics
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.sessions import Sessions
from sluicegate.wire.tallies import Counts, Spreads
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Outcome, Provider, Reason, Resource

LIMITS = (LimitConfig(Resource.REQUESTS, 6e6, 60.0),)


def snapshot(version: str, name: str) -> Snapshot:
    return Snapshot(version, {name: PoolConfig(name, Provider.OPENAI, "https://x", (f"{name}-model",), LIMITS)}, {})


async def test_calls_before_a_change_keep_the_name_of_their_pool() -> None:
    runtime = Runtime(snapshot("1", "old"))
    sessions, decisions = Sessions(runtime, 5.0), DecisionLog()
    metrics = Metrics(runtime, sessions, Configuration(runtime), decisions, 100)
    runtime.add_witness(metrics)

    def count(pool: str) -> float | None:
        labels = {"pool": pool, "tier": "Free", "tenant": "acme/unassigned", "task_type": ""}
        return metrics.registry.get_sample_value("sluicegate_attempts_total", labels)

    async def call(call_id: str, pool: str) -> None:
        workload = Workload("acme", "default")
        runtime.submit(Acquire(call_id, "s", workload, Provider.OPENAI, f"{pool}-model", Estimate(10)))
        await asyncio.sleep(0.01)

    await call("c1", "old")
    runtime.submit(Configure(snapshot("2", "new")))
    await asyncio.sleep(0.01)
    await call("c2", "new")
    assert (count("old"), count("new"), count("")) == (1.0, 1.0, None)
    runtime.stop()


async def test_a_page_is_made_in_slices_between_which_others_go_on() -> None:
    registry = CollectorRegistry()
    for name in ("many", "few"):
        counts = Counts(name, "How\nmany", ("of",), registry)
        waits = Spreads(f"{name}_seconds", "Time", ("of",), [0.1 * n for n in range(14)], registry)
        for n in range(600 if name == "many" else 3):
            counts(f'# "{n}"\n').inc(n)
            waits(str(n)).observe(n)
    Gauge("none", "Nothing yet", ("of",), registry=registry)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    made = await page(registry)
    beside.cancel()
    assert made == generate_latest(registry)
    assert turns > 600 * 17 / 250


async def test_many_parties_are_shown_in_pieces_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(snapshot("1", "a"))
    metrics = Metrics(runtime, Sessions(runtime, 5.0), Configuration(runtime), DecisionLog(), 1_000)
    for n in range(500):
        party = Party(f"t{n}", "Free", "")
        granted = [
            Decision(0.0, f"{n}-{i}", party, "a", "m", Outcome.GRANTED, Reason.ROOM, 0.0, 1, None, ())
            for i in range(n % 20)
        ]
        metrics.witness([*granted], 0.0)
    assert max(len(family.samples) for family in metrics.registry.collect()) <= 250
    monkeypatch.setattr(admin, "_PAUSE", 3600.0)
    monkeypatch.setattr(admin, "_PAUSES", 0.0)  # pauses end, however large the page
    async with asyncio.timeout(30):
        made = (await page(metrics.registry)).decode()
    heads = [line for line in made.splitlines() if line.startswith("#")]
    assert len(set(heads)) == len(heads)
    families = list(text_string_to_metric_families(made))
    attempts = next(family for family in families if family.name == "sluicegate_attempts")
    assert {int(sample.labels["tenant"][1:]): sample.value for sample in attempts.samples} == {
        n: n % 20 for n in range(500) if n % 20
    }
    waits = next(family for family in families if family.name == "sluicegate_queue_wait_seconds")
    assert sum(sample.value for sample in waits.samples if sample.name.endswith("_count")) == sum(
        n % 20 for n in range(500)
    )
    runtime.stop()
