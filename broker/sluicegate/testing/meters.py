# SPDX-License-Identifier: Apache-2.0
"""One limit of a provider, as its bucket or fixed window stands at any moment. Pure, in virtual time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Resource = Literal["requests", "tokens", "input_tokens", "output_tokens"]
Algorithm = Literal["bucket", "fixed_window"]

RESOURCES: tuple[Resource, ...] = ("requests", "tokens", "input_tokens", "output_tokens")
EPSILON = 1e-6  # float dust of refill sums must not turn "exactly fits" into a 429


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
        return max(0, math.floor(self.remaining + EPSILON))


def _window_no(config: MeterConfig, now: float) -> int:
    return math.floor((now - config.anchor) / config.window)


def _reset(config: MeterConfig, level: float, now: float) -> float:
    """Seconds from `now` until a meter with `level` left is full."""
    missing = config.size - level
    if missing <= EPSILON:
        return 0.0
    if config.algorithm == "bucket":
        return missing / config.rate
    return config.anchor + (_window_no(config, now) + 1) * config.window - now


def figures_of(config: MeterConfig, level: float, now: float) -> MeterFigures:
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
        if need <= level + EPSILON:
            return 0.0
        if need > self._size + EPSILON:
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
        if used == 0.0 or used + cost <= self._rate * width + EPSILON:
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
        return figures_of(self.config, self.level_at(now), now)

    def window_end(self, now: float) -> float:
        """When the fixed window that `now` lies in ends."""
        return self.config.anchor + (_window_no(self.config, now) + 1) * self.config.window
