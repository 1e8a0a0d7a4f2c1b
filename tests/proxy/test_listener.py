# SPDX-License-Identifier: Apache-2.0
"""Requests that cannot be read, and the end of a sidecar in the middle of calls."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest

from tests.proxy.scripted import Exchange, stand
from tests.proxy.test_bad_input import next_call_works, raw, request
from tests.proxy.test_calls import CHAT, complete, piece, post

PATH = b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
SECRET = b"sk-SECRET"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (PATH + b"Authorization: Bearer " + SECRET + b"\x01\r\n\r\n", 400),
        (PATH + b"Authorization : Bearer " + SECRET + b"\r\n\r\n", 400),
        (PATH + b"Authorization: Bearer " + SECRET + b"x" * 17_000 + b"\r\n\r\n", 431),
        (b"POST /google/v1beta/models?key=" + SECRET + b"\x01 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST /google/v1beta/models?key=" + SECRET + b"y" * 17_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GARBAGE " + SECRET + b"\r\n\r\n", 400),
    ],
    ids=["control byte", "space before colon", "long key", "byte in the url", "long url", "no http"],
)
async def test_a_request_that_cannot_be_read_is_quoted_nowhere(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with stand(complete) as s:
        answer = await raw(s, data)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-type: application/json" in head.lower()
        assert b"\r\nserver:" not in head.lower()
        assert json.loads(body)["error"]["type"]
        assert SECRET not in answer
        everything = caplog.text + "".join(str(record.exc_info) + str(record.args) for record in caplog.records)
        assert SECRET.decode() not in everything
        kind = "too_large" if status == 431 else "malformed"
        assert s.sample("sluicegate_sidecar_unreadable_requests_total", kind=kind) == 1
        assert len([r for r in caplog.records if "before it was read" in r.message]) == 1
        await next_call_works(s)


async def test_a_refusal_does_not_name_the_server() -> None:
    async with stand(complete) as s:
        assert b"\r\nserver:" not in (await raw(s, request(b"{", path="/openai/v1/chat/completions"))).lower()


async def test_a_stream_that_does_not_end_is_cut_at_the_end_of_one_grace() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.stream_head()
        while True:
            await exchange.chunk(piece("more "))
            await asyncio.sleep(0.05)

    async with stand(endless, grace=1.0) as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.sidecar.port)
        writer.write(request(json.dumps({**CHAT, "stream": True}).encode()))
        assert b"more" in await reader.readuntil(b"more")
        begun = time.monotonic()
        await s.sidecar.stop()
        took = time.monotonic() - begun
        assert 0.9 < took < 10
        await s.broker.until(lambda: bool(s.broker.ends))
        writer.close()


async def test_calls_that_end_within_the_grace_are_served() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        await complete(exchange)

    async with stand(slow, grace=30.0) as s:
        call = asyncio.create_task(post(s, CHAT))
        await s.broker.until(lambda: bool(s.broker.acquires))
        begun = time.monotonic()
        await s.sidecar.stop()
        assert time.monotonic() - begun < 20
        assert (await call)[0] == 200
