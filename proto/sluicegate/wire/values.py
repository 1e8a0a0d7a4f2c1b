# SPDX-License-Identifier: Apache-2.0
"""The quantities that sidecar and broker both speak of. Seconds are floats; amounts are never negative."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.wire.words import Latency, Resource

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call is expected to cost, counted by the sidecar before dispatch.

    `least_input_tokens`: what is left of `input_tokens` when the history is trimmed as far as it can be; 0: it cannot.
    `images` of which `image_tokens` are a part of `input_tokens`, since admission may charge them flat. `exact`: the
    input is what the provider will count, so nothing is to be learned from how much it was.
    """

    input_tokens: int
    output_tokens: int = 0
    max_output_tokens: int | None = None
    characters: int = 0
    choices: int = 1
    least_input_tokens: int = 0
    images: int = 0
    image_tokens: int = 0
    exact: bool = False


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
    """Fallback: the degraded answer with this message; empty: the policy's, else a general one."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class UseTrimmed:
    """Fallback: the same call with its history trimmed to this many input tokens, oldest turns first."""

    input_tokens: int


FallbackOption = UseModel | UsePool | UseCached | UseDegraded | UseTrimmed


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

    @property
    def kind(self) -> str:
        """Which quota, for counting and logging apart: quota_daily, quota_requests, quota_tokens, quota_input_tokens,
        quota_output_tokens; quota: the provider named none."""
        if self.window is not None and self.window > _HOUR:
            return "quota_daily"
        return "quota" if self.resource is None else f"quota_{self.resource}"
