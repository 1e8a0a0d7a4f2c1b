# SPDX-License-Identifier: Apache-2.0
"""The other providers on the emulator: what each charges and when, what it tells of its limits, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from sluicegate.testing import tokens
from sluicegate.testing.emulator import Emulator, EmulatorConfig, serve
from sluicegate.testing.faults import Fault
from sluicegate.testing.headers import format_headers
from sluicegate.testing.limits import Admitted, Demand, LimitsConfig, ProviderLimits, Rejected
from sluicegate.testing.meters import MeterConfig, MeterFigures

TEXT = "What is a sluice gate?"
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 100}
GENERATE: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]}
KEYS = {"authorization": "Bearer k", "x-goog-api-key": "k", "api-key": "k"}
PATHS = {
    "GoogleGemini": "/gemini/v1beta/models/m:generateContent",
    "GoogleVertex": "/vertex/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
    "Mistral": "/mistral/v1/chat/completions",
    "AzureOpenAI": "/azure/openai/deployments/m/chat/completions?api-version=2024-10-21",
    "Groq": "/groq/openai/v1/chat/completions",
}


@asynccontextmanager
async def provider(wire: str, *limits: dict[str, Any], **more: Any) -> AsyncIterator[Emulator]:
    pool = {"name": "p", "wire": wire, "models": ["m"], "limits": list(limits), "outputTokens": 40, **more}
    async with await serve(EmulatorConfig.from_data({"pools": [{"pace": {"latency": 0}, **pool}]})) as emulator:
        yield emulator


async def post(
    emulator: Emulator, path: str, body: object, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(emulator.url + path, json=body, headers=KEYS if headers is None else headers) as answer,
    ):
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.text()


async def ask(emulator: Emulator, wire: str, **more: Any) -> tuple[int, dict[str, str], Any]:
    body = GENERATE if wire.startswith("Google") else CHAT
    status, headers, text = await post(emulator, PATHS[wire], {**body, **more})
    return status, headers, json.loads(text)


def limit(resource: str, amount: float, window: str = "1m", **more: Any) -> dict[str, Any]:
    return {"resource": resource, "limit": amount, "window": window, **more}


def remaining(emulator: Emulator, meter: int = 0) -> float:
    return emulator.pool("p").accounts.limits.figures(emulator.now())[meter].remaining


def limits_named(headers: dict[str, str]) -> set[str]:
    return {name for name in headers if "ratelimit" in name}


# ---- Gemini and Vertex


async def test_gemini_charges_input_only_and_says_nothing_in_headers() -> None:
    async with provider("GoogleGemini", limit("InputTokens", 1000), limit("Requests", 10)) as emulator:
        status, headers, answer = await ask(emulator, "GoogleGemini")
        prompt = 1 + tokens.google_tokens(TEXT)
        assert (status, limits_named(headers), headers["x-gemini-service-tier"]) == (200, set(), "standard")
        used = answer["usageMetadata"]
        assert (used["promptTokenCount"], used["candidatesTokenCount"], used["totalTokenCount"]) == (
            prompt,
            40,
            prompt + 40,
        )
        assert (remaining(emulator), remaining(emulator, 1)) == (1000 - prompt, 9)


@pytest.mark.parametrize(
    ("meter", "quota"),
    [
        (limit("Requests", 1), "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        (limit("Requests", 1, "24h"), "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        (limit("InputTokens", 10), "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    ],
)
async def test_gemini_refuses_by_quota_id_with_a_truncated_delay(meter: dict[str, Any], quota: str) -> None:
    async with provider("GoogleGemini", meter) as emulator:
        assert (await ask(emulator, "GoogleGemini"))[0] == 200
        before = remaining(emulator)
        status, headers, answer = await ask(emulator, "GoogleGemini")
        error = answer["error"]
        assert (status, error["status"], limits_named(headers)) == (429, "RESOURCE_EXHAUSTED", set())
        _, failure, retry = error["details"]
        assert failure["violations"][0]["quotaId"] == quota
        told = float(error["message"].rsplit("retry in ", 1)[1].removesuffix("s."))
        assert retry["retryDelay"] == f"{int(told)}s"
        assert told < 60, "also of a day's quota"
        assert remaining(emulator) == before, "a 429 costs nothing"


async def test_gemini_in_other_shapes() -> None:
    models = "/gemini/v1beta/models/"
    async with provider("GoogleGemini", limit("Requests", 5), limit("InputTokens", 10_000)) as emulator:
        status, headers, text = await post(emulator, f"{models}m:streamGenerateContent", GENERATE)
        pieces = json.loads(text)
        assert (status, headers["content-type"]) == (200, "application/json; charset=UTF-8")
        counts = [piece["usageMetadata"]["candidatesTokenCount"] for piece in pieces]
        assert counts == [16, 32, 40, 40], "cumulative"
        assert pieces[-1]["candidates"][0]["finishReason"] == "STOP"
        _, headers, text = await post(emulator, f"{models}m:streamGenerateContent?alt=sse", GENERATE)
        assert headers["content-type"] == "text/event-stream"
        assert len([line for line in text.splitlines() if line.startswith("data: ")]) == 4
        one: dict[str, Any] = {"content": {"parts": [{"text": TEXT}]}, "outputDimensionality": 8}
        _, _, text = await post(emulator, f"{models}m:embedContent", one)
        assert len(json.loads(text)["embedding"]["values"]) == 8
        _, _, text = await post(emulator, f"{models}m:batchEmbedContents", {"requests": [one, one]})
        assert len(json.loads(text)["embeddings"]) == 2
        _, _, text = await post(emulator, f"{models}m:countTokens", GENERATE)
        assert json.loads(text)["totalTokens"] == 1 + tokens.google_tokens(TEXT)
        assert remaining(emulator) == 1, "counting is free"
        assert (await post(emulator, f"{models}m:generateContent", {}))[0] == 400
        assert remaining(emulator) == 0, "a bad request is not"
        status, _, text = await post(emulator, f"{models}m:streamGenerateContent", GENERATE)
        assert (status, json.loads(text)[0]["error"]["code"]) == (429, 429), "an array where the stream is one"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.AUTH, 400, "INVALID_ARGUMENT"),
        (Fault.BILLING, 429, "RESOURCE_EXHAUSTED"),
        (Fault.OVERLOAD, 503, "UNAVAILABLE"),
        (Fault.SERVER_ERROR, 500, "INTERNAL"),
    ],
)
async def test_gemini_errors(fault: Fault, status: int, code: str) -> None:
    async with provider("GoogleGemini", limit("Requests", 5)) as emulator:
        emulator.pool("p").plan.push([fault])
        seen, _, answer = await ask(emulator, "GoogleGemini")
        assert (seen, answer["error"]["status"]) == (status, code)
        if fault is Fault.AUTH:
            assert answer["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        emulator.pool("p").plan.push([Fault.STREAM_OVERLOAD])
        seen, _, text = await post(emulator, PATHS["GoogleGemini"].replace(":g", ":streamG"), GENERATE)
        assert seen == 200
        assert json.loads(text)[-1]["error"]["status"] == "UNAVAILABLE"


async def test_vertex_counts_at_the_end_of_a_stream_and_shares_its_capacity() -> None:
    path = PATHS["GoogleVertex"].replace(":g", ":streamG") + "?alt=sse"
    async with provider("GoogleVertex", limit("Requests", 2)) as emulator:
        _, _, text = await post(emulator, path, GENERATE)
        used = [json.loads(line[6:])["usageMetadata"] for line in text.splitlines() if line.startswith("data: ")]
        assert used[:-1] == [{"trafficType": "ON_DEMAND"}] * 3
        assert (used[-1]["candidatesTokenCount"], used[-1]["trafficType"]) == (40, "ON_DEMAND")
        emulator.pool("p").plan.push([Fault.OVERLOAD])
        status, _, answer = await ask(emulator, "GoogleVertex")
        assert (status, "details" in answer["error"]) == (429, False)
        assert "Please try again later" in answer["error"]["message"]
        status, _, answer = await ask(emulator, "GoogleVertex")
        assert (status, "per_minute_per_project_per_base_model" in answer["error"]["message"]) == (429, True)


# ---- Mistral


async def test_mistral_charges_real_usage_at_the_end_and_names_windows() -> None:
    minute, ten = limit("Tokens", 1000), limit("Requests", 5, "10s")
    async with provider("Mistral", minute, ten) as emulator:
        status, headers, answer = await ask(emulator, "Mistral")
        cost = answer["usage"]["total_tokens"]
        assert (status, answer["usage"]["completion_tokens"]) == (200, 40)
        assert headers["x-ratelimit-tokens-query-cost"] == str(cost)
        assert headers["x-ratelimit-remaining-tokens-minute"] == str(1000 - cost), "after the call, not at admission"
        assert headers["x-ratelimit-limit-req-10-second"] == "5"
        assert not any("reset" in name for name in headers)
        _, headers, text = await post(emulator, PATHS["Mistral"], {**CHAT, "stream": True})
        assert limits_named(headers) == set()
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert [chunk["usage"]["total_tokens"] for chunk in chunks if "usage" in chunk] == [cost]
        assert remaining(emulator) == 1000 - 2 * cost


async def test_mistral_lets_a_call_in_while_a_token_is_left() -> None:
    async with provider("Mistral", limit("Tokens", 10)) as emulator:
        assert (await ask(emulator, "Mistral"))[0] == 200
        assert remaining(emulator) < -10
        status, headers, answer = await ask(emulator, "Mistral")
        assert (status, answer["code"], answer["type"], limits_named(headers)) == (429, "1300", "rate_limited", set())
        assert "retry-after" not in headers


def test_mistral_charges_at_the_end_in_virtual_time() -> None:
    limits = ProviderLimits(LimitsConfig("mistral", (MeterConfig("tokens", 100, algorithm="fixed_window"),)), start=0)
    assert isinstance(limits.admit(1, Demand(input_tokens=900)), Admitted)
    assert limits.produce(2, 150) == (150,)
    refused = limits.admit(3, Demand(input_tokens=1))
    assert isinstance(refused, Rejected)
    assert (refused.wait, refused.charged) == (57, (0,))
    assert isinstance(limits.admit(60, Demand(input_tokens=1)), Admitted)


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        (Fault.AUTH, 401, "Invalid API Key"),
        (Fault.BILLING, 402, "spending limit"),
        (Fault.OVERLOAD, 429, "3505"),
        (Fault.SERVER_ERROR, 500, "internal_server_error"),
    ],
)
async def test_mistral_errors(fault: Fault, status: int, word: str) -> None:
    async with provider("Mistral", limit("Tokens", 1000)) as emulator:
        emulator.pool("p").plan.push([fault])
        seen, _, answer = await ask(emulator, "Mistral")
        assert (seen, word in json.dumps(answer)) == (status, True)
        assert remaining(emulator) == 1000
        assert (await ask(emulator, "Mistral", stream_options={"include_usage": True}))[0] == 422


# ---- Azure


@pytest.mark.parametrize(("key", "reset"), [(False, "500"), (True, "0")])
async def test_azure_resets_are_milliseconds_or_with_a_key_truncated_seconds(key: bool, reset: str) -> None:
    meters = limit("Requests", 120), limit("Tokens", 120_000)
    async with provider("AzureOpenAI", *meters, rateLimitKey=key) as emulator:
        _, headers, _ = await ask(emulator, "AzureOpenAI")
        assert headers["x-ratelimit-reset-requests"] == reset
        assert headers.get("x-ratelimit-key") == ("m" if key else None)
        assert headers["x-ratelimit-renewalperiod-tokens"] == "60"
        charge = 120_000 - int(headers["x-ratelimit-remaining-tokens"])
        assert charge == (len(TEXT) + 3) // 4 + 1 + 100, "the cap counts"


async def test_azure_refusals() -> None:
    async with provider("AzureOpenAI", limit("Tokens", 150), limit("Requests", 100)) as emulator:
        assert (await ask(emulator, "AzureOpenAI"))[0] == 200
        status, headers, answer = await ask(emulator, "AzureOpenAI")
        assert (status, headers["x-ratelimit-type"]) == (429, "Tokens")
        assert "exceeded token rate limit" in answer["error"]["message"]
        assert f"retry after {headers['retry-after']} seconds" in answer["error"]["message"]
        assert remaining(emulator, 1) == pytest.approx(98, abs=0.5), "a 429 costs a request"
        missing = PATHS["AzureOpenAI"].replace("/m/", "/none/")
        assert json.loads((await post(emulator, missing, CHAT))[2])["error"]["code"] == "DeploymentNotFound"
        assert (await post(emulator, PATHS["AzureOpenAI"].partition("?")[0], CHAT))[0] == 404
        assert (await post(emulator, PATHS["AzureOpenAI"], CHAT, {}))[0] == 401


async def test_azure_streams_begin_with_a_chunk_without_choices() -> None:
    async with provider("AzureOpenAI", limit("Requests", 10)) as emulator:
        _, _, text = await post(emulator, PATHS["AzureOpenAI"], {**CHAT, "stream": True})
        first = json.loads(text.splitlines()[0][6:])
        assert (first["choices"], "prompt_filter_results" in first) == ([], True)
        emulator.pool("p").plan.push([Fault.OVERLOAD])
        status, _, answer = await ask(emulator, "AzureOpenAI")
        assert (status, "high demand" in answer["error"]["message"]) == (429, True)


# ---- Groq


async def test_groq_shows_requests_of_the_day_and_tokens_of_the_minute() -> None:
    meters = (
        limit("Requests", 30),
        limit("Requests", 14_400, "24h"),
        limit("Tokens", 30_000),
        limit("Tokens", 1e6, "24h"),
    )
    async with provider("Groq", *meters) as emulator:
        _, headers, answer = await ask(emulator, "Groq")
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-reset-requests"]) == ("14400", "6s")
        assert headers["x-ratelimit-limit-tokens"] == "30000"
        assert headers["x-ratelimit-reset-tokens"].endswith("ms")
        assert "retry-after" not in headers
        assert "x_groq" in answer
        _, _, text = await post(emulator, PATHS["Groq"], {**CHAT, "stream": True})
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert chunks[-1]["x_groq"]["usage"]["completion_tokens"] == 40
        assert all("usage" not in chunk for chunk in chunks)


async def test_groq_refuses_what_never_fits_with_a_413() -> None:
    async with provider("Groq", limit("Tokens", 150)) as emulator:
        status, _, answer = await ask(emulator, "Groq", max_tokens=1000)
        assert (status, answer["error"]["message"][:17], "param" in answer["error"]) == (
            413,
            "Request too large",
            False,
        )
        assert (await ask(emulator, "Groq"))[0] == 200
        status, headers, answer = await ask(emulator, "Groq")
        assert (status, "(TPM): Limit 150, Used" in answer["error"]["message"]) == (429, True)
        assert int(headers["retry-after"]) > 0


def test_groq_durations_have_the_digits_of_recorded_ones() -> None:
    figure = MeterFigures("tokens", 30_000, 60.0, 29_913.6, 0.1727999)
    headers = format_headers("groq", [figure], 0.0)
    assert headers["x-ratelimit-reset-tokens"] == "172.7999ms"


@pytest.mark.parametrize("wire", sorted(PATHS))
async def test_an_unknown_model_a_missing_key_and_a_body_that_is_no_json(wire: str) -> None:
    async with provider(wire, limit("Requests", 10)) as emulator:
        path = PATHS[wire]
        other = path.replace("models/m:", "models/x:").replace("/m/", "/x/")
        status, _, _ = await post(emulator, other, {**CHAT, **GENERATE, "model": "x"})
        assert status in (400, 404)
        assert (await post(emulator, path, CHAT, {}))[0] in (400, 401)
        assert (await post(emulator, path, "text"))[0] in (400, 422)
        assert [record.outcome for record in emulator.calls.records] == ["invalid", "auth", "invalid"]
        assert remaining(emulator) == 10
