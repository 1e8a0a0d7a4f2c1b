# SPDX-License-Identifier: Apache-2.0
"""Calls that another pool serves: other wires, accounts and models, whole and streamed, and whose key goes where."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from langchain_openai import ChatOpenAI
from mistralai.client import Mistral

from sluicegate.testing.faults import Fault
from tests.sdk.stand import ASK, BOTH, Stand, stand

ACROSS = {
    "azure": "my-gpt",
    "claude": "claude-sonnet-4-6",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-small-latest",
    "groq": "llama-3.3-70b-versatile",
}
EMBEDDERS = {"azure": "my-embedding", "gemini": "gemini-embedding-001", "mistral": "mistral-embed"}


def to(pool: str, models: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"failover": [{"pool": pool, "models": models, **more}]}


def openai_of(s: Stand, path: str = "/openai/v1") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=s.url + path, api_key="sk-a", organization="org-a")


@pytest.mark.parametrize("pool", ACROSS)
async def test_across_wires_whole_and_streamed(pool: str) -> None:
    models = {"gpt-4o": ACROSS[pool], "text-embedding-3-small": EMBEDDERS.get(pool, "")}
    models = {mine: theirs for mine, theirs in models.items() if theirs}
    async with stand(pools={"gpt": to(pool, models)}, credentials={pool: "key-b"}) as s, openai_of(s) as client:
        s.fail_next("gpt", Fault.BILLING)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
        assert (raw.headers["x-sluicegate-outcome"], raw.headers["x-sluicegate-pool"]) == ("fallback-pool", pool)
        assert raw.headers["x-sluicegate-reason"] == "billing"
        answer = raw.parse()
        assert answer.choices[0].message.content
        assert answer.model == ACROSS[pool]
        stream = await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        chain: Any = ChatOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a", model="gpt-4o")  # type: ignore[arg-type]
        assert (await chain.ainvoke("What is a sluice gate?")).usage_metadata["output_tokens"] == 40
        assert "".join([chunk.text async for chunk in chain.astream("What is a sluice gate?")])
        calls = 4
        if pool in EMBEDDERS:
            vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
            assert [item.index for item in vectors.data] == [0, 1]
            calls += 1
        assert s.sent_with("sk-a") == ["gpt"], "the app's key is for its own account"
        assert s.sent_with("key-b") == [pool] * calls


async def test_what_the_other_wire_has_no_place_for_stays_where_it_is() -> None:
    """Mistral has no responses: the call keeps its own provider's error, and the pool after it takes it."""
    models = {"gpt-4o": "mistral-small-latest"}
    pools = {"gpt": {"failover": [{"pool": "mistral", "models": models}]}}
    async with stand(pools=pools, credentials={"mistral": "key-b"}) as s, openai_of(s) as client:
        s.fail_next("gpt", Fault.BILLING)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(model="gpt-4o", input="hello")
        assert caught.value.code == "insufficient_quota"
        assert s.sent == [("gpt", 429)]
    pools["gpt"]["failover"].append({"pool": "azure", "models": {"gpt-4o": "my-gpt"}})
    keys = {"mistral": "key-b", "azure": "key-c"}
    async with stand(pools=pools, credentials=keys) as s, openai_of(s) as client:
        s.fail_next("gpt", Fault.BILLING)
        assert (await client.responses.create(model="gpt-4o", input="hello")).output_text
        assert s.sent == [("gpt", 429), ("azure", 200)]


async def test_a_wire_that_no_other_provider_takes_gets_its_own_fallback_or_error() -> None:
    pools = {"claude": to("gpt", {"claude-sonnet-4-6": "gpt-4o"})}
    ask: Any = {"model": "claude-sonnet-4-6", "max_tokens": 50, "messages": ASK}
    async with (
        stand(pools=pools, credentials={"gpt": "key-b"}) as s,
        anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a") as client,
        openai_of(s, "/anthropic/v1") as compatible,
    ):
        s.fail_next("claude", Fault.BILLING)
        with pytest.raises(anthropic.BadRequestError, match="credit balance"):
            await client.messages.create(**ask)
        with pytest.raises(anthropic.APIStatusError) as unpaid:
            await client.messages.create(**{**ask, "max_tokens": 51})
        assert unpaid.value.status_code == 402
        async with client.messages.stream(**ask, extra_headers={"x-sluicegate-fallback": "degrade:Not now."}) as stream:
            assert await stream.get_final_text() == "Not now."
        assert s.sent == [("claude", 400)]
        # The same pool's calls in OpenAI's wire do go there.
        answer = await compatible.chat.completions.create(model="claude-sonnet-4-6", messages=ASK)
        assert answer.model.startswith("gpt-4o")
        assert s.sent_with("key-b") == ["gpt"]


async def test_from_mistrals_wire() -> None:
    pools = {"mistral": to("gpt", {"mistral-small-latest": "gpt-4o"})}
    async with (
        stand(pools=pools, credentials={"gpt": "key-b"}) as s,
        Mistral(api_key="m", server_url=f"{s.url}/mistral") as client,
    ):
        s.fail_next("mistral", Fault.BILLING)
        answer = await client.chat.complete_async(model="mistral-small-latest", messages=ASK)
        assert answer.usage.completion_tokens == 40
        stream = await client.chat.stream_async(model="mistral-small-latest", messages=ASK)
        events = [event.data async for event in stream]
        assert "".join(str(event.choices[0].delta.content or "") for event in events if event.choices)
        assert s.sent_with("key-b") == ["gpt", "gpt"]
        assert s.sent_with("m") == ["mistral"]


async def test_out_of_quota_fails_over_before_any_429_where_the_pool_says_so() -> None:
    models = {"gpt-4o": "claude-sonnet-4-6"}
    one = {"gpt": {**BOTH, "Requests": 1}}
    pools = {"gpt": to("claude", models, on=["Quota"], afterWait="1s")}
    async with stand(one, pools=pools, credentials={"claude": "key-b"}) as s, openai_of(s) as client:
        for stream in (False, False, True):
            answer: Any = await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=stream)
            if stream:
                assert [chunk async for chunk in answer]
        assert s.sent == [("gpt", 200), ("claude", 200), ("claude", 200)]
    # By default a pool that is merely out of quota is not left.
    policy = {"queue": {"maxWait": "1s"}}
    async with stand(one, policy, {"gpt": to("claude", models)}, {"claude": "key-b"}) as s, openai_of(s) as client:
        await client.chat.completions.create(model="gpt-4o", messages=ASK)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert s.sent == [("gpt", 200)]


@pytest.mark.parametrize("known", [True, False])
async def test_a_second_account_of_one_endpoint_gets_its_own_key_or_nothing(known: bool) -> None:
    pools = {"gpt": to("gpt-b", {}), "gpt-b": {"like": "gpt"}}
    keys = {"gpt-b": "sk-b"} if known else {}
    async with stand(pools=pools, credentials=keys) as s, openai_of(s, "/pools/gpt/v1") as client:
        s.fail_next("gpt", Fault.BILLING)
        if known:
            for stream in (False, True):
                answer: Any = await client.chat.completions.create(model="gpt-4o", messages=ASK, stream=stream)
                if stream:
                    assert [chunk async for chunk in answer]
            assert s.sent_with("sk-b") == ["gpt", "gpt"]
        else:
            for _ in range(2):
                with pytest.raises(openai.RateLimitError):
                    await client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert s.sent_with("sk-a") == ["gpt"], "once: the first account's key never goes to the second"
