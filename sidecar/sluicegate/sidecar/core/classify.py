# SPDX-License-Identifier: Apache-2.0
"""What a provider's response was: one class out of `ErrorClass`, and for a quota which meter and how long.

The rules are tried in order and the first match wins; codes come before texts, and texts are looked for only in the
parsed message, since providers echo prompts. Billing and overload stop a whole pool: their texts are believed only
outside of quotation marks, and not where a model or a field is what the error complains of. One status 429 is at least
six different things (a minute's limit, a day's, a request larger than the limit, an unpaid account, shared capacity, a
missing entitlement), and an error inside a stream comes with status 200: the same rules then apply to the embedded
object. What differs between providers is in `dialects`; what all share is below.
"""

from __future__ import annotations

from collections.abc import Mapping

from sluicegate.sidecar.core.dialects import Speech, speech_of
from sluicegate.sidecar.core.fault import Fault, fault_of, stream_fault
from sluicegate.sidecar.core.headers import of_provider
from sluicegate.sidecar.core.quota import DAY_PHRASES, LIMIT_PHRASES, REGAIN, Ruling, hint_of, quota_ruling, too_large
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.wire.words import ErrorClass, Provider

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
        "billing_not_active",
        "budget_exceeded",
    }
)
_BILLING_TEXTS = (
    "credit balance is too low",
    "api usage limits",
    "prepayment credits are depleted",
    "used all available credits",
    "extra usage is required",
    "insufficient balance",
    "maximum billing reached",
    "monthly spending limit",
    "monthly spending cap",
    "monthly spend limit",
    "insufficient credit",
    "doesn't have any credits",
    "run out of credits",
)
_AUTH_CODES = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "API_KEY_INVALID", "access_terminated"}
)
_AUTH_TEXTS = (
    "incorrect api key",
    "api key not valid",
    "api key expired",
    "invalid api key",
    "organization has been disabled",
)
_OVERLOAD_CODES = frozenset(
    {
        "overloaded_error",
        "server_is_overloaded",
        "slow_down",
        "service_unavailable_error",
        "resource_unavailable",
        "engine_overloaded",
        "overloaded",
        "NoCapacity",
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
    "model is overloaded",
    "service overloaded",
    "model is at capacity",
    "over capacity",
    "resource unavailable",
)
_CONTEXT_CODES = frozenset({"context_length_exceeded", "TOO_MANY_TOKENS", "too_many_prompt_tokens"})
_CONTEXT_TEXTS = (
    "prompt is too long",
    "maximum context length",
    "exceeds the maximum number of tokens allowed",
    "exceeds the context window",
    "exceed context limit",
    "input tokens exceeded",
    "input is too long for",
    "maximum prompt length",
    "total length of all messages is too long",
)
_POLICY_CODES = frozenset(
    {
        "content_policy_violation",
        "content_filter",
        "contentFilter",
        "moderation_blocked",
        "cyber_policy",
        "ResponsibleAIPolicyViolation",
    }
)
_POLICY_TEXTS = (
    "content filtering policy",
    "content management policy",
    "as a result of our safety system",
    "violating our usage policy",
)
_QUOTA_CODES = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "rate_limited", "RateLimitReached", "RESOURCE_EXHAUSTED"}
)
_SERVER_CODES = frozenset({"server_error", "api_error", "timeout_error", "internal_error", "INTERNAL"})
_INVALID_CODES = frozenset({"invalid_request_error", "not_found_error", "invalid_prompt", "INVALID_ARGUMENT"})
_STOPS = frozenset({ErrorClass.BILLING, ErrorClass.OVERLOAD})
_OF_THE_CALL = frozenset({404, 405, 422})
_NAMES_A_MODEL = frozenset({"model_not_found", "invalid_model", "not_found_error", "NOT_FOUND"})

OK = Ruling(ErrorClass.NONE, "the provider served it")


def classify(provider: Provider, status: int, headers: Mapping[str, str], body: object, dialect: str = "") -> Verdict:
    """The verdict on a whole response; `body` is its parsed JSON, or its text where it was no JSON. Never raises."""
    return judge(speech_of(provider, dialect), status, headers, body).verdict


def classify_stream_error(provider: Provider, headers: Mapping[str, str], body: object, dialect: str = "") -> Verdict:
    """The verdict on an error object that came inside a stream of status 200."""
    speech = speech_of(provider, dialect)
    fault = stream_fault(body) or fault_of(body)
    return _ruling(speech, fault.status, of_provider(headers), fault).verdict


def judge(speech: Speech, status: int, headers: Mapping[str, str], body: object) -> Ruling:
    """The ruling on a response. `status` 0: not known, or that of an error inside something that began well."""
    headers = of_provider(headers)
    if 0 < status < 400:
        fault = stream_fault(body)
        return _ruling(speech, fault.status, headers, fault) if fault else OK
    fault = fault_of(body)
    return _ruling(speech, status or fault.status, headers, fault)


def _ruling(speech: Speech, status: int, headers: Mapping[str, str], fault: Fault) -> Ruling:
    error_class, rule = _class(speech, status, headers, fault)
    hint, hint_from = hint_of(headers, fault)
    regain = REGAIN.search(fault.message)
    common = {"hint": hint, "hint_from": hint_from, "body_hint": fault.retry_delay}
    if error_class is ErrorClass.QUOTA:
        return quota_ruling(speech, status, headers, fault, rule)
    if error_class is ErrorClass.BILLING and regain:
        return Ruling(error_class, rule, reset_at=f"{regain[1]}T{regain[2]}:00Z", **common)  # type: ignore[arg-type]
    believed = hint if error_class in (ErrorClass.OVERLOAD, ErrorClass.SERVER) else None
    if believed is not None:
        believed = min(believed, speech.hint_ends)
    return Ruling(error_class, rule, wait=believed, **common)  # type: ignore[arg-type]


