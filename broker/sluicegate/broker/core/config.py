# SPDX-License-Identifier: Apache-2.0
"""The configuration that the core runs on, immutable. `documents` makes it from YAML; the fields keep its names.

Durations are seconds, percent values integers of 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluicegate.broker.core.units import MeterKey
from sluicegate.wire.values import FallbackOption
from sluicegate.wire.words import (
    Algorithm,
    ErrorClass,
    Latency,
    LearnLimits,
    OnBrokerUnavailable,
    Provider,
    Resource,
    Unmanaged,
)


@dataclass(frozen=True, slots=True)
class LimitConfig:
    """One declared limit. None: the provider table's default. `burst`: the bucket's size as seconds of the rate."""

    resource: Resource
    limit: float
    window: float
    algorithm: Algorithm | None = None
    burst: float | None = None

    @property
    def key(self) -> MeterKey:
        return MeterKey(self.resource, self.window)


@dataclass(frozen=True, slots=True)
class Slo:
    """Wait at most `wait_target` seconds for `objective_percent` of calls."""

    wait_target: float
    objective_percent: float
    queue_depth: int | None = None


@dataclass(frozen=True, slots=True)
class TierConfig:
    """One tier of a pool. Guarantee and ceiling are shares of every continuous meter's rate."""

    name: str
    guaranteed_percent: int = 0
    ceiling_percent: int = 100
    reserved_headroom_percent: int = 0
    slo: Slo | None = None


DEFAULT_TIERS = (
    TierConfig("Critical", guaranteed_percent=30, reserved_headroom_percent=10),
    TierConfig("Premium", guaranteed_percent=25),
    TierConfig("Standard", guaranteed_percent=10),
    TierConfig("Free", guaranteed_percent=5),
)


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When the circuit opens and for how long (seconds)."""

    failure_rate_percent: int = 50
    minimum_calls: int = 10
    window: float = 30.0
    open_for: float = 15.0
    max_open_for: float = 120.0


FAILOVER_ON = (ErrorClass.OVERLOAD, ErrorClass.SERVER, ErrorClass.NETWORK, ErrorClass.BILLING)


@dataclass(frozen=True, slots=True)
class FailoverConfig:
    """Where calls go while this pool cannot serve; `models` maps this pool's names or globs to the other's names.

    `on`: the errors that lead there. With quota among them a call goes before any 429, once its predicted wait exceeds
    `after_wait` (seconds).
    """

    pool: str
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    on: tuple[ErrorClass, ...] = FAILOVER_ON
    after_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Namespaces (by name, `*`, or by labels) that may use a pool, and the most that they may claim."""

    namespaces: tuple[str, ...] = ()
    match_labels: Mapping[str, str] | None = None
    max_tier: str | None = None
    max_weight: int | None = None


@dataclass(frozen=True, slots=True)
class CredentialsRef:
    """A Secret in the pod's namespace."""

    secret_name: str
    key: str


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One upstream quota. `tiers` in order of priority, highest first; `access` None: no bound."""

    name: str
    provider: Provider
    endpoint: str
    models: tuple[str, ...]
    limits: tuple[LimitConfig, ...]
    learn_limits: LearnLimits = LearnLimits.FOLLOW
    tiers: tuple[TierConfig, ...] = DEFAULT_TIERS
    access: tuple[AccessRule, ...] | None = None
    credentials: CredentialsRef | None = None
    key_fingerprints: tuple[str, ...] = ()
    breaker: BreakerConfig = BreakerConfig()
    failover: tuple[FailoverConfig, ...] = ()
    allow_plaintext: bool = False
    unmanaged: Unmanaged = Unmanaged.ALLOW
    dialect: str = ""
    max_queue_depth: int = 100_000
    max_attempts: int = 5

    def tier_index(self, name: str) -> int:
        """The place of tier `name`, 0 the highest; the lowest tier's for a name that this pool does not have."""
        for index, tier in enumerate(self.tiers):
            if tier.name == name:
                return index
        return len(self.tiers) - 1


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that a tenant may use of a pool over a window (seconds)."""

    resource: Resource
    limit: float
    window: float


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """Defaults for the calls of one task type; None: not said."""

    task_type: str
    latency: Latency | None = None
    max_wait: float | None = None
    deadline: float | None = None
    fallback: tuple[FallbackOption, ...] = ()
    orchestrator: bool = False


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """One tenant, `namespace/name`. `workloads`: its ServiceAccounts in `namespace`, None: every pod there."""

    name: str
    namespace: str
    tier: str
    weight: int = 1
    workloads: tuple[str, ...] | None = None
    ceilings: Mapping[str, tuple[Ceiling, ...]] = field(default_factory=dict[str, tuple[Ceiling, ...]])
    max_queue_depth: int = 1_000
    max_wait: float = 60.0
    slo: Slo | None = None
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict[str, TaskConfig])
    allow_actors: tuple[str, ...] = ()
    on_behalf_of: tuple[str, ...] = ()
    on_broker_unavailable: OnBrokerUnavailable = OnBrokerUnavailable.SAFE_SHARE


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole configuration. `version` is a hash of its content."""

    version: str
    pools: Mapping[str, PoolConfig]
    tenants: Mapping[str, TenantConfig]


EMPTY = Snapshot(version="empty", pools={}, tenants={})
