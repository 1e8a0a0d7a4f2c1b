# SPDX-License-Identifier: Apache-2.0
"""A chain whose steps run in different pods, told by W3C baggage, as tracing carries it, or by a header of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sluicegate.testing.emulator import EmulatorConfig
from tests.proxy.test_storms import World, world

SLOW = [{"resource": "Requests", "limit": 120, "window": "1m", "burst": "500ms"}]  # one every half second


def emulated() -> EmulatorConfig:
    pools = [
        {"name": "first", "wire": "OpenAI", "models": ["gpt-4o"], "limits": SLOW},
        {"name": "second", "wire": "OpenAI", "models": ["gpt-4o-mini"], "limits": SLOW},
    ]
    return EmulatorConfig.from_data({"pools": pools})


async def ask(w: World, pod: int, text: str, **headers: str) -> dict[str, str]:
    body = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"authorization": "Bearer sk-a", "x-sluicegate-max-wait": "60s", **named}
    async with w.http.post(f"{w.bases[pod]}/openai/v1/chat/completions", json=body, headers=sent) as answer:
        assert answer.status == 200, await answer.text()
        return {name.lower(): value for name, value in answer.headers.items()}


def baggage(chain: str, **more: str) -> str:
    members: dict[str, str] = {"sluicegate.chain": chain, **more}
    return ",".join(f"{name}={quote(value)}" for name, value in members.items())


def waiting(w: World) -> int:
    return sum(tier.waiting for tier in w.status().tiers)


async def test_the_next_step_in_another_pod_goes_before_chains_that_have_not_begun(tmp_path: Path) -> None:
    async with world(tmp_path, emulated(), limits=SLOW) as w:
        await ask(w, 0, "begin", baggage=baggage("id=job;step=1;of=3"))
        order: list[str] = []

        async def call(pod: int, text: str, **headers: str) -> None:
            await ask(w, pod, text, **headers)
            order.append(text)

        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(call(n % 2, f"other {n}", x_sluicegate_chain=f"id=other{n};step=1;of=2"))
            await w.until(lambda: waiting(w) >= 3)
            group.create_task(call(1, "step 2", baggage=baggage("id=job;step=2;of=3", unrelated="x")))
        assert order.index("step 2") <= 1, order


async def test_an_orchestrator_in_one_pod_is_not_starved_by_its_agents_in_another(tmp_path: Path) -> None:
    async with world(tmp_path, emulated(), limits=SLOW) as w:
        await ask(w, 0, "what the limits are")
        order: list[str] = []

        async def call(pod: int, text: str, **members: Any) -> None:
            await ask(w, pod, text, baggage=baggage("id=job", **members))
            order.append(text)

        async with asyncio.TaskGroup() as group:
            for n in range(5):
                group.create_task(call(1, f"agent {n}"))
            await w.until(lambda: waiting(w) >= 4)
            group.create_task(call(0, "orchestrator", **{"sluicegate.orchestrator": "true"}))
        assert order.index("orchestrator") <= 1, order
