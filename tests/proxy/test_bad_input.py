# SPDX-License-Identifier: Apache-2.0
"""Whatever comes in from either side: a clear error or a sane pass-through, a metric, one settlement, and the next
call works."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import Awaitable, Callable

import pytest

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import ErrorClass, Reason
from tests.proxy.scripted import Exchange, Stand, granted, rejected, stand
from tests.proxy.test_calls import CHAT, COMPLETION, complete, event, last_usage, piece, post

OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'


def class_of(settlement: pb.Settlement) -> ErrorClass | None:
    return convert.ERROR_CLASS.from_proto(settlement.error_class)


async def leave_the_queue(s: Stand) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", s.sidecar.port)
    writer.write(request(json.dumps(CHAT).encode()))
    await s.broker.until(lambda: bool(s.broker.acquires))
    writer.close()
    await s.broker.until(lambda: bool(s.broker.cancels))


async def raw(stand: Stand, data: bytes) -> bytes:
    """Sends bytes as they are; all that comes back until the sidecar closes or two seconds pass."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.sidecar.port)
    writer.write(data)
    await writer.drain()
    got = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while chunk := await reader.read(65536):
                got += chunk
    writer.close()
    return got


def request(body: bytes, *headers: str, path: str = "/openai/v1/chat/completions", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "connection: close", "content-type: application/json", *headers]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def next_call_works(s: Stand, calls: int = 1) -> None:
    s.provider.script = complete
    s.broker.policy = granted
    status, _, _ = await post(s, CHAT)
    assert status == 200
    await s.broker.until(lambda: len(s.broker.ends) >= calls)
    settled = [e.call_id for e in s.broker.ends]
    assert len(settled) == len(set(settled)) == calls


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b'{"model": ', (), 400, "not valid JSON"),
        (b"[1]", (), 400, "allowed: an object"),
        (b"", (), 400, "not valid JSON"),
        (b"\xff\xfe", (), 400, "not valid JSON"),
        (b'{"messages": []}', (), 400, "model: absent is not allowed"),
        (b'{"model": 5}', (), 400, "model: 5 is not allowed"),
        (b'{"model": "gpt-4o"}', ("x-sluicegate-latency: fast",), 400, "real-time, near-real-time, batch"),
        (b'{"model": "gpt-4o"}', ("x-sluicegate-max-wait: soon",), 400, "800ms"),
        (b'{"model": "gpt-4o"}', ("x-sluicegate-colour: red",), 400, "x-sluicegate-task-type"),
        (b'{"model": "gpt-4o"}', ("baggage: sluicegate.orchestrator=maybe",), 400, "true, false"),
    ],
)
async def test_bad_requests_get_an_error_that_names_the_fault(body, headers, status, says):
    async with stand(complete) as s:
        got = await raw(s, request(body, *headers))
        head, _, text = got.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        error = json.loads(text)["error"]
        assert error["type"] == "invalid_request_error"
        assert says in error["message"]
        assert b"x-should-retry: false" in head.lower()
        assert s.broker.acquires == []
        await next_call_works(s)


async def test_anthropic_callers_get_anthropics_shape():
    async with stand(complete) as s:
        status, _, body = await post(s, b"{", "/anthropic/v1/messages")
        assert status == 400
        assert json.loads(body)["type"] == "error"
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_bodies_that_are_too_large_and_too_many():
    async with stand(complete, max_body=1000, max_buffers=1500) as s:
        got = await raw(s, request(b"", length=5000))
        assert b" 413 " in got.split(b"\r\n")[0]
        chunked = b"POST /openai/v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        got = await raw(s, chunked + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n")
        assert b" 413 " in got.split(b"\r\n")[0]
        # One that never comes holds 900 of 1500 bytes: the next finds no room, and finds it again once that one left.
        _, slow = await asyncio.open_connection("127.0.0.1", s.sidecar.port)
        slow.write(request(b"{", length=900))
        await asyncio.sleep(0.1)
        assert b" 503 " in (await raw(s, request(b"x" * 800)))
        slow.close()
        await asyncio.sleep(0.1)
        await next_call_works(s)
        assert s.sample("sluicegate_sidecar_buffered_bytes") == 0


