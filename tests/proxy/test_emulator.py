# SPDX-License-Identifier: Apache-2.0
"""The real SDKs through a real sidecar against the provider emulator, whose accounting is its own."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.testing.emulator import EmulatorConfig, serve
from sluicegate.wire.words import Provider
from tests.proxy.scripted import ScriptedBroker, granted, route

CONFIG = {
    "pools": [
        {
            "name": "gpt",
            "wire": "OpenAI",
            "models": ["gpt-4o", "text-embedding-3-small"],
            "limits": [
                {"resource": "Requests", "limit": 5000, "window": "1m"},
                {"resource": "Tokens", "limit": 300000, "window": "1m"},
            ],
        },
        {
            "name": "claude",
            "wire": "Anthropic",
            "models": ["claude-*"],
            "limits": [
                {"resource": "Requests", "limit": 500, "window": "1m"},
                {"resource": "InputTokens", "limit": 30000, "window": "1m"},
                {"resource": "OutputTokens", "limit": 8000, "window": "1m"},
            ],
        },
    ]
}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Say this is a test!"}]}


@pytest.mark.parametrize("stream", [False, True])
async def test_every_inspected_api_settles_with_what_the_provider_counted(stream: bool):
    async with await serve(EmulatorConfig.from_data(CONFIG)) as emulator:
        routes = [
            route("gpt", Provider.OPENAI, emulator.openai_url, "gpt-4o", "text-embedding-3-small"),
            route("claude", Provider.ANTHROPIC, emulator.anthropic_url, "claude-*"),
        ]
        broker = ScriptedBroker(routes, lambda c, n: granted(c, n, "claude" if c.model == "claude-x" else "gpt"))
        await broker.start()
        sidecar = await start_sidecar(Settings(port=0, admin_port=0, broker=f"127.0.0.1:{broker.port}", grace=1.0))
        assert await sidecar.broker.ready(5)
        base = f"http://127.0.0.1:{sidecar.port}"
        client: Any = openai.AsyncOpenAI(base_url=base + "/openai/v1", api_key="sk-a", max_retries=0)
        other: Any = anthropic.AsyncAnthropic(base_url=base + "/anthropic", api_key="a", max_retries=0)
        try:
            chat = await client.chat.completions.create(model="gpt-4o", max_tokens=30, stream=stream, **ASK)
            response = await client.responses.create(model="gpt-4o", input="hello", max_output_tokens=30, stream=stream)
            if stream:
                parts = [part async for part in chat]
                assert "".join(p.choices[0].delta.content or "" for p in parts)
                assert all(p.choices and p.usage is None and "usage" not in p.model_fields_set for p in parts)
                assert [event async for event in response][-1].type in ("response.completed", "response.incomplete")
                async with other.messages.stream(model="claude-x", max_tokens=30, **ASK) as events:
                    message = await events.get_final_message()
            else:
                assert chat.usage.prompt_tokens == 13
                message = await other.messages.create(model="claude-x", max_tokens=30, **ASK)
            vector = await client.embeddings.create(model="text-embedding-3-small", input="hello")
            await broker.until(lambda: len(broker.ends) == 4)
            ends = {broker.calls[e.call_id].model + str(n): e for n, e in enumerate(broker.ends)}
            assert all(e.usage.input_tokens > 0 for e in ends.values()), ends
            assert next(e for e in broker.ends if broker.calls[e.call_id].model == "gpt-4o").usage.input_tokens == 13
            claude = next(e for e in broker.ends if broker.calls[e.call_id].model == "claude-x")
            assert claude.usage.output_tokens == message.usage.output_tokens
            assert vector.usage.prompt_tokens == broker.ends[-1].usage.input_tokens
            assert broker.acquires[0].estimate.input_tokens == 13
            # Both providers' headers became readings of meters that the pool has.
            assert {len(o.readings) for o in broker.observations} <= {1, 2, 3}
            assert len(broker.observations) >= 3
        finally:
            await client.close()
            await other.close()
            await sidecar.stop()
            await broker.stop()
