# SPDX-License-Identifier: Apache-2.0
"""The fields of the documents: their types, bounds and defaults. The one source of truth, also for the CRDs.

Models read plain data strictly (no "5" for 5) and know no field beyond these. Durations become seconds, enum
spellings words; `model_json_schema()` gives the document's side of both. Bounds that span fields are in `documents`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

from sluicegate.wire import durations
from sluicegate.wire.words import (
    E_,
    Algorithm,
    Dialect,
    ErrorClass,
    Latency,
    LearnLimits,
    OnBrokerUnavailable,
    Provider,
    Resource,
    Unmanaged,
    camel,
    from_camel,
)

API_VERSION = "sluicegate.dev/v1alpha1"
MAX_LIMIT = 10**12
_DAY = 86_400.0


def _spelled(enum: type[E_], value: Any) -> E_:
    if not isinstance(value, str):
        raise ValueError(f"must be one of {', '.join(camel(member) for member in enum)}")
    return from_camel(enum, value)


_FAILOVER = (ErrorClass.OVERLOAD, ErrorClass.SERVER, ErrorClass.NETWORK, ErrorClass.BILLING, ErrorClass.QUOTA)


def _cause(value: Any) -> ErrorClass:
    for cause in _FAILOVER:
        if value == camel(cause):
            return cause
    raise ValueError(f"must be one of {', '.join(camel(cause) for cause in _FAILOVER)}")


def _choices(enum: type[E_]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": [camel(member) for member in enum]})


def _seconds(least: float, most: float, value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError("must be a duration in quotes or plain text, such as 800ms, 30s, 1m, 1h30m or 24h")
    seconds = durations.parse(value)
    if not least <= seconds <= most:
        raise ValueError(f"must be from {durations.spell(least)} to {durations.spell(most)}")
    return seconds


def _burst(value: Any) -> float | int:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_LIMIT:
            raise ValueError(f"must be a duration, or an amount from 1 to {MAX_LIMIT}")
        return value
    return _seconds(0.001, 31 * _DAY, value)


_DURATION = WithJsonSchema({"type": "string", "pattern": durations.PATTERN, "maxLength": 32})

Wait = Annotated[float, BeforeValidator(partial(_seconds, 0.0, 7 * _DAY)), _DURATION]
Period = Annotated[float, BeforeValidator(partial(_seconds, 0.001, 7 * _DAY)), _DURATION]
Window = Annotated[float, BeforeValidator(partial(_seconds, 0.1, 31 * _DAY)), _DURATION]
Burst = Annotated[
    float | int,
    BeforeValidator(_burst),
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
]
"""A float is seconds of the rate, an int an amount."""

ProviderName = Annotated[Provider, BeforeValidator(partial(_spelled, Provider)), _choices(Provider)]
ResourceName = Annotated[Resource, BeforeValidator(partial(_spelled, Resource)), _choices(Resource)]
AlgorithmName = Annotated[Algorithm, BeforeValidator(partial(_spelled, Algorithm)), _choices(Algorithm)]
DialectName = Annotated[Dialect, BeforeValidator(partial(_spelled, Dialect)), _choices(Dialect)]
LearnName = Annotated[LearnLimits, BeforeValidator(partial(_spelled, LearnLimits)), _choices(LearnLimits)]
LatencyName = Annotated[Latency, BeforeValidator(partial(_spelled, Latency)), _choices(Latency)]
UnmanagedName = Annotated[Unmanaged, BeforeValidator(partial(_spelled, Unmanaged)), _choices(Unmanaged)]
AwayName = Annotated[
    OnBrokerUnavailable, BeforeValidator(partial(_spelled, OnBrokerUnavailable)), _choices(OnBrokerUnavailable)
]

FailoverCause = Annotated[
    ErrorClass,
    BeforeValidator(_cause),
    WithJsonSchema({"type": "string", "enum": [camel(cause) for cause in _FAILOVER]}),
]

Name = Annotated[str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
TierName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z][-A-Za-z0-9]*$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=128)]
TenantRef = Annotated[str, StringConstraints(max_length=507, pattern=r"^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*$")]
Percent = Annotated[int, Field(ge=0, le=100)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, hide_input_in_errors=True
    )


class LimitSpec(_Strict):
    resource: ResourceName
    limit: Limit
    window: Window
    algorithm: AlgorithmName | None = None
    burst: Burst | None = None


class SloSpec(_Strict):
    wait_target: Period
    objective_percent: Annotated[int, Field(ge=1, le=100)] = 99
    queue_depth: Annotated[int, Field(ge=0)] | None = None


class TierSpec(_Strict):
    name: TierName
    guaranteed_percent: Percent = 0
    ceiling_percent: Annotated[int, Field(ge=1, le=100)] = 100
    reserved_headroom_percent: Annotated[int, Field(ge=0, le=90)] = 0
    slo: SloSpec | None = None


class SelectorSpec(_Strict):
    match_labels: Annotated[dict[str, str], Field(min_length=1, max_length=32)]


class AccessSpec(_Strict):
    namespaces: Annotated[list[Word], Field(max_length=1_000)] | None = None
    namespace_selector: SelectorSpec | None = None
    max_tier: TierName | None = None
    max_weight: Annotated[int, Field(ge=1, le=1_000)] | None = None


class CredentialsSpec(_Strict):
    secret_name: Name
    key: Annotated[str, StringConstraints(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class BreakerSpec(_Strict):
    failure_rate_percent: Annotated[int, Field(ge=1, le=100)] = 50
    minimum_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    window: Period = 30.0
    open_for: Period = 15.0
    max_open_for: Period = 120.0


class FailoverSpec(_Strict):
    pool: Name
    models: Annotated[dict[Word, Word], Field(max_length=256)] = {}
    on: Annotated[list[FailoverCause], Field(min_length=1, max_length=5)] = [
        ErrorClass.OVERLOAD,
        ErrorClass.SERVER,
        ErrorClass.NETWORK,
        ErrorClass.BILLING,
    ]
    after_wait: Wait = 0.0


class ProviderPoolSpec(_Strict):
    provider: ProviderName
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=2_048)]
    models: Annotated[list[Word], Field(min_length=1, max_length=256)]
    limits: Annotated[list[LimitSpec], Field(min_length=1, max_length=32)]
    learn_limits: LearnName = LearnLimits.FOLLOW
    tiers: Annotated[list[TierSpec], Field(min_length=1, max_length=16)] | None = None
    access: Annotated[list[AccessSpec], Field(max_length=256)] | None = None
    credentials: CredentialsSpec | None = None
    key_fingerprints: Annotated[list[Word], Field(max_length=256)] = []
    circuit_breaker: BreakerSpec = BreakerSpec()
    failover: Annotated[list[FailoverSpec], Field(max_length=16)] = []
    allow_plaintext: bool = False
    unmanaged: UnmanagedName = Unmanaged.ALLOW
    dialect: DialectName | None = None
    max_queue_depth: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5


class WorkloadSpec(_Strict):
    service_account: Name


class CeilingSpec(_Strict):
    resource: ResourceName
    limit: Limit
    window: Window


class PoolOverrideSpec(_Strict):
    name: Name
    ceilings: Annotated[list[CeilingSpec], Field(max_length=16)] = []


class QueueSpec(_Strict):
    max_depth: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    max_wait: Period = 60.0


class CachedSpec(_Strict):
    max_age: Period


class DegradeSpec(_Strict):
    message: Annotated[str, StringConstraints(min_length=1, max_length=4_096)]


class TrimSpec(_Strict):
    input_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)]


class FallbackSpec(_Strict):
    """One entry says exactly one of these."""

    model: Word | None = None
    pool: Name | None = None
    cached: CachedSpec | None = None
    degrade: DegradeSpec | None = None
    trim: TrimSpec | None = None


FALLBACKS = tuple(FallbackSpec.model_fields)
ONE_FALLBACK = f"exactly one of {', '.join(FALLBACKS[:-1])} and {FALLBACKS[-1]}"


class TaskSpec(_Strict):
    task_type: Word
    latency: LatencyName | None = None
    max_wait: Wait | None = None
    deadline: Period | None = None
    fallback: Annotated[list[FallbackSpec], Field(max_length=8)] = []
    orchestrator: bool = False


class TenantPolicySpec(_Strict):
    tier: TierName = "Standard"
    weight: Annotated[int, Field(ge=1, le=1_000)] = 1
    workloads: Annotated[list[WorkloadSpec], Field(min_length=1, max_length=256)] | None = None
    pools: Annotated[list[PoolOverrideSpec], Field(max_length=256)] = []
    queue: QueueSpec = QueueSpec()
    slo: SloSpec | None = None
    tasks: Annotated[list[TaskSpec], Field(max_length=64)] = []
    allow_actors: Annotated[list[TenantRef], Field(max_length=256)] = []
    on_behalf_of: Annotated[list[TenantRef], Field(max_length=10_000)] = []
    on_broker_unavailable: AwayName = OnBrokerUnavailable.SAFE_SHARE


class Metadata(BaseModel):
    """Of Kubernetes; what Sluicegate does not read passes."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, alias_generator=to_camel)

    name: Name
    namespace: Name | None = None
    creation_timestamp: str | None = None


class _Document(_Strict):
    api_version: Literal["sluicegate.dev/v1alpha1"]
    metadata: Metadata
    status: Any = None


class ProviderPool(_Document):
    kind: Literal["ProviderPool"]
    spec: ProviderPoolSpec


class TenantPolicy(_Document):
    kind: Literal["TenantPolicy"]
    spec: TenantPolicySpec
