# SPDX-License-Identifier: Apache-2.0
"""Calls of every provider's wire through a real sidecar: path, key, model, usage, refusals and failing over."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import openai
import pytest
from yarl import URL

from sluicegate.sidecar.core.routes import Route
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import Dialect, Outcome, Provider, Reason
from tests.proxy.scripted import Exchange, Policy, Script, Stand, granted, rejected, stand

GENERATED = {
    "candidates": [{"content": {"parts": [{"text": "hi"}], "role": "model"}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 12},
}
CONTENTS = {"contents": [{"parts": [{"text": "hello"}]}]}
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
PROJECT = "/v1/projects/p/locations/l"


def answering(body: object, content_type: str = "application/json") -> Script:
    async def script(exchange: Exchange) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await exchange.reply(data, headers=f"content-type: {content_type}")

    return script


def _mount(directory: Path, keys: Mapping[str, str]) -> None:
    for pool, key in keys.items():
        (directory / pool).write_text(key)


@asynccontextmanager
async def wires(script: Script, policy: Policy, keys: Mapping[str, str] | None = None) -> AsyncIterator[Stand]:
    """A stand with a pool for each provider, all at the one scripted provider. `keys`: mounted ones, by pool."""
    with TemporaryDirectory() as mounted:
        _mount(Path(mounted), keys or {})
        async with _wires(script, policy, Path(mounted)) as s:
            yield s


@asynccontextmanager
async def _wires(script: Script, policy: Policy, keys: Path) -> AsyncIterator[Stand]:
    async with stand(script, policy, credentials_dir=keys) as s:
        base = f"http://127.0.0.1:{s.provider.port}"
        s.sidecar.broker.routes.pools.update(
            {
                "gem": Route("gem", Provider.GOOGLE_GEMINI, base + "/v1beta", ("gemini-*", "embed-*")),
                "gem2": Route("gem2", Provider.GOOGLE_GEMINI, base + "/second", ("gemini-other",)),
                "vertex": Route("vertex", Provider.GOOGLE_VERTEX, base, ("gemini-*", "claude-*")),
                "eu": Route("eu", Provider.GOOGLE_VERTEX, base + "/v1/projects/q/locations/eu", ("gemini-eu",)),
                "az": Route("az", Provider.AZURE_OPENAI, base, ("my-*",)),
                "mis": Route("mis", Provider.MISTRAL, base, ("mistral-*", "codestral-*")),
                "vllm": Route("vllm", Provider.OPENAI_COMPATIBLE, base + "/llm", ("m",), dialect=Dialect.VLLM),
                "groq": Route("groq", Provider.OPENAI_COMPATIBLE, base + "/openai/v1", ("m",), dialect=Dialect.GROQ),
            }
        )
        yield s


def to(pool: str, model: str = "", outcome: Outcome = Outcome.GRANTED) -> Policy:
    return lambda call, n: granted(call, n, pool, model=model, outcome=convert.OUTCOME.to_proto(outcome))


async def post(s: Stand, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
    names = {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL(s.url + path, encoded=True), data=json.dumps(body), headers=names) as response,
    ):
        return response.status, {n.lower(): v for n, v in response.headers.items()}, await response.read()


def line(s: Stand) -> str:
    return s.provider.requests[-1].line.removeprefix("POST ").removesuffix(" HTTP/1.1")


async def usage(s: Stand) -> tuple[int, int, int]:
    await s.broker.until(lambda: bool(s.broker.ends))
    used = s.broker.ends[-1].usage
    return used.input_tokens, used.output_tokens, used.cached_input_tokens


@pytest.mark.parametrize(
    ("path", "pool", "answer", "sent", "model", "used"),
    [
        ("/google/v1beta/models/gemini-x:generateContent", "gem", GENERATED, None, "gemini-x", (7, 5, 0)),
        (
            "/pools/gem/v1/models/gemini-x:generateContent",
            "gem",
            GENERATED,
            "/v1/models/gemini-x:generateContent",
            "gemini-x",
            (7, 5, 0),
        ),
        (
            "/google/v1beta/models/embed-1:embedContent",
            "gem",
            {"embedding": {"values": [1]}, "usageMetadata": {"promptTokenCount": 4}},
            None,
            "embed-1",
            (4, 0, 0),
        ),
        (
            f"/vertex{PROJECT}/publishers/google/models/gemini-x:generateContent",
            "vertex",
            GENERATED,
            None,
            "gemini-x",
            (7, 5, 0),
        ),
        (
            "/vertex/v1/publishers/google/models/gemini-x:generateContent",
            "vertex",
            GENERATED,
            None,
            "gemini-x",
            (7, 5, 0),
        ),
        (
            "/vertex/v1/publishers/google/models/gemini-eu:generateContent",
            "eu",
            GENERATED,
            "/v1/projects/q/locations/eu/publishers/google/models/gemini-eu:generateContent",
            "gemini-eu",
            (7, 5, 0),
        ),
        (
            f"/vertex{PROJECT}/publishers/anthropic/models/claude-x@1:rawPredict",
            "vertex",
            {"type": "message", "usage": {"input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 1}},
            None,
            "claude-x@1",
            (5, 1, 3),
        ),
        (
            "/azure/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21",
            "az",
            COMPLETION,
            None,
            "my-gpt",
            (8, 2, 0),
        ),
    ],
)
async def test_the_model_is_read_from_the_path(
    path: str, pool: str, answer: object, sent: str | None, model: str, used: tuple[int, int, int]
):
    async with wires(answering(answer), to(pool)) as s:
        status, headers, body = await post(s, path, CONTENTS)
        assert (status, json.loads(body)) == (200, answer)
        assert headers["x-sluicegate-pool"] == pool
        assert s.broker.acquires[-1].model == model
        expected = sent or path[path.index("/", 1) :]
        assert line(s) == expected
        assert json.loads(s.provider.requests[-1].body) == CONTENTS
        assert await usage(s) == used


@pytest.mark.parametrize("alt", ["?alt=sse", ""])
async def test_both_streams_of_google(alt: str):
    first = {"candidates": [{"content": {"parts": [{"text": "h"}]}}], "usageMetadata": {"promptTokenCount": 7}}
    chunks = [json.dumps(first), json.dumps(GENERATED)]
    whole = "".join(f"data: {c}\r\n\r\n" for c in chunks) if alt else "[" + ",\r\n".join(chunks) + "]"

    async def script(exchange: Exchange) -> None:
        kind = "text/event-stream" if alt else "application/json; charset=UTF-8"
        await exchange.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for at in range(0, len(whole), 11):
            await exchange.chunk(whole[at : at + 11].encode())
        await exchange.send(b"0\r\n\r\n")

    async with wires(script, to("gem")) as s:
        _, _, body = await post(s, "/google/v1beta/models/gemini-x:streamGenerateContent" + alt, CONTENTS)
        assert body.decode() == whole
        assert await usage(s) == (7, 5, 0)
        assert line(s) == "/v1beta/models/gemini-x:streamGenerateContent" + alt
        faults = s.sidecar.metrics.registry.get_sample_value(
            "sluicegate_sidecar_provider_faults_total", {"provider": "google_gemini", "fault": "unfinished_stream"}
        )
        assert not faults


async def test_a_key_in_the_query_goes_to_its_own_provider_and_nowhere_else(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    path = "/google/v1beta/models/gemini-x:generateContent?key=AIza-query&x=1"
    async with wires(answering(GENERATED), to("gem"), {"gem2": "AIza-second"}) as s:
        await post(s, path, CONTENTS)
        assert line(s).endswith("?key=AIza-query&x=1")
        by_query = s.broker.acquires[-1].key_fingerprint
        await post(s, path.partition("?")[0], CONTENTS, x_goog_api_key="AIza-query")
        assert s.broker.acquires[-1].key_fingerprint == by_query != ""
        s.broker.policy = to("gem2", "gemini-other", Outcome.FALLBACK_POOL)
        await post(s, path, CONTENTS)
        assert line(s) == "/second/v1beta/models/gemini-other:generateContent?x=1"
        assert s.provider.requests[-1].header("x-goog-api-key") == "AIza-second"
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{s.sidecar.admin_port}/metrics") as metrics,
        ):
            assert "AIza" not in await metrics.text()
        assert "AIza" not in str(s.broker.acquires)
    assert "AIza" not in caplog.text


async def test_a_fallback_model_is_written_where_the_model_stands():
    azure = "/azure/openai/deployments/my-gpt/chat/completions?api-version=1"
    async with wires(answering(GENERATED), to("gem", "gemini-lite", Outcome.FALLBACK_MODEL)) as s:
        await post(s, "/google/v1beta/models/gemini-x:generateContent", CONTENTS)
        assert line(s) == "/v1beta/models/gemini-lite:generateContent"
        batch = {"requests": [{"model": "models/embed-1", "content": {}}]}
        s.broker.policy = to("gem", "embed-2", Outcome.FALLBACK_MODEL)
        await post(s, "/google/v1beta/models/embed-1:batchEmbedContents", batch)
        assert line(s) == "/v1beta/models/embed-2:batchEmbedContents"
        assert json.loads(s.provider.requests[-1].body)["requests"][0]["model"] == "models/embed-2"
        s.broker.policy = to("az", "my-mini", Outcome.FALLBACK_MODEL)
        await post(s, azure, CHAT, api_key="k")
        assert line(s) == "/openai/deployments/my-mini/chat/completions?api-version=1"
        assert json.loads(s.provider.requests[-1].body) == CHAT
        assert s.provider.requests[-1].header("api-key") == "k"


CROSSINGS = [
    ("/openai/v1/chat/completions", "az", "/openai/v1/chat/completions", "api-key", "my-x"),
    ("/openai/v1/chat/completions", "gem", "/v1beta/openai/chat/completions", "authorization", "my-x"),
    ("/openai/v1/embeddings", "gem", "/v1beta/openai/embeddings", "authorization", "my-x"),
    ("/openai/v1/chat/completions", "mis", "/v1/chat/completions", "authorization", "my-x"),
    ("/openai/v1/chat/completions", "groq", "/openai/v1/chat/completions", "authorization", "my-x"),
    ("/openai/v1/chat/completions", "claude", "/v1/chat/completions", "authorization", "my-x"),
    (
        "/openai/v1/chat/completions",
        "eu",
        "/v1/projects/q/locations/eu/endpoints/openapi/chat/completions",
        "authorization",
        "google/my-x",
    ),
    (
        "/azure/openai/deployments/d/chat/completions?api-version=1",
        "gpt",
        "/v1/chat/completions",
        "authorization",
        "my-x",
    ),
    ("/mistral/v1/chat/completions", "gpt", "/v1/chat/completions", "authorization", "my-x"),
]


@pytest.mark.parametrize(("path", "pool", "sent", "header", "model"), CROSSINGS)
async def test_across_providers_by_the_compatible_endpoint(path: str, pool: str, sent: str, header: str, model: str):
    ask: dict[str, Any] = {**CHAT, "model": "gpt-4o", "stream": True, "max_completion_tokens": 9}
    own = {"authorization": "Bearer own", "api_key": "own", "openai_organization": "org"}
    async with wires(answering(COMPLETION), to(pool, "my-x", Outcome.FALLBACK_POOL)) as s:
        status, _, body = await post(s, path, ask, **own)
        assert status == 403, body
        assert not s.provider.requests, "nothing goes anywhere with the app's own key"
    async with wires(answering(COMPLETION), to(pool, "my-x", Outcome.FALLBACK_POOL), {pool: "pool-key"}) as s:
        await post(s, path, ask, **own)
        request = s.provider.requests[-1]
        assert line(s) == sent
        got = json.loads(request.body)
        assert got["model"] == model
        assert "own" not in str(request.headers)
        assert request.header("openai-organization") is None
        assert request.header(header) in ("pool-key", "Bearer pool-key")
        if pool == "mis":
            assert "stream_options" not in got
            assert got["max_tokens"] == 9
            assert "max_completion_tokens" not in got


@pytest.mark.parametrize(
    ("path", "pool"),
    [
        ("/google/v1beta/models/gemini-x:generateContent", "gpt"),
        ("/anthropic/v1/messages", "gem"),
        ("/openai/v1/responses", "mis"),
        ("/openai/v1/chat/completions", "vertex"),  # whose endpoint names no project
    ],
)
async def test_a_pool_that_cannot_take_the_api_says_so(path: str, pool: str):
    async with wires(answering(GENERATED), to(pool, "", Outcome.FALLBACK_POOL), {pool: "k"}) as s:
        status, _, body = await post(s, path, {**CHAT, "model": "claude-x", "input": "x", "max_tokens": 1})
        assert status == 400
        assert f"pool '{pool}' cannot take this API" in body.decode()
        assert not s.provider.requests


@pytest.mark.parametrize(("pool", "asked"), [("vllm", True), ("groq", False), ("mis", False), ("az", True)])
async def test_usage_is_asked_for_only_where_the_table_permits_it(pool: str, asked: bool):
    paths = {"mis": "/mistral/v1/chat/completions", "az": "/azure/openai/v1/chat/completions"}
    model = {"mis": "mistral-x", "az": "my-gpt"}.get(pool, "m")
    async with wires(answering(b"data: [DONE]\n\n", "text/event-stream"), to(pool)) as s:
        ask = {**CHAT, "model": model, "stream": True}
        await post(s, paths.get(pool, f"/pools/{pool}/v1/chat/completions"), ask)
        assert ("stream_options" in json.loads(s.provider.requests[-1].body)) is asked


async def test_an_agent_passes_through_unless_it_names_a_model():
    async with wires(answering(COMPLETION), to("mis")) as s:
        _, headers, _ = await post(s, "/mistral/v1/agents/completions", {**CHAT, "agent_id": "a"})
        assert headers["x-sluicegate-outcome"] == "unmanaged"
        assert line(s) == "/v1/agents/completions"
        assert json.loads(s.provider.requests[-1].body)["agent_id"] == "a"
        _, headers, _ = await post(s, "/mistral/v1/agents/completions", {**CHAT, "agent_id": "a", "model": "mistral-x"})
        assert headers["x-sluicegate-outcome"] == "granted"
        assert len(s.broker.acquires) == 1


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/pools/gem/v1beta/models/gpt-4o:generateContent", CONTENTS, ("error", "status", "NOT_FOUND")),
        ("/pools/gpt/chat/completions", {**CHAT, "model": "o3"}, ("error", "type", "invalid_request_error")),
        ("/pools/az/openai/deployments/o3/chat/completions", CHAT, ("error", "code", "404")),
        ("/pools/mis/v1/chat/completions", {**CHAT, "model": "o3"}, ("object", "", "error")),
        ("/pools/claude/v1/messages", {**CHAT, "model": "o3"}, ("error", "type", "not_found_error")),
    ],
)
async def test_a_pool_takes_only_the_models_that_it_holds(path: str, body: object, error: tuple[str, str, str]):
    async with wires(answering(COMPLETION), granted) as s:
        status, headers, answer = await post(s, path, body)
        assert status == 404
        assert headers["x-sluicegate-reason"] == "unknown-model"
        text = answer.decode()
        pool = path.split("/")[2]
        assert f"pool '{pool}' does not hold model" in text
        assert s.sidecar.broker.routes.pools[pool].models[0] in text
        outer, inner, value = error
        found = json.loads(answer)[outer]
        assert (found[inner] if inner else found) == value
        assert not s.broker.acquires


REFUSALS = [
    ("/google/v1beta/models/gemini-x:generateContent", "google"),
    ("/google/v1beta/models/gemini-x:streamGenerateContent?alt=sse", "google"),
    ("/google/v1beta/models/gemini-x:streamGenerateContent", "array"),
    ("/mistral/v1/chat/completions", "mistral"),
    ("/azure/openai/deployments/my-gpt/chat/completions?api-version=1", "azure"),
]


@pytest.mark.parametrize(("path", "shape"), REFUSALS)
async def test_a_refusal_has_the_providers_shape_and_its_repeat_stays_here(path: str, shape: str):
    def policy(call: pb.CallRequest, attempt: int) -> pb.Reject:
        return rejected(call, Reason.PREDICTED_WAIT, 12.3)

    async with wires(answering(COMPLETION), policy) as s:
        ask = {**CHAT, **CONTENTS, "model": "mistral-x"}
        answers = [await post(s, path, ask) for _ in range(5)]  # as an SDK with retries of its own would
        assert all(status == 429 and headers["x-should-retry"] == "false" for status, headers, _ in answers)
        _, headers, answer = answers[-1]
        assert headers["x-sluicegate-reason"] == "repeat-refused"
        assert len(s.broker.acquires) == 1
        body = json.loads(answer)
        match shape:
            case "google" | "array":
                error = body["error"] if shape == "google" else body[0]["error"]
                assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
                retry = [d for d in error["details"] if d["@type"].endswith("google.rpc.RetryInfo")]
                assert retry[0]["retryDelay"] == "13s"
            case "mistral":
                assert (body["object"], body["type"], body["raw_status_code"]) == ("error", "rate_limited", 429)
            case _:
                assert body["error"]["code"] == "429"


async def test_a_call_that_failed_for_good_has_the_providers_words_and_so_has_its_repeat():
    refused = {"error": {"code": 429, "message": "Resource exhausted. Please try again later."}}

    async def script(exchange: Exchange) -> None:
        await exchange.reply(json.dumps(refused).encode(), "429 Too Many Requests")

    def policy(call: pb.CallRequest, attempt: int) -> pb.Grant | pb.Reject:
        return granted(call, 1, "gem") if attempt == 1 else rejected(call, Reason.ATTEMPTS_EXHAUSTED, 20.0)

    async with wires(script, policy) as s:
        path = "/google/v1beta/models/gemini-x:generateContent"
        for reason in ("attempts-exhausted", "repeat-refused"):
            status, headers, body = await post(s, path, CONTENTS)
            assert (status, json.loads(body)) == (429, refused), "the provider's own words"
            assert headers["retry-after"] == "20"
            assert headers["x-sluicegate-reason"] == reason
        assert (len(s.provider.requests), len(s.broker.acquires)) == (1, 1)


async def test_the_azure_sdk_and_its_exceptions():
    async with wires(answering(COMPLETION), to("az")) as s:
        client: Any = openai.AsyncAzureOpenAI(
            azure_endpoint=s.url + "/azure", api_key="k", api_version="2024-10-21", max_retries=3
        )
        whole = await client.chat.completions.create(model="my-gpt", **CHAT)
        assert whole.choices[0].message.content == "hi"
        assert line(s) == "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
        named: Any = openai.AsyncAzureOpenAI(azure_endpoint=s.url + "/pools/az", api_key="k", api_version="1")
        await named.chat.completions.create(model="my-gpt", **CHAT)
        assert s.broker.acquires[-1].pool == "az"
        s.broker.policy = lambda call, n: rejected(call, Reason.PREDICTED_WAIT, 9.0)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="my-gpt", **CHAT)
        assert len(s.broker.acquires) == 3, "no SDK repeated it"
        await client.close()
        await named.close()


async def test_the_prompt_of_a_deployment_is_counted_by_its_model():
    async with wires(answering(COMPLETION), to("az")) as s:
        await post(s, "/azure/openai/deployments/my-gpt/chat/completions", CHAT)
        await post(s, "/azure/openai/v1/chat/completions", {**CHAT, "model": "my-gpt"})
        by_path, by_body = (call.estimate.input_tokens for call in s.broker.acquires)
        assert by_path == by_body > 0


async def test_azure_without_a_pool_is_nowhere():
    async with stand(answering(COMPLETION), lambda call, n: granted(call, n, "")) as s:
        status, _, body = await post(s, "/azure/openai/deployments/d/chat/completions", CHAT)
        assert status == 404
        assert "no pool says where AzureOpenAI is" in body.decode()
        status, _, body = await post(s, "/azure/openai/files", {})
        assert status == 404
