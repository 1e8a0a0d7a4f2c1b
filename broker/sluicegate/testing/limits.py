# SPDX-License-Identifier: Apache-2.0
"""What a provider's rate limits admit: pure arithmetic in virtual time, independent of the broker.

Use
---
    limits = ProviderLimits(LimitsConfig(wire="openai", meters=(
        MeterConfig("requests", 500, window=60.0),
        MeterConfig("tokens", 30_000, window=60.0))))
    match limits.admit(now, Demand(tokens=openai_charge("sum", [120, 900], max_tokens=256))):
        case Admitted(figures=figures): ...           # charged; figures is what the response headers say
        case Rejected(wait=wait, meter=meter): ...    # quota 429; the same call would fit in `wait` seconds
    limits.headers(now)                               # the headers as the provider formats them
    limits.figures(now)                               # the same before formatting: MeterFigures per meter

`now` is float seconds on any clock that does not go back; an earlier `now` counts as the latest one seen. For the
RFC 3339 stamps of Anthropic headers pass `wall` (Unix seconds); by default `now` stands in for it. Nothing here reads a
clock, draws a random number or does input or output. An Anthropic call goes on after admission:

    limits.adjust_input(now, estimated=1200, actual=1234)   # input is charged by estimate and corrected later
    limits.produce(now, 15)                                  # output is charged as it is produced

Rules (what was measured of the providers, 2024 to 2026)
-----
- A **bucket** of `capacity` refills continuously at limit/window. A **fixed_window** is full again at each multiple of
  `window` after `anchor`. Headers say the limit per window, the level floored to a whole number, the time until FULL
  (for a bucket (capacity - level) / rate), which is later than the time until this call would fit.
- Admission is all or nothing over the meters. OpenAI charges by its own rule (`openai_charge`) and returns nothing
  afterwards: what a call reserved comes back through refill alone. Its rejected calls still cost a request.
- A call larger than the bucket never fits: `kind="too_large"`, `wait=inf`.
- OpenAI's 429 says `wait = (used + requested - limit) / limit * window` with `used = limit - floor(level)`.
- `slice`: the limit is also enforced over slices of so many seconds (rate * slice in each, at least one call), which
  no header shows: `kind="slice"`, `wait` to the next slice.
- `wires` says what each provider charges when. What is charged as it is produced or at the end (Anthropic's output,
  Mistral's tokens) lets a call in while a whole token is left, and may take the bucket below zero. What figures
  look like in headers: `headers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sluicegate.testing.charges import AdmissionRule, embeddings_charge, openai_charge
from sluicegate.testing.formats import go_duration, rfc3339, thousands
from sluicegate.testing.headers import format_headers
from sluicegate.testing.meters import (
    Meter,
    MeterConfig,
    MeterFigures,
    Resource,
    figures_of,
)
from sluicegate.testing.wires import RULES, ChargeRejected, Wire

__all__ = [
    "AdmissionRule",
    "Admitted",
    "Demand",
    "LimitsConfig",
    "Meter",
    "MeterConfig",
    "MeterFigures",
    "ProviderLimits",
    "Rejected",
    "embeddings_charge",
    "format_headers",
    "go_duration",
    "openai_charge",
    "rfc3339",
    "thousands",
]

RejectKind = Literal["exhausted", "too_large", "slice"]


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """All limits of one pool. `charge_rejected` None means the wire's own (see `wires`)."""

    wire: Wire
    meters: tuple[MeterConfig, ...]
    charge_rejected: ChargeRejected | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one call asks of each resource at admission.

    On OpenAI, Azure and Groq set `tokens` (by `openai_charge`); on Anthropic `input_tokens` (the estimate); on Gemini
    and Vertex both to the input; on Mistral none. `output_tokens` is only for pools that charge output up front.
    """

    requests: float = 1
    tokens: float = 0
    input_tokens: float = 0
    output_tokens: float = 0

    def of(self, resource: Resource) -> float:
        amount: float = getattr(self, resource)
        return amount


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call goes ahead. `charged` is per meter, in the order of the configuration; `levels` what is left on each."""

    charged: tuple[float, ...]
    now: float
    levels: tuple[float, ...]
    configs: tuple[MeterConfig, ...]

    @property
    def figures(self) -> tuple[MeterFigures, ...]:
        """Every meter as it was just after the call was admitted."""
        return tuple(
            figures_of(config, level, self.now) for config, level in zip(self.configs, self.levels, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A quota 429. `meter` is the one that it names; `wait`: seconds until the same call fits, if nothing else comes.

    `charged` is what the rejected call cost all the same, per meter; `meter`, `used`, `wait` and `figures` are after
    that. `limit` is what the message calls Limit: for `too_large` the bucket's size, else the limit per window.
    """

    kind: RejectKind
    meter: MeterFigures
    requested: float
    used: int
    limit: float
    wait: float
    figures: tuple[MeterFigures, ...]
    charged: tuple[float, ...]


def _first(waits: Sequence[float]) -> int:
    return next(index for index, wait in enumerate(waits) if wait > 0)


class ProviderLimits:
    """The limits of one pool, as the provider enforces them. See the module's text for use and rules."""

    def __init__(self, config: LimitsConfig, *, start: float | None = None) -> None:
        """Refill runs from `start`, by default from the first call of any method that takes or changes something."""
        if not config.meters:
            raise ValueError("a pool needs at least one meter")
        self.wire: Wire = config.wire
        self.meters: tuple[Meter, ...] = tuple(Meter(meter) for meter in config.meters)
        self._rules = RULES[config.wire]
        self._charge_rejected: ChargeRejected = config.charge_rejected or self._rules.charge_rejected
        self._now = -math.inf
        if start is not None:
            self._advance(start)

    def admit(self, now: float, demand: Demand) -> Admitted | Rejected:
        """Charge the call on every meter, or reject it. A rejection costs what the provider makes it cost."""
        now = self._advance(now)
        needs = [self._need(meter.config.resource, demand) for meter in self.meters]
        refusal = self._refusal(now, needs, demand)
        if refusal is not None:
            kind, index = refusal
            charged = tuple(self._charge_for_rejection(now, item, demand) for item in self.meters)
            meter = self.meters[index]
            wait = self._wait(now, meter, needs[index], kind)
            limit = meter.config.size if kind == "too_large" else meter.config.limit
            figure = meter.figures(now)
            used = math.ceil(limit) - figure.shown
            return Rejected(kind, figure, needs[index], used, limit, wait, self.figures(now), charged)
        charged = tuple(meter.take(now, demand.of(meter.config.resource)) for meter in self.meters)
        levels = tuple(meter.level_at(now) for meter in self.meters)
        return Admitted(charged, now, levels, tuple(meter.config for meter in self.meters))

    def produce(self, now: float, output_tokens: float) -> tuple[float, ...]:
        """Charge output as it is produced, on Mistral all usage at the end; returns the charge per meter. On OpenAI's
        token meters this is nothing."""
        now = self._advance(now)
        charged = self._rules.produced
        return tuple(
            meter.take(now, output_tokens) if meter.config.resource in charged else 0.0 for meter in self.meters
        )

    def adjust_input(self, now: float, estimated: float, actual: float) -> tuple[float, ...]:
        """Correct an input estimate (Anthropic); returns the charge per meter, negative where some was given back."""
        now = self._advance(now)
        charged = self._rules.corrected
        return tuple(
            meter.take(now, actual - estimated) if meter.config.resource in charged else 0.0 for meter in self.meters
        )

    def draw(self, now: float, demand: Demand) -> tuple[float, ...]:
        """Take what is there up to `demand`, no questions asked (a call that fails after it was charged)."""
        now = self._advance(now)
        return tuple(meter.take(now, demand.of(meter.config.resource), floor=0.0) for meter in self.meters)

    def set_limit(self, now: float, resource: Resource, limit: float, *, window: float | None = None) -> None:
        """Change the limit of `resource` (of its meter over `window` seconds, else of its first).

        A bucket keeps its size as a duration. Raises LookupError where there is no such meter, ValueError for an
        impossible limit.
        """
        now = self._advance(now)
        for meter in self.meters:
            config = meter.config
            if config.resource == resource and (window is None or config.window == window):
                capacity = None if config.capacity is None else config.capacity * limit / config.limit
                meter.change(now, replace(config, limit=limit, capacity=capacity, initial=None))
                return
        wanted = resource if window is None else f"{resource} over {window:g} s"
        have = ", ".join(f"{m.config.resource} over {m.config.window:g} s" for m in self.meters)
        raise LookupError(f"no meter {wanted}; this pool has {have}")

    def figures(self, now: float) -> tuple[MeterFigures, ...]:
        """Every meter at `now`, exact, in the order of the configuration."""
        now = max(now, self._now)
        return tuple(meter.figures(now) for meter in self.meters)

    def headers(self, now: float, wall: float | None = None) -> dict[str, str]:
        """The rate-limit headers at `now`; `wall` is the same moment in Unix seconds (for stamps), default `now`."""
        return format_headers(self.wire, self.figures(now), now if wall is None else wall)

    def _advance(self, now: float) -> float:
        if now > self._now:
            if self._now == -math.inf:
                for meter in self.meters:
                    meter.begin(now)
            self._now = now
        return self._now

    def _need(self, resource: Resource, demand: Demand) -> float:
        amount = demand.of(resource)
        return max(amount, 1.0) if resource in self._rules.postpaid else amount

    def _refusal(self, now: float, needs: Sequence[float], demand: Demand) -> tuple[RejectKind, int] | None:
        waits = [meter.wait_at(now, need) for meter, need in zip(self.meters, needs, strict=True)]
        if any(waits):
            return ("too_large", waits.index(math.inf)) if math.inf in waits else ("exhausted", _first(waits))
        waits = [meter.slice_wait_at(now, demand.of(meter.config.resource)) for meter in self.meters]
        return ("slice", _first(waits)) if any(waits) else None

    @staticmethod
    def _wait(now: float, meter: Meter, need: float, kind: RejectKind) -> float:
        """Computed, as the provider does, with the floored level that it shows: never shorter than the exact wait."""
        if kind == "too_large":
            return math.inf
        if kind == "slice":
            return max(meter.slice_wait_at(now, need), meter.wait_at(now, need))
        wait = meter.wait_at(now, need)
        if meter.config.algorithm == "fixed_window" or meter.level_at(now) < 0:
            return wait
        return max(wait, (need - meter.figures(now).shown) / meter.config.rate)

    def _charge_for_rejection(self, now: float, meter: Meter, demand: Demand) -> float:
        resource = meter.config.resource
        if self._charge_rejected == "all" or (self._charge_rejected == "requests" and resource == "requests"):
            return meter.take(now, demand.of(resource), floor=0.0)
        return 0.0
