# SPDX-License-Identifier: Apache-2.0
"""Calls through a real sidecar: what the app gets, what the provider gets, what the broker is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from aiohttp import web
from yarl import URL

from sluicegate.sidecar import ending
from sluicegate.sidecar.core.routes import Route
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.words import ErrorClass, Outcome, Provider, Reason
from tests.proxy.scripted import Exchange, Stand, granted, rejected, stand

COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 8,
        "completion_tokens": 2,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}
LIMITS = (
    "content-type: application/json\r\nx-ratelimit-limit-requests: 500\r\nx-ratelimit-remaining-requests: 499\r\n"
    "x-ratelimit-reset-requests: 120ms\r\nx-ratelimit-limit-tokens: 30000\r\nx-ratelimit-remaining-tokens: -5\r\n"
    "x-ratelimit-reset-tokens: banana"
)
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def piece(text: str, usage: object = "absent") -> bytes:
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    body["choices"] = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    if usage != "absent":
        body["usage"] = usage
    return event(body)


def last_usage(given: int, produced: int) -> bytes:
    usage = {"prompt_tokens": given, "completion_tokens": produced, "total_tokens": given + produced}
    return event(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [], "usage": usage}
    )


async def complete(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(COMPLETION).encode(), headers=LIMITS)


async def post(stand: Stand, body: object, path: str = "/openai/v1/chat/completions", **headers: str):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {"content-type": "application/json", "authorization": "Bearer sk-secret"}
    names |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL(stand.url + path, encoded=True), data=data, headers=names) as response,
    ):
        return response.status, response.headers, await response.read()


def told(s: Stand) -> str:
    """All that the sidecar said to the broker."""
    said = (s.broker.hellos, s.broker.acquires, s.broker.observations, s.broker.settlements, s.broker.attachments)
    assert all(said[:2])
    return str(said)


async def test_a_chat_call_goes_through_and_is_settled_with_its_usage():
    async with stand(complete) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk-secret", max_retries=0)
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=50,
            extra_headers={
                "x-sluicegate-latency": "real-time",
                "x-sluicegate-max-wait": "800ms",
                "baggage": "sluicegate.chain=id%3Djob;p=1, other=1",
            },
        )
        assert raw.parse().choices[0].message.content == "hi"
        assert raw.headers["x-sluicegate-outcome"] == "granted"
        assert raw.headers["x-sluicegate-pool"] == "gpt"
        assert raw.headers["x-sluicegate-attempts"] == "1"
        await s.broker.until(lambda: bool(s.broker.ends))
        await client.close()
        call = s.broker.acquires[0]
        assert call.model == "gpt-4o"
        assert call.estimate.input_tokens == 8  # 3 + 3 + "user" + "hello"
        assert call.estimate.max_output_tokens == 50
        assert call.criticality.latency == types_pb2.LATENCY_REAL_TIME
        assert call.criticality.max_wait.nanos == 800_000_000
        assert call.criticality.chain.id == "job"
        assert call.key_fingerprint
        said = (s.broker.hellos, s.broker.acquires, s.broker.observations, s.broker.settlements)
        assert all(said)
        assert "sk-secret" not in str(said)
        sent = s.provider.requests[0]
        assert sent.line == "POST /v1/chat/completions HTTP/1.1"
        assert sent.header("authorization") == "Bearer sk-secret"
        assert sent.header("baggage") == "other=1"
        assert not [n for n, _ in sent.headers if n.startswith("x-sluicegate")]
        (end,) = s.broker.ends
        assert (end.usage.input_tokens, end.usage.output_tokens, end.usage.cached_input_tokens) == (8, 2, 3)
        assert end.dispatched
        # The garbage in the token headers is left out and counted; the readable meter is told at once.
        readings = {r.resource: r for r in s.broker.observations[0].readings}
        assert readings[types_pb2.RESOURCE_REQUESTS].remaining_low == 499
        assert readings[types_pb2.RESOURCE_REQUESTS].remaining_high == 500
        assert not readings[types_pb2.RESOURCE_TOKENS].HasField("remaining_low")
        assert s.sample("sluicegate_sidecar_ignored_header_values_total", provider="openai") == 2


@pytest.mark.parametrize("asks", [False, True])
async def test_a_stream_passes_as_it_arrives_and_the_usage_that_we_asked_for_is_hidden(asks: bool):
    gate = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        assert json.loads(exchange.body)["stream_options"] == {"include_usage": True}
        await exchange.stream_head()
        await exchange.chunk(piece("one", None))
        await gate.wait()  # the app must have had the first chunk by now, or this never ends
        await exchange.chunk(piece("two", None) + last_usage(8, 2) + b"data: [DONE]\n\n")
        await exchange.send(b"0\r\n\r\n")

    async with stand(script) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        options = {"stream_options": {"include_usage": True}} if asks else {}
        got = []
        async for part in await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True, **options
        ):
            got.append(part)
            gate.set()
        await client.close()
        assert [p.choices[0].delta.content for p in got if p.choices] == ["one", "two"]
        assert bool(got[-1].usage) is asks
        await s.broker.until(lambda: bool(s.broker.ends))
        assert s.broker.ends[0].usage.output_tokens == 2


async def test_every_other_byte_of_a_stream_stays_as_it_was():
    async def script(exchange: Exchange) -> None:
        await exchange.stream_head()
        for at in range(0, len(sent), 7):
            await exchange.chunk(sent[at : at + 7])
        await exchange.send(b"0\r\n\r\n")

    sent = b": hello\n\n" + piece('a "usage":null b', None) + piece("é") + last_usage(1, 1) + b"data: [DONE]\n\n"
    async with stand(script) as s:
        _, _, body = await post(s, {**CHAT, "stream": True})
        assert body == b": hello\n\n" + piece('a "usage":null b') + piece("é") + b"data: [DONE]\n\n"


async def test_anthropic_messages_and_their_stream():
    async def script(exchange: Exchange) -> None:
        if not json.loads(exchange.body).get("stream"):
            usage = {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 3}
            body: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "claude-x"}
            body["stop_reason"] = "end_turn"
            body |= {"content": [{"type": "text", "text": "hi"}], "usage": usage}
            await exchange.reply(json.dumps(body).encode())
            return
        await exchange.stream_head()
        message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**message, "usage": {"input_tokens": 9, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ]
        for one in events:
            await exchange.chunk(b"event: " + str(one["type"]).encode() + b"\n" + event(one))
        await exchange.send(b"0\r\n\r\n")

    async with stand(script, lambda call, n: granted(call, n, "claude")) as s:
        client: Any = anthropic.AsyncAnthropic(base_url=s.url + "/anthropic", api_key="k", max_retries=0)
        ask = {"model": "claude-x", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
        whole = await client.messages.create(**ask)
        assert whole.content[0].text == "hi"
        async with client.messages.stream(**ask) as stream:
            assert [t async for t in stream.text_stream] == ["hi"]
        await client.close()
        await s.broker.until(lambda: len(s.broker.ends) == 2)
        usages = [(e.usage.input_tokens, e.usage.output_tokens, e.usage.cached_input_tokens) for e in s.broker.ends]
        assert usages == [(13, 3, 4), (9, 7, 0)]
        key = {n: v for n, v in s.provider.requests[0].headers if n in ("x-api-key", "authorization")}
        assert key in ({"x-api-key": "k"}, {"authorization": "Bearer k"})


async def test_a_quota_429_waits_for_the_brokers_word_and_the_app_never_sees_it():
    message = (
        "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29937, "
        "Requested 385. Please try again in 644ms."
    )
    error = {"error": {"message": message, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}}

    async def script(exchange: Exchange) -> None:
        if len(s.provider.requests) == 1:
            await exchange.reply(json.dumps(error).encode(), "429 Too Many Requests")
        else:
            await complete(exchange)

    async with stand(script) as s:
        status, headers, _ = await post(s, CHAT)
        assert status == 200
        assert headers["x-sluicegate-attempts"] == "2"
        await s.broker.until(lambda: bool(s.broker.ends))
        first, second = s.broker.settlements
        assert first.retriable
        assert first.error_class == convert.ERROR_CLASS.to_proto(ErrorClass.QUOTA)
        assert first.quota.resource == types_pb2.RESOURCE_TOKENS
        assert first.quota.retry_after_seconds == pytest.approx(0.644)
        assert (first.attempt, second.attempt) == (1, 2)
        assert not second.retriable


async def test_the_last_failure_passes_the_providers_own_response_through():
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b'{"error":{"message":"The engine is overloaded"}}', "503 Service Unavailable")

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, attempt) if attempt < 3 else rejected(call, Reason.ATTEMPTS_EXHAUSTED)

    async with stand(script, policy) as s:
        status, headers, body = await post(s, CHAT)
        assert (status, json.loads(body)["error"]["message"]) == (503, "The engine is overloaded")
        assert headers["x-should-retry"] == "false"
        assert headers["x-sluicegate-outcome"] == "rejected"
        assert headers["x-sluicegate-attempts"] == "2"
        assert [x.retriable for x in s.broker.settlements] == [True, True]


async def test_a_refusal_is_the_sdks_own_exception_and_a_repeat_is_refused_here():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Reject:
        return rejected(call, Reason.PREDICTED_WAIT, 12.5, binding_limit="tokens/1m", pool="gpt")

    async with stand(complete, policy) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=3)
        for reason in ("predicted-wait", "repeat-refused"):
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
            headers = caught.value.response.headers
            assert headers["x-sluicegate-reason"] == reason
            assert headers["retry-after"] == "13"
            assert headers["x-should-retry"] == "false"
            assert headers["x-sluicegate-binding-limit"] == "tokens/1m"
        await client.close()
        assert len(s.broker.acquires) == 1
        assert s.provider.requests == []
        other: Any = anthropic.AsyncAnthropic(base_url=s.url + "/anthropic", api_key="k", max_retries=2)
        with pytest.raises(anthropic.RateLimitError):
            await other.messages.create(model="claude-x", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        await other.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_degraded_answer_has_the_providers_own_shape(stream: bool):
    def policy(call: pb.CallRequest, attempt: int) -> pb.Fallback:
        option = types_pb2.FallbackOption(degrade_message="busy")
        nothing = types_pb2.FallbackOption(cached_max_age=convert.to_duration(600))
        return pb.Fallback(call_id=call.call_id, option=nothing, next=[option], reason="predicted_wait", pool="gpt")

    async with stand(complete, policy) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        other: Any = anthropic.AsyncAnthropic(base_url=s.url + "/anthropic", api_key="k", max_retries=0)
        ask = {"messages": [{"role": "user", "content": "x"}]}
        if stream:
            parts = await client.chat.completions.create(model="gpt-4o", stream=True, **ask)
            assert "".join([p.choices[0].delta.content or "" async for p in parts]) == "busy"
            async with other.messages.stream(model="claude-x", max_tokens=9, **ask) as events:
                assert await events.get_final_text() == "busy"
            whole = [e async for e in await client.responses.create(model="gpt-4o", input="x", stream=True)]
            assert whole[-1].response.output_text == "busy"
        else:
            raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", **ask)
            assert raw.parse().choices[0].message.content == "busy"
            assert raw.headers["x-sluicegate-outcome"] == "degraded"
            assert raw.headers["x-sluicegate-reason"] == "predicted-wait"
            message = await other.messages.create(model="claude-x", max_tokens=9, **ask)
            assert message.content[0].text == "busy"
            assert (await client.responses.create(model="gpt-4o", input="x")).output_text == "busy"
        await client.close()
        await other.close()
        assert s.provider.requests == []


async def test_a_cached_answer_stands_in_for_the_same_request_of_the_same_tenant():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Fallback:
        if len(s.broker.acquires) == 1:
            return granted(call, attempt)
        tenant = "acme/acme" if len(s.broker.acquires) == 2 else "other/other"
        option = types_pb2.FallbackOption(cached_max_age=convert.to_duration(600))
        return pb.Fallback(call_id=call.call_id, option=option, reason="predicted_wait", tenant=tenant)

    async with stand(complete, policy) as s:
        _, _, first = await post(s, CHAT)
        status, headers, again = await post(s, dict(reversed(CHAT.items())))
        assert (status, headers["x-sluicegate-outcome"], again) == (200, "cached", first)
        assert len(s.provider.requests) == 1
        status, headers, _ = await post(s, CHAT)
        assert (status, headers["x-sluicegate-outcome"]) == (429, "rejected")


async def test_an_answer_that_became_too_old_meanwhile_stands_in_for_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ending, "_GRACE", 0.0)

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Fallback:
        if len(s.broker.acquires) == 1:
            return granted(call, attempt)
        option = types_pb2.FallbackOption(cached_max_age=convert.to_duration(0.05))
        return pb.Fallback(call_id=call.call_id, option=option, reason="predicted_wait", tenant="acme/acme")

    async with stand(complete, policy) as s:
        await post(s, CHAT)
        await asyncio.sleep(0.1)
        status, headers, _ = await post(s, CHAT)
        assert (status, headers["x-sluicegate-outcome"]) == (429, "rejected")


async def test_a_fallback_model_is_what_the_provider_gets():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant:
        outcome = convert.OUTCOME.to_proto(Outcome.FALLBACK_MODEL)
        return granted(call, attempt, model="gpt-4o-mini", outcome=outcome, reason="fallback")

    async with stand(complete, policy) as s:
        _, headers, _ = await post(s, {**CHAT, "stream": True, "stream_options": {"x": 1}})
        sent = json.loads(s.provider.requests[0].body)
        assert sent["model"] == "gpt-4o-mini"
        assert sent["stream_options"] == {"x": 1, "include_usage": True}
        assert headers["x-sluicegate-outcome"] == "fallback-model"
        assert headers["x-sluicegate-reason"] == "fallback"


async def test_failover_to_another_provider_takes_that_pools_own_key(tmp_path):
    (tmp_path / "claude").write_text("their-key\n")

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant:
        outcome = convert.OUTCOME.to_proto(Outcome.FALLBACK_POOL)
        return granted(call, attempt, "claude", model="claude-x", outcome=outcome, reason="fallback")

    async with stand(complete, policy, credentials_dir=tmp_path) as s:
        others = {"x_api_key": "a", "api_key": "b", "x_goog_api_key": "c", "openai_project": "d", "cookie": "e=f"}
        others["ocp_apim_subscription_key"] = "g"
        status, headers, _ = await post(s, CHAT, **others)
        assert (status, headers["x-sluicegate-pool"]) == (200, "claude")
        sent = s.provider.requests[0]
        assert [sent.header(name.replace("_", "-")) for name in others] == [None] * len(others)
        assert sent.line.startswith("POST /v1/chat/completions ")
        assert sent.header("authorization") == "Bearer their-key"
        assert list(s.broker.hellos[0].authenticated_pools) == ["claude"]
    async with stand(complete, policy) as s:
        status, _, body = await post(s, CHAT)
        assert status == 403
        assert b"no credential for pool 'claude'" in body
        assert s.provider.requests == []
        await s.broker.until(lambda: bool(s.broker.ends))
        assert not s.broker.ends[0].dispatched


async def test_what_no_table_inspects_streams_through_unmanaged():
    async def script(exchange: Exchange) -> None:
        await exchange.reply(exchange.body[::-1], headers="content-type: text/plain\r\nx-request-id: 7")

    async with stand(script) as s:
        status, headers, body = await post(s, b"abc" * 100_000, "/openai/v1/files?purpose=x%2Fy", content_type="a/b")
        assert (status, body) == (200, b"cba" * 100_000)
        assert headers["x-sluicegate-outcome"] == "unmanaged"
        assert headers["x-request-id"] == "7"
        assert s.provider.requests[0].line == "POST /v1/files?purpose=x%2Fy HTTP/1.1"
        assert s.broker.acquires == []


async def test_a_pool_by_name_and_a_pool_that_is_not_known():
    async with stand(complete) as s:
        for path in (
            "/pools/gpt/chat/completions",
            "/pools/gpt/v1/chat/completions",
            "/pools/gpt/openai/v1/chat/completions",
        ):
            assert (await post(s, CHAT, path))[0] == 200
        assert {c.pool for c in s.broker.acquires} == {"gpt"}
        assert {r.line for r in s.provider.requests} == {"POST /v1/chat/completions HTTP/1.1"}
        status, _, body = await post(s, CHAT, "/pools/nope/files")
        assert status == 404
        assert b"'nope' is not known; known: claude, gpt" in body
        assert (await post(s, CHAT, "/elsewhere"))[0] == 404


async def test_websockets_pass_through_unmanaged():
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["authorization"] == "Bearer sk"
        assert request.path_qs == "/v1/realtime?model=x"
        socket = web.WebSocketResponse(protocols=("realtime",))
        await socket.prepare(request)
        async for message in socket:
            await (
                socket.send_str("<" + message.data)
                if message.type is aiohttp.WSMsgType.TEXT
                else socket.close(code=4000)
            )
        return socket

    runner = web.ServerRunner(web.Server(echo), shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with stand(complete) as s:
            endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            s.sidecar.broker.routes.pools["gpt"] = Route("gpt", Provider.OPENAI, endpoint, ("gpt-4o",))
            async with aiohttp.ClientSession() as session:
                url = s.url + "/openai/v1/realtime?model=x"
                headers = {"authorization": "Bearer sk"}
                async with session.ws_connect(url, headers=headers, protocols=("realtime",)) as socket:
                    assert socket.protocol == "realtime"
                    await socket.send_str("hello")
                    assert await socket.receive_str() == "<hello"
                    await socket.send_bytes(b"end")
                    assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                    assert socket.close_code == 4000
    finally:
        await runner.cleanup()
