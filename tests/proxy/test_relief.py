# SPDX-License-Identifier: Apache-2.0
"""What is done for a call that is too large or too late, with a real SDK, sidecar and broker and an emulated provider:
its history trimmed, its inputs sent in parts, a cached answer or a pool instead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from sluicegate.broker.main import start_broker
from sluicegate.broker.settings import Settings as BrokerSettings
from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.testing.emulator import Emulator, EmulatorConfig, serve
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.words import ErrorClass, Reason
from tests.proxy.scripted import Exchange, eventually, granted, rejected, stand
from tests.proxy.test_calls import post

POOLS = {
    "gpt": (["gpt-4o"], 6_000),
    "mini": (["gpt-4o-mini"], 200_000),
    "embed": (["text-embedding-3-small"], 12_000),
}


@dataclass
class Rig:
    client: Any
    emulator: Emulator


def limits(tokens: int) -> list[dict[str, Any]]:
    return [
        {"resource": "Requests", "limit": 6000, "window": "1m"},
        {"resource": "Tokens", "limit": tokens, "window": "1m"},
    ]


@asynccontextmanager
async def rig(tmp_path: Path, tasks: list[dict[str, Any]]) -> AsyncIterator[Rig]:
    config = {
        "pools": [
            {"name": name, "wire": "OpenAI", "models": models, "limits": limits(tokens)}
            for name, (models, tokens) in POOLS.items()
        ]
    }
    head = {"apiVersion": "sluicegate.dev/v1alpha1"}
    async with await serve(EmulatorConfig.from_data(config)) as emulator:
        documents: list[dict[str, Any]] = [
            {
                **head,
                "kind": "ProviderPool",
                "metadata": {"name": name},
                "spec": {"provider": "OpenAI", "endpoint": emulator.openai_url, "models": models, "limits": limits(n)},
            }
            for name, (models, n) in POOLS.items()
        ]
        tenant = {"metadata": {"name": "acme", "namespace": "default"}, "spec": {"tier": "Premium", "tasks": tasks}}
        documents.append({**head, "kind": "TenantPolicy", **tenant})
        (tmp_path / "all.yaml").write_text("\n---\n".join(json.dumps(d) for d in documents))
        broker = await start_broker(BrokerSettings(config=tmp_path, port=0, admin_port=0, trust_claims=True))
        sidecar = await start_sidecar(Settings(port=0, admin_port=0, broker=f"127.0.0.1:{broker.port}", grace=1.0))
        base = f"http://127.0.0.1:{sidecar.port}/openai/v1"
        client: Any = openai.AsyncOpenAI(base_url=base, api_key="sk-a", max_retries=0)
        try:
            assert await sidecar.broker.ready(5)
            yield Rig(client, emulator)
        finally:
            await client.close()
            await sidecar.stop()
            await broker.stop()


def conversation(turns: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be short"}]
    for n in range(turns):
        messages.append({"role": "user", "content": f"question {n} " + "word " * 300})
        messages.append({"role": "assistant", "content": f"answer {n} " + "word " * 300})
    return [*messages, {"role": "user", "content": "and now?"}]


async def test_a_history_is_trimmed_where_that_is_asked_for_and_never_else(tmp_path: Path):
    tasks = [{"taskType": "talk", "fallback": [{"trim": {"inputTokens": 3000}}]}]
    async with rig(tmp_path, tasks) as r:
        ask: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 20, "messages": conversation(12)}
        # By policy: 7,300 tokens never fit a bucket of 6,000; the last turns do.
        create = r.client.chat.completions.with_raw_response.create
        answer = await create(**ask, extra_headers={"x-sluicegate-task-type": "talk"})
        assert answer.headers["x-sluicegate-outcome"] == "granted"
        said = dict(part.split("=") for part in answer.headers["x-sluicegate-trimmed"].split(";"))
        assert int(said["messages"]) >= 14
        assert 4_300 <= int(said["tokens"]) <= 7_300
        assert 1_500 < answer.parse().usage.prompt_tokens <= 3_000
        # By header; the answer to a trimmed request is never kept as that to the whole.
        answer = await create(**ask, extra_headers={"x-sluicegate-fallback": "cached:10m, trim:1000"})
        assert answer.parse().usage.prompt_tokens <= 1_000
        with pytest.raises(openai.BadRequestError) as never:
            await create(**ask)
        headers = never.value.response.headers
        assert headers["x-sluicegate-reason"] == "never-fits"
        assert "x-sluicegate-trimmed" not in headers
        assert (headers["x-sluicegate-binding-limit"], headers["x-sluicegate-mitigation"]) == (
            "tokens/1m",
            "reduce-tokens",
        )
        assert headers["x-sluicegate-fits-now"] == "6000"


async def test_embeddings_that_never_fit_whole_go_in_parts_and_come_back_in_order(tmp_path: Path):
    async with rig(tmp_path, []) as r:
        texts = [f"{n} " + "a " * (147 + n % 7) for n in range(82)]
        answer = await r.client.embeddings.with_raw_response.create(model="text-embedding-3-small", input=texts)
        assert int(answer.headers["x-sluicegate-parts"]) >= 3
        assert answer.headers["x-sluicegate-outcome"] == "granted"
        got = answer.parse()
        assert [d.index for d in got.data] == list(range(82))
        assert got.usage.total_tokens > 12_000
        assert {record.status for record in r.emulator.calls.records} == {200}


async def test_tokens_go_in_parts_too_and_one_input_that_can_never_fit_fails_the_whole_at_once(tmp_path: Path):
    async with rig(tmp_path, []) as r:
        ask: dict[str, Any] = {"model": "text-embedding-3-small", "encoding_format": "float"}
        answer = await r.client.embeddings.with_raw_response.create(**ask, input=[[n] * 200 for n in range(1, 71)])
        assert int(answer.headers["x-sluicegate-parts"]) >= 3
        got = answer.parse()
        assert [d.index for d in got.data] == list(range(70))
        assert got.usage.total_tokens == 70 * 200
        before = len(r.emulator.calls.records)
        with pytest.raises(openai.BadRequestError, match="never holds more than 12000") as caught:
            await r.client.embeddings.create(
                **ask, input=[*(f"text {n} " + "a " * 100 for n in range(60)), "a " * 20_000]
            )
        headers = caught.value.response.headers
        assert headers["x-sluicegate-reason"] == "never-fits"
        assert headers["x-sluicegate-binding-limit"] == "tokens/1m"
        assert len(r.emulator.calls.records) - before <= 3, "nothing more is spent on the others"


async def test_what_is_decided_in_one_exchange_a_fresh_answer_or_another_model(tmp_path: Path):
    tasks = [
        {"taskType": "chat", "maxWait": "100ms", "fallback": [{"cached": {"maxAge": "10m"}}, {"model": "gpt-4o-mini"}]}
    ]
    async with rig(tmp_path, tasks) as r:
        create = r.client.chat.completions.with_raw_response.create

        async def ask(text: str) -> Any:
            messages = [{"role": "user", "content": text}]
            headers = {"x-sluicegate-task-type": "chat"}
            return await create(model="gpt-4o", max_tokens=2500, messages=messages, extra_headers=headers)

        first = await ask("one")
        assert first.headers["x-sluicegate-outcome"] == "granted"
        outcomes = [(await ask(f"more {n}")).headers["x-sluicegate-outcome"] for n in range(4)]
        assert outcomes[-1] == "fallback-model"
        again = await ask("one")
        assert (again.headers["x-sluicegate-outcome"], again.headers["x-sluicegate-reason"]) == (
            "cached",
            "predicted-wait",
        )
        assert again.parse().id == first.parse().id
        assert int(again.headers["age"]) <= 10


async def embed(exchange: Exchange) -> None:
    texts = json.loads(exchange.body)["input"]
    data = [{"object": "embedding", "index": n, "embedding": "AAAA" + t} for n, t in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    await exchange.reply(json.dumps({"object": "list", "data": data, "model": "e", "usage": usage}).encode())


def never_whole(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
    if call.divisible:
        return pb.Reject(call_id=call.call_id, reason=Reason.NEVER_FITS.value, part_tokens=10)
    return granted(call, attempt)


EMBEDDINGS = {"model": "text-embedding-3-small", "input": [f"text number {n}" for n in range(12)]}


async def test_one_parts_final_failure_is_that_of_the_whole_and_the_others_settle():
    gate = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if "text number 11" in exchange.body.decode():
            await exchange.reply(b'{"error":{"message":"bad input","code":"x"}}', "400 Bad Request")
        else:
            await gate.wait()

    async with stand(script, never_whole) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="bad input") as caught:
            await client.embeddings.create(**EMBEDDINGS)
        assert caught.value.response.headers["x-should-retry"] == "false"
        await s.broker.until(lambda: len(s.broker.ends) + len(s.broker.cancels) == len(s.broker.acquires) - 1)
        sent = len(s.broker.acquires) - 1
        assert sent >= 2
        assert all(call.part and not call.divisible for call in s.broker.acquires[1:])
        first = s.broker.acquires[0].call_id
        numbers = {int(call.call_id.removeprefix(first + ".")) for call in s.broker.acquires[1:]}
        assert len(numbers) == sent
        gate.set()
        await client.close()


@pytest.mark.parametrize(
    ("body", "headers", "status", "error_class"),
    [
        (b"not gzip", "content-type: application/json\r\ncontent-encoding: gzip", 502, ErrorClass.NETWORK),
        (b'{"error": {"message": "pay", "code": "insufficient_quota"}}', "x-a: b", 200, ErrorClass.BILLING),
    ],
)
async def test_a_part_that_makes_no_sense_or_says_an_error_settles_as_that(
    body: bytes, headers: str, status: int, error_class: ErrorClass
):
    async def script(exchange: Exchange) -> None:
        await exchange.reply(body, headers=headers)

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return never_whole(call, attempt) if attempt == 1 else rejected(call, Reason.BILLING)

    async with stand(script, policy) as s:
        got, _, _ = await post(s, EMBEDDINGS, "/openai/v1/embeddings")
        assert got == status
        await s.broker.until(lambda: len(s.broker.settlements) + len(s.broker.cancels) >= len(s.broker.acquires) - 1)
        told = {convert.ERROR_CLASS.from_proto(end.error_class) for end in s.broker.settlements}
        assert told - {ErrorClass.CANCELLED} == {error_class}


async def test_a_client_that_goes_away_takes_all_parts_with_it():
    over = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await over.wait()

    async with stand(script, never_whole) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        call = asyncio.create_task(client.embeddings.create(**EMBEDDINGS))
        await eventually(lambda: len(s.provider.requests) == 4)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await s.broker.until(lambda: len(s.broker.ends) == 4)
        assert {e.error_class for e in s.broker.ends} == {types_pb2.ERROR_CLASS_CANCELLED}
        over.set()
        await client.close()


async def test_more_inputs_than_the_provider_takes_are_parts_without_asking_for_the_whole():
    async with stand(embed) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        answer = await client.embeddings.with_raw_response.create(
            model="text-embedding-3-small", input=[str(n) for n in range(5000)], encoding_format="base64"
        )
        got = json.loads(answer.text)
        assert [d["embedding"] for d in got["data"]] == [f"AAAA{n}" for n in range(5000)]
        assert got["usage"] == {"prompt_tokens": 5000, "total_tokens": 5000}
        assert answer.headers["x-sluicegate-parts"] == "3"
        assert len(s.broker.acquires) == 3
        await client.close()


async def test_a_miss_asks_once_more_for_what_is_left_and_no_oftener():
    def policy(call: pb.CallRequest, attempt: int) -> pb.Fallback:
        return pb.Fallback(
            call_id=call.call_id,
            option=types_pb2.FallbackOption(cached_max_age=convert.to_duration(60)),
            next=[
                types_pb2.FallbackOption(pool="claude"),
                types_pb2.FallbackOption(cached_max_age=convert.to_duration(60)),
            ],
            reason=Reason.PREDICTED_WAIT.value,
        )

    async with stand(embed, policy) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
        first, second = s.broker.acquires
        assert not first.cached.HasField("age")
        assert second.call_id == first.call_id + ".r"
        assert [o.WhichOneof("kind") for o in second.criticality.fallback] == ["pool", "cached_max_age"]
        await client.close()


async def test_a_refusal_after_a_providers_429_says_what_binds_and_what_would_fit():
    async def script(exchange: Exchange) -> None:
        await exchange.reply(
            b'{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}', "429 Too Many Requests"
        )

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        more = {"binding_limit": "tokens/1m", "mitigation": "reduce_tokens", "fits_now": 321}
        return granted(call, attempt) if attempt < 2 else rejected(call, Reason.MAX_WAIT, 3.0, **more)

    async with stand(script, policy) as s:
        client: Any = openai.AsyncOpenAI(base_url=s.url + "/openai/v1", api_key="sk", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
        headers = caught.value.response.headers
        assert headers["x-sluicegate-binding-limit"] == "tokens/1m"
        assert (headers["x-sluicegate-fits-now"], headers["retry-after"]) == ("321", "3")
        await client.close()