async def test_a_body_that_never_comes_whole_is_given_up():
    async with stand(complete, body_timeout=0.2) as s:
        got = await raw(s, request(b'{"model"', length=100))
        assert b" 400 " in got.split(b"\r\n")[0]
        assert b"8 of 100 bytes came" in got
        await next_call_works(s)


async def test_garbage_that_is_not_http_and_upgrades():
    async with stand(complete, websocket="refuse") as s:
        assert b" 400 " in (await raw(s, b"\x16\x03\x01 hello\r\n\r\n"))
        upgrade = b"GET /openai/v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        assert b" 501 " in (await raw(s, upgrade))
        await next_call_works(s)


async def test_a_client_that_leaves_the_queue_is_cancelled():
    async with stand(complete, lambda call, n: None) as s:
        await leave_the_queue(s)
        assert s.broker.cancels == [s.broker.acquires[0].call_id]
        await next_call_works(s)


async def test_a_slot_that_comes_for_a_client_that_left_is_given_back():
    async with stand(complete, lambda call, n: None) as s:
        await leave_the_queue(s)
        s.broker.policy = granted
        s.broker.late.append(granted(s.broker.acquires[0], 1))
        await post(s, {**CHAT, "messages": []})
        await s.broker.until(lambda: len(s.broker.ends) == 2)
        (late,) = [e for e in s.broker.ends if e.call_id == s.broker.acquires[0].call_id]
        assert not late.dispatched
        assert class_of(late) is ErrorClass.CANCELLED


async def test_a_client_that_leaves_mid_stream_frees_its_reservation_and_stops_the_provider():
    async def script(exchange: Exchange) -> None:
        await exchange.stream_head()
        usage = {"input_tokens": 9, "output_tokens": 1}
        start = {"type": "message_start", "message": {"id": "m", "usage": usage}}
        await exchange.chunk(b"event: message_start\n" + event(start))
        while True:
            await exchange.chunk(
                b"event: content_block_delta\n" + event({"type": "content_block_delta", "x": "y" * 999})
            )
            await asyncio.sleep(0.005)

    async with stand(script, lambda call, n: granted(call, n, "claude")) as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.sidecar.port)
        body = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": [], "stream": True}).encode()
        writer.write(request(body, path="/anthropic/v1/messages"))
        await reader.readuntil(b"content_block_delta")
        writer.close()
        await s.broker.until(lambda: bool(s.broker.ends))
        (end,) = s.broker.ends
        assert class_of(end) is ErrorClass.CANCELLED
        assert end.dispatched
        assert end.usage.input_tokens == 9
        assert end.usage.output_tokens >= 1
        async with asyncio.timeout(5):
            await s.provider.gone.wait()
        await next_call_works(s, 2)


async def hang_up(exchange: Exchange) -> None:
    exchange.writer.close()


async def not_http(exchange: Exchange) -> None:
    await exchange.send(b"\x00\x01\x02 what is this\r\n\r\n")
    exchange.writer.close()


async def silent(exchange: Exchange) -> None:
    await asyncio.sleep(1)
    exchange.writer.close()


async def overloaded_stream(exchange: Exchange) -> None:
    await exchange.stream_head()
    await exchange.chunk(OVERLOADED)
    await exchange.send(b"0\r\n\r\n")


async def overloaded_after_comments(exchange: Exchange) -> None:
    await exchange.stream_head()
    for _ in range(3):
        await exchange.chunk(b": PROCESSING\n\n")
        await asyncio.sleep(0.05)
    await exchange.chunk(OVERLOADED)
    await exchange.send(b"0\r\n\r\n")


async def error_as_success(exchange: Exchange) -> None:
    body = b'{"error": {"message": "upstream fell over", "code": 502}, "user_id": "u"}'
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
    await exchange.send(body[:30])
    await asyncio.sleep(0.05)
    await exchange.send(body[30:])


