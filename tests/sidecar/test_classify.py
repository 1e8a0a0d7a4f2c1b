# SPDX-License-Identifier: Apache-2.0
"""Errors as OpenAI and Anthropic really sent them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.classify import classify, classify_stream_error
from sluicegate.sidecar.core.dialects.api import DAY
from sluicegate.wire.words import ErrorClass, Provider, Resource

TPM = "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit {}, Used {}, Requested {}."


def openai(message: str, kind: str | None = None, code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str, code: str | None = None) -> dict[str, object]:
    error: dict[str, object] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error}


C = ErrorClass
OPEN, ANTH = Provider.OPENAI, Provider.ANTHROPIC


@pytest.mark.parametrize(
    ("provider", "status", "body", "expected"),
    [
        (OPEN, 200, None, C.NONE),
        (
            OPEN,
            429,
            openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
            C.BILLING,
        ),
        (OPEN, 429, openai("x", "insufficient_quota", "credit_balance_exhausted"), C.BILLING),
        (OPEN, 429, openai("x", "insufficient_quota"), C.BILLING),
        (OPEN, 402, None, C.BILLING),
        (OPEN, 401, openai("Incorrect API key", "invalid_request_error", "invalid_api_key"), C.AUTH),
        (OPEN, 404, openai("x", "invalid_request_error", "model_not_found"), C.INVALID),
        (OPEN, 400, openai("x", "invalid_request_error", "context_length_exceeded"), C.CONTEXT_LENGTH),
        (OPEN, 400, openai("x", "invalid_request_error", "content_policy_violation"), C.CONTENT_POLICY),
        (OPEN, 400, openai("x", "invalid_request_error", "unsupported_parameter"), C.INVALID),
        (OPEN, 503, openai("Slow Down", None, "slow_down"), C.OVERLOAD),
        (OPEN, 429, openai("x", "rate_limit_error", "slow_down"), C.OVERLOAD),
        (
            OPEN,
            500,
            openai("That model is overloaded with other requests.", "server_error"),
            C.OVERLOAD,
        ),
        (OPEN, 500, openai("The server had an error", "server_error"), C.SERVER),
        (OPEN, 502, None, C.SERVER),
        (ANTH, 529, anthropic("overloaded_error", "Overloaded"), C.OVERLOAD),
        (ANTH, 429, anthropic("rate_limit_error", "x", "ramp_limit_exceeded"), C.OVERLOAD),
        (ANTH, 429, anthropic("rate_limit_error", "x", "enforced_spend_limit_reached"), C.BILLING),
        (
            ANTH,
            429,
            anthropic("rate_limit_error", "Extra usage is required for long context requests."),
            C.BILLING,
        ),
        (ANTH, 400, anthropic("invalid_request_error", "Your credit balance is too low to access"), C.BILLING),
        (
            ANTH,
            400,
            anthropic("invalid_request_error", "You have reached your specified API usage limits"),
            C.BILLING,
        ),
        (
            ANTH,
            400,
            anthropic("invalid_request_error", "prompt is too long: 3333404 tokens > 200000"),
            C.CONTEXT_LENGTH,
        ),
        (ANTH, 401, anthropic("authentication_error", "invalid x-api-key"), C.AUTH),
        (ANTH, 403, anthropic("permission_error", "no"), C.AUTH),
        (ANTH, 504, anthropic("timeout_error", "x"), C.SERVER),
        (ANTH, 413, anthropic("request_too_large", "x"), C.INVALID),
        (ANTH, 429, anthropic("rate_limit_error", "would exceed your account's rate limit"), C.QUOTA),
        # A prompt that is echoed must not decide: only the parsed message of the error is read.
        (OPEN, 400, {"error": openai("bad")["error"], "prompt": "credit balance is too low"}, C.INVALID),
    ],
)
def test_classes(provider: Provider, status: int, body: object, expected: ErrorClass):
    assert classify(provider, status, {}, body).error_class is expected


@pytest.mark.parametrize(
    ("provider", "headers", "body", "resource", "wait", "never"),
    [
        (
            OPEN,
            {},
            openai(TPM.format(30000, 29937, 385) + " Please try again in 644ms.", "tokens"),
            Resource.TOKENS,
            0.644,
            False,
        ),
        (OPEN, {}, openai(TPM.format(10000, 8554, 3082), "tokens"), Resource.TOKENS, 9.816, False),
        (
            OPEN,
            {},
            openai("Request too large for gpt-4o: Limit 30000, Requested 31538.", "tokens"),
            Resource.TOKENS,
            None,
            True,
        ),
        (OPEN, {"retry-after": "2"}, openai("Rate limit reached", "requests"), Resource.REQUESTS, 2.0, False),
        (
            OPEN,
            {
                "x-ratelimit-limit-tokens": "100",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6s",
                "x-ratelimit-limit-requests": "10",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-requests": "6m",
            },
            openai("Rate limit reached", None, "rate_limit_exceeded"),
            Resource.TOKENS,
            6.0,
            False,
        ),
        (
            ANTH,
            {"retry-after": "16"},
            anthropic("rate_limit_error", "would exceed the rate limit of 80,000 input tokens per minute"),
            Resource.INPUT_TOKENS,
            16.0,
            False,
        ),
        (
            ANTH,
            {},
            anthropic("rate_limit_error", "of 8,000 output tokens per minute"),
            Resource.OUTPUT_TOKENS,
            None,
            False,
        ),
        (
            ANTH,
            {},
            anthropic("rate_limit_error", "Number of concurrent connections has exceeded"),
            Resource.REQUESTS,
            None,
            False,
        ),
        (OPEN, {}, None, None, None, False),
    ],
)
def test_what_a_quota_rejection_says(provider, headers, body, resource, wait, never):
    verdict = classify(provider, 429, headers, body)
    assert verdict.error_class is C.QUOTA
    assert verdict.quota is not None
    assert verdict.quota.resource is resource
    assert verdict.quota.retry_after == (pytest.approx(wait) if wait else None)
    assert verdict.quota.never_fits is never


def test_a_days_limit_is_told_from_a_minutes():
    text = (
        "Rate limit reached on requests per day (RPD): Limit 10000, Used 10000, Requested 1. Please try again in 8.64s."
    )
    quota = classify(OPEN, 429, {}, openai(text, "requests")).quota
    assert quota is not None
    assert (quota.resource, quota.window, quota.retry_after) == (Resource.REQUESTS, DAY, 8.64)


@pytest.mark.parametrize(
    ("provider", "body", "expected"),
    [
        (ANTH, anthropic("overloaded_error", "Overloaded"), C.OVERLOAD),
        (
            OPEN,
            {"type": "error", "error": {"type": "tokens", "code": "rate_limit_exceeded", "message": "x"}},
            C.QUOTA,
        ),
        (OPEN, {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}, C.QUOTA),
        (OPEN, {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, C.SERVER),
        (OPEN, {"type": "error", "code": "server_is_overloaded", "message": "x"}, C.OVERLOAD),
        (OPEN, {}, C.SERVER),
    ],
)
def test_errors_inside_a_stream(provider: Provider, body: object, expected: ErrorClass):
    assert classify_stream_error(provider, {}, body).error_class is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "type", "code", "message", "details", "response"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.integers(400, 599), json_values)
def test_any_body_is_survived(status: int, body: object):
    for provider in (OPEN, ANTH):
        assert classify(provider, status, {}, body).error_class is not C.NONE
        assert classify_stream_error(provider, {}, body).error_class is not C.NONE
