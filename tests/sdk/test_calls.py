# SPDX-License-Identifier: Apache-2.0
"""Every provider's own SDK, unmodified but for its base URL: whole answers, streams and embeddings, both ways of
calling."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from mistralai.client import Mistral

from tests.sdk.stand import ASK, Stand, stand

TWO: Any = ["a", "b"]


async def test_openai() -> None:
    async with stand() as s, openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        await _openai(client, "gpt-4o", "text-embedding-3-small")
        assert s.sent == [("gpt", 200)] * 5


async def test_azure_openai() -> None:
    async with (
        stand() as s,
        openai.AsyncAzureOpenAI(
            azure_endpoint=f"{s.url}/azure", api_key="az", api_version="2024-10-21", max_retries=0
        ) as client,
    ):
        await _openai(client, "my-gpt", "my-embedding")
        assert s.sent == [("azure", 200)] * 5


async def _openai(client: openai.AsyncOpenAI, model: str, embedder: str) -> None:
    chat = await client.chat.completions.create(model=model, messages=ASK)
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 40
    stream = await client.chat.completions.create(model=model, messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for usage"
    response = await client.responses.create(model=model, input="hello")
    assert response.output_text
    events = await client.responses.create(model=model, input="hello", stream=True)
    assert [event.type async for event in events][-1] == "response.completed"
    vectors = await client.embeddings.create(model=embedder, input=TWO)
    assert [len(item.embedding) for item in vectors.data] == [1536, 1536]


async def test_openai_for_a_compatible_provider() -> None:
    async with stand() as s, openai.AsyncOpenAI(base_url=f"{s.url}/pools/groq/v1", api_key="gsk") as client:
        model = "llama-3.3-70b-versatile"
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=ASK)
        assert raw.headers["x-sluicegate-pool"] == "groq"
        assert raw.parse().choices[0].message.content
        stream = await client.chat.completions.create(model=model, messages=ASK, stream=True)
        last = [chunk async for chunk in stream][-1]
        assert last.model_extra is not None
        assert last.model_extra["x_groq"]["usage"]["completion_tokens"] == 40, "as Groq gives it, asked for or not"


async def test_anthropic() -> None:
    async with stand() as s, anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client:
        message = await client.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=ASK)
        assert message.usage.output_tokens == 40
        async with client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=ASK) as stream:
            assert await stream.get_final_text()
        assert s.sent == [("claude", 200)] * 2


@pytest.mark.parametrize(("vertex", "pool"), [(False, "gemini"), (True, "vertex")])
async def test_google_genai(vertex: bool, pool: str) -> None:
    async with stand() as s:
        model = "gemini-2.5-pro" if vertex else "gemini-2.5-flash"
        base = f"{s.url}/vertex" if vertex else f"{s.url}/google"
        client = genai.Client(vertexai=vertex, api_key="g", http_options={"base_url": base})
        async with client.aio as google:
            answer = await google.models.generate_content(model=model, contents="hello")
            assert answer.text
            assert answer.usage_metadata is not None
            assert answer.usage_metadata.candidates_token_count == 40
            stream = await google.models.generate_content_stream(model=model, contents="hello")
            pieces = [piece async for piece in stream]
            assert "".join(piece.text or "" for piece in pieces)
            assert pieces[-1].usage_metadata is not None
            assert pieces[-1].usage_metadata.candidates_token_count == 40
            if not vertex:
                vectors = await google.models.embed_content(model="gemini-embedding-001", contents=TWO)
                assert vectors.embeddings is not None
                assert len(vectors.embeddings) == 2
            counted = await google.models.count_tokens(model=model, contents="hello")
            assert counted.total_tokens == answer.usage_metadata.prompt_token_count
        assert set(s.sent) == {(pool, 200)}


async def test_mistralai() -> None:
    async with stand() as s, Mistral(api_key="m", server_url=f"{s.url}/mistral") as client:
        answer = await client.chat.complete_async(model="mistral-small-latest", messages=ASK)
        assert answer.choices[0].message is not None
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens == 40
        stream = await client.chat.stream_async(model="mistral-small-latest", messages=ASK)
        chunks = [event.data async for event in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 40
        middle = await client.fim.complete_async(model="codestral-latest", prompt="def f(", suffix="return a")
        assert middle.usage.completion_tokens == 40
        vectors = await client.embeddings.create_async(model="mistral-embed", inputs=TWO)
        assert len(vectors.data) == 2
        assert s.sent == [("mistral", 200)] * 4


async def test_synchronous_clients() -> None:
    async with stand() as s:
        for call in (_sync_openai, _sync_anthropic, _sync_google, _sync_mistral):
            await asyncio.to_thread(call, s)
        assert s.sent == [(pool, 200) for pool in ("gpt", "claude", "gemini", "mistral") for _ in range(2)]


def _sync_openai(s: Stand) -> None:
    with openai.OpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        assert client.chat.completions.create(model="gpt-4o", messages=ASK).choices[0].message.content
        stream = client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def _sync_anthropic(s: Stand) -> None:
    with anthropic.Anthropic(base_url=f"{s.url}/anthropic", api_key="a") as client:
        assert client.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=ASK).content
        with client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=ASK) as stream:
            assert stream.get_final_text()


def _sync_google(s: Stand) -> None:
    with genai.Client(api_key="g", http_options={"base_url": f"{s.url}/google"}) as client:
        assert client.models.generate_content(model="gemini-2.5-flash", contents="hello").text
        pieces = client.models.generate_content_stream(model="gemini-2.5-flash", contents="hello")
        assert "".join(piece.text or "" for piece in pieces)


def _sync_mistral(s: Stand) -> None:
    with Mistral(api_key="m", server_url=f"{s.url}/mistral") as client:
        assert client.chat.complete(model="mistral-small-latest", messages=ASK).choices
        with client.chat.stream(model="mistral-small-latest", messages=ASK) as stream:
            assert "".join(str(event.data.choices[0].delta.content or "") for event in stream)


async def test_langchain() -> None:
    async with stand() as s:
        gpt: Any = ChatOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a", model="gpt-4o")  # type: ignore[arg-type]
        claude: Any = ChatAnthropic(base_url=f"{s.url}/anthropic", api_key="a", model="claude-sonnet-4-6")  # type: ignore[call-arg, arg-type]
        for model, used in ((gpt, 40), (claude, 40)):
            answer = await model.ainvoke("What is a sluice gate?")
            assert answer.usage_metadata["output_tokens"] == used
            chunks = [chunk async for chunk in model.astream("What is a sluice gate?")]
            assert "".join(chunk.text for chunk in chunks)
        assert s.sent == [("gpt", 200)] * 2 + [("claude", 200)] * 2


async def test_streams_arrive_as_they_are_produced() -> None:
    """The first piece is there before the provider has made the last: then its call would be in its books."""
    slow = {"pace": {"latency": 0, "tokensPerSecond": 100}}
    async with stand(gpt=slow, claude=slow, gemini=slow, mistral=slow) as s:
        for pool, pieces in (
            ("gpt", _pieces_of_openai(s)),
            ("claude", _pieces_of_anthropic(s)),
            ("gemini", _pieces_of_google(s)),
            ("mistral", _pieces_of_mistral(s)),
        ):
            before = len(s.sent)
            first = True
            async for _ in pieces:
                if first:
                    assert len(s.sent) == before, f"{pool}: the stream came when it was over"
                first = False
            await s.until_sent(before + 1)
            assert s.sent[-1] == (pool, 200)


async def _pieces_of_openai(s: Stand) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        async for chunk in await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True):
            if chunk.choices[0].delta.content:
                yield chunk


async def _pieces_of_anthropic(s: Stand) -> Any:
    async with (
        anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client,
        client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=ASK) as stream,
    ):
        async for text in stream.text_stream:
            yield text


async def _pieces_of_google(s: Stand) -> Any:
    async with genai.Client(api_key="g", http_options={"base_url": f"{s.url}/google"}).aio as client:
        async for piece in await client.models.generate_content_stream(model="gemini-2.5-flash", contents="hello"):
            yield piece


async def _pieces_of_mistral(s: Stand) -> Any:
    async with Mistral(api_key="m", server_url=f"{s.url}/mistral") as client:
        async for event in await client.chat.stream_async(model="mistral-small-latest", messages=ASK):
            if event.data.choices[0].delta.content:
                yield event