@pytest.mark.parametrize(
    ("script", "error_class", "fault"),
    [
        (hang_up, ErrorClass.NETWORK, "network"),
        (silent, ErrorClass.NETWORK, "first_byte"),
        (overloaded_stream, ErrorClass.OVERLOAD, None),
        (overloaded_after_comments, ErrorClass.OVERLOAD, None),
        (error_as_success, ErrorClass.SERVER, None),
    ],
)
async def test_a_failure_of_which_nothing_reached_the_app_is_the_brokers_to_decide(script, error_class, fault):
    async def once(exchange: Exchange) -> None:
        await (script if len(s.provider.requests) == 1 else complete)(exchange)

    async with stand(once, first_byte_timeout=0.4) as s:
        streams = script in (overloaded_stream, overloaded_after_comments)
        status, headers, body = await post(s, {**CHAT, "stream": streams})
        assert (status, headers["x-sluicegate-attempts"], json.loads(body)["id"]) == (200, "2", "c1")
        await s.broker.until(lambda: len(s.broker.settlements) == 2)
        assert class_of(s.broker.settlements[0]) is error_class
        assert s.broker.settlements[0].retriable
        assert s.broker.settlements[0].dispatched
        if fault:
            name = "sluicegate_sidecar_response_faults_total"
            assert s.sample(name, provider="openai", fault=fault) == 1


async def test_a_fault_of_the_sidecars_own_leaves_no_reservation_behind(monkeypatch: pytest.MonkeyPatch):
    def fault(*_: object) -> None:
        raise ValueError("a defect")

    async with stand(complete) as s:
        with monkeypatch.context() as patched:
            patched.setattr("sluicegate.sidecar.call.read_meters", fault)
            status, _, _ = await post(s, CHAT)
        assert status == 503
        await s.broker.until(lambda: bool(s.broker.ends))
        assert [(class_of(end), end.dispatched) for end in s.broker.ends] == [(ErrorClass.CANCELLED, True)]
        await next_call_works(s, 2)


async def endless_header(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nx-large: " + b"x" * 20_000 + b"\r\ncontent-length: 2\r\n\r\n{}")


@pytest.mark.parametrize("script", [not_http, endless_header])
async def test_an_answer_that_cannot_be_read_is_not_asked_for_again(script):
    """The provider did the work, and would bill it each time."""
    async with stand(script) as s:
        status, headers, body = await post(s, CHAT)
        assert (status, headers["x-sluicegate-attempts"], headers["x-should-retry"]) == (502, "1", "false")
        assert json.loads(body)["error"]["type"] == "server_error"
        await s.broker.until(lambda: bool(s.broker.settlements))
        assert [(e.retriable, e.dispatched) for e in s.broker.settlements] == [(False, True)]
        assert len(s.provider.requests) == 1
        await next_call_works(s, calls=2)


async def test_the_repeat_of_a_call_that_failed_gets_the_same_within_its_wait():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, attempt) if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED, 30.0)

    async with stand(hang_up, policy) as s:
        for reason in ("attempts-exhausted", "repeat-refused"):
            status, headers, body = await post(s, CHAT)
            assert (status, headers["x-sluicegate-reason"]) == (502, reason)
            assert json.loads(body)["error"]["type"] == "server_error"
            assert len(s.broker.acquires) == 1


async def test_a_provider_that_is_gone_was_never_reached():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, attempt) if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED)

    async with stand(complete, policy) as s:
        await s.provider.stop()
        status, headers, body = await post(s, CHAT)
        assert (status, headers["x-should-retry"]) == (502, "false")
        assert "could not be reached" in json.loads(body)["error"]["message"]
        assert not s.broker.settlements[0].dispatched


async def drop_mid_stream(exchange: Exchange) -> None:
    await exchange.stream_head()
    await exchange.chunk(piece("one", None))
    exchange.writer.close()


