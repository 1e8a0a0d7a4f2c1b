# SPDX-License-Identifier: Apache-2.0
"""All of Sluicegate but Kubernetes on one machine: a real sidecar and broker, and the emulator as every provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from sluicegate.broker.main import start_broker
from sluicegate.broker.settings import Settings as BrokerSettings
from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.testing.emulator import Emulator, EmulatorConfig, serve
from sluicegate.testing.faults import Fault

ASK: Any = [{"role": "user", "content": "What is a sluice gate?"}]
API = {"apiVersion": "sluicegate.dev/v1alpha1"}
_DECISIONS = "sluicegate_decisions_total{"
POOLS: dict[str, tuple[str, str, list[str]]] = {  # name: the emulator's wire, the emulator's URL, models
    "gpt": ("OpenAI", "openai_url", ["gpt-4o", "text-embedding-3-small"]),
    "azure": ("AzureOpenAI", "azure_url", ["my-gpt", "my-embedding"]),
    "claude": ("Anthropic", "anthropic_url", ["claude-sonnet-4-6"]),
    "gemini": ("GoogleGemini", "gemini_url", ["gemini-2.5-flash", "gemini-embedding-001"]),
    "vertex": ("GoogleVertex", "vertex_url", ["gemini-2.5-pro"]),
    "mistral": ("Mistral", "mistral_url", ["mistral-small-latest", "mistral-embed", "codestral-latest"]),
    "groq": ("Groq", "groq_url", ["llama-3.3-70b-versatile"]),
    "gpt-small": ("OpenAI", "openai_url", ["gpt-4o-mini"]),
    "azure-small": ("AzureOpenAI", "azure_url", ["my-mini"]),
    "claude-small": ("Anthropic", "anthropic_url", ["claude-haiku-4-5"]),
    "gemini-small": ("GoogleGemini", "gemini_url", ["gemini-2.5-flash-lite"]),
    "mistral-small": ("Mistral", "mistral_url", ["ministral-3b-latest"]),
}
BOTH = {"Requests": 3000, "Tokens": 3_000_000}
LIMITS: dict[str, dict[str, int]] = {
    "groq": {"Requests/24h": 1_000_000, "Tokens": 3_000_000},
    "claude": {"Requests": 3000, "InputTokens": 3_000_000, "OutputTokens": 600_000},
    "claude-small": {"Requests": 3000, "InputTokens": 3_000_000, "OutputTokens": 600_000},
    "gemini": {"Requests": 3000, "InputTokens": 3_000_000},
    "gemini-small": {"Requests": 3000, "InputTokens": 3_000_000},
    "vertex": {"Requests": 3000, "InputTokens": 3_000_000},
}


@dataclass
class Stand:
    """What runs. `url`: the sidecar's, which an SDK's base URL begins with."""

    url: str
    emulator: Emulator
    broker_admin: str

    async def decisions(self) -> int:
        """How often the broker has decided: each acquire that is answered counts once."""
        lines = (await self.metrics()).splitlines()
        return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(_DECISIONS)))

    def fail_next(self, pool: str, *faults: Fault) -> None:
        """These befall the next calls at the provider's `pool`."""
        self.emulator.pool(pool).plan.push(faults)

    @property
    def sent(self) -> list[tuple[str, int]]:
        """(pool, status) of what reached the provider."""
        return [(record.pool, record.status) for record in self.emulator.calls.records]

    def sent_with(self, key: str) -> list[str]:
        """The pools that got `key`."""
        name = self.emulator.fingerprint(key)
        return [record.pool for record in self.emulator.calls.records if record.key == name]

    async def until_sent(self, calls: int, within: float = 5.0) -> None:
        """Waits until the provider has written down that many calls, which it does when each has ended."""
        async with asyncio.timeout(within):
            while len(self.sent) < calls:  # noqa: ASYNC110 - they are books, not events
                await asyncio.sleep(0.005)

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"{self.broker_admin}/metrics") as response:
            return await response.text()


@asynccontextmanager
async def stand(
    limits: Mapping[str, Mapping[str, int]] | None = None,
    policy: Mapping[str, Any] | None = None,
    pools: Mapping[str, Mapping[str, Any]] | None = None,
    credentials: Mapping[str, str] | None = None,
    **emulated: Mapping[str, Any],
) -> AsyncIterator[Stand]:
    """Everything, with a pool for each provider. `limits` replace a pool's, at both ends; `policy` is added to the
    tenant's; `pools` to a pool's document, and makes one `like` another where there is none; `credentials` are the
    sidecar's own keys by pool; what `emulated` says of a pool by its name is for the emulator alone."""
    known = {**dict.fromkeys(POOLS, BOTH), **LIMITS, **(limits or {})}
    rows = {pool: [_limit(name, limit) for name, limit in known[pool].items()] for pool in POOLS}
    config = {
        "pools": [
            {
                "name": pool,
                "wire": wire,
                "models": models,
                "limits": rows[pool],
                "outputTokens": 40,
                "pace": {"latency": 0},
                **emulated.get(pool, {}),
            }
            for pool, (wire, _, models) in POOLS.items()
        ]
    }
    async with await serve(EmulatorConfig.from_data(config)) as emulator:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "config").mkdir()
            documents = _documents(emulator, rows, policy or {}, pools or {})
            (folder / "config" / "all.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
            broker = await start_broker(
                BrokerSettings(config=folder / "config", port=0, admin_port=0, trust_claims=True)
            )
            sidecar = await start_sidecar(
                Settings(
                    port=0,
                    admin_port=0,
                    broker=f"127.0.0.1:{broker.port}",
                    grace=1.0,
                    credentials=dict(credentials or {}),
                )
            )
            try:
                assert await sidecar.broker.ready(10)
                url, admin = f"http://127.0.0.1:{sidecar.port}", f"http://127.0.0.1:{broker.admin_port}"
                yield Stand(url, emulator, admin)
            finally:
                await sidecar.stop()
                await broker.stop()


def _limit(name: str, limit: int) -> dict[str, Any]:
    resource, _, window = name.partition("/")
    return {"resource": resource, "limit": limit, "window": window or "1m"}


def _documents(
    emulator: Emulator,
    rows: Mapping[str, list[dict[str, Any]]],
    policy: Mapping[str, Any],
    pools: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    more = {name: dict(spec) for name, spec in pools.items()}
    like = {name: spec.pop("like") for name, spec in more.items() if "like" in spec}
    for name in [*POOLS, *like]:
        pool = like.get(name, name)
        wire, url, models = POOLS[pool]
        endpoint = getattr(emulator, url) + ("/v1" if wire == "Mistral" else "")
        spec = {"provider": wire, "endpoint": endpoint, "models": models, "limits": rows[pool]}
        if wire == "Groq":
            spec |= {"provider": "OpenAICompatible", "dialect": "Groq"}
        spec |= more.get(name, {})
        documents.append({**API, "kind": "ProviderPool", "metadata": {"name": name}, "spec": spec})
    spec = {"tier": "Premium", "queue": {"maxWait": "5s"}, **policy}
    return [
        *documents,
        {**API, "kind": "TenantPolicy", "metadata": {"name": "acme", "namespace": "default"}, "spec": spec},
    ]
