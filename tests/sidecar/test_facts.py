# SPDX-License-Identifier: Apache-2.0
"""What is known of each provider's limits and errors, as facts of our own: bodies and figures are made up.

A row is (provider, status, headers, body, what `sluicegate classify` must say of it).
"""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.cli.classify import answer, answers
from sluicegate.sidecar.core.dialects import ALL

Row = tuple[str, int | None, dict[str, str], Any, dict[str, Any]]
DATE = {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}


def error(message: str = "", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def google(message: str = "", *details: Any, status: str = "RESOURCE_EXHAUSTED", code: int = 429) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def failure(*quotas: str, metric: str = "x/generate_requests") -> dict[str, Any]:
    entries = [{"quotaMetric": metric, "quotaId": quota} for quota in quotas]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": entries}


def retry(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def openai_headers(requests: str, tokens: str, **more: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, text in (("requests", requests), ("tokens", tokens)):
        for part, value in zip(("limit", "remaining", "reset"), text.split(), strict=False):
            out[f"x-ratelimit-{part}-{name}"] = value
    return out | more


def anthropic_headers(**parts: tuple[int, int, str]) -> dict[str, str]:
    out = dict(DATE)
    for name, (limit, remaining, reset) in parts.items():
        start = f"anthropic-ratelimit-{name.replace('_', '-')}"
        out |= {f"{start}-limit": str(limit), f"{start}-remaining": str(remaining), f"{start}-reset": reset}
    return out


QUOTA_TOKENS = {"class": "quota_tokens", "limit_dimension": "tokens", "never_fits": False}
QUOTA_REQUESTS = {"class": "quota_requests", "limit_dimension": "requests"}
DAILY = {"class": "quota_daily", "limit_dimension": "day"}

# fmt: off
FACTS: list[Row] = [
    ("openai", 200, openai_headers("500 499 120ms", "30000 29900 200ms"), {}, {"class": "ok", "window_requests": "minute", "remaining_tokens": 29900, "reset_tokens_s": 0.2}),
    ("openai", 200, openai_headers("10000 9998 17.1s", "30000 30000 0s"), {}, {"window_requests": "day", "reset_requests_s": 17.1}),
    ("openai", 200, {"retry-after": "30"}, {}, {"class": "ok", "retry_after_s": None}),
    ("openai", 429, {}, error("Rate limit on tokens per min (TPM): Limit 1000, Used 900, Requested 200. Please try again in 6s.", type="tokens", code="rate_limit_exceeded"), {**QUOTA_TOKENS, "retry_after_s": 6, "retry_after_from": "message", "limit": 1000, "used": 900, "requested": 200}),
    ("openai", 429, {}, error("on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 1m2.5s.", type="requests", code="rate_limit_exceeded"), {**QUOTA_REQUESTS, "retry_after_s": 62.5}),
    ("openai", 429, {}, error("on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.", type="requests", code="rate_limit_exceeded"), {**DAILY, "retry_after_s": 432}),
    ("openai", 429, {}, error("Request too large for m on tokens per min (TPM): Limit 1000, Requested 1200.", type="tokens", code="rate_limit_exceeded"), {"class": "quota_tokens", "never_fits": True, "retry_after_s": None}),
    ("openai", 429, {}, error("You are out.", type="insufficient_quota", code="credit_balance_exhausted"), {"class": "billing", "limit_dimension": "none"}),
    ("openai", 429, {}, error("You exceeded your current quota, please check your plan and billing details.", type="insufficient_quota", code=None), {"class": "billing"}),
    ("openai", 429, {}, error("Go slower.", type="rate_limit_error", code="slow_down"), {"class": "overloaded"}),
    ("openai", 429, {"retry-after": "7", "retry-after-ms": "6500"}, error("x", type="tokens", code="rate_limit_exceeded"), {**QUOTA_TOKENS, "retry_after_s": 7, "retry_after_from": "header"}),
    ("openai", 429, openai_headers("500 499 1ms", "1000 0 40s"), None, {"class": "quota_tokens", "limit_dimension": "tokens", "safe_wait_s": 40}),
    ("openai", 503, {"retry-after": "2"}, error("Slow Down"), {"class": "overloaded", "retry_after_s": 2}),
    ("openai", 500, {}, error("oops", type="server_error"), {"class": "server_error"}),
    ("openai", 401, {}, error("no", type="invalid_request_error", code="invalid_api_key"), {"class": "auth"}),
    ("openai", 404, {}, error("no such model", type="invalid_request_error", code="model_not_found"), {"class": "invalid"}),
    ("openai", 400, {}, error("long", type="invalid_request_error", code="context_length_exceeded"), {"class": "context_length"}),
    ("openai", 400, {}, error("bad words", type="invalid_request_error", code="content_policy_violation"), {"class": "content_policy"}),
    ("openai", 400, {}, error("Invalid value: 'rate limit, insufficient balance, currently overloaded'.", code="invalid_value"), {"class": "invalid"}),
    ("openai", 400, {}, error("Your team's account has insufficient balance, see 'billing'.", code="x"), {"class": "billing"}),
    ("openai", 400, {}, 'gateway: {\\"error\\":{\\"message\\":\\"Your credit balance is too low\\"}}', {"class": "billing"}),
    ("openai", 404, {}, error("The model gpt-4-credit-balance is too low does not exist", code="model_not_found"), {"class": "invalid"}),
    ("mistral", 400, {}, {"message": "Invalid model: mistral-insufficient balance", "type": "invalid_model", "code": "1500"}, {"class": "invalid"}),
    ("gemini", 404, {}, google("models/gemini model is overloaded is not found", status="NOT_FOUND", code=404), {"class": "invalid"}),
    ("openai", 400, {}, error("Limit of choices: Limit 4, Requested 9", code="invalid_value"), {"class": "invalid"}),
    ("openrouter", 400, {}, error("Provider returned error", code=400, metadata={"raw": '{"error": {"message": "Your credit balance is too low, see \'plans\'"}}'}), {"class": "billing"}),
    ("openrouter", 400, {}, error("Provider returned error", code=400, metadata={"raw": '{"error" : {"message" : "Your credit balance is too low"}}'}), {"class": "billing"}),
    ("openrouter", 400, {}, error("Provider returned error", code=400, metadata={"raw": '"Your credit balance is too low"'}), {"class": "billing"}),
    ("mistral", 429, {}, {"object": "error", "message": {"detail": "The workspace spending limit is reached"}, "type": "x"}, {"class": "billing"}),
    ("vllm", 429, {}, {"detail": {"error": "Model is overloaded", "type": "overloaded"}}, {"class": "overloaded"}),
    ("openrouter", 400, {}, error("Provider returned error", code=400, metadata={"raw": '{"error": {"message": "Invalid value: \'insufficient balance\'"}}'}), {"class": "invalid"}),
    ("openai", 400, {}, {"error": {"message": "bad"}, "prompt": "429 rate limit exceeded Insufficient Balance"}, {"class": "invalid"}),
    ("azure", 200, openai_headers("60 59 1000", "6000 5990 100", **{"x-ratelimit-renewalperiod-requests": "60"}), {}, {"azure_reset_unit": "ms", "reset_requests_s": 1, "reset_tokens_s": 0.1}),
    ("azure", 200, openai_headers("60 50 10", "6000 5000 10", **{"x-ratelimit-key": "m"}), {}, {"azure_reset_unit": "s", "reset_requests_s": 10}),
    ("azure", 200, openai_headers("9000 8999 1", "6000 6000 0", **{"x-ratelimit-renewalperiod-requests": "10"}), {}, {"window_requests": "10s", "azure_reset_unit": "ms"}),
    ("azure", 200, openai_headers("-1 -1 0", "-1 -1 0"), {}, {"class": "ok", "remaining_requests": None, "remaining_tokens": None}),
    ("azure", 429, {"retry-after": "4"}, error("Your requests have exceeded the token rate limit for your tier. Please retry after 4 seconds.", code="429"), {**QUOTA_TOKENS, "retry_after_s": 4}),
    ("azure", 429, {}, error("Requests have exceeded call rate limit of your tier. Please retry after 3 seconds.", code="429"), {**QUOTA_REQUESTS, "retry_after_s": 3}),
    ("azure", 429, {}, error("have exceeded token rate limit. Please retry after 86400 seconds.", code="429"), {**QUOTA_TOKENS, "retry_after_s": 86400, "safe_wait_s": 60}),
    ("azure", 429, {"retry-after": "1", "retry-after-ms": "0", "x-ratelimit-type": "Tokens", **openai_headers("5 4 12", "500 0 0"), "x-ratelimit-renewalperiod-tokens": "60"}, None, {**QUOTA_TOKENS, "retry_after_s": 1, "safe_wait_s": 60}),
    ("azure", 429, {"x-rate-limit-reset-tokens": "18", "policy-id": "DeploymentRatelimit-Token"}, error("x", code="429"), {**QUOTA_TOKENS, "reset_tokens_s": 18, "safe_wait_s": 18}),
    ("azure", 429, {}, error("The system is experiencing high demand. Please retry after 9 seconds", code="429"), {"class": "overloaded", "retry_after_s": 9}),
    ("azure", 401, {}, error("Access denied due to invalid subscription key", code="401"), {"class": "auth"}),
    ("azure", 404, {}, error("gone", code="DeploymentNotFound"), {"class": "invalid"}),
    ("azure", 400, {}, error("filtered", code="content_filter"), {"class": "content_policy"}),
    ("anthropic", 200, anthropic_headers(requests=(50, 49, "2026-01-05T10:00:01Z"), input_tokens=(30000, 29000, "2026-01-05T10:00:02Z"), output_tokens=(8000, 8000, "2026-01-05T09:59:59Z"), tokens=(38000, 37000, "2026-01-05T09:59:59Z")), {}, {"remaining_input_tokens": 29000, "reset_input_tokens_s": 2, "reset_output_tokens_s": 0, "remaining_tokens": 37000}),
    ("anthropic", 200, {**DATE, "retry-after": "43"}, {}, {"class": "ok", "retry_after_s": None}),
    ("anthropic", 429, {**anthropic_headers(input_tokens=(30000, 0, "2026-01-05T10:01:01Z"), output_tokens=(8000, 8000, "2026-01-05T10:00:00Z")), "retry-after": "4"}, error("no", type="rate_limit_error"), {"class": "quota_tokens", "limit_dimension": "input_tokens", "retry_after_s": 4}),
    ("anthropic", 429, {}, error("would exceed the limit of 8,000 output tokens per minute", type="rate_limit_error"), {"class": "quota_tokens", "limit_dimension": "output_tokens"}),
    ("anthropic", 429, {}, error("over 50 requests per minute", type="rate_limit_error"), QUOTA_REQUESTS),
    ("anthropic", 429, {}, error("Number of concurrent connections is over your limit", type="rate_limit_error"), {"class": "quota_requests", "concurrency": True, "limit_dimension": None}),
    ("anthropic", 429, {"retry-after": "9"}, error("ramp", type="rate_limit_error", details={"error_code": "ramp_limit_exceeded"}), {"class": "overloaded", "retry_after_s": 9}),
    ("anthropic", 429, {}, error("spent", type="rate_limit_error", details={"error_code": "contract_spend_limit_reached"}), {"class": "billing"}),
    ("anthropic", 400, {}, error("You have reached your specified API usage limits. You will regain access on 2026-02-01 at 00:00 UTC.", type="invalid_request_error"), {"class": "billing", "reset_at": "2026-02-01T00:00:00Z"}),
    ("anthropic", 400, {}, error("Your credit balance is too low to go on", type="invalid_request_error"), {"class": "billing"}),
    ("anthropic", 402, {}, error("pay", type="billing_error"), {"class": "billing"}),
    ("anthropic", 529, {}, error("Overloaded", type="overloaded_error"), {"class": "overloaded"}),
    ("anthropic", 503, {}, error("key", type="cmek_unavailable"), {"class": "server_error"}),
    ("anthropic", 504, {}, error("late", type="timeout_error"), {"class": "server_error"}),
    ("anthropic", 413, {}, error("big", type="request_too_large"), {"class": "invalid"}),
    ("anthropic", 403, {}, error("no", type="permission_error"), {"class": "auth"}),
    ("anthropic", 400, {}, error("prompt is too long: 9 tokens > 8 maximum", type="invalid_request_error"), {"class": "context_length"}),
    ("gemini", 429, DATE, google("Please retry in 12.5s.", failure("GenerateRequestsPerMinutePerProjectPerModel"), retry("12s")), {**QUOTA_REQUESTS, "retry_after_s": 12.5, "retry_after_from": "message", "retry_info_s": 12}),
    ("gemini", 429, DATE, google("", failure("GenerateContentInputTokensPerModelPerMinute"), retry("12s")), {"class": "quota_tokens", "limit_dimension": "input_tokens", "retry_after_s": 12, "safe_wait_s": 13}),
    ("gemini", 429, DATE, google("", failure("GenerateRequestsPerMinutePerProjectPerModel", "GenerateRequestsPerDayPerProjectPerModel"), retry("25s")), {**DAILY, "retry_after_s": None, "hint_s": 25, "safe_wait_s": 79200}),
    ("gemini", 429, {}, google("Quota exceeded for metric: x, limit: 0, model: y", failure("GenerateRequestsPerDayPerProjectPerModel")), {**DAILY, "never_fits": True, "limit": 0}),
    ("gemini", 429, {}, google("Your prepayment credits are depleted."), {"class": "billing"}),
    ("gemini", 429, {}, google("Resource exhausted. Please try again later."), {"class": "overloaded"}),
    ("gemini", 429, {}, google("You exceeded your current quota, please check your plan and billing details."), {"class": "quota_requests", "limit_dimension": None}),
    ("gemini", 503, {}, google("The model is overloaded.", status="UNAVAILABLE", code=503), {"class": "overloaded"}),
    ("gemini", 400, {}, google("API key not valid.", {"reason": "API_KEY_INVALID"}, status="INVALID_ARGUMENT", code=400), {"class": "auth"}),
    ("gemini", 400, {}, google("The input token count (9) exceeds the maximum number of tokens allowed (8).", status="INVALID_ARGUMENT", code=400), {"class": "context_length"}),
    ("gemini", 404, {}, google("none", status="NOT_FOUND", code=404), {"class": "invalid"}),
    ("gemini", 500, {}, google("oops", status="INTERNAL", code=500), {"class": "server_error"}),
    ("gemini", 503, {}, error(json.dumps(google("experiencing high demand", status="UNAVAILABLE", code=503)), code=503), {"class": "overloaded"}),
    ("vertex", 429, {}, [google("Quota exceeded for x/online_prediction_requests_per_base_model with base model: y")], QUOTA_REQUESTS),
    ("vertex", 429, {}, google("Quota exceeded for x/online_prediction_output_tokens_per_minute_per_base_model"), {"class": "quota_tokens", "limit_dimension": "output_tokens"}),
    ("vertex", 429, {}, google("Quota exceeded for x/generate_content_requests_per_minute_per_project_per_base_model"), QUOTA_REQUESTS),
    ("vertex", 401, {}, google("no", {"reason": "CREDENTIALS_MISSING"}, status="UNAUTHENTICATED", code=401), {"class": "auth"}),
    ("vertex", 403, {}, google("no", status="PERMISSION_DENIED", code=403), {"class": "auth"}),
    ("mistral", 200, {"x-ratelimit-limit-req-10-second": "60", "x-ratelimit-remaining-req-10-second": "58", "x-ratelimit-limit-tokens-minute": "5000", "x-ratelimit-remaining-tokens-minute": "4000", "x-ratelimit-remaining-tokens-month": "99", "x-ratelimit-tokens-query-cost": "7"}, {}, {"window_requests": "10s", "remaining_requests": 58, "remaining_tokens": 4000, "remaining_tokens_month": 99, "query_cost": 7}),
    ("mistral", 429, {}, {"message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"}, {"class": "quota_requests", "limit_dimension": None}),
    ("mistral", 429, {}, {"message": "Requests rate limit exceeded"}, QUOTA_REQUESTS),
    ("mistral", 429, {}, {"message": "Service tier capacity exceeded for this model.", "type": "invalid_request_error"}, {"class": "overloaded"}),
    ("mistral", 503, {}, {"message": "x", "type": "service_tier_capacity_exceeded", "code": "3505"}, {"class": "overloaded"}),
    ("mistral", 429, {}, {"message": "The workspace spending limit is reached until the next billing cycle"}, {"class": "billing"}),
    ("mistral", 401, {}, {"detail": "Invalid API Key"}, {"class": "auth"}),
    ("mistral", 422, {}, {"detail": [{"msg": "field required"}]}, {"class": "invalid"}),
    ("groq", 200, openai_headers("1000 999 86.4s", "6000 5999 10ms"), {}, {"window_requests": "day", "remaining_tokens": 5999}),
    ("groq", 429, {"retry-after": "3"}, error("on tokens per day (TPD): Limit 9, Used 9, Requested 1. Please try again in 2h3m.", type="tokens", code="rate_limit_exceeded"), {**DAILY, "retry_after_s": 3}),
    ("groq", 413, {}, error("Request too large for model `m` on tokens per minute (TPM): Limit 9, Requested 12. Please try again in 50.5s.", type="tokens", code="rate_limit_exceeded"), {"class": "quota_tokens", "never_fits": True}),
    ("groq", 498, {}, error("flex", code="capacity_exceeded"), {"class": "overloaded"}),
    ("xai", 200, openai_headers("60 59", "1000 900"), {}, {"remaining_tokens": 900, "reset_tokens_s": None}),
    ("xai", 403, {}, {"code": "x", "error": "The team has used all available credits or reached its monthly spending limit"}, {"class": "billing"}),
    ("xai", 429, {}, {"error": "Too many tokens. Tokens per Minute (actual/limit): 90/60"}, {**QUOTA_TOKENS, "limit": 60, "used": 90}),
    ("xai", 400, {}, {"code": "invalid-argument", "error": "Incorrect API key provided."}, {"class": "auth"}),
    ("deepseek", 402, {}, error("Insufficient Balance", code="invalid_request_error"), {"class": "billing"}),
    ("deepseek", 400, {}, error("This model's maximum context length is 8 tokens", code="invalid_request_error"), {"class": "context_length"}),
    ("together", 200, {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1"}, {}, {"remaining_requests": 9, "window_requests": "second"}),
    ("fireworks", 200, {"x-ratelimit-limit-tokens-prompt": "100", "x-ratelimit-remaining-tokens-prompt": "90", "x-ratelimit-remaining-tokens-generated": "5"}, {}, {"remaining_tokens": 90, "remaining_output_tokens": 5}),
    ("openrouter", 402, {"retry-after": "2"}, error("wait", code=402, metadata={"limit_source": "openrouter_in_flight_budget"}), {"class": "overloaded", "retry_after_s": 2}),
    ("openrouter", 402, {}, error("Insufficient credits", code=402), {"class": "billing"}),
    ("openrouter", 429, DATE, error("Rate limit exceeded: free-models-per-day", code=429, metadata={"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767610800000"}}), {**DAILY, "remaining_requests": 0, "reset_requests_s": 3600}),
    ("openrouter", 200, {}, error("upstream fell over", code=502), {"class": "server_error"}),
    ("vllm", 400, {}, error("This model's maximum context length is 8 tokens", type="BadRequestError", code=400), {"class": "context_length"}),
    ("openai", 429, {}, error("Your access was terminated.", type="access_terminated"), {"class": "auth"}),
    ("anthropic", 400, {}, error("This organization has been disabled.", type="invalid_request_error"), {"class": "auth"}),
    ("gemini", 400, {}, google("API key expired.", status="INVALID_ARGUMENT", code=400), {"class": "auth"}),
    ("mistral", 429, {}, {"detail": "The monthly spend limit of the workspace is reached"}, {"class": "billing"}),
    ("xai", 403, {}, {"code": "x", "error": "Content violates usage guidelines. Failed check: y"}, {"class": "content_policy"}),
    ("cohere", 400, {}, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 9"}, {"class": "context_length"}),
    ("bedrock", 403, {"x-amzn-errortype": "AccessDeniedException"}, {"message": "denied due to INVALID_PAYMENT_INSTRUMENT: x"}, {"class": "billing"}),
    ("cohere", 429, {}, {"message": "limited to 40 API calls / minute"}, QUOTA_REQUESTS),
    ("cohere", 400, {}, {"error_type": "TOO_MANY_TOKENS", "message": "too many tokens"}, {"class": "context_length"}),
    ("bedrock", 429, {"x-amzn-errortype": "ThrottlingException:http://x/"}, {"message": "Too many requests, please wait"}, QUOTA_REQUESTS),
    ("bedrock", 429, {"x-amzn-errortype": "ModelNotReadyException"}, {"message": "not ready"}, {"class": "overloaded"}),
    ("bedrock", 403, {"x-amzn-errortype": "AccessDeniedException:x"}, {"message": "no"}, {"class": "auth"}),
    ("bedrock", 400, {"x-amzn-errortype": "ValidationException:x"}, {"message": "Input Tokens Exceeded: too many"}, {"class": "context_length"}),
    ("huggingface", 200, {"ratelimit": '"api";r=9;t=20', "ratelimit-policy": '"fixed window";"api";q=10;w=300'}, {}, {"remaining_requests": 9, "reset_requests_s": 20, "window_requests": "300s"}),
    ("cerebras", 200, {"x-ratelimit-limit-requests-day": "100", "x-ratelimit-remaining-requests-day": "99", "x-ratelimit-reset-requests-day": "60.5", "x-ratelimit-remaining-tokens-minute": "7"}, {}, {"remaining_requests": 99, "reset_requests_s": 60.5, "window_requests": "day", "remaining_tokens": 7}),
    ("perplexity", 400, {}, error("long", type="too_many_prompt_tokens", code=400), {"class": "context_length"}),
    ("openai-compatible", 200, {**DATE, "x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1767607230"}, {}, {"remaining_requests": 5, "reset_requests_s": 30}),
    ("groq", 429, {"retry-after": "2"}, error("on requests per minute (RPM): Limit 30, Used 30, Requested 1. Please try again in 1.5s.", type="requests", code="rate_limit_exceeded"), {**QUOTA_REQUESTS, "retry_after_s": 2, "limit": 30}),
    ("groq", 429, {}, error("on requests per day (RPD): Limit 30, Used 30, Requested 1. Please try again in 2m59.56s.", type="requests", code="rate_limit_exceeded"), {**DAILY, "retry_after_s": 179.56}),
    ("groq", 429, {}, error("on tokens per minute (TPM): Limit 60, Used 50, Requested ~90. Please try again in 40s.", type="tokens", code="rate_limit_exceeded"), {"class": "quota_tokens", "never_fits": True, "requested": 90, "retry_after_s": None}),
    ("groq", 403, {}, error("no", code="blocked_api_access"), {"class": "billing"}),
    ("xai", 429, {}, {"code": "x", "error": "Your team has either used all available credits or reached its monthly spending limit."}, {"class": "billing", "limit_dimension": "none"}),
    ("xai", 429, {}, "Your team has either used all available credits or reached its monthly spending limit.", {"class": "billing"}),
    ("xai", 429, {}, {"error": "Too many requests. Requests per Second (actual/limit): 9/8"}, {**QUOTA_REQUESTS, "limit": 8, "used": 9}),
    ("xai", 429, openai_headers("60 0", "1000 900"), {"error": "x"}, {**QUOTA_REQUESTS, "reset_requests_s": None}),
    ("deepseek", 401, {}, error("Authentication Fails", type="authentication_error", code="invalid_request_error"), {"class": "auth"}),
    ("deepseek", 429, {}, error("Too fast."), {"class": "quota_requests", "limit_dimension": None, "retry_after_s": None}),
    ("deepseek", 503, {}, error("Busy."), {"class": "overloaded"}),
    ("deepseek", 400, {}, "402 Insufficient Balance", {"class": "billing"}),
    ("together", 429, {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, error("Slower.", type="x"), {**QUOTA_REQUESTS, "safe_wait_s": 1}),
    ("together", 429, {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-tokenlimit-limit": "900", "x-tokenlimit-remaining": "0"}, error("Slower."), QUOTA_TOKENS),
    ("together", 503, {}, error("Too many of you.", type="service_unavailable"), {"class": "overloaded"}),
    ("together", 422, {}, error("`inputs` tokens + `max_new_tokens` must be <= 9", type="invalid_request_error"), {"class": "context_length"}),
    ("together", 402, {}, error("Pay."), {"class": "billing"}),
    ("fireworks", 503, {}, error("Service Overloaded", code="internal_server_error"), {"class": "overloaded"}),
    ("fireworks", 429, {}, error("Service Overloaded"), {"class": "overloaded"}),
    ("fireworks", 429, {"x-ratelimit-limit-tokens-generated": "9", "x-ratelimit-remaining-tokens-generated": "0"}, error("Slower."), {"class": "quota_tokens", "limit_dimension": "output_tokens"}),
    ("fireworks", 429, {"x-ratelimit-limit-tokens-cache-adjusted-prompt": "9", "x-ratelimit-remaining-tokens-cache-adjusted-prompt": "0"}, error("Slower."), {"class": "quota_tokens", "limit_dimension": "input_tokens"}),
    ("fireworks", 412, {}, error("Suspended: the monthly spending limit is reached"), {"class": "billing"}),
    ("fireworks", 200, {"x-ratelimit-over-limit": "yes"}, {}, {"class": "ok"}),
    ("openrouter", 429, {}, error("Provider returned error", code=429, metadata={"raw": "m is temporarily rate-limited upstream"}), {"class": "overloaded"}),
    ("openrouter", 429, DATE, error("Rate limit exceeded: free-models-per-min", code="429", metadata={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767607230000"}}), {**QUOTA_REQUESTS, "safe_wait_s": 30}),
    ("openrouter", 503, {"retry-after": "4"}, error("None of the providers is free", code=503), {"class": "overloaded", "retry_after_s": 4}),
    ("openrouter", 403, {}, error("The input requires moderation", code=403, metadata={"reasons": ["x"]}), {"class": "content_policy"}),
    ("openrouter", 401, {}, error("Missing Authentication header", code=401), {"class": "auth"}),
    ("vllm", 400, {}, {"object": "error", "message": "This model's maximum context length is 8 tokens", "type": "BadRequestError", "code": 400}, {"class": "context_length"}),
    ("vllm", 401, {}, {"error": "Unauthorized"}, {"class": "auth"}),
    ("vllm", 404, {}, error("The model `m` does not exist.", type="NotFoundError", code=404), {"class": "invalid"}),
    ("vllm", 429, {}, error("Slower."), {"class": "quota_requests", "limit_dimension": None}),
    ("vllm", 500, {}, {"object": "error", "message": "x", "type": "InternalServerError", "code": 500}, {"class": "server_error"}),
    ("vllm", 503, {}, None, {"class": "overloaded"}),
    ("replicate", 200, {"ratelimit-remaining": "599", "ratelimit-reset": "1"}, {}, {"class": "ok", "remaining_requests": 599, "reset_requests_s": 1}),
    ("replicate", 429, {"ratelimit-limit": "600", "ratelimit-remaining": "0", "ratelimit-reset": "12"}, {"detail": "Throttled."}, {**QUOTA_REQUESTS, "safe_wait_s": 12}),
    ("compatible", 429, {"llm_provider-x-ratelimit-limit-tokens": "100", "llm_provider-x-ratelimit-remaining-tokens": "0", "retry-after": "3"}, error("x", type="throttling_error", code="429"), {**QUOTA_TOKENS, "retry_after_s": 3}),
    ("compatible", 503, {}, "<html>Away</html>", {"class": "overloaded"}),
    ("OpenAICompatible", 429, {"retry-after": "Mon, 05 Jan 2026 10:00:30 GMT", **DATE}, None, {"class": "quota_requests", "retry_after_s": 30}),
]
# fmt: on

# fmt: off
STREAMS: list[tuple[str, Any, dict[str, Any]]] = [
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, {"class": "overloaded"}),
    ("openai", {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "on tokens per min (TPM): Limit 9, Used 9, Requested 3. Please try again in 2s."}}}, {**QUOTA_TOKENS, "retry_after_s": 2}),
    ("openai", {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, {"class": "server_error"}),
    ("openai", {"type": "error", "code": "server_is_overloaded", "message": "x", "sequence_number": 2}, {"class": "overloaded"}),
    ("openai", {"id": "x", "choices": [], "error": {"message": "x", "code": "context_length_exceeded"}}, {"class": "context_length"}),
    ("openai", {"type": "response.done", "response": {"status": "failed", "status_details": {"type": "failed", "error": {"type": "requests", "code": "rate_limit_exceeded", "message": "on requests per day (RPD): Limit 9, Used 9, Requested 1. Please try again in 1m26.4s."}}}}, {**DAILY, "retry_after_s": 86.4}),
    ("openai", {"type": "response.done", "response": {"status": "completed", "status_details": None}}, {"class": "ok"}),
    ("huggingface", {"error": "Input validation error: too few", "error_type": "validation"}, {"class": "invalid"}),
    ("openai", {"type": "response.created", "response": {"id": "x", "error": None}}, {"class": "ok"}),
    ("groq", {"error": {"message": "x", "type": "invalid_request_error", "status_code": 400}}, {"class": "invalid"}),
    ("openrouter", {"id": "x", "error": {"code": 502, "message": "x"}, "choices": []}, {"class": "server_error"}),
    ("openrouter", {"id": "x", "choices": [{"finish_reason": "error", "error": {"code": 429, "message": "Too fast"}}]}, {"class": "quota_requests"}),
    ("mistral", {"object": "error", "message": "Service tier capacity exceeded", "type": "invalid_request_error"}, {"class": "overloaded"}),
    ("bedrock", {"throttlingException": {"message": "Too many tokens"}}, {"class": "quota_tokens"}),
    ("bedrock", {"modelStreamErrorException": {"message": "x"}}, {"class": "server_error"}),
    ("gemini", [{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}], {"class": "overloaded"}),
]
# fmt: on


def said(provider: str, status: int | None, headers: dict[str, str], body: Any) -> dict[str, Any]:
    return answer({"provider": provider, "status": status, "headers": headers, "body": body})


def agrees(got: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(
        got.get(key)
        == (
            pytest.approx(value, abs=0.001) if isinstance(value, float | int) and not isinstance(value, bool) else value
        )
        for key, value in wanted.items()
    )


@pytest.mark.parametrize(
    "row", FACTS, ids=[f"{i}-{row[0]}-{row[1]}-{row[4].get('class', 'ok')}" for i, row in enumerate(FACTS)]
)
def test_a_response_means_what_is_known_of_its_provider(row: Row):
    provider, status, headers, body, wanted = row
    got = said(provider, status, headers, body)
    assert agrees(got, wanted), got
    assert got["reason"]


@pytest.mark.parametrize(("provider", "event", "wanted"), STREAMS)
def test_an_error_inside_a_stream_is_judged_like_any_other(provider: str, event: Any, wanted: dict[str, Any]):
    got = answer({"provider": provider, "status": 200, "headers": {}, "body": None, "stream_event": {"data": event}})
    assert agrees(got, wanted), got
    text = f"event: error\ndata: {json.dumps(event)}\n\n"
    assert agrees(answer({"provider": provider, "status": 200, "headers": {}, "body": text}), wanted)


def test_every_provider_and_every_class_has_a_fact():
    assert {row[0] for row in FACTS} >= set(ALL)
    classes = {row[4].get("class") for row in FACTS}
    assert classes >= {
        "ok",
        "quota_tokens",
        "quota_requests",
        "quota_daily",
        "overloaded",
        "billing",
        "auth",
        "invalid",
    }
    assert classes >= {"context_length", "content_policy", "server_error"}
    for provider in ("groq", "xai", "deepseek", "together", "fireworks", "openrouter", "vllm"):
        assert len({row[4]["class"] for row in FACTS if row[0] == provider and "class" in row[4]}) >= 4


Path = tuple[str | int, ...]
MINUTE_QUOTA = "GenerateRequestsPerMinutePerProjectPerModel"
TPM = "on tokens per min (TPM): Limit 1000, Used 900, Requested 200. Please try again in 6s."
# fmt: off
BASES: dict[str, dict[str, Any]] = {
    "openai": {"provider": "openai", "status": 429, "headers": {"retry-after": "7", "retry-after-ms": "6500"}, "body": error(TPM, type="tokens", code="rate_limit_exceeded")},
    "openai-unpaid": {"provider": "openai", "status": 429, "headers": {}, "body": error("You are out.", type="insufficient_quota", code="credit_balance_exhausted")},
    "openai-empty": {"provider": "openai", "status": 429, "headers": openai_headers("500 499 1ms", "1000 0 40s"), "body": None},
    "openai-oops": {"provider": "openai", "status": 500, "headers": {}, "body": error("oops", type="server_error")},
    "azure": {"provider": "azure", "status": 429, "headers": {"retry-after": "4", "x-ratelimit-type": "Tokens"}, "body": error("x", code="429")},
    "azure-text": {"provider": "azure", "status": 429, "headers": {}, "body": error("You have exceeded token rate limit. Please retry after 9 seconds.", code="429")},
    "azure-reset": {"provider": "azure", "status": 200, "headers": {"x-ratelimit-remaining-tokens": "90", "x-ratelimit-reset-tokens": "30"}, "body": {}},
    "azure-keyed": {"provider": "azure", "status": 200, "headers": {"x-ratelimit-key": "m", "x-ratelimit-remaining-tokens": "59970", "x-ratelimit-reset-tokens": "30"}, "body": {}},
    "azure-slice": {"provider": "azure", "status": 200, "headers": {**openai_headers("9000 8999 1", "6000 6000 0"), "x-ratelimit-renewalperiod-requests": "10"}, "body": {}},
    "azure-filter": {"provider": "azure", "status": 400, "headers": {}, "body": error("x", code="content_filter")},
    "anthropic": {"provider": "anthropic", "status": 429, "headers": {"retry-after": "9"}, "body": error("no", type="rate_limit_error", details={"error_code": "ramp_limit_exceeded"})},
    "anthropic-bad": {"provider": "anthropic", "status": 400, "headers": {}, "body": error("no", type="invalid_request_error")},
    "anthropic-empty": {"provider": "anthropic", "status": 429, "headers": anthropic_headers(input_tokens=(30000, 0, "2026-01-05T10:00:30Z"), output_tokens=(8000, 8000, "2026-01-05T10:00:00Z")), "body": error("no", type="rate_limit_error")},
    "gemini": {"provider": "gemini", "status": 429, "headers": DATE, "body": google("", failure(MINUTE_QUOTA), retry("12s"))},
    "gemini-metric": {"provider": "gemini", "status": 429, "headers": {}, "body": google("", failure("", metric="x/generate_content_free_tier_requests"))},
    "gemini-key": {"provider": "gemini", "status": 400, "headers": {}, "body": google("no", {"reason": "API_KEY_INVALID"}, status="INVALID_ARGUMENT", code=400)},
    "vertex": {"provider": "vertex", "status": 429, "headers": {}, "body": google("Quota exceeded for x/online_prediction_requests_per_base_model")},
    "mistral": {"provider": "mistral", "status": 429, "headers": {}, "body": {"message": "x", "type": "rate_limited", "code": "1300"}},
    "mistral-plain": {"provider": "mistral", "status": 429, "headers": {}, "body": {"message": "Requests rate limit exceeded"}},
    "groq": {"provider": "groq", "status": 429, "headers": {}, "body": error("on tokens per day (TPD): Limit 9, Used 9, Requested 1. Please try again in 2h3m.", type="tokens", code="rate_limit_exceeded")},
    "xai": {"provider": "xai", "status": 429, "headers": {}, "body": {"error": "Tokens per Minute (actual/limit): 90/60"}},
    "openrouter": {"provider": "openrouter", "status": 402, "headers": {}, "body": error("wait", code=402, metadata={"limit_source": "openrouter_in_flight_budget"})},
    "openrouter-free": {"provider": "openrouter", "status": 429, "headers": DATE, "body": error("Rate limit exceeded: free-models-per-day", code=429, metadata={"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767610800000"}})},
    "cohere": {"provider": "cohere", "status": 429, "headers": {}, "body": {"message": "limited to 40 API calls / minute"}},
    "cohere-bad": {"provider": "cohere", "status": 400, "headers": {}, "body": {"error_type": "TOO_MANY_TOKENS", "message": "x"}},
    "bedrock": {"provider": "bedrock", "status": 429, "headers": {"x-amzn-errortype": "ThrottlingException:http://x/"}, "body": {"message": "Too many tokens, please wait"}},
    "bedrock-denied": {"provider": "bedrock", "status": 400, "headers": {"x-amzn-errortype": "ExpiredTokenException"}, "body": {"message": "x"}},
}
CHANGES: list[tuple[str, Path, Any, dict[str, Any]]] = [
    ("openai", ("body", "error", "message"), "on requests per min (RPM): Limit 9, Used 9, Requested 1. Please try again in 1s.", QUOTA_REQUESTS),
    ("openai", ("body", "error", "message"), TPM.replace("200", "2000"), {"never_fits": True, "retry_after_s": None}),
    ("openai", ("body", "error", "message"), TPM.replace("per min (TPM)", "per day (TPD)"), DAILY),
    ("openai", ("body", "error", "code"), "insufficient_quota", {"class": "billing", "retry_after_s": None}),
    ("openai", ("body", "error", "code"), "slow_down", {"class": "overloaded", "retry_after_s": 7}),
    ("openai", ("headers", "retry-after"), "9", {"retry_after_s": 9}),
    ("openai", ("headers", "retry-after-ms"), "8000", {"retry_after_s": 8}),
    ("openai-empty", ("headers", "x-ratelimit-remaining-tokens"), "900", {"class": "quota_requests", "limit_dimension": None}),
    ("openai-empty", ("headers", "x-ratelimit-reset-tokens"), "41s", {"safe_wait_s": 41}),
    ("openai-empty", ("status",), 500, {"class": "server_error"}),
    ("openai-empty", ("status",), 200, {"class": "ok"}),
    ("openai-oops", ("status",), 529, {"class": "overloaded"}),
    ("openai-oops", ("status",), 404, {"class": "invalid"}),
    ("openai-oops", ("status",), 401, {"class": "auth"}),
    ("azure", ("headers", "x-ratelimit-type"), "Requests", QUOTA_REQUESTS),
    ("azure", ("headers", "retry-after"), "5", {"retry_after_s": 5}),
    ("azure", ("body", "error", "message"), "The system is experiencing high demand.", {"class": "overloaded"}),
    ("azure-text", ("body", "error", "message"), "You have exceeded call rate limit. Please retry after 8 seconds.", {**QUOTA_REQUESTS, "retry_after_s": 8}),
    ("azure-text", ("body", "error", "message"), "You have exceeded rate limit.", {"class": "quota_requests", "limit_dimension": None, "retry_after_s": None}),
    ("azure-reset", ("headers", "x-ratelimit-key"), "m", {"azure_reset_unit": "s", "reset_tokens_s": 30}),
    ("azure-keyed", ("headers", "x-ratelimit-limit-tokens"), "60000", {"azure_reset_unit": "ms", "reset_tokens_s": 0.03}),
    ("azure-slice", ("headers", "x-ratelimit-renewalperiod-requests"), "60", {"window_requests": "minute"}),
    ("azure-filter", ("body", "error", "code"), "DeploymentNotFound", {"class": "invalid"}),
    ("anthropic", ("body", "error", "details", "error_code"), "contract_spend_limit_reached", {"class": "billing", "retry_after_s": None}),
    ("anthropic", ("body", "error", "details", "error_code"), "enforced_spend_limit_reached", {"class": "billing"}),
    ("anthropic", ("body", "error", "details"), None, {"class": "quota_requests", "limit_dimension": None}),
    ("anthropic-bad", ("body", "error", "type"), "billing_error", {"class": "billing"}),
    ("anthropic-bad", ("body", "error", "type"), "authentication_error", {"class": "auth"}),
    ("anthropic-bad", ("body", "error", "type"), "overloaded_error", {"class": "overloaded"}),
    ("anthropic-bad", ("body", "error", "message"), "Your credit balance is too low", {"class": "billing"}),
    ("anthropic-bad", ("body", "error", "message"), "prompt is too long: 9 tokens > 8 maximum", {"class": "context_length"}),
    ("anthropic-bad", ("status",), 529, {"class": "overloaded"}),
    ("anthropic-empty", ("headers", "anthropic-ratelimit-input-tokens-remaining"), "9000", {"class": "quota_requests", "limit_dimension": None}),
    ("anthropic-empty", ("headers", "anthropic-ratelimit-input-tokens-reset"), "2026-01-05T10:00:40Z", {"reset_input_tokens_s": 40, "safe_wait_s": 40}),
    ("anthropic-empty", ("headers", "date"), "Mon, 05 Jan 2026 10:00:10 GMT", {"reset_input_tokens_s": 20}),
    ("gemini", ("body", "error", "details", 0, "violations", 0, "quotaId"), "GenerateRequestsPerDayPerProjectPerModel", {**DAILY, "retry_after_s": None, "hint_s": 12}),
    ("gemini", ("body", "error", "details", 0, "violations", 0, "quotaId"), "GenerateContentInputTokensPerModelPerMinute", {"class": "quota_tokens", "limit_dimension": "input_tokens"}),
    ("gemini", ("body", "error", "details", 1, "retryDelay"), "14s", {"retry_after_s": 14, "safe_wait_s": 15}),
    ("gemini", ("body", "error", "message"), "Please retry in 12.5s.", {"retry_after_s": 12.5, "retry_after_from": "message"}),
    ("gemini", ("body", "error", "message"), "Your prepayment credits are depleted.", {"class": "billing"}),
    ("gemini-metric", ("body", "error", "details", 0, "violations", 0, "quotaMetric"), "x/generate_content_free_tier_input_token_count", {"class": "quota_tokens", "limit_dimension": "input_tokens"}),
    ("gemini-key", ("body", "error", "details", 0, "reason"), "OTHER", {"class": "invalid"}),
    ("gemini-key", ("body", "error", "details", 0, "reason"), "BILLING_DISABLED", {"class": "billing"}),
    ("vertex", ("body", "error", "message"), "Quota exceeded for x/online_prediction_input_tokens_per_minute_per_base_model", {"class": "quota_tokens", "limit_dimension": "input_tokens"}),
    ("vertex", ("body", "error", "message"), "Resource exhausted. Please try again later.", {"class": "overloaded", "limit_dimension": "none"}),
    ("mistral", ("body", "code"), "3505", {"class": "overloaded"}),
    ("mistral", ("body", "type"), "service_tier_capacity_exceeded", {"class": "overloaded"}),
    ("mistral", ("body", "message"), "Requests rate limit exceeded", QUOTA_REQUESTS),
    ("mistral-plain", ("body", "message"), "The workspace spending limit is reached", {"class": "billing"}),
    ("mistral-plain", ("status",), 401, {"class": "auth"}),
    ("groq", ("status",), 498, {"class": "overloaded"}),
    ("groq", ("body", "error", "code"), "capacity_exceeded", {"class": "overloaded"}),
    ("groq", ("body", "error", "message"), "on tokens per minute (TPM): Limit 9, Used 9, Requested 1. Please try again in 2s.", {**QUOTA_TOKENS, "retry_after_s": 2}),
    ("xai", ("body", "error"), "Requests per Minute (actual/limit): 9/6", {**QUOTA_REQUESTS, "limit": 6}),
    ("xai", ("status",), 403, {"class": "auth"}),
    ("openrouter", ("body", "error", "metadata", "limit_source"), "account", {"class": "billing"}),
    ("openrouter-free", ("body", "error", "message"), "Rate limit exceeded: free-models-per-min", QUOTA_REQUESTS),
    ("openrouter-free", ("body", "error", "metadata", "headers", "X-RateLimit-Reset"), "1767607260000", {"reset_requests_s": 60}),
    ("cohere", ("body", "message"), "trial token rate limit exceeded, limit is 9 tokens per minute", QUOTA_TOKENS),
    ("cohere", ("body", "message"), "limited to 1000 API calls / month", DAILY),
    ("cohere", ("status",), 402, {"class": "billing"}),
    ("cohere-bad", ("body", "error_type"), "other", {"class": "invalid"}),
    ("bedrock", ("headers", "x-amzn-errortype"), "ModelNotReadyException", {"class": "overloaded"}),
    ("bedrock", ("body", "message"), "Too many requests, please wait", QUOTA_REQUESTS),
    ("bedrock", ("body", "message"), "Too many tokens per day, please wait", DAILY),
    ("bedrock-denied", ("headers", "x-amzn-errortype"), "ValidationException", {"class": "invalid"}),
    ("bedrock-denied", ("headers", "x-amzn-errortype"), "ServiceUnavailableException", {"class": "overloaded"}),
]
SAME: list[tuple[str, Path, Any]] = [
    ("openai", ("status",), 200),  # an error object is one whatever the status
    ("openai", ("body", "error", "type"), "requests"),  # the text names the meter
    ("openai-unpaid", ("body", "error", "type"), "tokens"),  # the code is enough, as the type is
    ("openai-unpaid", ("body", "error", "code"), None),
    ("mistral", ("body", "type"), "x"),
]
# fmt: on


def changed(case: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    case = copy.deepcopy(case)
    place: Any = case
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return case


@pytest.mark.parametrize(("base", "path", "value", "wanted"), CHANGES)
def test_a_field_that_matters_changes_the_result(base: str, path: Path, value: Any, wanted: dict[str, Any]):
    assert not agrees(answer(BASES[base]), wanted)
    got = answer(changed(BASES[base], path, value))
    assert agrees(got, wanted), got


@pytest.mark.parametrize(("base", "path", "value"), SAME)
def test_a_field_that_does_not_matter_changes_nothing(base: str, path: Path, value: Any):
    before, after = answer(BASES[base]), answer(changed(BASES[base], path, value))
    named = ("class", "limit_dimension", "retry_after_s", "never_fits")
    assert [after[name] for name in named] == [before[name] for name in named]


KEYS = {
    *("class", "limit_dimension", "retry_after_s", "retry_after_from", "never_fits", "reason", "provider"),
    *("remaining_requests", "reset_requests_s", "remaining_tokens", "reset_tokens_s"),
}


def test_the_keys_of_an_answer_are_there_when_they_are_null():
    for provider in ALL:
        for status in (None, 200, 400, 503):
            got = said(provider, status, {}, None)
            assert set(got) == KEYS
            nothing = KEYS - {"class", "limit_dimension", "never_fits", "reason", "provider"}
            assert {key for key in KEYS if got[key] is None} == nothing
        assert set(said(provider, 429, {}, None)) == KEYS | {"class_any_of"}


SAID = re.compile(r"retry-after(-ms)?|(x-ratelimit|anthropic-ratelimit)-.*(remaining|reset).*")


@pytest.mark.parametrize("row", FACTS, ids=[f"{i}-{row[0]}-{row[1]}" for i, row in enumerate(FACTS)])
def test_every_figure_of_a_header_and_every_status_counts(row: Row):
    """One header made larger by a digit is another answer, and so is a refusal that becomes a success."""
    provider, status, headers, body, _ = row
    got = said(provider, status, headers, body)
    for name, value in headers.items():
        figure = re.search(r"[1-9]", value)
        if not SAID.fullmatch(name) or figure is None:
            continue
        if name.startswith("retry-after") and (got["retry_after_s"] is None or "retry-after-ms" in headers):
            continue  # a hint that is not believed, or the smaller of two
        other = headers | {name: value[: figure.start()] + str(int(figure[0]) % 9 + 1) + value[figure.end() :]}
        assert said(provider, status, other, body) != got, name
    if status is not None and status >= 400 and not isinstance(body, list | dict):
        assert said(provider, 200, headers, body)["class"] == "ok"


def test_lines_are_answered_one_by_one_and_bad_ones_are_named():
    good = json.dumps({"provider": "AnthropicX".removesuffix("X"), "status": 529, "headers": {}, "body": None})
    lines = [good, "{", "[1]", '{"provider": "nobody"}', '{"provider": "openai", "status": "x"}', "", good]
    lines.append('{"provider": "openai", "status": 200, "headers": ["x"]}')
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate.cli.main", "classify"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [entry.get("class") for entry in out] == ["overloaded", None, None, None, None, "overloaded", None]
    errors = [entry for entry in out if "error" in entry]
    assert [entry["line"] for entry in errors] == [2, 3, 4, 5, 8]
    assert all("allowed" in entry["error"] for entry in errors)
    assert "nobody" in errors[2]["error"]


def test_a_line_beyond_bounds_is_refused_and_the_next_one_answered():
    good = b'{"provider": "openai", "status": 200, "headers": {}, "body": null}\n'
    out = list(answers(io.BytesIO(b"x" * (9 * 1024 * 1024) + b"\n" + good)))
    assert "error" in out[0]
    assert out[1]["class"] == "ok"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "details", "violations", "quotaId", "retryDelay"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = st.sampled_from(
    [
        "date",
        "retry-after",
        "retry-after-ms",
        "ratelimit",
        "x-amzn-errortype",
        "x-ratelimit-type",
        *(
            f"x-ratelimit-{part}-{name}"
            for part in ("limit", "remaining", "reset")
            for name in ("requests", "tokens", "tokens-minute", "req-10-second")
        ),
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ]
)
texts = st.text(max_size=30) | st.sampled_from(
    ["1e400", "-1", "NaN", "99999999999999999999", "6m0s", "0", "9d", "1767607230000"]
)


@given(
    st.sampled_from(sorted(ALL)),
    st.none() | st.integers(100, 599),
    st.dictionaries(names, texts, max_size=6),
    anything,
    st.none() | anything,
)
def test_whatever_a_provider_sends_there_is_an_answer_in_bounds(
    provider: str, status: int | None, headers: dict[str, str], body: Any, event: Any
):
    case = {"provider": provider, "status": status, "headers": headers, "body": body, "stream_event": event}
    got = answer(case)
    json.dumps(got, allow_nan=False)
    for value in got.values():
        assert isinstance(value, bool) or not isinstance(value, int | float) or 0 <= value <= 1e15