async def stall_mid_stream(exchange: Exchange) -> None:
    await exchange.stream_head()
    await exchange.chunk(piece("one", None))
    await asyncio.sleep(1)


async def end_early(exchange: Exchange) -> None:
    await exchange.stream_head()
    await exchange.chunk(piece("one", None) + b'data: {broken json "usage": {\n\n')
    await exchange.send(b"0\r\n\r\n")


async def error_mid_stream(exchange: Exchange) -> None:
    await exchange.stream_head()
    await exchange.chunk(piece("one", None))
    await asyncio.sleep(0.05)
    await exchange.chunk(OVERLOADED)
    await exchange.send(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "error_class", "fault", "cut"),
    [
        (drop_mid_stream, ErrorClass.NETWORK, "broken", True),
        (stall_mid_stream, ErrorClass.NETWORK, "idle", True),
        (end_early, ErrorClass.NETWORK, "unfinished_stream", False),
        (error_mid_stream, ErrorClass.OVERLOAD, "error_in_body", False),
    ],
)
async def test_what_breaks_mid_stream_is_settled_once_and_is_not_passed_for_a_whole_answer(
    script: Callable[[Exchange], Awaitable[None]], error_class: ErrorClass, fault: str, cut: bool
):
    async with stand(script, idle_timeout=0.3) as s:
        got = await raw(s, request(json.dumps({**CHAT, "stream": True}).encode()))
        assert b'"content":"one"' in got
        assert got.endswith(b"0\r\n\r\n") is not cut
        await s.broker.until(lambda: bool(s.broker.ends))
        assert class_of(s.broker.ends[0]) is error_class
        assert not s.broker.ends[0].retriable
        assert s.sample("sluicegate_sidecar_response_faults_total", provider="openai", fault=fault) == 1
        await next_call_works(s, 2)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>hello</html>", "content-type: text/html"),
        (b"{not json", "content-type: application/json"),
        (json.dumps(COMPLETION).encode(), "x-none: 1"),
        (b'{"usage": {"prompt_tokens": -4, "completion_tokens": "many"}}', "content-type: application/json"),
        (b"not gzip", "content-type: application/json\r\ncontent-encoding: gzip"),
        (b"", "content-type: application/json"),
    ],
)
async def test_a_success_that_makes_no_sense_passes_as_it_is(body: bytes, headers: str):
    async def script(exchange: Exchange) -> None:
        await exchange.reply(body, headers=headers)

    async with stand(script) as s:
        got = await raw(s, request(json.dumps(CHAT).encode()))
        assert b" 200 " in got.split(b"\r\n")[0]
        assert got.endswith(body)
        await s.broker.until(lambda: bool(s.broker.ends))
        assert class_of(s.broker.ends[0]) is ErrorClass.NONE
        assert not s.broker.ends[0].HasField("usage")
        await next_call_works(s, 2)


async def test_compressed_answers_are_read_and_their_usage_is_still_hidden():
    plain = piece("one", None) + last_usage(5, 1) + b"data: [DONE]\n\n"

    async def script(exchange: Exchange) -> None:
        if json.loads(exchange.body).get("stream"):
            await exchange.stream_head("content-encoding: gzip\r\n")
            packed = gzip.compress(plain)
            for at in range(0, len(packed), 9):
                await exchange.chunk(packed[at : at + 9])
            await exchange.send(b"0\r\n\r\n")
        else:
            await exchange.reply(
                gzip.compress(json.dumps(COMPLETION).encode()),
                headers="content-type: application/json\r\ncontent-encoding: gzip",
            )

    async with stand(script) as s:
        _, headers, body = await post(s, {**CHAT, "stream": True})
        assert "content-encoding" not in headers
        assert body == piece("one") + b"data: [DONE]\n\n"
        _, _, body = await post(s, CHAT)
        assert json.loads(body) == COMPLETION
        await s.broker.until(lambda: len(s.broker.ends) == 2)
        assert [e.usage.output_tokens for e in s.broker.ends] == [1, 2]
