# SPDX-License-Identifier: Apache-2.0
"""Calls while the broker is away: the policy that it left behind, and what is declared when it is back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from tests.proxy.scripted import Exchange, eventually, granted, stand
from tests.proxy.test_calls import CHAT, complete, post

SHARE = pb.SafeShare(pool="gpt", resource=types_pb2.RESOURCE_REQUESTS, window_seconds=60.0, amount=2.0)


async def lose_broker(s: Any) -> None:
    await s.broker.stop()
    await eventually(lambda: not s.sidecar.broker.connected)


async def come_back(s: Any) -> None:
    await s.broker.start()
    await eventually(lambda: s.sidecar.broker.connected)


@pytest.mark.parametrize(
    ("policy", "statuses", "reason"),
    [
        (types_pb2.ON_BROKER_UNAVAILABLE_SAFE_SHARE, [200, 200, 503], "safe-share"),
        (types_pb2.ON_BROKER_UNAVAILABLE_FAIL_OPEN, [200, 200, 200], "fail-open"),
        (types_pb2.ON_BROKER_UNAVAILABLE_FAIL_CLOSED, [503, 503, 503], "broker-unavailable"),
    ],
)
async def test_the_policy_that_the_broker_left_behind(policy, statuses, reason):
    async with stand(complete) as s:
        s.broker.on_unavailable = policy
        s.broker.shares = [SHARE]
        await lose_broker(s)
        await come_back(s)
        await lose_broker(s)
        answers = [await post(s, {**CHAT, "user": str(n)}) for n in range(3)]
        assert [status for status, _, _ in answers] == statuses
        assert answers[0][1]["x-sluicegate-reason"] == reason
        if statuses[-1] == 503:
            assert answers[-1][1]["x-should-retry"] == "false"
            assert json.loads(answers[-1][2])["error"]["code"] == "broker_unavailable"
        await come_back(s)
        sent = statuses.count(200)
        await s.broker.until(lambda: len(s.broker.ends) == sent)
        # What was spent alone is declared before it is settled.
        assert len({a.call.call_id for a in s.broker.attachments if a.granted}) == sent
        assert (await post(s, CHAT))[0] == 200


async def test_calls_that_wait_and_calls_in_flight_are_declared_again():
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await complete(exchange)

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | None:
        return granted(call, attempt) if call.model == "gpt-4o" or back else None

    back = False
    async with stand(script, policy, broker_patience=30.0) as s:
        flying = asyncio.create_task(post(s, CHAT))
        waiting = asyncio.create_task(post(s, {**CHAT, "model": "gpt-4o-mini"}))
        await s.broker.until(lambda: len(s.broker.acquires) == 2)
        await eventually(lambda: bool(s.provider.requests))
        await lose_broker(s)
        back = True
        await come_back(s)
        await s.broker.until(lambda: len(s.broker.attachments) == 2)
        assert {a.call.model: a.granted for a in s.broker.attachments} == {"gpt-4o": True, "gpt-4o-mini": False}
        assert len(s.broker.acquires) == 2
        release.set()
        assert [(await t)[0] for t in (flying, waiting)] == [200, 200]
        await s.broker.until(lambda: len(s.broker.ends) == 2)


FULL = b'{"error":{"type":"requests","code":"rate_limit_exceeded","message":"requests per min (RPM): Limit 2, Used 2"}}'


@pytest.mark.parametrize("alone", [True, False])
async def test_a_call_refused_while_the_broker_is_away_waits_for_its_word(alone: bool):
    refused = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if len(s.provider.requests) > 1:
            return await complete(exchange)
        refused.set()
        if not alone:
            await eventually(lambda: not s.sidecar.broker.connected)
        return await exchange.reply(FULL, "429 Too Many Requests")

    async with stand(script) as s:
        s.broker.shares = [SHARE]
        await lose_broker(s)
        await come_back(s)
        if alone:
            await lose_broker(s)
        call = asyncio.create_task(post(s, CHAT))
        await refused.wait()
        if not alone:
            await lose_broker(s)
        await asyncio.sleep(0.2)
        assert not call.done()
        await come_back(s)
        status, headers, _ = await call
        assert (status, headers["x-sluicegate-attempts"]) == (200, "2")
        await s.broker.until(lambda: len(s.broker.ends) == 1)
        assert [(a.granted, a.attempt) for a in s.broker.attachments] == [(True, 1)]
        assert [settled.retriable for settled in s.broker.settlements] == [True, False]


async def test_a_call_refused_while_the_broker_stays_away_ends_with_what_the_provider_said():
    async def script(exchange: Exchange) -> None:
        await exchange.reply(FULL, "429 Too Many Requests")

    async with stand(script) as s:
        s.broker.shares = [SHARE]
        await lose_broker(s)
        await come_back(s)
        await lose_broker(s)
        status, headers, body = await post(s, CHAT, x_sluicegate_max_wait="200ms")
        assert (status, body) == (429, FULL)
        assert headers["x-sluicegate-reason"] == "broker-unavailable"


async def test_stopping_settles_what_runs_and_answers_what_waits():
    over = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await over.wait()

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | None:
        return granted(call, attempt) if call.model == "gpt-4o" else None

    async with stand(script, policy, grace=0.2) as s:
        tasks = [asyncio.create_task(post(s, {**CHAT, "model": m})) for m in ("gpt-4o", "gpt-4o-mini")]
        await s.broker.until(lambda: len(s.broker.acquires) == 2)
        await eventually(lambda: bool(s.provider.requests))
        await s.sidecar.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await s.broker.until(lambda: bool(s.broker.ends and s.broker.cancels))
        assert s.broker.ends[0].dispatched
        over.set()


async def test_the_admin_port_and_a_broker_that_never_was():
    sidecar = await start_sidecar(Settings(port=0, admin_port=0, broker="127.0.0.1:1", broker_patience=0.1, grace=0.1))
    url = f"http://127.0.0.1:{sidecar.admin_port}"
    try:
        async with aiohttp.ClientSession() as session:
            for path, status in (("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/status", 200), ("/x", 404)):
                async with session.get(url + path) as response:
                    assert response.status == status, path
            target = f"http://127.0.0.1:{sidecar.port}/openai/v1/chat/completions"
            async with session.post(target, json=CHAT) as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "broker_unavailable"
            async with session.get(url + "/metrics") as response:
                text = await response.text()
                assert 'sluicegate_sidecar_decided_alone_total{reason="broker_unavailable"} 1.0' in text
    finally:
        await sidecar.stop()
