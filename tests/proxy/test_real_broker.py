# SPDX-License-Identifier: Apache-2.0
"""The main job on one machine: real SDK, real sidecar, real broker, provider emulator with real limits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from sluicegate.broker.main import start_broker
from sluicegate.broker.settings import Settings as BrokerSettings
from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.testing.emulator import EmulatorConfig, serve

LIMITS = [
    {"resource": "Requests", "limit": 600, "window": "1m"},
    {"resource": "Tokens", "limit": 60000, "window": "1m"},
]
CONFIG = {"pools": [{"name": "gpt", "wire": "OpenAI", "models": ["gpt-4o"], "limits": LIMITS}]}


def documents(endpoint: str) -> list[dict[str, Any]]:
    head = {"apiVersion": "sluicegate.dev/v1alpha1"}
    pool = {"provider": "OpenAI", "endpoint": endpoint, "models": ["gpt-4o"], "limits": LIMITS}
    tenant = {"tier": "Premium", "tasks": [{"taskType": "chat", "latency": "RealTime", "maxWait": "5s"}]}
    return [
        {**head, "kind": "ProviderPool", "metadata": {"name": "gpt"}, "spec": pool},
        {**head, "kind": "TenantPolicy", "metadata": {"name": "acme", "namespace": "default"}, "spec": tenant},
    ]


async def test_calls_are_granted_settled_and_refused_by_the_broker(tmp_path: Path):
    async with await serve(EmulatorConfig.from_data(CONFIG)) as emulator:
        text = "\n---\n".join(json.dumps(d) for d in documents(emulator.openai_url))
        (tmp_path / "all.yaml").write_text(text)
        broker = await start_broker(BrokerSettings(config=tmp_path, port=0, admin_port=0, trust_claims=True))
        sidecar = await start_sidecar(Settings(port=0, admin_port=0, broker=f"127.0.0.1:{broker.port}", grace=1.0))
        base = f"http://127.0.0.1:{sidecar.port}/openai/v1"
        client: Any = openai.AsyncOpenAI(base_url=base, api_key="sk-a", max_retries=0)
        try:
            assert await sidecar.broker.ready(5)

            async def ask(n: int, **more: Any) -> Any:
                return await client.chat.completions.with_raw_response.create(
                    model="gpt-4o", max_tokens=50, messages=[{"role": "user", "content": f"hello {n}"}], **more
                )

            answers = await asyncio.gather(*(ask(n) for n in range(20)))
            assert {a.headers["x-sluicegate-outcome"] for a in answers} == {"granted"}
            assert {a.headers["x-sluicegate-pool"] for a in answers} == {"gpt"}
            assert [r.status for r in emulator.calls.records] == [200] * 20
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(
                    model="gpt-4o", max_tokens=90_000, messages=[{"role": "user", "content": "x"}]
                )
            assert caught.value.response.headers["x-sluicegate-reason"] == "never-fits"
            # A model in no pool is not ours: it passes through, and the provider's own answer comes back.
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": "x"}])
            assert unknown.value.response.headers["x-sluicegate-outcome"] == "unmanaged"
            assert unknown.value.code == "model_not_found"
            with pytest.raises(openai.NotFoundError):
                await client.post("/../../pools/nope/chat/completions", cast_to=object, body={"model": "gpt-4o"})
        finally:
            await client.close()
            await sidecar.stop()
            await broker.stop()
