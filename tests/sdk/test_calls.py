# SPDX-License-Identifier: Apache-2.0
"""Every provider's own SDK, unmodified but for its base URL: whole answers, streams and embeddings."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
from google import genai
from mistralai.client import Mistral

from tests.sdk.stand import stand

ASK: Any = [{"role": "user", "content": "What is a sluice gate?"}]


async def test_openai() -> None:
    async with stand() as s, openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as client:
        chat = await client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert chat.choices[0].message.content
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 40
        stream = await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        response = await client.responses.create(model="gpt-4o", input="hello")
        assert response.output_text
        events = await client.responses.create(model="gpt-4o", input="hello", stream=True)
        assert [event.type async for event in events][-1] == "response.completed"
        vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert [len(item.embedding) for item in vectors.data] == [1536, 1536]
        assert s.sent == [("gpt", 200)] * 5


async def test_anthropic() -> None:
    async with stand() as s, anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client:
        message = await client.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=ASK)
        assert message.usage.output_tokens == 40
        async with client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=ASK) as stream:
            assert await stream.get_final_text()
        assert s.sent == [("claude", 200)] * 2


async def test_google_genai() -> None:
    async with stand() as s:
        client = genai.Client(api_key="g", http_options={"base_url": f"{s.url}/google"})
        async with client.aio as google:
            answer = await google.models.generate_content(model="gemini-2.5-flash", contents="hello")
            assert answer.text
            assert answer.usage_metadata is not None
            assert answer.usage_metadata.candidates_token_count == 40
            stream = await google.models.generate_content_stream(model="gemini-2.5-flash", contents="hello")
            pieces = [piece async for piece in stream]
            assert "".join(piece.text or "" for piece in pieces)
            texts: Any = ["a", "b"]
            vectors = await google.models.embed_content(model="gemini-embedding-001", contents=texts)
            assert vectors.embeddings is not None
            assert len(vectors.embeddings) == 2
        assert s.sent == [("gemini", 200)] * 3


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
        vectors = await client.embeddings.create_async(model="mistral-embed", inputs=["a", "b"])
        assert len(vectors.data) == 2
        assert s.sent == [("mistral", 200)] * 3
