# SPDX-License-Identifier: Apache-2.0
"""The closed sets of words, and the one table that spells them.

Every enum member's value is its snake_case form, used in metrics, logs and Python. `camel` is the
spelling of YAML documents, `kebab` that of HTTP headers and the command line, and the proto enums
carry the same names in upper case behind their prefix. Nothing else in the project spells these words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class Word(StrEnum):
    """A member of a closed set, which is also its text: equal to it, and the same key of a mapping."""

    __hash__ = str.__hash__  # an enum's own is a Python function, run by each look-up, of the member's name


class Resource(Word):
    """What a meter counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"


class Algorithm(Word):
    """How a limit refills: continuously, or all at once at the end of a window."""

    BUCKET = "bucket"
    FIXED_WINDOW = "fixed_window"


class LearnLimits(Word):
    """How far the limits in response headers replace the declared ones."""

    FOLLOW = "follow"
    LOWER_ONLY = "lower_only"
    OFF = "off"


class Provider(Word):
    """A provider's wire and its way of limiting."""

    OPENAI = "openai"
    AZURE_OPENAI = "azure_openai"
    ANTHROPIC = "anthropic"
    GOOGLE_GEMINI = "google_gemini"
    GOOGLE_VERTEX = "google_vertex"
    MISTRAL = "mistral"
    OPENAI_COMPATIBLE = "openai_compatible"


class Dialect(Word):
    """Which provider of OpenAI's wire a pool of `openai_compatible` is: they differ in limits, errors and usage."""

    GROQ = "groq"
    XAI = "xai"
    DEEPSEEK = "deepseek"
    TOGETHER = "together"
    FIREWORKS = "fireworks"
    OPENROUTER = "openrouter"
    VLLM = "vllm"


class Latency(Word):
    """A call's latency class, most urgent first."""

    REAL_TIME = "real_time"
    NEAR_REAL_TIME = "near_real_time"
    BATCH = "batch"


class Unmanaged(Word):
    """What becomes of a model that is in no pool."""

    ALLOW = "allow"
    REJECT = "reject"


class OnBrokerUnavailable(Word):
    """What a sidecar does while the broker is away."""

    SAFE_SHARE = "safe_share"
    FAIL_OPEN = "fail_open"
    FAIL_CLOSED = "fail_closed"


class Outcome(Word):
    """What became of a call, as the app sees it (`x-sluicegate-outcome`)."""

    GRANTED = "granted"
    FALLBACK_MODEL = "fallback_model"
    FALLBACK_POOL = "fallback_pool"
    CACHED = "cached"
    DEGRADED = "degraded"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    UNMANAGED = "unmanaged"


class ErrorClass(Word):
    """What one provider response was, the typed errors of design section 6."""

    NONE = "none"
    QUOTA = "quota"
    OVERLOAD = "overload"
    BILLING = "billing"
    AUTH = "auth"
    INVALID = "invalid"
    CONTEXT_LENGTH = "context_length"
    CONTENT_POLICY = "content_policy"
    SERVER = "server"
    NETWORK = "network"
    CANCELLED = "cancelled"


class Reason(Word):
    """Why a decision was taken: the same word in metric label, wire, log, header and command line."""

    # grants; where another pool or model took the call, the reason is why its own could not
    ROOM = "room"  # nothing eligible of higher order waited; the budget had room
    TIER_ORDER = "tier_order"  # other eligible calls waited; this one was first in the order
    GUARANTEE = "guarantee"  # its tier's guarantee was due: the one permitted inversion
    BACKFILL = "backfill"  # it cannot delay the claim of the head of the order
    # what a waiting call waits for
    BINDING_LIMIT = "binding_limit"  # a meter of the pool lacks room
    HEADROOM = "headroom"  # the rest of the meter is reserved for higher tiers
    TIER_CEILING = "tier_ceiling"
    TENANT_CEILING = "tenant_ceiling"
    QUEUED_BEHIND = "queued_behind"  # calls of higher order wait first
    NOT_YET_ELIGIBLE = "not_yet_eligible"  # requeued until the provider's reset
    BREAKER_OPEN = "breaker_open"
    # rejections
    PREDICTED_WAIT = "predicted_wait"  # the predicted wait exceeds the call's max wait
    DEADLINE = "deadline"  # it cannot start before its deadline
    MAX_WAIT = "max_wait"  # it waited as long as it was willing to
    QUEUE_FULL_TENANT = "queue_full_tenant"
    QUEUE_FULL_POOL = "queue_full_pool"
    NEVER_FITS = "never_fits"  # larger than a meter can ever hold
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    UNKNOWN_POOL = "unknown_pool"
    AMBIGUOUS_POOL = "ambiguous_pool"
    UNKNOWN_MODEL = "unknown_model"
    UNMANAGED_REJECTED = "unmanaged_rejected"
    UNKNOWN_TENANT = "unknown_tenant"
    TENANT_NOT_ALLOWED = "tenant_not_allowed"
    ACCESS_DENIED = "access_denied"
    UNAUTHENTICATED = "unauthenticated"  # the caller's token proves nobody
    BILLING = "billing"  # the pool's account cannot pay
    INVALID_REQUEST = "invalid_request"
    SHUTTING_DOWN = "shutting_down"
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_OVERLOADED = "broker_overloaded"
    SIDECAR_OVERLOADED = "sidecar_overloaded"
    # ends of a wait or of an attempt
    CANCELLED = "cancelled"
    QUOTA_REQUEUED = "quota_requeued"  # a quota 429: back to the queue until the reset
    RETRY = "retry"  # a transient error: again, decided by the broker
    REPEAT_REFUSED = "repeat_refused"  # a repeat of a refused call within its predicted wait
    CACHE_HIT = "cache_hit"
    DEGRADED = "degraded"
    UNMANAGED = "unmanaged"
    SAFE_SHARE = "safe_share"
    FAIL_OPEN = "fail_open"


class Mitigation(Word):
    """What helps against the limit that binds."""

    NONE = "none"
    SPACING = "spacing"  # requests bind: send them further apart
    REDUCE_TOKENS = "reduce_tokens"  # tokens bind: compress or chunk; `fits_now` says how many would go now


E_ = TypeVar("E_", bound=StrEnum)

_CAMEL_EXCEPTIONS = {
    "openai": "OpenAI",
    "azure_openai": "AzureOpenAI",
    "openai_compatible": "OpenAICompatible",
    "xai": "xAI",
    "deepseek": "DeepSeek",
    "openrouter": "OpenRouter",
    "vllm": "vLLM",
}


def camel(word: StrEnum) -> str:
    """The spelling in YAML documents: `near_real_time` -> `NearRealTime`."""
    return _CAMEL_EXCEPTIONS.get(word.value) or "".join(part.capitalize() for part in word.value.split("_"))


def kebab(word: StrEnum) -> str:
    """The spelling in headers and on the command line: `near_real_time` -> `near-real-time`."""
    return word.value.replace("_", "-")


def from_camel(enum: type[E_], text: str) -> E_:
    """The member spelled `text` in YAML. Raises ValueError that lists the allowed spellings."""
    for member in enum:
        if camel(member) == text:
            return member
    raise ValueError(f"{text!r} is not one of {', '.join(camel(m) for m in enum)}")


def from_kebab(enum: type[E_], text: str) -> E_:
    """The member spelled `text` in headers. Raises ValueError that lists the allowed spellings."""
    for member in enum:
        if kebab(member) == text:
            return member
    raise ValueError(f"{text!r} is not one of {', '.join(kebab(m) for m in enum)}")
