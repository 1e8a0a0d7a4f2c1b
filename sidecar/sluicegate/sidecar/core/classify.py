# SPDX-License-Identifier: Apache-2.0
"""What a provider's response was: one class out of `ErrorClass`, and for a quota which meter and how long.

The rules are tried in order and the first match wins; codes come before texts, and texts are looked for only in
the parsed message, since providers echo prompts. One status 429 is at least six different things (a minute's
limit, a day's, a request larger than the limit, an unpaid account, shared capacity, a missing entitlement), and
an error inside a stream comes with status 200: the same rules then apply to the embedded object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.headers import retry_after as header_wait
from sluicegate.sidecar.core.verdict import SUCCESS, Verdict
from sluicegate.wire.durations import parse as parse_duration
from sluicegate.wire.values import QuotaRejection
from sluicegate.wire.words import ErrorClass, Provider, Resource

MINUTE = 60.0
DAY = 86_400.0
_MAX_TEXT = 4096

_BILLING_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "billing_error",
    }
)
_BILLING_TEXTS = (
    "credit balance is too low",
    "reached your specified api usage limits",
    "reached your api usage limits",
    "prepayment credits are depleted",
    "used all available credits",
    "extra usage is required",
    "insufficient balance",
    "maximum billing reached",
)
_AUTH_CODES = frozenset({"invalid_api_key", "authentication_error", "permission_error", "API_KEY_INVALID"})
_OVERLOAD_CODES = frozenset(
    {
        "overloaded_error",
        "server_is_overloaded",
        "slow_down",
        "ramp_limit_exceeded",
        "service_unavailable_error",
        "capacity_exceeded",
        "service_tier_capacity_exceeded",
    }
)
_OVERLOAD_TEXTS = (
    "service tier capacity exceeded",
    "resource exhausted. please try again later",
    "high demand",
    "no capacity available",
    "rate-limited upstream",
    "overloaded with other requests",
    "currently overloaded",
    "resource unavailable",
)
_CONTEXT_CODES = frozenset({"context_length_exceeded", "TOO_MANY_TOKENS", "too_many_prompt_tokens"})
_CONTEXT_TEXTS = (
    "prompt is too long",
    "maximum context length",
    "exceeds the maximum number of tokens allowed",
    "input tokens exceeded",
)
_POLICY_CODES = frozenset({"content_policy_violation", "content_filter", "moderation_blocked"})
_DAY_TEXTS = ("(rpd)", "(tpd)", "per day", "free-models-per-day")
_REQUEST_TEXTS = ("call rate limit", "requests rate limit", "requests_per", "concurrent connections", "(rpm)")
_TOKEN_TEXTS = ("token rate limit", "tokens per minute", "too many tokens", "tokens per day", "(tpm)", "tpm.")

_LIMIT = re.compile(r"Limit:? ?(\d{1,12})", re.ASCII)
_USED = re.compile(r"Used:? ?(\d{1,12})", re.ASCII)
_REQUESTED = re.compile(r"Requested:? ?~?(\d{1,12})", re.ASCII)
_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d{1,6}(?:\.\d{1,6})?(?:ms|s|m|h|d))+|(\d{1,6}) (?:second|millisecond)s?)",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Fault:
    """The parts of an error body that the rules look at."""

    codes: frozenset[str]
    kind: str
    message: str

    @property
    def text(self) -> str:
        return self.message.lower()


def _string(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _fault(body: object) -> _Fault:
    """Reads the envelopes of both providers, nested or flat: `{"error": {...}}`, `{"type": "error", ...}`."""
    outer = _mapping(body)
    if outer.get("type") == "response.failed" or "response" in outer:
        outer = _mapping(outer.get("response")) or outer
    inner = _mapping(outer.get("error"))
    if not inner:
        message = outer.get("error") if isinstance(outer.get("error"), str) else outer.get("message")
        inner = {**outer, "message": message}
    details = _mapping(inner.get("details"))
    codes = {_string(inner.get("code")), _string(inner.get("type")), _string(details.get("error_code"))}
    return _Fault(frozenset(codes - {""}), _string(inner.get("type")), _string(inner.get("message")))


def classify(provider: Provider, status: int, headers: Mapping[str, str], body: object) -> Verdict:
    """The verdict on a whole response; `body` is its parsed JSON, None where it was not JSON. Never raises."""
    if status < 400:
        return SUCCESS
    return _judge(provider, status, headers, _fault(body))


def classify_stream_error(provider: Provider, headers: Mapping[str, str], body: object) -> Verdict:
    """The verdict on an error object that came inside a stream of status 200."""
    fault = _fault(body)
    return _judge(provider, 0, headers, fault)


def _judge(provider: Provider, status: int, headers: Mapping[str, str], fault: _Fault) -> Verdict:
    text = fault.text
    codes = fault.codes
    if codes & _BILLING_CODES or status == 402 or any(t in text for t in _BILLING_TEXTS):
        return Verdict(ErrorClass.BILLING)
    if status in (401, 403) or codes & _AUTH_CODES or (status == 400 and "incorrect api key" in text):
        return Verdict(ErrorClass.AUTH)
    if status in (498, 503, 529) or codes & _OVERLOAD_CODES or any(t in text for t in _OVERLOAD_TEXTS):
        return Verdict(ErrorClass.OVERLOAD, retry_after=header_wait(headers) or _message_wait(fault.message))
    if codes & _CONTEXT_CODES or (status in (0, 400, 413) and any(t in text for t in _CONTEXT_TEXTS)):
        return Verdict(ErrorClass.CONTEXT_LENGTH)
    if codes & _POLICY_CODES:
        return Verdict(ErrorClass.CONTENT_POLICY)
    if status == 429 or codes & {"rate_limit_exceeded", "rate_limit_error"} or _too_large(fault):
        return Verdict(ErrorClass.QUOTA, quota=_quota(provider, headers, fault))
    if status >= 500 or (status == 0 and codes & {"server_error", "api_error", "timeout_error", "internal_error"}):
        return Verdict(ErrorClass.SERVER, retry_after=header_wait(headers))
    if status == 408:
        return Verdict(ErrorClass.SERVER, retry_after=header_wait(headers))
    if status == 0:
        invalid = bool(codes & {"invalid_request_error", "not_found_error", "invalid_prompt"})
        return Verdict(ErrorClass.INVALID if invalid else ErrorClass.SERVER)
    return Verdict(ErrorClass.INVALID)


def _number(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return float(found.group(1)) if found else None


def _too_large(fault: _Fault) -> bool:
    if fault.text.startswith("request too large"):
        return True
    limit, requested = _number(_LIMIT, fault.message), _number(_REQUESTED, fault.message)
    return limit is not None and requested is not None and requested > limit


def _message_wait(message: str) -> float | None:
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    if found.group(2) is not None:
        number = float(found.group(2))
        return number / 1000.0 if "millisecond" in found.group(0).lower() else number
    try:
        return parse_duration(found.group(1))
    except ValueError:
        return None


def _quota(provider: Provider, headers: Mapping[str, str], fault: _Fault) -> QuotaRejection:
    text = fault.text
    limit = _number(_LIMIT, fault.message)
    requested = _number(_REQUESTED, fault.message)
    resource = _resource(fault)
    day = any(t in text for t in _DAY_TEXTS)
    window = DAY if day else (MINUTE if "per minute" in text or "(tpm)" in text or "(rpm)" in text else None)
    if _too_large(fault):
        return QuotaRejection(resource or Resource.TOKENS, window, None, True, limit, requested)
    wait = header_wait(headers) or _message_wait(fault.message)
    if wait is None:
        used = _number(_USED, fault.message)
        if limit and requested is not None and used is not None:
            wait = max(0.0, (used + requested - limit) / limit * (window or MINUTE))
    if resource is None or wait is None:
        empty = [
            m for m in read_meters(provider, headers).meters if m.remaining_low is not None and m.remaining_low < 1
        ]
        named = [m for m in empty if resource in (None, m.resource)]
        if named:
            slowest = max(named, key=lambda m: m.reset or 0.0)
            resource = resource or slowest.resource
            wait = slowest.reset if wait is None else wait
    return QuotaRejection(resource, window, wait, False, limit, requested)


def _resource(fault: _Fault) -> Resource | None:
    text = fault.text
    if "input tokens per" in text or "input-tokens" in text:
        return Resource.INPUT_TOKENS
    if "output tokens per" in text:
        return Resource.OUTPUT_TOKENS
    if fault.kind == "requests" or any(t in text for t in _REQUEST_TEXTS):
        return Resource.REQUESTS
    if fault.kind == "tokens" or any(t in text for t in _TOKEN_TEXTS):
        return Resource.TOKENS
    return None
