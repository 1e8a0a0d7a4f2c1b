# SPDX-License-Identifier: Apache-2.0
"""Each class of failure is counted and logged apart in the sidecar, and told to the broker as what it is."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import ErrorClass, Reason
from tests.proxy.scripted import Exchange, granted, rejected, stand
from tests.proxy.test_calls import CHAT, complete, event, piece, post

PER_MINUTE = "on {0} per min: Limit 900, Used 900, Requested 80. Please try again in 2s."
CLASSES = [
    (0, "closed without a word", "Closed.", "network", logging.WARNING),
    (429, "rate_limit_exceeded", PER_MINUTE.format("tokens"), "quota_tokens", logging.WARNING),
    (429, "rate_limit_exceeded", PER_MINUTE.format("requests"), "quota_requests", logging.WARNING),
    (429, "rate_limit_exceeded", PER_MINUTE.format("input tokens"), "quota_input_tokens", logging.WARNING),
    (429, "rate_limit_exceeded", PER_MINUTE.format("output tokens"), "quota_output_tokens", logging.WARNING),
    (429, "rate_limit_exceeded", "on requests per day (RPD): Limit 9, Used 9.", "quota_daily", logging.WARNING),
    (429, "rate_limit_exceeded", "Slow.", "quota", logging.WARNING),
    (503, "slow_down", "Slow down.", "overload", logging.WARNING),
    (429, "credit_balance_exhausted", "No money.", "billing", logging.ERROR),
    (401, "invalid_api_key", "Wrong key.", "auth", logging.ERROR),
    (400, "invalid_value", "Wrong.", "invalid", logging.INFO),
    (400, "context_length_exceeded", "Too long.", "context_length", logging.INFO),
    (400, "content_policy_violation", "No.", "content_policy", logging.INFO),
    (500, "server_error", "Oops.", "server", logging.WARNING),
]


LIMITS = "content-type: application/json\r\nx-ratelimit-limit-requests: 500\r\nx-ratelimit-remaining-requests: 400"


def final(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
    return granted(call, attempt) if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED)


@pytest.mark.parametrize(("status", "code", "message", "kind", "level"), CLASSES, ids=[row[3] for row in CLASSES])
async def test_a_class_is_counted_and_logged_apart(
    status: int, code: str, message: str, kind: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(exchange: Exchange) -> None:
        if not status:
            raise ConnectionResetError
        error = {"message": message, "type": "x", "code": code}
        await exchange.reply(json.dumps({"error": error}).encode(), f"{status} No", LIMITS)

    caplog.set_level(logging.INFO, "sluicegate.sidecar.books")
    async with stand(script, final) as s:
        for _ in range(3):
            await post(s, CHAT)
        await s.broker.until(lambda: len(s.broker.settlements) >= 3)
        counted = s.sample("sluicegate_sidecar_attempts_total", provider="openai", pool="gpt", error_class=kind)
        assert counted == 3
        error_class = convert.ERROR_CLASS.from_proto(s.broker.settlements[0].error_class)
        assert error_class == (ErrorClass.QUOTA if kind.startswith("quota") else kind)
        # The headers of a failure are told as those of a success.
        read = [(r.limit, r.remaining_low) for o in s.broker.observations for r in o.readings]
        assert read == [(500, 400)] * (3 if status else 0)
        (record,) = [record for record in caplog.records if record.name == "sluicegate.sidecar.books"]
        assert record.levelno == level
        assert f"failed: {kind}, provider openai, pool gpt" in record.getMessage()
        assert message not in record.getMessage()


@pytest.mark.parametrize(("status", "code", "message", "kind", "level"), CLASSES, ids=[row[3] for row in CLASSES])
async def test_a_class_that_ends_a_begun_stream_is_counted_and_logged_apart(
    status: int, code: str, message: str, kind: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    arrived = asyncio.Semaphore(0)

    async def script(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(piece("so"))
        await arrived.acquire()
        if not status:
            raise ConnectionResetError
        await exchange.chunk(event({"error": {"message": message, "type": "invalid_request_error", "code": code}}))
        await exchange.chunk(b"")

    caplog.set_level(logging.INFO, "sluicegate.sidecar.books")
    async with stand(script, final) as s, aiohttp.ClientSession() as session:
        for _ in range(3):
            url = s.url + "/openai/v1/chat/completions"
            async with session.post(url, json={**CHAT, "stream": True}) as response:
                assert response.status == 200
                assert await response.content.readexactly(len(piece("so"))) == piece("so")
                arrived.release()
                if status:
                    assert code.encode() in await response.content.read()
                else:
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await response.content.read()
        await s.broker.until(lambda: len(s.broker.settlements) == 3)
        counted = s.sample("sluicegate_sidecar_attempts_total", provider="openai", pool="gpt", error_class=kind)
        assert counted == 3
        for settlement in s.broker.settlements:
            error_class = convert.ERROR_CLASS.from_proto(settlement.error_class)
            assert error_class == (ErrorClass.QUOTA if kind.startswith("quota") else kind)
            assert not settlement.retriable
        (record,) = [record for record in caplog.records if record.name == "sluicegate.sidecar.books"]
        assert record.levelno == level
        assert f"failed: {kind}, provider openai, pool gpt" in record.getMessage()
        assert message not in record.getMessage()


async def test_a_success_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sluicegate.sidecar.books")
    async with stand(complete) as s:
        await post(s, CHAT)
        await s.broker.until(lambda: bool(s.broker.ends))
        assert [record for record in caplog.records if record.name == "sluicegate.sidecar.books"] == []
