# SPDX-License-Identifier: Apache-2.0
"""Refusals in the provider's own error shape, and the `x-sluicegate-*` headers that explain any answer.

Every refusal says `x-should-retry: false`, which the OpenAI and Anthropic SDKs obey: whether and when a call goes again
is the broker's decision, and no SDK starts a back-off of its own. The google-genai and mistralai SDKs repeat only where
their user sets retries: Mistral's then waits as `retry-after-ms` says; Google's reads no hint, and what it repeats too
early is refused without asking the broker (`core.repeat`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sluicegate.sidecar.core.providers.api import ErrorShape
from sluicegate.wire.words import Outcome, Reason, kebab

_RPC = "type.googleapis.com/google.rpc"
_OPENAI_TYPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    501: "invalid_request_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    501: "invalid_request_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_MISTRAL_TYPES = {**_OPENAI_TYPES, 402: "payment_required", 429: "rate_limited"}
_UNPAID = "insufficient_quota"  # OpenAI's type and code of a 429 that waiting does not cure
_GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    504: "DEADLINE_EXCEEDED",
}
_STATUS: dict[str, int] = {  # by reason
    Reason.UNKNOWN_POOL: 404,
    Reason.UNKNOWN_MODEL: 404,
    Reason.AMBIGUOUS_POOL: 400,
    Reason.INVALID_REQUEST: 400,
    Reason.NEVER_FITS: 400,
    Reason.UNMANAGED_REJECTED: 403,
    Reason.UNKNOWN_TENANT: 403,
    Reason.TENANT_NOT_ALLOWED: 403,
    Reason.ACCESS_DENIED: 403,
    Reason.SHUTTING_DOWN: 503,
    Reason.BROKER_UNAVAILABLE: 503,
    Reason.BROKER_OVERLOADED: 503,
    Reason.SIDECAR_OVERLOADED: 503,
    Reason.BREAKER_OPEN: 503,
}


def status_of(reason: str, shape: ErrorShape) -> int:
    """The HTTP status of a refusal: 429 for whatever a wait may cure, also for words that are not known here; of an
    account that cannot pay, its provider's own."""
    if reason == Reason.BILLING:
        return 402 if shape in (ErrorShape.ANTHROPIC, ErrorShape.MISTRAL) else 429
    return _STATUS.get(reason, 429)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened to a call, for the response headers. Seconds; attempts 0: never sent."""

    outcome: Outcome
    reason: str = ""
    pool: str = ""
    waited: float = 0.0
    attempts: int = 0
    binding_limit: str = ""

    def headers(self) -> list[tuple[str, str]]:
        """As response headers."""
        pairs = [
            ("x-sluicegate-outcome", kebab(self.outcome)),
            ("x-sluicegate-reason", _clean(self.reason).replace("_", "-")),
            ("x-sluicegate-wait-ms", str(max(0, round(self.waited * 1000)))),
            ("x-sluicegate-attempts", str(self.attempts)),
        ]
        if self.pool:
            pairs.append(("x-sluicegate-pool", _clean(self.pool)))
        if self.binding_limit:
            pairs.append(("x-sluicegate-binding-limit", _clean(self.binding_limit)))
        return pairs


def _clean(text: str) -> str:
    """Header-safe: what comes over the wire never makes a header of its own."""
    if len(text) <= 256 and text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text[:256] if " " <= c <= "~")


@dataclass(frozen=True, slots=True)
class Original:
    """The provider's own response that the app got in place of a refusal."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A final refusal. `retry_after`: predicted seconds, None: a repeat has no chance. `code`: for programs."""

    status: int
    message: str
    explanation: Explanation
    retry_after: float | None = None
    code: str = ""
    mitigation: str = ""
    fits_now: int = 0
    original: Original | None = None

    def headers(self) -> list[tuple[str, str]]:
        """All headers of the refusal but its content's."""
        pairs = self.explanation.headers()
        pairs.append(("x-should-retry", "false"))
        if self.retry_after is not None:
            pairs.append(("retry-after", str(max(1, math.ceil(self.retry_after)))))
            pairs.append(("retry-after-ms", str(max(1, math.ceil(self.retry_after * 1000)))))
        if self.mitigation and self.mitigation != "none":
            pairs.append(("x-sluicegate-mitigation", _clean(self.mitigation).replace("_", "-")))
            if self.fits_now > 0:
                pairs.append(("x-sluicegate-fits-now", str(self.fits_now)))
        return pairs

    def body(self, shape: ErrorShape) -> bytes:
        """The body in the provider's shape."""
        code = self.code or self.explanation.reason
        match shape:
            case ErrorShape.OPENAI:
                kind = _OPENAI_TYPES.get(self.status, "server_error")
                if code == Reason.BILLING:
                    kind = code = _UNPAID
                openai = {"message": self.message, "type": kind, "param": None, "code": code}
                return orjson.dumps({"error": openai})
            case ErrorShape.ANTHROPIC:
                kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
                details = {"error_code": code}
                error = {"type": kind, "message": self.message, "details": details}
                return orjson.dumps({"type": "error", "error": error})
            case ErrorShape.AZURE:
                azure = {"code": str(self.status), "message": self.message, "innererror": {"code": code}}
                return orjson.dumps({"error": azure})
            case ErrorShape.MISTRAL:
                kind = _MISTRAL_TYPES.get(self.status, "server_error")
                mistral = {"object": "error", "message": self.message, "type": kind, "param": None, "code": code}
                return orjson.dumps({**mistral, "raw_status_code": self.status})
            case ErrorShape.GOOGLE:
                return orjson.dumps(self._google(code))
            case ErrorShape.GOOGLE_ARRAY:
                return orjson.dumps([self._google(code)])

    def _google(self, code: str) -> dict[str, Any]:
        status = _GOOGLE_STATUS.get(self.status, "UNAVAILABLE")
        details: list[dict[str, Any]] = [
            {"@type": f"{_RPC}.ErrorInfo", "reason": code.upper(), "domain": "sluicegate.dev", "metadata": {}}
        ]
        if self.retry_after is not None:
            delay = f"{max(1, math.ceil(self.retry_after))}s"
            details.append({"@type": f"{_RPC}.RetryInfo", "retryDelay": delay})
        return {"error": {"code": self.status, "message": self.message, "status": status, "details": details}}

    def repeated(self, wait: float) -> Refusal:
        """The refusal of a repeat, `wait` seconds before the call has a chance."""
        explanation = replace(self.explanation, reason=Reason.REPEAT_REFUSED, waited=0.0, attempts=0)
        return replace(self, explanation=explanation, retry_after=None if self.retry_after is None else wait)


def refuse(status: int, reason: Reason, message: str, *, retry_after: float | None = None, pool: str = "") -> Refusal:
    """A refusal that the sidecar takes by itself."""
    return Refusal(status, message, Explanation(Outcome.REJECTED, reason, pool), retry_after)
