# SPDX-License-Identifier: Apache-2.0
"""What the broker expects of prompts whose tokenizer the sidecar does not have: right within a tenth after 20 calls."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import pytest
from google import genai
from mistralai.client import Mistral

from tests.sdk.stand import Stand, stand

PROSE = """A sluice gate holds back the water of a canal until somebody lifts it. The keeper watches the level on both
sides, and the millers downstream have agreed who may draw how much, and when. In dry summers the agreement is all that
keeps them from quarrelling; in wet ones nobody remembers where the paper lies. Engineers measured the flow for years
before they understood that the gate was never the bottleneck: it was the narrow stretch behind the old bridge."""
CODE = """def level(now: float, at: float, rate: float, size: float) -> float:
    return min(size, (now - at) * rate)

for gate in sorted(gates, key=lambda g: g.level):
    if gate.level > 0.75 and not gate.closed: gate.open(by=0.1)
"""
JSON = '{"gates": [{"id": 17, "level": 0.42, "open": true}, {"id": 18, "level": 0.97, "open": false}], "total": 2}'

TOOLS = json.dumps(
    {
        "name": "open_gate",
        "description": "Lift a gate by so much, and say how long it stays up.",
        "input_schema": {
            "type": "object",
            "required": ["gate", "by"],
            "properties": {
                "gate": {"type": "integer", "description": "Its number, from the mouth of the canal upwards."},
                "by": {"type": "number", "minimum": 0, "maximum": 1},
                "until": {"type": "string", "enum": ["dusk", "dawn", "level"]},
            },
        },
    },
    indent=1,
)
CJK = (Path(__file__).parents[1] / "data" / "texts" / "cjk.txt").read_text()


def prompts(kind: str, count: int) -> list[str]:
    """`count` different prompts of one kind of text."""
    source = random.Random(len(kind))
    between = "。" if kind == "cjk" else " "
    words = {"prose": PROSE, "code": CODE, "json": JSON, "tools": TOOLS, "cjk": CJK}[kind].split(between)
    return [between.join(words[source.randrange(len(words) // 2) :] * source.randint(2, 6)) for _ in range(count)]


async def _claude(s: Stand, given: list[str]) -> None:
    async with anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client:
        for prompt in given:
            messages: Any = [{"role": "user", "content": prompt}]
            await client.messages.create(model="claude-sonnet-4-6", max_tokens=50, messages=messages)


async def _gemini(s: Stand, given: list[str]) -> None:
    async with genai.Client(api_key="g", http_options={"base_url": f"{s.url}/google"}).aio as client:
        for prompt in given:
            await client.models.generate_content(model="gemini-2.5-flash", contents=prompt)


async def _mistral(s: Stand, given: list[str]) -> None:
    async with Mistral(api_key="m", server_url=f"{s.url}/mistral") as client:
        for prompt in given:
            messages: Any = [{"role": "user", "content": prompt}]
            await client.chat.complete_async(model="mistral-small-latest", messages=messages)


async def _ratios(s: Stand, pool: str, calls: int) -> float:
    """Sum of expected / real input, once `calls` have settled."""
    while True:
        lines = [line for line in (await s.metrics()).splitlines() if line.startswith("sluicegate_estimate_ratio_")]
        found = {line.split("{")[0].rsplit("_", 1)[1]: line for line in lines if f'pool="{pool}"' in line}
        if found and float(found["count"].rsplit(" ", 1)[1]) >= calls:
            return float(found["sum"].rsplit(" ", 1)[1])


@pytest.mark.parametrize("kind", ["prose", "code", "json", "cjk", "tools"])
@pytest.mark.parametrize(("pool", "ask"), [("claude", _claude), ("gemini", _gemini), ("mistral", _mistral)])
async def test_estimates_are_within_a_tenth_after_twenty_calls(
    pool: str, ask: Callable[[Stand, list[str]], Awaitable[None]], kind: str
) -> None:
    async with stand() as s:
        texts = prompts(kind, 30)
        await ask(s, texts[:20])
        before = await _ratios(s, pool, 20)
        errors = []
        for count, text in enumerate(texts[20:], start=21):
            await ask(s, [text])
            after = await _ratios(s, pool, count)
            errors.append(abs(after - before - 1.0))
            before = after
        assert max(errors) <= 0.1, errors
