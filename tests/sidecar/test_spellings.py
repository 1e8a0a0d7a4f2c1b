# SPDX-License-Identifier: Apache-2.0
"""One meaning, many spellings: what gateways, SDKs and years have made of the same errors and headers.

Rows are as in test_facts.py; bodies and figures are made up.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from sluicegate.cli.classify import answer, answers
from sluicegate.sidecar.core.classify import classify
from sluicegate.sidecar.core.headers import of_provider, read_meters, retry_after
from sluicegate.sidecar.core.salvage import parsed, quoted
from sluicegate.wire.words import ErrorClass, Provider, Resource

DATE = {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}
TPM = "on tokens per min (TPM): Limit 900, Used 850, Requested 80. Please try again in 2s."
UNPAID = {"error": {"message": "No money.", "type": "insufficient_quota", "code": None}}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
ITPM = {"type": "error", "error": {"type": "rate_limit_error", "message": "over 900 input tokens per minute"}}
TOKENS = {"class": "quota_tokens", "limit_dimension": "tokens"}
INPUT = {"class": "quota_tokens", "limit_dimension": "input_tokens"}
REQUESTS = {"class": "quota_requests", "limit_dimension": "requests"}
DAILY = {"class": "quota_daily", "limit_dimension": "day"}
UNDETERMINED = {"limit_dimension": None, "class_any_of": ["quota_requests", "quota_tokens"]}


def google(quota: str, value: str = "9") -> dict[str, Any]:
    entry = {"quotaMetric": "x/y", "quotaId": quota, "quotaValue": value}
    details = [{"@type": "google.rpc.QuotaFailure", "violations": [entry]}, {"retryDelay": "25s"}]
    return {"error": {"code": 429, "message": "Over.", "status": "RESOURCE_EXHAUSTED", "details": details}}


DAY = google("GenerateRequestsPerDayPerProjectPerModel")
DETAILS: Any = DAY["error"]["details"]

# fmt: off
ERRORS: list[tuple[str, int | None, dict[str, Any], Any, dict[str, Any]]] = [
    # what quotes a body
    ("openai", 429, {}, f"Error code: 429 - {UNPAID!r}", {"class": "billing"}),
    ("openai", 429, {}, json.dumps(UNPAID), {"class": "billing"}),
    ("openai", 429, {}, json.dumps(json.dumps(UNPAID)), {"class": "billing"}),
    ("openai", 429, {}, "\ufeff" + json.dumps(UNPAID), {"class": "billing"}),
    ("openai", 429, {}, repr(json.dumps(UNPAID).encode()), {"class": "billing"}),
    ("deepseek", 402, {}, "\n: keep-alive\n\n" + json.dumps(UNPAID), {"class": "billing"}),
    ("anthropic", 429, {}, f"litellm.RateLimitError: AnthropicException - {json.dumps(ITPM)}", INPUT),
    ("litellm", 429, {}, {"error": {"message": f"litellm.RateLimitError: X - {json.dumps(ITPM)}", "code": "429"}}, INPUT),
    ("gemini", 429, {}, f"429 RESOURCE_EXHAUSTED. {DAY!r}", DAILY),
    ("gemini", 429, {}, [DAY], DAILY),
    ("gemini", 429, {}, {"error": {"message": json.dumps([DAY]), "code": 429}}, {**DAILY, "retry_after_s": None}),
    ("openai", 400, {}, {"error": {"message": f"bad value {json.dumps(UNPAID)}", "code": "x"}}, {"class": "invalid"}),
    ("gemini", 429, {}, "[GoogleGenerativeAI Error]: Error fetching from https://x: [429 Too Many Requests] Over. " + json.dumps(DETAILS), {**DAILY, "hint_s": 25}),
    ("gemini", None, {}, "[GoogleGenerativeAI Error]: [429 Too Many Requests] Over. " + json.dumps(DETAILS)[:-30], DAILY),
    ("gemini", 429, {}, "[GoogleGenerativeAI Error]: [429 Too Many Requests] Over. " + json.dumps(DETAILS) + " at line 9", DAILY),
    # cut off
    ("openai", 429, {}, '{"error": {"message": "No mon', {"class": "quota_requests", **UNDETERMINED}),
    ("openai", 429, {}, '{"error": {"type": "insufficient_quota", "message": "No mon', {"class": "billing"}),
    ("openai", 429, {}, '{"error": {"type": "insufficient_quota", "par', {"class": "billing"}),
    ("openai", 429, {}, '{"error": {"type": "insufficient_quota", "message": "a\\u00', {"class": "billing"}),
    ("gemini", 429, {}, json.dumps(DAY)[:-25], DAILY),
    # no body, or somebody else's
    ("openai", 429, {}, "", {"class": "quota_requests", **UNDETERMINED}),
    ("openai", 429, {}, [], {"class": "quota_requests", **UNDETERMINED}),
    ("openai", 429, {}, "<html><h1>429 Too Many Requests</h1></html>", {"class": "quota_requests", **UNDETERMINED}),
    ("openai", 502, {}, "<html>502</html>", {"class": "server_error"}),
    ("openai", 429, {}, {"error": "Slow", "message": "retry after 9 seconds"}, {"class": "quota_requests", "retry_after_s": 9}),
    ("openai", 429, {}, {"errors": [{"code": 1, "message": "retry after 9 seconds"}]}, {"retry_after_s": 9}),
    # words
    ("openai", 429, {}, {"error": {"message": "x", "code": "billing_not_active"}}, {"class": "billing"}),
    ("xai", 403, {}, {"code": "x", "error": "The team doesn\u2019t have any credits yet"}, {"class": "billing"}),
    ("fireworks", 412, {}, {"error": {"message": "suspended: monthly spending limit"}}, {"class": "billing"}),
    ("vertex", 403, {}, {"error": {"code": 403, "details": [{"reason": "BILLING_DISABLED"}]}}, {"class": "billing"}),
    ("anthropic", 400, {}, {"error": {"type": "invalid_request_error", "message": "you have reached your workspace API usage limits. You will regain access on 2026-03-01 at 00:00 UTC"}}, {"class": "billing", "reset_at": "2026-03-01T00:00:00Z"}),
    ("anthropic", 400, {}, {"error": {"type": "invalid_request_error", "message": "9 + 9 exceed context limit: 10"}}, {"class": "context_length"}),
    ("anthropic", 400, {}, {"error": {"type": "invalid_request_error", "message": "blocked by content filtering policy"}}, {"class": "content_policy"}),
    ("anthropic", 429, {}, {"error": {"type": "rate_limit_error", "message": "Number of request tokens has exceeded your daily rate limit"}}, DAILY),
    ("anthropic", 429, {}, {"error": {"type": "rate_limit_error", "message": "Number of requests has exceeded your limit"}}, REQUESTS),
    ("vertex", 400, {}, {"error": {"code": 400, "message": "the input token count is 9 but 8 is the most"}}, {"class": "context_length"}),
    ("vertex", 429, {}, {"error": {"code": 429, "message": "Too many requests. Exceeded what was bought."}}, UNDETERMINED),
    ("gemini", 429, {}, {"error": {"code": 429, "details": [{"reason": "MODEL_CAPACITY_EXHAUSTED"}, {"retryDelay": "2s"}]}}, {"class": "overloaded", "retry_after_s": 2}),
    ("gemini", 429, {}, google("GenerateRequestsPerMinutePerProject", "0"), {"class": "quota_requests", "never_fits": True, "retry_after_s": None}),
    ("gemini", 429, {}, {"error": {"code": 429, "details": [{"reason": "RATE_LIMIT_EXCEEDED", "metadata": {"quota_limit": "RequestsPerDay"}}]}}, DAILY),
    ("gemini", 429, {}, {"error": {"code": 429, "details": [{"retryDelay": {"seconds": 7, "nanos": 500000000}}]}}, {"retry_after_s": 7.5}),
    ("azure", 429, {}, {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 27 seconds."}, {**UNDETERMINED, "retry_after_s": 27}),
    ("azure", 429, {"policy-id": "DeploymentRatelimit-Token"}, None, TOKENS),
    ("azure", 429, {}, {"error": {"code": "NoCapacity", "message": "none"}}, {"class": "overloaded"}),
    ("xai", 429, {}, {"error": "The model is at capacity"}, {"class": "overloaded"}),
    ("together", 429, {}, {"error": {"message": "the maximum is 9.0 queries per minute"}}, REQUESTS),
    ("cerebras", 429, {}, {"message": "x", "code": "token_quota_exceeded"}, TOKENS),
    ("cerebras", 429, {}, {"message": "x", "code": "queue_exceeded"}, {"class": "overloaded"}),
    ("perplexity", 429, {}, {"error": {"message": "x", "type": "request_rate_limit_exceeded"}}, REQUESTS),
    ("mistral", None, {}, {"message": "x", "code": 3505}, {"class": "overloaded"}),
    ("bedrock", 400, {}, {"__type": "com.amazon#ThrottlingException", "message": "Too many tokens"}, TOKENS),
    ("bedrock", None, {}, "An error occurred (AccessDeniedException) when calling the Converse operation: no", {"class": "auth"}),
    ("bedrock", 424, {"x-amzn-errortype": "ModelErrorException"}, {"message": "x"}, {"class": "server_error"}),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException"}, {"message": "Input is too long for the model"}, {"class": "context_length"}),
    ("huggingface", 429, {}, {"error": "busy", "error_type": "overloaded"}, {"class": "overloaded"}),
    ("huggingface", 422, {}, {"error": "`inputs` must have less than 9 tokens"}, {"class": "context_length"}),
    ("replicate", 429, {}, {"detail": "throttled, resets in ~28s", "status": 429}, {"retry_after_s": 28}),
    ("openai", 400, {}, {"error": {"code": "invalid_prompt", "message": "flagged as violating our usage policy"}}, {"class": "content_policy"}),
    ("litellm", 400, {}, {"error": {"message": "Spent 2 of 1.", "type": "budget_exceeded", "code": "400"}}, {"class": "billing"}),
    ("groq", 429, {}, {"error": {"message": "blocked", "code": "blocked_api_access"}}, {"class": "billing"}),
    ("openrouter", 403, {}, {"error": {"code": 403, "message": "Key limit exceeded (total limit)."}}, {"class": "billing"}),
    ("anthropic", 429, {"retry-after": "9"}, {"error": {"type": "rate_limit_error", "message": "over your maximum usage increase rate for input tokens per minute"}}, {"class": "overloaded", "retry_after_s": 9}),
    ("cohere", 429, {}, {"message": "You are past the per minute request limit."}, REQUESTS),
    ("bedrock", None, {}, {"throttlingException": {"message": "Your request rate is too high."}}, REQUESTS),
    # headers inside the body
    ("openrouter", 429, DATE, {"error": {"code": 429, "message": "free-models-per-min", "metadata": {"headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767607230000"}}}}, {**REQUESTS, "remaining_requests": 0, "reset_requests_s": 30, "safe_wait_s": 30}),
    ("openrouter", 429, {}, {"error": {"code": 429, "message": "free-models-per-day", "metadata": {"headers": {"X-RateLimit-Remaining": 0, "X-RateLimit-Reset": 1767607230000}}}}, {**DAILY, "remaining_requests": 0, "reset_at": "2026-01-05T10:00:30Z"}),
    ("openrouter", 429, DATE, {"error": {"code": 429, "message": "free-models-per-min", "metadata": {"headers": {"X-RateLimit-Reset": "9" * 30}}}}, {**REQUESTS, "reset_at": None}),
    # the window where only the figures tell
    ("openai", 429, {"x-ratelimit-limit-requests": "200", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "23h59m0s"}, None, DAILY),
    ("openai", 429, {"x-ratelimit-limit-requests": "200", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}, None, REQUESTS),
]
# fmt: on


@pytest.mark.parametrize("row", ERRORS, ids=[f"{i}-{row[0]}-{row[1]}" for i, row in enumerate(ERRORS)])
def test_an_error_is_known_however_it_is_spelled(row: tuple[str, int | None, dict[str, Any], Any, dict[str, Any]]):
    provider, status, headers, body, wanted = row
    got = answer({"provider": provider, "status": status, "headers": headers, "body": body})
    assert {key: got.get(key) for key in wanted} == wanted, got


# fmt: off
SUCCESSES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("openai", {"X-RateLimit-Remaining-Requests": 5, "x-RateLimit-Limit-Requests": ["9"]}, {"remaining_requests": 5}),
    ("openai", {"x-ratelimit-remaining-tokens": "-7", "x-ratelimit-limit-tokens": "NaN"}, {"remaining_tokens": None}),
    ("azure", {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m2s"}, {"reset_requests_s": 62}),
    ("mistral", {"ratelimitbysize-remaining": "5", "ratelimitbysize-reset": "42", "ratelimitbysize-query-cost": "3"}, {"remaining_tokens": 5, "reset_tokens_s": 42, "query_cost": 3}),
    ("huggingface", {"ratelimit": '"a";r=50;t=30, "b,c";r=3;t=3600', "ratelimit-policy": '"a";q=60;w=60, "b,c";q=9;w=86400'}, {"remaining_requests": 3, "reset_requests_s": 3600, "window_requests": "day"}),
    ("huggingface", {"ratelimit": "limit=9, remaining=5, reset=30"}, {"remaining_requests": 5, "reset_requests_s": 30}),
    ("openrouter", {**DATE, "x-ratelimit-remaining": "5", "x-ratelimit-reset": "1767607230000"}, {"remaining_requests": 5, "reset_requests_s": 30}),
    ("litellm", {"ratelimit-limit": "9", "ratelimit-remaining": "5", "ratelimit-reset": "30"}, {"remaining_requests": 5, "reset_requests_s": 30}),
    ("litellm", {"x-ratelimit-remaining-tokens-minute": "5"}, {"remaining_tokens": 5}),
    ("cerebras", {"x-ratelimit-remaining-tokens-minute": "5", "x-ratelimit-reset-tokens-minute": "11.382867097854614"}, {"reset_tokens_s": 11.382867097854614}),
    ("anthropic", {**DATE, "anthropic-ratelimit-requests-remaining": "5", "anthropic-ratelimit-requests-reset": "2026-01-05T12:00:01.25+02:00"}, {"reset_requests_s": 1.25}),
]
# fmt: on


@pytest.mark.parametrize(("provider", "headers", "wanted"), SUCCESSES)
def test_headers_are_read_however_they_are_spelled(provider: str, headers: dict[str, Any], wanted: dict[str, Any]):
    got = answer({"provider": provider, "status": 200, "headers": headers, "body": {}})
    assert {key: got.get(key) for key in wanted} == wanted, got
    pairs = [[name.upper(), value] for name, value in headers.items()]
    assert answer({"provider": provider, "status": "200", "headers": pairs, "body": {}}) == got


EVENTS: list[tuple[str, Any, str]] = [
    ("anthropic", json.dumps(OVERLOADED), "overloaded"),
    ("anthropic", {"event": "error", "data": json.dumps(OVERLOADED, indent=1)}, "overloaded"),
    ("anthropic", f"event: error\r\ndata: {json.dumps(OVERLOADED)}\r\n\r\n", "overloaded"),
    ("openai", "event: error\ndata: fell over\n\n", "server_error"),
    ("openai", 'data: {"choices": []}\n\ndata: {"error":\ndata: {"code": "slow_down"}}\n\n', "overloaded"),
    ("openai", '{"choices": []}\n{"error": {"code": "slow_down"}}\n', "overloaded"),
    ("bedrock", {"event": "throttlingException", "data": '{"message": "Too many tokens"}'}, "quota_tokens"),
    ("bedrock", [{"messageStart": {}}, {"validationException": {"message": "x"}}], "invalid"),
    ("cohere", {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "x"}}, "server_error"),
    ("openrouter", ": OPENROUTER PROCESSING\n\n", "ok"),
    ("openai", "data: [DONE]\n\n", "ok"),
]


@pytest.mark.parametrize(("provider", "event", "wanted"), EVENTS)
def test_an_error_inside_a_stream_is_found_in_any_form(provider: str, event: Any, wanted: str):
    case = {"provider": provider, "status": 200, "headers": {}, "body": None}
    assert answer({**case, "stream_event": event})["class"] == wanted
    if isinstance(event, str):
        assert answer({**case, "body": event})["class"] == wanted


def test_a_gateways_headers_give_way_to_those_that_it_passes_on():
    passed = {"X-RateLimit-Remaining-Tokens": "8000", "LLM_Provider-retry-after": "3", **DATE}
    passed["llm_provider-anthropic-ratelimit-input-tokens-remaining"] = "0"
    passed["llm_provider-anthropic-ratelimit-output-tokens-remaining"] = "8000"
    for provider in (Provider.ANTHROPIC, Provider.OPENAI_COMPATIBLE):
        meters = read_meters(provider, passed).meters
        assert {meter.resource for meter in meters} == {Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS}
        verdict = classify(provider, 429, passed, None)
        assert verdict.quota is not None
        assert (verdict.quota.resource, verdict.quota.retry_after) == (Resource.INPUT_TOKENS, 3.0)
    assert of_provider(DATE) is DATE


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "5"}, 5.0),
        ({"retry-after": "1m2.5s"}, 62.5),
        ({"retry-after": "Mon, 05 Jan 2026 10:00:30 GMT", **DATE}, 30.0),
        ({"retry-after": "Mon, 05 Jan 2026 10:00:30 GMT"}, None),
        ({"retry-after": "Mon, 05 Jan 2026 09:00:00 GMT", **DATE}, None),
        ({"retry-after": "2026-01-05T10:00:30Z", **DATE}, 30.0),
        ({"retry-after": "1767607230", **DATE}, 30.0),
        ({"retry-after": "7", "retry-after-ms": "7440"}, 7.44),
        ({"retry-after": "7", "retry-after-ms": "0"}, 7.0),
        ({"x-ms-retry-after-ms": "500"}, 0.5),
        *(({"retry-after": bad}, None) for bad in ("", "0", "-5", "NaN", "inf", "1e9", "99999999999999999", "soon")),
    ],
)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None):
    assert retry_after(headers) == seconds


def test_what_is_no_json_is_none_and_costs_little():
    for text in ("", "{", "[" * 100_000, '{"a": ' * 100_000, "Error " * 100_000 + "{", "a" * 1_000_000 + "Error"):
        assert parsed(text) in (None, {}, [[]]) or isinstance(parsed(text), dict | list)
        assert quoted(text) in (None, {})
    assert parsed('{"a": [1, 2, {"b": "c\\') == {"a": [1, 2, {"b": "c"}]}
    assert parsed('{"a": 1, "b": tru') == {"a": 1}


def test_a_text_that_is_no_json_tells_the_class_as_well():
    verdict = classify(Provider.OPENAI, 429, {}, "Rate limit reached " + TPM)
    assert verdict.error_class is ErrorClass.QUOTA
    assert verdict.quota is not None
    assert (verdict.quota.resource, verdict.quota.retry_after) == (Resource.TOKENS, 2.0)


def test_no_line_ends_the_run():
    deep = b'{"provider": "openai", "status": 429, "headers": {}, "body": ' + b"[" * 900 + b"]" * 900 + b"}"
    lines = [
        b'{"provider": ["deep"], "status": 1}',
        b'{"provider": "\\ud800", "status": 1}',
        b'{"provider": "gemini", "status": 429, "body": {"error": {"details": [{"violations": [{"quotaId": "\\ud800"}]}]}}}',
        b"\xff\xfe",
        b'{"provider": "openai", "status": NaN}',
        b'{"provider": "openai", "status": ' + b"9" * 5_000 + b"}",
        b'{"provider": "openai", "headers": [["a"]]}',
        deep,
        b'{"provider": "claude", "status": 529.0}',
    ]
    out = list(answers(io.BytesIO(b"\n".join(lines))))
    for one in out:
        json.dumps(one, allow_nan=False).encode()
    assert [one.get("class", "error") for one in out] == [
        *("error", "error", "quota_requests", "error", "error", "error", "error", "quota_requests", "overloaded")
    ]
