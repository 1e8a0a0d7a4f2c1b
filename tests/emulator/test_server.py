# SPDX-License-Identifier: Apache-2.0
"""The emulator through the real SDKs: they must not tell it from the provider, and its books must agree with them."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
import pytest_asyncio

from sluicegate.testing import tokens
from sluicegate.testing.emulator import Emulator, EmulatorConfig, serve

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a sluice gate?"}]
ASK: Any = [{"role": "user", "content": "What is a sluice gate?"}]
CONFIG: dict[str, Any] = {
    "seed": 7,
    "keys": {"sk-second": "second"},
    "pools": [
        {
            "name": "gpt",
            "wire": "OpenAI",
            "models": ["gpt-4o", "gpt-4o-2024-*", "text-embedding-3-small"],
            "limits": [
                {"resource": "Requests", "limit": 500},
                {"resource": "Tokens", "limit": 30000},
                {"resource": "Requests", "limit": 10000, "window": "24h"},
            ],
            "outputTokens": 40,
            "pace": {"latency": 0},
        },
        {
            "name": "gpt-second",
            "account": "second",
            "wire": "OpenAI",
            "models": ["gpt-4o"],
            "limits": [{"resource": "Tokens", "limit": 900}],
            "pace": {"latency": 0},
        },
        {
            "name": "claude",
            "wire": "Anthropic",
            "models": ["claude-*"],
            "limits": [
                {"resource": "Requests", "limit": 50},
                {"resource": "InputTokens", "limit": 30000},
                {"resource": "OutputTokens", "limit": 8000},
            ],
            "outputTokens": 40,
            "retryAfterOnSuccess": 0,
            "pace": {"latency": 0},
        },
    ],
}


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with await serve(EmulatorConfig.from_data(CONFIG)) as running:
        yield running


@pytest_asyncio.fixture
async def gpt(emulator: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="sk-one", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def claude(emulator: Emulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=emulator.anthropic_url, api_key="one", max_retries=0) as client:
        yield client


async def push(emulator: Emulator, pool: str, *faults: str) -> None:
    await control(emulator, "faults", {"pool": pool, "next": list(faults)})


async def control(emulator: Emulator, name: str, body: object, status: int = 200) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{emulator.url}/_emulator/{name}", json=body) as answer,
    ):
        assert answer.status == status, await answer.text()
        result: dict[str, Any] = await answer.json()
        return result


async def read(emulator: Emulator, name: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{emulator.url}/_emulator/{name}") as answer:
        result: dict[str, Any] = await answer.json()
        return result


# ---- OpenAI


async def test_chat_completion_and_its_headers(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    raw = await gpt.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO, max_tokens=100)
    answer = raw.parse()
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (40, "stop")
    content = answer.choices[0].message.content
    assert content is not None
    assert tokens.openai_tokens(content, "gpt-4o") == 40
    assert answer.usage.prompt_tokens == tokens.chat_tokens(
        [("system", "Be brief."), ("user", "What is a sluice gate?")], "gpt-4o"
    )
    charge = 3 + 6 + 2 + 100
    assert raw.headers["x-ratelimit-limit-tokens"] == "30000"
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(30000 - charge)
    assert raw.headers["x-ratelimit-reset-tokens"] == f"{charge * 2}ms"
    assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-reset-requests"]) == ("500", "120ms")
    record = emulator.calls.records[-1]
    assert (record.status, record.outcome, record.charge, record.output_tokens) == (200, "ok", charge, 40)
    assert "sk-one" not in repr(record)


async def test_max_tokens_cuts_and_n_multiplies(gpt: openai.AsyncOpenAI) -> None:
    answer = await gpt.chat.completions.create(model="gpt-4o-2024-08-06", messages=ASK, max_completion_tokens=10, n=3)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 30


async def test_chat_stream_with_usage(gpt: openai.AsyncOpenAI) -> None:
    stream = await gpt.chat.completions.create(
        model="gpt-4o", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all('"usage":null' in chunk.model_dump_json() for chunk in chunks[:-1])
    assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    usage = chunks[-1].usage
    assert usage is not None
    assert tokens.openai_tokens(content, "gpt-4o") == usage.completion_tokens == 40
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_chat_stream_says_no_usage_unasked(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    async with gpt.chat.completions.with_streaming_response.create(model="gpt-4o", messages=ASK, stream=True) as raw:
        assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "x-ratelimit-remaining-tokens" in raw.headers
        lines = [line async for line in raw.iter_lines() if line]
    assert not any("usage" in line for line in lines)
    assert lines[-1] == "data: [DONE]"


async def test_responses_json_and_stream(gpt: openai.AsyncOpenAI) -> None:
    answer = await gpt.responses.create(model="gpt-4o", input="What is a sluice gate?", instructions="Be brief.")
    assert (answer.status, answer.usage is not None and answer.usage.output_tokens) == ("completed", 40)
    assert tokens.openai_tokens(answer.output_text, "gpt-4o") == 40
    stream = await gpt.responses.create(model="gpt-4o", input="Why?", max_output_tokens=20, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 20
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
        last.response.output_text
    )


async def test_embeddings_and_models(gpt: openai.AsyncOpenAI) -> None:
    raw = await gpt.embeddings.with_raw_response.create(model="text-embedding-3-small", input=["x" * 34, "y" * 50])
    answer = raw.parse()
    assert [len(item.embedding) for item in answer.data] == [1536, 1536]
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(30000 - 8 - 12)
    assert "gpt-4o" in [model.id async for model in gpt.models.list()]


async def test_quota_429_in_openai_words(emulator: Emulator) -> None:
    async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="sk-second", max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=800)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=300)
        message = caught.value.message
        found = re.search(
            r"\(TPM\): Limit (\d+), Used (\d+), Requested (\d+)\. Please try again in ([\d.]+)s\.", message
        )
        assert found is not None, message
        limit, used, requested = (int(found[index]) for index in (1, 2, 3))
        assert (limit, requested) == (900, 307)
        assert float(found[4]) == pytest.approx((used + requested - limit) / limit * 60, abs=0.002)
        assert (caught.value.type, caught.value.code) == ("tokens", "rate_limit_exceeded")
        assert int(caught.value.response.headers["retry-after-ms"]) == pytest.approx(float(found[4]) * 1000, abs=2)
        with pytest.raises(openai.RateLimitError, match=r"Request too large .* Limit 900, Requested 2007\."):
            await client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=2000)
    counts = emulator.pool("gpt-second").accounts.counts
    assert (counts.admitted, counts.exhausted, counts.too_large, counts.quota_429) == (1, 1, 1, 2)
    assert emulator.pool("gpt").accounts.counts.admitted == 0


async def test_openai_errors_raise_what_users_expect(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist or you do not have access"):
        await gpt.chat.completions.create(model="nothing", messages=ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.chat.completions.create(model="gpt-4o", messages=[])
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "499"
    await push(emulator, "gpt", "overload", "server-error", "billing", "auth")
    with pytest.raises(openai.InternalServerError) as overloaded:
        await gpt.chat.completions.create(model="gpt-4o", messages=ASK)
    assert (overloaded.value.status_code, "x-ratelimit-limit-tokens" in overloaded.value.response.headers) == (
        503,
        False,
    )
    with pytest.raises(openai.InternalServerError):
        await gpt.chat.completions.create(model="gpt-4o", messages=ASK)
    with pytest.raises(openai.RateLimitError) as billing:
        await gpt.chat.completions.create(model="gpt-4o", messages=ASK)
    assert billing.value.code == "insufficient_quota"
    with pytest.raises(openai.AuthenticationError):
        await gpt.chat.completions.create(model="gpt-4o", messages=ASK)
    assert (await gpt.chat.completions.create(model="gpt-4o", messages=ASK)).usage is not None


# ---- Anthropic


async def test_message_and_its_headers(claude: anthropic.AsyncAnthropic) -> None:
    raw = await claude.messages.with_raw_response.create(
        model="claude-test-1", max_tokens=64000, messages=ASK, timeout=30
    )
    answer = await raw.parse()
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 40)
    assert raw.headers["anthropic-ratelimit-output-tokens-remaining"] == "8000"
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "49"
    assert raw.headers["anthropic-ratelimit-tokens-limit"] == "38000"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", raw.headers["anthropic-ratelimit-input-tokens-reset"])
    counted = await claude.messages.count_tokens(model="claude-test-1", messages=ASK)
    assert counted.input_tokens == answer.usage.input_tokens


async def test_message_stream_charges_output_as_it_comes(emulator: Emulator, claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(model="claude-opus-4", max_tokens=30, messages=ASK) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 30)
    (_, given, made) = emulator.pool("claude").accounts.utilization(0, emulator.now())
    assert (given.ours, made.ours) == (final.usage.input_tokens, 30)


async def test_quota_429_in_anthropic_words(emulator: Emulator, claude: anthropic.AsyncAnthropic) -> None:
    headers = {"x-emulator-output-tokens": "8100"}
    await claude.messages.create(
        model="claude-opus-4", max_tokens=9000, messages=ASK, extra_headers=headers, timeout=30
    )
    with pytest.raises(anthropic.RateLimitError, match="8,000 output tokens per minute") as caught:
        await claude.messages.create(model="claude-opus-4", max_tokens=10, messages=ASK)
    answer = caught.value.response.headers
    assert answer["x-should-retry"] == "true"
    assert answer["retry-after"] == "1"
    assert answer["anthropic-ratelimit-output-tokens-remaining"] == "0"
    assert answer["anthropic-ratelimit-requests-remaining"] == "49"
    assert emulator.pool("claude").accounts.counts.exhausted == 1


async def test_anthropic_errors_raise_what_users_expect(emulator: Emulator, claude: anthropic.AsyncAnthropic) -> None:
    await push(emulator, "claude", "overload", "billing", "auth", "stream-overload")
    with pytest.raises(anthropic.InternalServerError) as overloaded:
        await claude.messages.create(model="claude-opus-4", max_tokens=10, messages=ASK)
    assert overloaded.value.status_code == 529
    assert not [name for name in overloaded.value.response.headers if name.startswith("anthropic-ratelimit")]
    with pytest.raises(anthropic.BadRequestError, match="credit balance is too low"):
        await claude.messages.create(model="claude-opus-4", max_tokens=10, messages=ASK)
    with pytest.raises(anthropic.AuthenticationError):
        await claude.messages.create(model="claude-opus-4", max_tokens=10, messages=ASK)
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        async with claude.messages.stream(model="claude-opus-4", max_tokens=30, messages=ASK) as stream:
            await stream.get_final_message()
    assert emulator.pool("claude").accounts.counts.overloaded == 2


# ---- faults of the transport


@pytest.mark.parametrize("fault", ["stream-break", "wrong-content-length"])
@pytest.mark.parametrize("stream", [False, True])
async def test_bodies_that_end_too_early(emulator: Emulator, *, fault: str, stream: bool) -> None:
    await push(emulator, "gpt", fault)
    body = {"model": "gpt-4o", "messages": ASK, "stream": stream}
    async with aiohttp.ClientSession(headers={"authorization": "Bearer x"}) as session:
        async with session.post(f"{emulator.openai_url}/chat/completions", json=body) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        async with session.post(f"{emulator.openai_url}/chat/completions", json=body) as answer:
            assert (answer.status, len(await answer.read()) > 0) == (200, True)
    assert [record.outcome for record in emulator.calls.records] == ["broken", "ok"]


async def test_broken_sse_and_wrong_content_type(emulator: Emulator) -> None:
    await push(emulator, "gpt", "broken-sse", "wrong-content-type")
    body = {"model": "gpt-4o", "messages": ASK, "stream": True}
    async with aiohttp.ClientSession(headers={"authorization": "Bearer x"}) as session:
        async with session.post(f"{emulator.openai_url}/chat/completions", json=body) as answer:
            assert "data: not json" in await answer.text()
        async with session.post(f"{emulator.openai_url}/chat/completions", json=body) as answer:
            assert answer.content_type == "text/html"


async def test_hostile_headers(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    await push(emulator, "gpt", "garbage-headers", "absurd-headers", "missing-headers")
    seen = []
    for _ in range(3):
        raw = await gpt.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
        seen.append({name: value for name, value in raw.headers.items() if name.startswith("x-ratelimit")})
    garbage, absurd, missing = seen
    assert garbage["x-ratelimit-limit-requests"] == "banana"
    assert (absurd["x-ratelimit-limit-tokens"], absurd["x-ratelimit-reset-tokens"]) == ("-1", "-5s")
    assert missing == {}


async def test_hang_and_a_client_that_leaves(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    await push(emulator, "gpt", "hang")
    with pytest.raises(openai.APITimeoutError):
        await gpt.chat.completions.create(model="gpt-4o", messages=ASK, timeout=0.1)
    await control(emulator, "pace", {"pool": "gpt", "tokensPerSecond": 40})
    async with gpt.chat.completions.with_streaming_response.create(model="gpt-4o", messages=ASK, stream=True) as raw:
        async for _ in raw.iter_lines():
            break
    for _ in range(50):
        if len(emulator.calls.records) == 2:
            break
        await asyncio.sleep(0.02)
    assert [record.outcome for record in emulator.calls.records] == ["broken", "cancelled"]
    assert emulator.pool("gpt").active == 0


# ---- control and truth


async def test_limits_change_live(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    await control(emulator, "limits", {"pool": "gpt", "resource": "Tokens", "limit": 6000})
    raw = await gpt.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
    assert raw.headers["x-ratelimit-limit-tokens"] == "6000"


async def test_foreign_use_is_booked_apart(emulator: Emulator) -> None:
    await control(emulator, "foreign", {"pool": "gpt", "percent": 1000, "callTokens": 50})
    await asyncio.sleep(0.3)
    answer = await read(emulator, "stats?series=1")
    pool = answer["pools"]["gpt"]
    assert pool["admitted"] == 0
    assert pool["admitted_foreign"] > 0
    use = pool["utilization"][1]
    assert (use["ours"], use["foreign"] > 0, use["ratio"] > 0) == (0, True, True)
    assert sum(second["foreign"] for second in pool["series"][1]) == use["foreign"]


async def test_control_says_what_is_wrong(emulator: Emulator) -> None:
    for name, body, text in [
        ("faults", {"pool": "none"}, "there are gpt, gpt-second, claude"),
        ("faults", {"next": ["explode"]}, "must be one of absurd-headers, auth"),
        ("faults", {"rates": {"hang": 2}}, "must lie between 0 and 1, not 2"),
        ("limits", {"pool": "gpt", "resource": "OutputTokens", "limit": 5}, "no limit of output_tokens"),
        ("foreign", {"percent": -1}, "percent must lie between"),
        ("pace", {"speed": 1}, "allowed are latency"),
    ]:
        assert text in (await control(emulator, name, body, status=400))["error"]
    assert "there are GET health" in (await control(emulator, "nothing", {}, status=404))["error"]


async def test_bad_bodies_get_errors_and_the_next_call_works(emulator: Emulator) -> None:
    async with aiohttp.ClientSession(headers={"authorization": "Bearer x"}) as session:
        for path in ("chat/completions", "messages"):
            async with session.post(f"{emulator.openai_url}/{path}", data=b"{oops") as answer:
                assert (answer.status, "error" in await answer.json()) == (400, True)
        async with session.get(f"{emulator.openai_url}/nothing") as answer:
            assert answer.status == 404
    async with aiohttp.ClientSession() as session, session.get(f"{emulator.openai_url}/models") as answer:
        assert answer.status == 401
    assert (await read(emulator, "health"))["ready"] is True
    assert len((await read(emulator, "calls?last=2"))["calls"]) == 2


async def test_parts_images_and_who_it_is_for(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    await gpt.chat.completions.create(model="gpt-4o", messages=parts, max_tokens=16, user="acme/acme")
    record = emulator.calls.records[-1]
    assert (record.charge, record.user) == (4 + 1 + 16 + 765, "acme/acme")


async def test_responses_stream_tells_overload_inside(emulator: Emulator, gpt: openai.AsyncOpenAI) -> None:
    await push(emulator, "gpt", "stream-overload")
    body = {"model": "gpt-4o", "input": "Why?", "stream": True}
    async with (
        aiohttp.ClientSession(headers={"authorization": "Bearer x"}) as session,
        session.post(f"{emulator.openai_url}/responses", json=body) as answer,
    ):
        text = await answer.text()
        assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]
    assert "event: error" in text
    assert "event: response.failed" in text
    assert "response.completed" not in text


async def test_concurrent_connections_are_capped() -> None:
    pool = {**CONFIG["pools"][2], "maxConcurrent": 2, "pace": {"latency": 0.2}}
    async with (
        await serve(EmulatorConfig.from_data({"pools": [pool]})) as emulator,
        anthropic.AsyncAnthropic(base_url=emulator.anthropic_url, api_key="one", max_retries=0) as client,
    ):
        calls = [client.messages.create(model="claude-test-1", max_tokens=5, messages=ASK) for _ in range(3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, anthropic.RateLimitError)]
    assert len(refused) == 1
    assert "concurrent connections" in str(refused[0])


async def test_planned_changes_episodes_and_unknown_keys() -> None:
    pool = {
        **CONFIG["pools"][0],
        "changes": [{"at": 0, "resource": "Tokens", "limit": 1200}],
        "episodes": [{"fault": "overload", "at": 0, "for": "1h"}],
    }
    config = EmulatorConfig.from_data({"pools": [pool], "keys": {"sk-known": "default"}, "unknownKeys": None})
    async with await serve(config) as emulator:
        async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="sk-other", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="gpt-4o", messages=ASK)
        async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="sk-known", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="gpt-4o", messages=ASK)
            await control(emulator, "faults", {"clear": True})
            raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
            assert raw.headers["x-ratelimit-limit-tokens"] == "1200"
        assert emulator.stats()["pools"]["gpt"]["overloaded"] == 1
        with pytest.raises(LookupError, match="there are gpt"):
            emulator.pool("none")
        with pytest.raises(OSError, match="address already in use"):
            await serve(config, port=emulator.port)


async def test_streams_keep_their_pace_and_sync_clients_work(emulator: Emulator) -> None:
    await control(emulator, "pace", {"pool": "gpt", "tokensPerSecond": 200})

    def talk() -> list[Any]:
        with openai.OpenAI(base_url=emulator.openai_url, api_key="sk-one", max_retries=0) as client:
            return list(client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True))

    chunks = await asyncio.to_thread(talk)
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) == 4
    assert emulator.calls.records[-1].seconds >= 40 / 200
