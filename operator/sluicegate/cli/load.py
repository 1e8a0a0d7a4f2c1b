# SPDX-License-Identifier: Apache-2.0
"""An offered load, made from a seed and played through the real SDKs.

The schedule fixes when each call of each tenant starts and what it asks, so that the same load can be
offered twice: through a sidecar, and straight at the provider with the SDKs' own retries. The load is
open: a call starts at its time whether or not earlier ones have come back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anthropic
import openai

Wire = Literal["openai", "anthropic"]

WORDS = (
    *("ledger", "harbour", "quarterly", "margin", "forecast", "invoice", "vessel", "tariff", "customer", "renewal"),
    *("region", "supplier", "contract", "ticket", "summary", "outage", "refund", "shipment", "schedule", "policy"),
)


@dataclass(frozen=True, slots=True)
class Caller:
    """One tenant of the load. `share` is its demand as a fraction of what the pools' limits allow."""

    tenant: str
    tier: str
    task_type: str
    share: float


@dataclass(frozen=True, slots=True)
class Target:
    """One model behind one wire. `calls_per_second` is about what its limits allow of these calls."""

    wire: Wire
    model: str
    calls_per_second: float
    words: tuple[int, int]
    max_tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Planned:
    """One call of the schedule; `at` is seconds from the start of the load."""

    at: float
    caller: Caller
    target: Target
    prompt: str
    max_tokens: int
    stream: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What an app saw of one call. Times are seconds; `wait` is what the sidecar said, None without one."""

    tenant: str
    tier: str
    wire: Wire
    start: float
    seconds: float
    first_byte: float
    ok: bool
    status: int
    outcome: str
    reason: str
    wait: float | None
    attempts: int


@dataclass(slots=True)
class Progress:
    """The load as it runs, for a live view."""

    planned: int = 0
    started: int = 0
    results: list[Result] = field(default_factory=list[Result])


def plan(callers: Sequence[Caller], targets: Sequence[Target], seconds: float, seed: int) -> list[Planned]:
    """Poisson arrivals of each caller on each target for `seconds`, in order of time."""
    calls: list[Planned] = []
    for caller in callers:
        for target in targets:
            rng = random.Random(f"{seed}/{caller.tenant}/{target.model}")
            at = rng.expovariate(caller.share * target.calls_per_second)
            while at < seconds:
                prompt = " ".join(rng.choices(WORDS, k=rng.randint(*target.words)))
                calls.append(Planned(at, caller, target, prompt, rng.randint(*target.max_tokens), rng.random() < 0.5))
                at += rng.expovariate(caller.share * target.calls_per_second)
    return sorted(calls, key=lambda call: call.at)


def _wait_of(headers: Mapping[str, str]) -> float | None:
    text = headers.get("x-sluicegate-wait-ms")
    return int(text) / 1000 if text else None


class Clients:
    """One client of each SDK per tenant, as the tenants' apps would have: base URL and key, nothing else changed."""

    def __init__(self, openai_url: str, anthropic_url: str, key_of: Callable[[Caller], str]) -> None:
        self._urls = {"openai": openai_url, "anthropic": anthropic_url}
        self._key_of = key_of
        self._openai: dict[str, openai.AsyncOpenAI] = {}
        self._anthropic: dict[str, anthropic.AsyncAnthropic] = {}

    def openai(self, caller: Caller) -> openai.AsyncOpenAI:
        if caller.tenant not in self._openai:
            self._openai[caller.tenant] = openai.AsyncOpenAI(
                base_url=self._urls["openai"], api_key=self._key_of(caller), default_headers=_labels(caller)
            )
        return self._openai[caller.tenant]

    def anthropic(self, caller: Caller) -> anthropic.AsyncAnthropic:
        if caller.tenant not in self._anthropic:
            self._anthropic[caller.tenant] = anthropic.AsyncAnthropic(
                base_url=self._urls["anthropic"], api_key=self._key_of(caller), default_headers=_labels(caller)
            )
        return self._anthropic[caller.tenant]

    async def close(self) -> None:
        for openai_client in self._openai.values():
            await openai_client.close()
        for anthropic_client in self._anthropic.values():
            await anthropic_client.close()


def _labels(caller: Caller) -> dict[str, str]:
    return {"x-sluicegate-tenant": caller.tenant, "x-sluicegate-task-type": caller.task_type}


async def _send(clients: Clients, call: Planned) -> tuple[Mapping[str, str], float]:
    """Sends one call and reads its answer to the end; returns the headers and when the first byte came."""
    messages: Any = [{"role": "user", "content": call.prompt}]
    raw: Any
    if call.target.wire == "openai":
        raw = await clients.openai(call.caller).chat.completions.with_raw_response.create(
            model=call.target.model, messages=messages, max_tokens=call.max_tokens, stream=call.stream
        )
    else:
        raw = await clients.anthropic(call.caller).messages.with_raw_response.create(
            model=call.target.model, messages=messages, max_tokens=call.max_tokens, stream=call.stream
        )
    first_byte = time.monotonic()
    parsed = raw.parse()
    if asyncio.iscoroutine(parsed):
        parsed = await parsed
    if call.stream:
        async for _ in parsed:
            pass
    return raw.headers, first_byte


async def _run_one(clients: Clients, call: Planned, origin: float, give_up_after: float) -> Result:
    start = time.monotonic()
    headers: Mapping[str, str] = {}
    status, ok, first_byte = 0, False, start
    try:
        async with asyncio.timeout(give_up_after):
            headers, first_byte = await _send(clients, call)
        status, ok = 200, True
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        status, headers = error.status_code, error.response.headers
    except (openai.APIError, anthropic.APIError, TimeoutError):
        pass
    end = time.monotonic()
    return Result(
        tenant=call.caller.tenant,
        tier=call.caller.tier,
        wire=call.target.wire,
        start=start - origin,
        seconds=end - start,
        first_byte=max(first_byte, start) - start,
        ok=ok,
        status=status,
        outcome=headers.get("x-sluicegate-outcome", ""),
        reason=headers.get("x-sluicegate-reason", ""),
        wait=_wait_of(headers),
        attempts=int(headers.get("x-sluicegate-attempts", "0") or 0),
    )


async def play(
    calls: Sequence[Planned],
    clients: Clients,
    *,
    give_up_after: float,
    progress: Progress | None = None,
    on_end_of_load: Callable[[], None] | None = None,
) -> list[Result]:
    """Offers `calls` at their times and returns what became of each; each call ends within `give_up_after` seconds."""
    progress = progress or Progress()
    progress.planned = len(calls)
    origin = time.monotonic()
    running: set[asyncio.Task[None]] = set()

    async def one(call: Planned) -> None:
        progress.results.append(await _run_one(clients, call, origin, give_up_after))

    for call in calls:
        delay = origin + call.at - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        progress.started += 1
        task = asyncio.create_task(one(call))
        running.add(task)
        task.add_done_callback(running.discard)
    if on_end_of_load:
        on_end_of_load()
    if running:
        await asyncio.gather(*running)
    return progress.results
