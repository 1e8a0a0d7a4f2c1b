# SPDX-License-Identifier: Apache-2.0
"""Every fallback, whole and streamed, as the SDKs parse it: cached and degraded answers, other models and pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from mistralai.client import Mistral

from tests.sdk.stand import ASK, Stand, stand

ONE = {"Requests": 1}
ONCE = {"gpt": ONE, "azure": ONE, "claude": ONE, "gemini": ONE, "mistral": ONE}
SORRY = "Not now."
FALLBACK = "x-sluicegate-fallback"


async def _openai(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        call: Any = {"model": "gpt-4o", "messages": ASK, "extra_headers": headers}
        if not stream:
            return (await client.chat.completions.create(**call)).choices[0].message.content or ""
        chunks = await client.chat.completions.create(**call, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


async def _azure(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=f"{s.url}/azure", api_key="az", api_version="2024-10-21"
    ) as client:
        call: Any = {"model": "my-gpt", "messages": ASK, "extra_headers": headers}
        if not stream:
            return (await client.chat.completions.create(**call)).choices[0].message.content or ""
        chunks = await client.chat.completions.create(**call, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])


async def _responses(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        call: Any = {"model": "gpt-4o", "input": "hello", "extra_headers": headers}
        if not stream:
            return str((await client.responses.create(**call)).output_text)
        events = await client.responses.create(**call, stream=True)
        return str([event async for event in events][-1].response.output_text)


async def _anthropic(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client:
        call: Any = {"model": "claude-sonnet-4-6", "max_tokens": 50, "messages": ASK, "extra_headers": headers}
        if not stream:
            return str((await client.messages.create(**call)).content[0].text)
        async with client.messages.stream(**call) as events:
            return str(await events.get_final_text())


async def _google(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    options: Any = {"base_url": f"{s.url}/google", "headers": dict(headers)}
    async with genai.Client(api_key="g", http_options=options).aio as client:
        call: Any = {"model": "gemini-2.5-flash", "contents": "hello"}
        if not stream:
            return (await client.models.generate_content(**call)).text or ""
        return "".join([piece.text or "" async for piece in await client.models.generate_content_stream(**call)])


async def _mistral(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with Mistral(api_key="m", server_url=f"{s.url}/mistral") as client:
        call: Any = {"model": "mistral-small-latest", "messages": ASK, "http_headers": headers}
        if not stream:
            answer = await client.chat.complete_async(**call)
            assert answer.choices[0].message is not None
            return str(answer.choices[0].message.content)
        events = await client.chat.stream_async(**call)
        return "".join([str(event.data.choices[0].delta.content or "") async for event in events])


ASKING = {
    "openai": ("gpt", _openai, "gpt-4o-mini"),
    "azure": ("azure", _azure, "my-mini"),
    "responses": ("gpt", _responses, "gpt-4o-mini"),
    "anthropic": ("claude", _anthropic, "claude-haiku-4-5"),
    "google": ("gemini", _google, "gemini-2.5-flash-lite"),
    "mistral": ("mistral", _mistral, "ministral-3b-latest"),
}


@pytest.mark.parametrize("stream", [False, True])
async def test_degraded_and_cached_answers_parse(stream: bool) -> None:
    for name, (pool, ask, _) in ASKING.items():
        async with stand(limits=ONCE) as s:
            real = await ask(s, {FALLBACK: "cached:10m"}, stream=stream)
            assert real, name
            assert await ask(s, {FALLBACK: "cached:10m"}, stream=stream) == real, name
            assert await ask(s, {FALLBACK: f"degrade:{SORRY}"}, stream=stream) == SORRY, name
            assert s.sent == [(pool, 200)], name


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_and_another_pool_answer_in_the_same_wire(stream: bool) -> None:
    async with stand(limits=ONCE) as s:
        for name, (pool, ask, small) in ASKING.items():
            before = len(s.sent)
            first = name != "responses"  # which shares its pool with chat completions
            if first:
                assert await ask(s, {}, stream=stream), name
            assert await ask(s, {FALLBACK: f"model:no-such, model:{small}"}, stream=stream), name
            assert await ask(s, {FALLBACK: f"pool:{pool}-small"}, stream=stream), name
            sent = [(record.pool, record.model, record.status) for record in s.emulator.calls.records][before:]
            assert sent[first:] == [(f"{pool}-small", small, 200)] * 2, name
