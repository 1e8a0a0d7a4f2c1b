# SPDX-License-Identifier: Apache-2.0
"""What goes wrong for good comes out as the exception that each SDK's users expect, and starts no storm of repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from mistralai.client import Mistral
from mistralai.client.errors import ResponseValidationError, SDKError
from mistralai.client.types import UNSET
from mistralai.client.utils import BackoffStrategy, RetryConfig

from sluicegate.testing.faults import Fault
from tests.sdk.stand import ASK, Stand, stand

REPEATS = 2  # how often each SDK is told, or used, to repeat
ONE = {"Requests": 1}
ONCE = {"gpt": ONE, "azure": ONE, "claude": ONE, "gemini": ONE, "mistral": ONE}


@dataclass
class Sdk:
    """One SDK with its retries on. `ask` and `stream` make the same call; `status` reads its exception."""

    pool: str
    ask: Callable[[], Awaitable[object]]
    stream: Callable[[], Awaitable[object]]

    def status(self, error: BaseException) -> int:
        return int(getattr(error, "status_code", 0) or getattr(error, "code", 0))


async def _drained(stream: Awaitable[Any]) -> list[Any]:
    return [item async for item in await stream]


@asynccontextmanager
async def sdks(s: Stand, *, patient: bool = True) -> AsyncIterator[dict[str, Sdk]]:
    """All SDKs. `patient`: mistralai repeats (which it does not unless told to), after as long as the answer says."""
    async with AsyncExitStack() as stack:
        gpt = await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a"))
        azure = await stack.enter_async_context(
            openai.AsyncAzureOpenAI(azure_endpoint=f"{s.url}/azure", api_key="az", api_version="2024-10-21")
        )
        claude = await stack.enter_async_context(anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a"))
        google = await stack.enter_async_context(
            genai.Client(
                api_key="g",
                http_options={
                    "base_url": f"{s.url}/google",
                    "retry_options": {"attempts": REPEATS + 1, "initial_delay": 0.05, "max_delay": 0.1},
                },
            ).aio
        )
        mistral = await stack.enter_async_context(
            Mistral(
                api_key="m",
                server_url=f"{s.url}/mistral",
                retry_config=RetryConfig("backoff", BackoffStrategy(20, 50, 1.1, 300), True) if patient else UNSET,
            )
        )

        def chat(client: openai.AsyncOpenAI, model: str, **more: Any) -> Awaitable[Any]:
            return client.chat.completions.create(model=model, messages=ASK, **more)

        async def claude_stream() -> object:
            async with client_stream() as stream:
                return await stream.get_final_message()

        def client_stream() -> Any:
            return claude.messages.stream(model="claude-sonnet-4-6", max_tokens=50, messages=ASK)

        flash, small = "gemini-2.5-flash", "mistral-small-latest"
        models = google.models
        yield {
            "openai": Sdk("gpt", lambda: chat(gpt, "gpt-4o"), lambda: _drained(chat(gpt, "gpt-4o", stream=True))),
            "azure": Sdk("azure", lambda: chat(azure, "my-gpt"), lambda: _drained(chat(azure, "my-gpt", stream=True))),
            "anthropic": Sdk(
                "claude",
                lambda: claude.messages.create(model="claude-sonnet-4-6", max_tokens=50, messages=ASK),
                claude_stream,
            ),
            "google": Sdk(
                "gemini",
                lambda: models.generate_content(model=flash, contents="hello"),
                lambda: _drained(models.generate_content_stream(model=flash, contents="hello")),
            ),
            "mistral": Sdk(
                "mistral",
                lambda: mistral.chat.complete_async(model=small, messages=ASK),
                lambda: _drained(mistral.chat.stream_async(model=small, messages=ASK)),
            ),
        }


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_refusal_is_the_sdks_own_rate_limit_error_and_its_repeats_end_in_the_sidecar(streaming: bool) -> None:
    """Each SDK repeats as it is used to; and then its user does. The broker hears of one call only."""
    expected = {
        "openai": openai.RateLimitError,
        "azure": openai.RateLimitError,
        "anthropic": anthropic.RateLimitError,
        "google": google_errors.ClientError,
        "mistral": SDKError,
    }
    async with stand(limits=ONCE) as s, sdks(s, patient=False) as all_of_them:
        for name, sdk in all_of_them.items():
            call = sdk.stream if streaming else sdk.ask
            await call()
            decided = await s.decisions()
            for repeat in range(3):
                with pytest.raises(expected[name]) as caught:
                    await call()
                assert sdk.status(caught.value) == 429, name
                assert await s.decisions() == decided + 1, f"{name}: repeat {repeat} reached the broker"
            assert [pool for pool, _ in s.sent].count(sdk.pool) == 1, f"{name}: the provider saw a refused call"


async def test_a_refusal_says_what_it_is() -> None:
    async with stand(limits=ONCE) as s, sdks(s, patient=False) as known:
        for sdk in known.values():
            await sdk.ask()
        with pytest.raises(openai.RateLimitError) as gpt:
            await known["openai"].ask()
        headers = gpt.value.response.headers
        assert headers["x-sluicegate-outcome"] == "rejected"
        assert headers["x-should-retry"] == "false"
        assert 5 < float(headers["retry-after"]) <= 61
        with pytest.raises(google_errors.ClientError) as google:
            await known["google"].ask()
        assert google.value.status == "RESOURCE_EXHAUSTED"
        kinds = [detail["@type"] for detail in google.value.details["error"]["details"]]
        assert any(kind.endswith("RetryInfo") for kind in kinds)
        with pytest.raises(SDKError) as mistral:
            await known["mistral"].ask()
        assert mistral.value.raw_response.headers["x-sluicegate-outcome"] == "rejected"
        assert "message" in mistral.value.body


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            Fault.AUTH,
            {
                "openai": (openai.AuthenticationError, 401),
                "azure": (openai.AuthenticationError, 401),
                "anthropic": (anthropic.AuthenticationError, 401),
                "google": (google_errors.ClientError, 400),
                "mistral": (SDKError, 401),
            },
        ),
        (
            Fault.BILLING,
            {
                "openai": (openai.RateLimitError, 429),
                "azure": (openai.RateLimitError, 429),
                "anthropic": (anthropic.BadRequestError, 400),
                "google": (google_errors.ClientError, 429),
                "mistral": (SDKError, 402),
            },
        ),
        (
            Fault.FORBIDDEN,
            {
                "openai": (openai.PermissionDeniedError, 403),
                "azure": (openai.PermissionDeniedError, 403),
                "anthropic": (anthropic.PermissionDeniedError, 403),
                "google": (google_errors.ClientError, 403),
                "mistral": (SDKError, 403),
            },
        ),
        (
            Fault.CONTEXT_LENGTH,
            {
                "openai": (openai.BadRequestError, 400),
                "azure": (openai.BadRequestError, 400),
                "anthropic": (anthropic.BadRequestError, 400),
                "google": (google_errors.ClientError, 400),
                "mistral": (SDKError, 400),
            },
        ),
        (
            Fault.CONTENT_POLICY,
            {
                "openai": (openai.BadRequestError, 400),
                "azure": (openai.BadRequestError, 400),
                "anthropic": (anthropic.BadRequestError, 400),
            },
        ),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_what_no_repeat_mends_is_sent_once(
    streaming: bool, fault: Fault, expected: dict[str, tuple[type, int]]
) -> None:
    async with stand() as s, sdks(s) as all_of_them:
        for name, (kind, status) in expected.items():
            sdk = all_of_them[name]
            s.fail_next(sdk.pool, fault)
            with pytest.raises(kind) as caught:
                await (sdk.stream if streaming else sdk.ask)()
            assert type(caught.value) is kind, name
            assert sdk.status(caught.value) == status, name
            assert s.sent[-1] == (sdk.pool, status), name
            assert [pool for pool, _ in s.sent].count(sdk.pool) == 1, f"{name}: {s.sent}"


async def _responses(gpt: openai.AsyncOpenAI) -> None:
    await gpt.responses.create(model="gpt-4o", input="hello")


async def _responses_streamed(gpt: openai.AsyncOpenAI) -> None:
    async for _ in await gpt.responses.create(model="gpt-4o", input="hello", stream=True):
        pass


async def _embeddings(gpt: openai.AsyncOpenAI) -> None:
    await gpt.embeddings.create(model="text-embedding-3-small", input=["hello", "world"])


@pytest.mark.parametrize("call", [_responses, _responses_streamed, _embeddings])
@pytest.mark.parametrize(
    ("fault", "kind", "status", "code"),
    [
        (Fault.AUTH, openai.AuthenticationError, 401, "invalid_api_key"),
        (Fault.FORBIDDEN, openai.PermissionDeniedError, 403, None),
        (Fault.BILLING, openai.RateLimitError, 429, "insufficient_quota"),
        (Fault.CONTEXT_LENGTH, openai.BadRequestError, 400, "context_length_exceeded"),
        (Fault.CONTENT_POLICY, openai.BadRequestError, 400, "content_policy_violation"),
    ],
)
async def test_responses_and_embeddings_fail_as_chat_does(
    call: Callable[[openai.AsyncOpenAI], Awaitable[None]],
    fault: Fault,
    kind: type[openai.APIStatusError],
    status: int,
    code: str | None,
) -> None:
    async with stand() as s, openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a") as gpt:
        s.fail_next("gpt", fault)
        with pytest.raises(kind) as caught:
            await call(gpt)
        assert type(caught.value) is kind
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert s.sent == [("gpt", status)]


async def test_a_bad_request_is_the_providers_own() -> None:
    nothing: Any = []
    async with stand() as s, sdks(s), AsyncExitStack() as stack:
        gpt = await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{s.url}/openai/v1", api_key="sk-a"))
        with pytest.raises(openai.BadRequestError, match="messages"):
            await gpt.chat.completions.create(model="gpt-4o", messages=nothing)
        claude = await stack.enter_async_context(anthropic.AsyncAnthropic(base_url=f"{s.url}/anthropic", api_key="a"))
        with pytest.raises(anthropic.BadRequestError, match="messages"):
            await claude.messages.create(model="claude-sonnet-4-6", max_tokens=5, messages=nothing)
        mistral = await stack.enter_async_context(Mistral(api_key="m", server_url=f"{s.url}/mistral"))
        with pytest.raises(SDKError, match="Invalid model"):
            await mistral.chat.complete_async(model="no-such", messages=ASK)
        google = await stack.enter_async_context(
            genai.Client(api_key="g", http_options={"base_url": f"{s.url}/google"}).aio
        )
        with pytest.raises(google_errors.ClientError, match="NOT_FOUND"):
            await google.models.generate_content(model="no-such", contents="hello")
        assert len(s.sent) == 4


LASTING = {
    Fault.OVERLOAD: {
        "openai": (openai.InternalServerError, 503),
        "azure": (openai.RateLimitError, 429),
        "anthropic": (anthropic.OverloadedError, 529),
        "google": (google_errors.ServerError, 503),
        "mistral": (SDKError, 429),
    },
    Fault.SERVER_ERROR: {
        "openai": (openai.InternalServerError, 500),
        "azure": (openai.InternalServerError, 500),
        "anthropic": (anthropic.InternalServerError, 500),
        "google": (google_errors.ServerError, 500),
        "mistral": (SDKError, 500),
    },
}


@pytest.mark.parametrize("fault", LASTING)
async def test_what_stays_wrong_is_sent_a_few_times_whatever_the_sdk_repeats(fault: Fault) -> None:
    """OpenAI's and Anthropic's SDKs obey `x-should-retry`; the others were told to repeat, and do so that often."""
    async with stand(policy={"queue": {"maxWait": "1s"}}) as s, sdks(s) as all_of_them:
        for name, sdk in all_of_them.items():
            kind, status = LASTING[fault][name]
            s.emulator.pool(sdk.pool).plan.set_rates({fault: 1.0})
            with pytest.raises(kind) as caught:
                await sdk.ask()
            assert type(caught.value) is kind, name
            assert sdk.status(caught.value) == status, name
            most = 2 if name in ("openai", "azure", "anthropic") else 2 * (REPEATS + 1)
            assert 1 <= [pool for pool, _ in s.sent].count(sdk.pool) <= most, f"{name}: {s.sent}"


async def test_an_error_inside_a_stream_that_has_begun_reaches_the_sdk() -> None:
    """Without a status, so as what each SDK makes of such an event; mistralai finds that it is no chunk."""
    expected = {
        "openai": openai.APIError,
        "azure": openai.APIError,
        "anthropic": anthropic.APIStatusError,
        "google": google_errors.ServerError,
        "mistral": ResponseValidationError,
    }
    slow = {"pace": {"latency": 0, "tokensPerSecond": 200}}
    async with stand(gpt=slow, azure=slow, claude=slow, gemini=slow, mistral=slow) as s, sdks(s) as all_of_them:
        for number, (name, sdk) in enumerate(all_of_them.items(), 1):
            s.fail_next(sdk.pool, Fault.STREAM_OVERLOAD)
            with pytest.raises(expected[name]) as caught:
                await sdk.stream()
            assert type(caught.value) is expected[name], name
            await s.until_sent(number)
            assert s.emulator.calls.records[-1].outcome == "overloaded"
