# SPDX-License-Identifier: Apache-2.0
"""What the app gets is what the provider sent, and what is judged is what it said: phrases, names, sizes, codings."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import ErrorClass, Reason
from tests.proxy.scripted import Exchange, granted, rejected, stand
from tests.proxy.test_bad_input import class_of, next_call_works, raw, request
from tests.proxy.test_calls import CHAT, complete, post

NAMED = "content-TYPE: application/json\r\nX-Request-ID: r1\r\netag: e\r\nServer: theirs"
UNPAID = json.dumps({"error": {"message": "x", "type": "insufficient_quota", "code": "credit_balance_exhausted"}})


@pytest.mark.parametrize("status", ["200 Fine", "400 Not Like This", "429 Slow Down Please"])
@pytest.mark.parametrize("path", ["/openai/v1/chat/completions", "/openai/v1/files"])
async def test_the_phrase_and_the_names_of_headers_stay_as_they_were(status: str, path: str):
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"{}", status, NAMED)

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, attempt) if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED)

    async with stand(script, policy) as s:
        head = (await raw(s, request(json.dumps(CHAT).encode(), path=path))).split(b"\r\n\r\n")[0].decode()
        line, *headers = head.split("\r\n")
        assert line == f"HTTP/1.1 {status}"
        assert set(NAMED.split("\r\n")) <= set(headers)


@pytest.mark.parametrize("status", [400, 429])
async def test_an_error_of_any_size_is_whole(status: int):
    """One that is too large to be held goes to the app at once, whatever it is."""
    text = json.dumps({"error": {"message": "y" * 3_000_000, "type": "tokens", "code": "rate_limit_exceeded"}})

    async def script(exchange: Exchange) -> None:
        await exchange.reply(text.encode(), f"{status} No")

    async with stand(script) as s:
        got, headers, body = await post(s, CHAT)
        assert (got, body) == (status, text.encode())
        assert (headers["x-should-retry"], headers["x-sluicegate-attempts"]) == ("false", "1")
        await s.broker.until(lambda: bool(s.broker.ends))
        assert class_of(s.broker.ends[0]) is (ErrorClass.QUOTA if status == 429 else ErrorClass.INVALID)
        await next_call_works(s, 2)


@pytest.mark.parametrize(
    ("body", "headers", "error_class"),
    [
        (gzip.compress(UNPAID.encode(), mtime=0), "content-encoding: gzip", ErrorClass.BILLING),
        (zlib.compress(UNPAID.encode()), "content-encoding: deflate", ErrorClass.BILLING),
        (b"not gzip", "content-encoding: gzip", ErrorClass.QUOTA),
        (UNPAID[:-4].encode(), "x-none: 1", ErrorClass.BILLING),
        (b"Your credit balance is too low", "content-type: text/plain", ErrorClass.BILLING),
        (b"\xff\xfe", "content-type: text/plain", ErrorClass.QUOTA),
    ],
)
async def test_an_error_is_judged_by_what_it_says_in_whatever_coding(
    body: bytes, headers: str, error_class: ErrorClass
):
    async def script(exchange: Exchange) -> None:
        await exchange.reply(body, "429 Too Many Requests", headers)

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, attempt) if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED)

    async with stand(script, policy) as s:
        got = await raw(s, request(json.dumps(CHAT).encode()))
        assert got.endswith(b"\r\n\r\n" + body)
        await s.broker.until(lambda: bool(s.broker.settlements))
        assert convert.ERROR_CLASS.from_proto(s.broker.settlements[0].error_class) is error_class


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("Deflate", zlib.compress)])
async def test_a_compressed_request_is_managed_like_any_other(coding: str, pack):
    plain = json.dumps(CHAT).encode()
    async with stand(complete) as s:
        status, headers, _ = await post(s, pack(plain), content_encoding=coding)
        assert (status, headers["x-sluicegate-outcome"]) == (200, "granted")
        sent = s.provider.requests[0]
        assert (sent.body, sent.header("content-encoding")) == (plain, None)
        await post(s, CHAT)
        first, second = s.broker.acquires
        assert first.estimate == second.estimate


async def test_a_coding_that_cannot_be_read_passes_unmanaged():
    async with stand(complete) as s:
        status, headers, _ = await post(s, b"\x0b\x01", content_encoding="br")
        assert (status, headers["x-sluicegate-outcome"]) == (200, "unmanaged")
        sent = s.provider.requests[0]
        assert (sent.body, sent.header("content-encoding")) == (b"\x0b\x01", "br")
        assert not s.broker.acquires


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b" " * 50_000_000, mtime=0), 413),  # 49 kB that are 50 MB
        (gzip.compress(json.dumps(CHAT).encode(), mtime=0)[:-5], 400),
        (gzip.compress(b"{}", mtime=0) + b"more", 400),
        (b"not gzip", 400),
        (b"", 400),
    ],
)
async def test_a_compressed_request_has_the_bounds_of_any_other(body: bytes, status: int):
    async with stand(complete) as s:
        got, headers, text = await post(s, body, content_encoding="gzip")
        assert (got, headers["x-sluicegate-reason"]) == (status, "invalid-request")
        assert json.loads(text)["error"]["message"]
        assert s.sample("sluicegate_sidecar_buffered_bytes") == 0
        assert not s.provider.requests
        await next_call_works(s)
