# SPDX-License-Identifier: Apache-2.0
"""Storms: a provider that fails, through a real broker, two sidecars and the emulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest

from sluicegate.broker.core.breaker import BreakerState
from sluicegate.broker.core.effects import Decision, Effect, Granted, Settled
from sluicegate.broker.main import RunningBroker, start_broker
from sluicegate.broker.settings import Settings as BrokerSettings
from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.testing.emulator import Emulator, EmulatorConfig, serve
from sluicegate.testing.faults import Fault
from sluicegate.wire.words import ErrorClass

LIMITS = [
    {"resource": "Requests", "limit": 6000, "window": "1m"},
    {"resource": "Tokens", "limit": 600000, "window": "1m"},
]
MODELS = {"first": "gpt-4o", "second": "gpt-4o-mini"}


def emulated(**first: Any) -> EmulatorConfig:
    pools = [
        {"name": name, "wire": "OpenAI", "models": [model], "limits": LIMITS, **(first if name == "first" else {})}
        for name, model in MODELS.items()
    ]
    return EmulatorConfig.from_data({"pools": pools})


def documents(endpoint: str, **first: Any) -> str:
    head = {"apiVersion": "sluicegate.dev/v1alpha1"}
    found: list[dict[str, Any]] = [
        {**head, "kind": "TenantPolicy", "metadata": {"name": "a", "namespace": "default"}, "spec": {"tier": "Premium"}}
    ]
    for name, model in MODELS.items():
        spec = {"provider": "OpenAI", "endpoint": endpoint, "models": [model], "limits": LIMITS}
        spec |= first if name == "first" else {}
        found.append({**head, "kind": "ProviderPool", "metadata": {"name": name}, "spec": spec})
    return "\n---\n".join(json.dumps(document) for document in found)


@dataclass
class Watcher:
    seen: list[tuple[float, Effect]]
    clock: Callable[[], float]

    def witness(self, effects: Sequence[Effect], wall_offset: float) -> None:
        del wall_offset
        self.seen.extend((self.clock(), effect) for effect in effects)


@dataclass
class World:
    emulator: Emulator
    broker: RunningBroker
    bases: list[str]
    seen: list[tuple[float, Effect]]
    http: aiohttp.ClientSession

    async def ask(self, n: int, *, max_wait: str = "60s", **more: Any) -> tuple[int, dict[str, str]]:
        body = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": f"hello {n}"}], **more}
        url = f"{self.bases[n % len(self.bases)]}/openai/v1/chat/completions"
        headers = {"authorization": "Bearer sk-a", "x-sluicegate-max-wait": max_wait}
        async with self.http.post(url, json=body, headers=headers) as answer:
            try:
                await answer.read()
            except aiohttp.ClientPayloadError:
                return answer.status, {"broken": "true"}
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not done():  # noqa: ASYNC110 - books of other tasks, no events
                await asyncio.sleep(0.01)

    def status(self) -> Any:
        runtime = self.broker.runtime
        return next(p for p in runtime.dispatcher.pool_status(runtime.clock()) if p.name == "first")


@asynccontextmanager
async def world(tmp_path: Path, config: EmulatorConfig | None = None, **first: Any) -> AsyncIterator[World]:
    async with await serve(config or emulated()) as emulator, aiohttp.ClientSession() as http:
        (tmp_path / "all.yaml").write_text(documents(emulator.openai_url, **first))
        broker = await start_broker(BrokerSettings(config=tmp_path, port=0, admin_port=0, trust_claims=True))
        seen: list[tuple[float, Effect]] = []
        clock = broker.runtime.clock
        broker.runtime.add_witness(Watcher(seen, clock))
        settings = Settings(port=0, admin_port=0, broker=f"127.0.0.1:{broker.port}", grace=1.0)
        sidecars = [await start_sidecar(settings) for _ in range(2)]
        try:
            for sidecar in sidecars:
                assert await sidecar.broker.ready(5)
            yield World(emulator, broker, [f"http://127.0.0.1:{s.port}" for s in sidecars], seen, http)
        finally:
            for sidecar in sidecars:
                await sidecar.stop()
            await broker.stop()


BREAKER = {"failureRatePercent": 50, "minimumCalls": 5, "window": "30s", "openFor": "1s", "maxOpenFor": "10s"}
FAILOVER = [{"pool": "second", "models": {"gpt-4o": "gpt-4o-mini"}}]


async def test_an_overload_opens_one_breaker_once_and_calls_fail_over_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    took = [await overload_storm(tmp_path_factory.mktemp("storm")) for _ in range(5)]
    assert median(took) < 0.1, "of several storms, since a busy machine may hold up any one"


async def overload_storm(folder: Path) -> float:
    """Seconds from the error that opened the breaker to the last attempt that was sent elsewhere because of it."""
    async with world(folder, circuitBreaker={**BREAKER, "openFor": "30s", "maxOpenFor": "30s"}, failover=FAILOVER) as w:
        w.emulator.pool("first").plan.push([Fault.OVERLOAD] * 12)
        before = meters(w)
        answers = await asyncio.gather(*(w.ask(n) for n in range(12)))
        assert [status for status, _ in answers] == [200] * 12
        status = w.status()
        assert dict(status.breaker.transitions)[BreakerState.OPEN] == 1
        assert all(error is ErrorClass.OVERLOAD for _, _, error, _ in w.broker.runtime.dispatcher.failovers())
        (opened,) = [at for at, e in w.seen if isinstance(e, Settled) and e.opened]
        assert not [at for at, e in w.seen if isinstance(e, Granted) and e.pool == "first" and at > opened]
        moved = [headers for _, headers in answers if headers["x-sluicegate-outcome"] == "fallback-pool"]
        assert {headers["x-sluicegate-reason"] for headers in moved} == {"breaker-open"}
        # What the provider saw: the fifth error opened it, and every call whose error came before is there at once.
        records = w.emulator.calls.records
        failed = sorted(r.at + r.seconds for r in records if r.outcome == "overloaded")
        sent = sorted(r.at for r in records if r.pool == "second")
        assert len(sent) == 12
        assert failed[4] < sent[0]
        # The provider of the first pool is asked no more, however often the fleet calls.
        assert [(await w.ask(n))[0] for n in range(4)] == [200] * 4
        assert len([r for r in records if r.pool == "first"]) == len(failed)
        assert meters(w) == before, "an overload says nothing of quota, and what was refused so is given back"
        return sent[-1] - failed[4]


def meters(w: World) -> dict[str, tuple[float, ...]]:
    return {str(m.key): (m.limit, m.capacity, m.reserved, m.foreign_rate) for m in w.status().meters}


async def test_a_quota_storm_leaves_the_breaker_closed(tmp_path: Path) -> None:
    tight = [{**LIMITS[0], "limit": 1200, "burst": 2}, LIMITS[1]]
    async with world(
        tmp_path, emulated(limits=tight, retryAfter=False), circuitBreaker=BREAKER, failover=FAILOVER, learnLimits="Off"
    ) as w:
        answers = await asyncio.gather(*(w.ask(n, max_wait="3s") for n in range(60)))
        refused = [r for r in w.emulator.calls.records if r.outcome == "quota"]
        assert len(refused) >= 20, "a storm"
        assert {status for status, _ in answers} <= {200, 429}
        assert all(r.pool == "first" for r in w.emulator.calls.records)
        status = w.status()
        assert (status.breaker.state, status.breaker.cause) == (BreakerState.CLOSED, ErrorClass.NONE)
        assert dict(status.breaker.transitions)[BreakerState.OPEN] == 0
        kinds = {e.error_class for _, e in w.seen if isinstance(e, Settled)}
        assert "none" in kinds
        assert not kinds & {"overload", "server", "network", "billing"}


async def test_one_probe_at_a_time_closes_it_again(tmp_path: Path) -> None:
    async with world(tmp_path, circuitBreaker=BREAKER) as w:
        w.emulator.pool("first").plan.push([Fault.OVERLOAD] * 6)
        answers = await asyncio.gather(*(w.ask(n) for n in range(6)))
        assert [status for status, _ in answers] == [200] * 6
        status = w.status()
        assert status.breaker.state is BreakerState.CLOSED
        opened = [at for at, e in w.seen if isinstance(e, Settled) and e.error_class == "overload"][-1]
        probe, *_ = [(at, e) for at, e in w.seen if isinstance(e, Granted) and at > opened]
        assert probe[1].probe
        sent = [r for r in w.emulator.calls.records if r.pool == "first" and r.outcome == "ok"]
        first, *rest = sorted(sent, key=lambda r: r.at)
        assert len(rest) == 5
        assert all(r.at >= first.at + first.seconds - 0.002 for r in rest), "nothing goes before the probe has answered"


async def test_a_probe_that_streams_closes_it_as_soon_as_it_has_begun(tmp_path: Path) -> None:
    slow = emulated(pace={"latency": 0.2, "tokensPerSecond": 10})
    async with world(tmp_path, slow, circuitBreaker=BREAKER) as w:
        w.emulator.pool("first").plan.push([Fault.OVERLOAD] * 5)
        answers = await asyncio.gather(*(w.ask(n, stream=True, max_tokens=30) for n in range(5)))
        assert [status for status, _ in answers] == [200] * 5
        first, *rest = sorted((r for r in w.emulator.calls.records if r.outcome == "ok"), key=lambda r: r.at)
        assert all(r.at >= first.at + 0.2 for r in rest), "not before it has begun"
        assert all(r.at < first.at + first.seconds for r in rest), "and not only when it is over"


async def test_a_probe_whose_app_goes_away_makes_room_for_the_next(tmp_path: Path) -> None:
    slow = emulated(pace={"latency": 0.5})
    async with world(tmp_path, slow, circuitBreaker={**BREAKER, "openFor": "300ms"}) as w:
        w.emulator.pool("first").plan.push([Fault.OVERLOAD] * 5)
        calls = [asyncio.create_task(w.ask(n)) for n in range(5)]
        await w.until(lambda: [e for _, e in w.seen if isinstance(e, Granted) and e.probe])
        probe = next(e for _, e in w.seen if isinstance(e, Granted) and e.probe)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        status, _ = await w.ask(9)
        assert status == 200
        await w.until(lambda: w.status().in_flight == 0)
        ends = [e.error_class for _, e in w.seen if isinstance(e, Settled) and e.call_id == probe.call_id]
        assert ends[-1] == "cancelled"
        assert w.status().breaker.state is BreakerState.CLOSED


async def test_billing_is_never_repeated_and_marks_the_pool(tmp_path: Path) -> None:
    async with world(tmp_path, circuitBreaker=BREAKER, failover=FAILOVER) as w:
        w.emulator.pool("first").plan.push([Fault.BILLING])
        status, headers = await w.ask(0)
        assert (status, headers["x-sluicegate-outcome"], headers["x-sluicegate-pool"]) == (
            200,
            "fallback-pool",
            "second",
        )
        assert (await w.ask(1))[1]["x-sluicegate-pool"] == "second"
        assert w.status().breaker.cause is ErrorClass.BILLING
        assert [e.pool for _, e in w.seen if isinstance(e, Granted)] == ["first", "second", "second"]


async def test_a_stream_that_breaks_without_usage_is_settled_with_the_estimate(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.emulator.pool("first").plan.push([Fault.STREAM_BREAK])
        await w.ask(0, stream=True)
        await w.until(lambda: w.status().in_flight == 0)
        settled = [e for _, e in w.seen if isinstance(e, Settled)]
        assert len(settled) == 1
        assert settled[0].used_tokens is None
        assert settled[0].reserved_tokens > 20
        assert w.status().in_flight == 0
        assert len([e for _, e in w.seen if isinstance(e, Decision)]) == 1
