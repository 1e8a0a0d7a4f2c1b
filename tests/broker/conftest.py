# SPDX-License-Identifier: Apache-2.0
"""A real broker on loopback, with documents in a real directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from sluicegate.broker.server import RunningBroker, start_broker
from sluicegate.broker.settings import Settings
from sluicegate.wire.channel import client_options

POOL = """
apiVersion: sluicegate.dev/v1alpha1
kind: ProviderPool
metadata: {name: gpt-4o}
spec:
  provider: OpenAI
  endpoint: https://api.openai.com/v1
  models: [gpt-4o, "gpt-4o-2024-*"]
  limits:
  - {resource: Requests, limit: 60000, window: 1m}
  - {resource: Tokens, limit: 60000000, window: 1m, burst: 1m}
"""

SLOW_POOL = """
apiVersion: sluicegate.dev/v1alpha1
kind: ProviderPool
metadata: {name: slow}
spec:
  provider: OpenAI
  endpoint: https://api.openai.com/v1
  models: [slow-model]
  limits:
  - {resource: Requests, limit: 1, window: 1m}
"""

POLICY = """
apiVersion: sluicegate.dev/v1alpha1
kind: TenantPolicy
metadata: {name: acme, namespace: acme}
spec: {tier: Premium, weight: 10, onBrokerUnavailable: FailClosed, queue: {maxWait: 10m}}
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "pool.yaml").write_text(POOL)
    (folder / "slow.yaml").write_text(SLOW_POOL)
    (folder / "policy.yaml").write_text(POLICY)
    return folder


@pytest.fixture
def settings(documents: Path, tmp_path: Path) -> Settings:
    return Settings(
        config=documents,
        port=0,
        admin_port=0,
        decisions=tmp_path / "decisions.jsonl",
        trust_claims=True,
        session_grace=0.5,
        drain=2.0,
    )


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[RunningBroker]:
    running = await start_broker(settings)
    yield running
    await running.stop()


@pytest.fixture
async def channel(broker: RunningBroker) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{broker.port}", options=client_options()) as channel:
        yield channel
