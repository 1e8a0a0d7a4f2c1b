# SPDX-License-Identifier: Apache-2.0
"""The quantities that the core computes with. Time is float seconds, monotonic; amounts are floats >= 0."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.wire.words import Latency, Resource

MINUTE = 60.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class MeterKey:
    """Names one meter of a pool: what it counts over which window (seconds)."""

    resource: Resource
    window: float

    def __str__(self) -> str:
        """Such as `tokens/1m`: the spelling of headers, metrics and logs."""
        seconds = int(self.window)
        for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
            if seconds >= size and seconds % size == 0:
                return f"{self.resource}/{seconds // size}{unit}"
        return f"{self.resource}/{self.window:g}s"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call is expected to cost, counted by the sidecar before dispatch."""

    input_tokens: int
    output_tokens: int = 0
    max_output_tokens: int | None = None
    characters: int = 0
    choices: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens really used. `cached_input_tokens` is the part of `input_tokens` read from a cache."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call costs on each meter by the provider's admission rule, in the resource's own unit.

    `kind`: the kind of call (such as its model) whose ratio is learned; the budget sets it.
    """

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    kind: str = ""

    def of(self, resource: Resource) -> float:
        match resource:
            case Resource.REQUESTS:
                return self.requests
            case Resource.TOKENS:
                return self.tokens
            case Resource.INPUT_TOKENS:
                return self.input_tokens
            case Resource.OUTPUT_TOKENS:
                return self.output_tokens


@dataclass(frozen=True, slots=True)
class UseModel:
    """Fallback: another model of the same provider."""

    model: str


@dataclass(frozen=True, slots=True)
class UsePool:
    """Fallback: another pool."""

    pool: str


@dataclass(frozen=True, slots=True)
class UseCached:
    """Fallback: a cached response not older than `max_age` seconds."""

    max_age: float


@dataclass(frozen=True, slots=True)
class UseDegraded:
    """Fallback: the degraded answer with this message."""

    message: str


FallbackOption = UseModel | UsePool | UseCached | UseDegraded


@dataclass(frozen=True, slots=True)
class Chain:
    """Membership in a chain: this is step `step` of `of` (0: unknown)."""

    id: str
    step: int = 0
    of: int = 0


@dataclass(frozen=True, slots=True)
class Criticality:
    """How urgent a call is and what may stand in for it. None: not said; the task type's default holds.

    `max_wait` and `deadline` are seconds from arrival.
    """

    task_type: str = ""
    latency: Latency | None = None
    max_wait: float | None = None
    deadline: float | None = None
    fallback: tuple[FallbackOption, ...] | None = None
    chain: Chain | None = None
    orchestrator: bool | None = None


@dataclass(frozen=True, slots=True)
class MeterReading:
    """What one response said about one meter; None: not said. `remaining` is an interval, since providers round.

    `reset` is seconds until full (bucket) or until the window's end (fixed window). Values come from
    outside and may be absurd: whoever folds them in clamps.
    """

    resource: Resource
    window: float | None = None
    limit: float | None = None
    remaining_low: float | None = None
    remaining_high: float | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class QuotaRejection:
    """What a quota 429 said. `retry_after`: seconds until this call would fit. resource None: it named none."""

    resource: Resource | None = None
    window: float | None = None
    retry_after: float | None = None
    never_fits: bool = False
    limit: float | None = None
    requested: float | None = None


@dataclass(frozen=True, slots=True)
class SafeShare:
    """What one sidecar may spend alone on one meter of a pool, per window, while the broker is away."""

    pool: str
    meter: MeterKey
    amount: float


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks: the namespace and ServiceAccount of the pod, proven by its token (or trusted, without a cluster)."""

    namespace: str = "default"
    service_account: str = "default"
    labels: tuple[tuple[str, str], ...] = field(default=())