def _class(speech: Speech, status: int, headers: Mapping[str, str], fault: Fault) -> tuple[ErrorClass, str]:
    """The first rule that matches, and its words."""
    text = fault.text
    codes = fault.codes | _amazon(headers)
    of_pool = "" if status in _OF_THE_CALL or codes & _NAMES_A_MODEL else fault.own_text
    own = {speech.codes[code] for code in codes if code in speech.codes}
    said = next((one for one in speech.phrases if one.text in (of_pool if one.error_class in _STOPS else text)), None)

    def words(texts: tuple[str, ...], text: str = text) -> str:
        return next((known for known in texts if known in text), "")

    def named(known: frozenset[str]) -> str:
        return min(codes & known, default="")

    in_flight = (fault.metadata or {}).get("limit_source") == "openrouter_in_flight_budget"
    if code := named(_BILLING_CODES):
        return ErrorClass.BILLING, f"code {code}"
    if status == 402 and not in_flight:
        return ErrorClass.BILLING, "status 402"
    if found := words(_BILLING_TEXTS, of_pool):
        return ErrorClass.BILLING, f"text {found!r}"
    if ErrorClass.BILLING in own:
        return ErrorClass.BILLING, f"code {_which(speech, codes, ErrorClass.BILLING)}"
    if said and said.error_class is ErrorClass.BILLING:
        return ErrorClass.BILLING, f"text {said.text!r}"
    if code := named(_POLICY_CODES):
        return ErrorClass.CONTENT_POLICY, f"code {code}"
    if found := words(_POLICY_TEXTS):
        return ErrorClass.CONTENT_POLICY, f"text {found!r}"
    if said and said.error_class is ErrorClass.CONTENT_POLICY:
        return ErrorClass.CONTENT_POLICY, f"text {said.text!r}"
    if status in (401, 403):
        return ErrorClass.AUTH, f"status {status}"
    if code := named(_AUTH_CODES):
        return ErrorClass.AUTH, f"code {code}"
    if ErrorClass.AUTH in own:
        return ErrorClass.AUTH, f"code {_which(speech, codes, ErrorClass.AUTH)}"
    if status in (0, 400) and (found := words(_AUTH_TEXTS)):
        return ErrorClass.AUTH, f"text {found!r}"
    if any(code.startswith("cmek_") for code in codes):
        return ErrorClass.SERVER, "code cmek_*"
    if in_flight:
        return ErrorClass.OVERLOAD, "requests in flight hold the budget"
    if status in (498, 503, 529):
        return ErrorClass.OVERLOAD, f"status {status}"
    if code := named(_OVERLOAD_CODES):
        return ErrorClass.OVERLOAD, f"code {code}"
    if ErrorClass.OVERLOAD in own:
        return ErrorClass.OVERLOAD, f"code {_which(speech, codes, ErrorClass.OVERLOAD)}"
    if found := words(_OVERLOAD_TEXTS, of_pool):
        return ErrorClass.OVERLOAD, f"text {found!r}"
    if said and said.error_class is ErrorClass.OVERLOAD:
        return ErrorClass.OVERLOAD, f"text {said.text!r}"
    if code := named(_CONTEXT_CODES):
        return ErrorClass.CONTEXT_LENGTH, f"code {code}"
    if status in (0, 400, 413, 422):
        if said and said.error_class is ErrorClass.CONTEXT_LENGTH:
            return ErrorClass.CONTEXT_LENGTH, f"text {said.text!r}"
        if found := words(_CONTEXT_TEXTS):
            return ErrorClass.CONTEXT_LENGTH, f"text {found!r}"
    if status in (0, 413, 429) and too_large(fault):
        return ErrorClass.QUOTA, "the request is larger than the limit"
    if status == 429:
        return ErrorClass.QUOTA, "status 429"
    if code := named(_QUOTA_CODES):
        return ErrorClass.QUOTA, f"code {code}"
    if own:
        code = min(code for code in codes if code in speech.codes)
        return speech.codes[code], f"code {code}"
    if status == 0 and (said or any(phrase.text in text for phrase in (*DAY_PHRASES, *LIMIT_PHRASES))):
        return (said.error_class if said else ErrorClass.QUOTA), "its text names a limit"
    if status >= 500:
        return ErrorClass.SERVER, f"status {status}"
    if status == 408:
        return ErrorClass.SERVER, "status 408"
    if status >= 400:
        return ErrorClass.INVALID, f"status {status}"
    if code := named(_SERVER_CODES):
        return ErrorClass.SERVER, f"code {code}"
    if code := named(_INVALID_CODES):
        return ErrorClass.INVALID, f"code {code}"
    return ErrorClass.SERVER, "an error that no rule knows"


def _which(speech: Speech, codes: frozenset[str], error_class: ErrorClass) -> str:
    return min(code for code in codes if speech.codes.get(code) is error_class)


def _amazon(headers: Mapping[str, str]) -> frozenset[str]:
    kind = headers.get("x-amzn-errortype", "").partition(":")[0].strip()
    return frozenset({kind[:200]}) if kind else frozenset()
