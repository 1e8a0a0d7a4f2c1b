# SPDX-License-Identifier: Apache-2.0
"""Degraded and cached answers, whole and streamed, as the SDKs parse them."""

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
ONCE = {"gpt": ONE, "claude": ONE, "gemini": ONE, "mistral": ONE}
SORRY = "Not now."
FALLBACK = "x-sluicegate-fallback"


async def _openai(s: Stand, headers: Mapping[str, str], *, stream: bool) -> str:
    async with openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        call: Any = {"model": "gpt-4o", "messages": ASK, "extra_headers": headers}
        if not stream:
            return (await client.chat.completions.create(**call)).choices[0].message.content or ""
        chunks = await client.chat.completions.create(**call, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


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
    "openai": ("gpt", _openai),
    "responses": ("gpt", _responses),
    "anthropic": ("claude", _anthropic),
    "google": ("gemini", _google),
    "mistral": ("mistral", _mistral),
}


@pytest.mark.parametrize("stream", [False, True])
async def test_degraded_and_cached_answers_parse(stream: bool) -> None:
    for name, (pool, ask) in ASKING.items():
        async with stand(limits=ONCE) as s:
            real = await ask(s, {FALLBACK: "cached:10m"}, stream=stream)
            assert real, name
            assert await ask(s, {FALLBACK: "cached:10m"}, stream=stream) == real, name
            assert await ask(s, {FALLBACK: f"degrade:{SORRY}"}, stream=stream) == SORRY, name
            assert s.sent == [(pool, 200)], name
