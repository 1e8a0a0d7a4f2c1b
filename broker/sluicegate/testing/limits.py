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
- Anthropic: output is not charged at admission, so max_tokens does not count; a call is let in while a whole output
  token is left and may take the output bucket below zero. Token figures are rounded to the nearest thousand; the
  combined tokens header is the sum of input and output, with the earlier of their resets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sluicegate.testing.charges import AdmissionRule, embeddings_charge, openai_charge
from sluicegate.testing.formats import go_duration, rfc3339, thousands

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

Resource = Literal["requests", "tokens", "input_tokens", "output_tokens"]
Algorithm = Literal["bucket", "fixed_window"]
Wire = Literal["openai", "anthropic"]
ChargeRejected = Literal["requests", "none", "all"]
RejectKind = Literal["exhausted", "too_large", "slice"]

RESOURCES: tuple[Resource, ...] = ("requests", "tokens", "input_tokens", "output_tokens")
_EPSILON = 1e-6  # float dust of refill sums must not turn "exactly fits" into a 429


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """One limit: `limit` units per `window` seconds.

    `capacity`: size of the bucket in units (default `limit`; bucket only). `slice`: seconds of the additional hidden
    enforcement, or None. `initial`: level at the first use (default full). `anchor`: when a fixed window begins (in
    seconds of `now`). `in_headers`: whether this meter may appear in headers; of several meters of one resource the
    first that may is the one shown. Raises ValueError for figures that make no limit.
    """

    resource: Resource
    limit: float
    window: float = 60.0
    algorithm: Algorithm = "bucket"
    capacity: float | None = None
    slice: float | None = None
    initial: float | None = None
    anchor: float = 0.0
    in_headers: bool = True

    def __post_init__(self) -> None:
        if self.resource not in RESOURCES:
            raise ValueError(f"resource must be one of {', '.join(RESOURCES)}, not {self.resource!r}")
        if self.algorithm not in ("bucket", "fixed_window"):
            raise ValueError(f"algorithm must be bucket or fixed_window, not {self.algorithm!r}")
        _positive("limit", self.limit)
        _positive("window", self.window)
        if self.capacity is not None:
            _positive("capacity", self.capacity)
            if self.algorithm == "fixed_window":
                raise ValueError("capacity belongs to a bucket: a fixed window holds its limit")
        if self.slice is not None:
            _positive("slice", self.slice)
        if self.initial is not None and not (math.isfinite(self.initial) and 0 <= self.initial <= self.size):
            raise ValueError(f"initial must lie between 0 and {self.size:g}, not {self.initial!r}")

    @property
    def rate(self) -> float:
        """Units per second over the long run."""
        return self.limit / self.window

    @property
    def size(self) -> float:
        """The most that one call can take."""
        return self.limit if self.capacity is None else self.capacity


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """All limits of one pool. `charge_rejected` None means the wire's own: OpenAI `requests`, Anthropic `none`."""

    wire: Wire
    meters: tuple[MeterConfig, ...]
    charge_rejected: ChargeRejected | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one call asks of each resource at admission.

    On OpenAI set `tokens` (by `openai_charge`); on Anthropic `input_tokens` (the estimate). `output_tokens` is only for
    pools that charge output up front.
    """

    requests: float = 1
    tokens: float = 0
    input_tokens: float = 0
    output_tokens: float = 0

    def of(self, resource: Resource) -> float:
        amount: float = getattr(self, resource)
        return amount


@dataclass(frozen=True, slots=True)
class MeterFigures:
    """One meter at one moment, exact. `remaining` may be fractional, or negative where output ran over.

    `reset` is seconds until full, 0 when full."""

    resource: Resource
    limit: float
    window: float
    remaining: float
    reset: float
    in_headers: bool = True

    @property
    def shown(self) -> int:
        """`remaining` as a header shows it before any rounding: floored, never below 0."""
        return max(0, math.floor(self.remaining + _EPSILON))


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
        return tuple(_figures(config, level, self.now) for config, level in zip(self.configs, self.levels, strict=True))


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


def _window_no(config: MeterConfig, now: float) -> int:
    return math.floor((now - config.anchor) / config.window)


def _reset(config: MeterConfig, level: float, now: float) -> float:
    """Seconds from `now` until a meter with `level` left is full."""
    missing = config.size - level
    if missing <= _EPSILON:
        return 0.0
    if config.algorithm == "bucket":
        return missing / config.rate
    return config.anchor + (_window_no(config, now) + 1) * config.window - now


def _figures(config: MeterConfig, level: float, now: float) -> MeterFigures:
    reset = _reset(config, level, now)
    return MeterFigures(config.resource, config.limit, config.window, level, reset, config.in_headers)


class Meter:
    """The state of one limit. Levels are exact at the times asked for; asking changes nothing.

    Time begins with `begin`: before it the level is what the configuration says.
    """

    __slots__ = ("_at", "_bucket", "_level", "_rate", "_size", "_slice_no", "_slice_used", "config")

    def __init__(self, config: MeterConfig) -> None:
        self._adopt(config)
        self._level: float = self._size if config.initial is None else config.initial
        self._at = math.inf
        self._slice_no = 0
        self._slice_used = 0.0

    def begin(self, now: float) -> None:
        """Refill runs from `now` on. Only the first call counts."""
        if self._at == math.inf:
            self._at = now

    def _adopt(self, config: MeterConfig) -> None:
        self.config = config
        self._bucket = config.algorithm == "bucket"
        self._rate, self._size = config.rate, config.size

    def level_at(self, now: float) -> float:
        """Units available at `now`, below zero where output ran over."""
        at = self._at
        if now <= at:
            return self._level
        if self._bucket:
            level = self._level + (now - at) * self._rate
            return min(self._size, level)
        return self._size if _window_no(self.config, now) > _window_no(self.config, at) else self._level

    def reset_at(self, now: float) -> float:
        """Seconds from `now` until full."""
        return _reset(self.config, self.level_at(now), now)

    def wait_at(self, now: float, need: float) -> float:
        """Seconds from `now` until `need` units are there; inf if never."""
        level = self.level_at(now)
        if need <= level + _EPSILON:
            return 0.0
        if need > self._size + _EPSILON:
            return math.inf
        if self._bucket:
            return (need - level) / self._rate
        return self.window_end(now) - now

    def slice_wait_at(self, now: float, cost: float) -> float:
        """Seconds until the hidden slice lets `cost` through; an empty slice lets any one call through."""
        width = self.config.slice
        if width is None or cost <= 0:
            return 0.0
        number = math.floor(now / width)
        used = self._slice_used if number == self._slice_no else 0.0
        if used == 0.0 or used + cost <= self._rate * width + _EPSILON:
            return 0.0
        return max((number + 1) * width - now, 1e-9)

    def take(self, now: float, amount: float, *, floor: float = -math.inf) -> float:
        """Charge `amount` (negative: give back), keeping the level from `floor` to full; returns the real charge."""
        level = self.level_at(now)
        after = level - amount
        if after < floor:
            after = min(level, floor)
        self._level = min(self._size, after)
        self._at = now
        if self.config.slice is not None and amount > 0:
            number = math.floor(now / self.config.slice)
            if number != self._slice_no:
                self._slice_no, self._slice_used = number, 0.0
            self._slice_used += amount
        return level - self._level

    def change(self, now: float, config: MeterConfig) -> None:
        """Replace the limit. What is left stays, up to the new size: a higher limit is felt through refill."""
        level = self.level_at(now)
        self._adopt(config)
        self._level = min(level, self._size)
        self._at = now

    def figures(self, now: float) -> MeterFigures:
        return _figures(self.config, self.level_at(now), now)

    def window_end(self, now: float) -> float:
        """When the fixed window that `now` lies in ends."""
        return self.config.anchor + (_window_no(self.config, now) + 1) * self.config.window


class ProviderLimits:
    """The limits of one pool, as the provider enforces them. See the module's text for use and rules."""

    def __init__(self, config: LimitsConfig, *, start: float | None = None) -> None:
        """Refill runs from `start`, by default from the first call of any method that takes or changes something."""
        if not config.meters:
            raise ValueError("a pool needs at least one meter")
        self.wire: Wire = config.wire
        self.meters: tuple[Meter, ...] = tuple(Meter(meter) for meter in config.meters)
        default: ChargeRejected = "requests" if config.wire == "openai" else "none"
        self._charge_rejected: ChargeRejected = config.charge_rejected or default
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
        """Charge output as it is produced; returns the charge per meter. On OpenAI token meters this is nothing."""
        now = self._advance(now)
        anthropic = self.wire == "anthropic"
        return tuple(
            meter.take(now, output_tokens)
            if meter.config.resource == "output_tokens" or (anthropic and meter.config.resource == "tokens")
            else 0.0
            for meter in self.meters
        )

    def adjust_input(self, now: float, estimated: float, actual: float) -> tuple[float, ...]:
        """Correct an input estimate (Anthropic); returns the charge per meter, negative where some was given back."""
        now = self._advance(now)
        anthropic = self.wire == "anthropic"
        return tuple(
            meter.take(now, actual - estimated)
            if anthropic and meter.config.resource in ("input_tokens", "tokens")
            else 0.0
            for meter in self.meters
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
        return max(amount, 1.0) if resource == "output_tokens" and self.wire == "anthropic" else amount

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


def format_headers(wire: Wire, figures: Iterable[MeterFigures], wall: float) -> dict[str, str]:
    """The headers that state `figures` on `wire`. Of several meters of a resource the first `in_headers` is shown."""
    shown: dict[Resource, MeterFigures] = {}
    for figure in figures:
        if figure.in_headers:
            shown.setdefault(figure.resource, figure)
    return _openai_headers(shown) if wire == "openai" else _anthropic_headers(shown, wall)


def _openai_headers(shown: dict[Resource, MeterFigures]) -> dict[str, str]:
    headers: dict[str, str] = {}
    names: tuple[Resource, ...] = ("requests", "tokens")
    for name in names:
        if (figure := shown.get(name)) is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(round(figure.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(figure.shown)
            headers[f"x-ratelimit-reset-{name}"] = go_duration(figure.reset)
    return headers


def _anthropic_headers(shown: dict[Resource, MeterFigures], wall: float) -> dict[str, str]:
    headers: dict[str, str] = {}

    def put(name: str, limit: float, remaining: int, reset: float) -> None:
        headers[f"anthropic-ratelimit-{name}-limit"] = str(round(limit))
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(remaining)
        headers[f"anthropic-ratelimit-{name}-reset"] = rfc3339(wall + reset)

    if (requests := shown.get("requests")) is not None:
        put("requests", requests.limit, requests.shown, requests.reset)
    names: tuple[Resource, ...] = ("input_tokens", "output_tokens")
    pair = [shown[name] for name in names if name in shown]
    for figure in pair:
        put(figure.resource.replace("_", "-"), figure.limit, thousands(figure.remaining), figure.reset)
    if (combined := shown.get("tokens")) is not None:
        put("tokens", combined.limit, thousands(combined.remaining), combined.reset)
    elif pair:
        put(
            "tokens",
            sum(figure.limit for figure in pair),
            sum(thousands(figure.remaining) for figure in pair),
            min(figure.reset for figure in pair),
        )
    return headers
