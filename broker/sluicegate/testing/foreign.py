# SPDX-License-Identifier: Apache-2.0
"""Somebody else on the same key: a seeded consumer that draws a share of a pool's limit. Pure, in virtual time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from sluicegate.testing.limits import Admitted, Demand, Resource
from sluicegate.testing.truth import AccountedLimits


@dataclass(frozen=True, slots=True)
class ForeignConfig:
    """`percent` of the limit's rate, in calls of about `call_tokens` (default: two seconds' worth of the share).

    `output_share`: of a call's tokens, on pools with output limits, how much is output. Calls come at exponential
    intervals (a Poisson stream), which is what a crowd of independent callers looks like; a rejected call is not
    repeated. `start` and `stop`: seconds on the clock of the pool.
    """

    percent: float
    call_tokens: float | None = None
    output_share: float = 0.2
    start: float = 0.0
    stop: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 1000:
            raise ValueError(f"percent must lie between 0 and 1000, not {self.percent!r}")
        if self.call_tokens is not None and not self.call_tokens > 0:
            raise ValueError(f"callTokens must be above 0, not {self.call_tokens!r}")
        if not 0 <= self.output_share <= 1:
            raise ValueError(f"outputShare must lie between 0 and 1, not {self.output_share!r}")


class ForeignUse:
    """Draws on `pool` whenever `run(now)` is called; `next_at` is when the next call is due (inf: never)."""

    def __init__(self, config: ForeignConfig, pool: AccountedLimits, seed: int) -> None:
        self.config = config
        self._pool = pool
        self._random = random.Random(seed)
        self.next_at = config.start
        if config.percent <= 0:
            self.next_at = math.inf
        else:
            self._schedule(config.start)

    def run(self, now: float) -> int:
        """Make every call that was due by `now`, each at its own time; returns how many."""
        made = 0
        while self.next_at <= now:
            at = self.next_at
            if at >= self.config.stop:
                self.next_at = math.inf
                break
            self._call(at)
            self._schedule(at)
            made += 1
        return made

    def _call(self, at: float) -> None:
        resource, size = self._lead()
        amount = max(1.0, round(size * self._random.uniform(0.5, 1.5)))
        match resource:
            case "requests":
                self._pool.admit(at, Demand(), foreign=True)
            case "tokens":
                self._pool.admit(at, Demand(tokens=amount), foreign=True)
            case "input_tokens":
                answer = self._pool.admit(at, Demand(input_tokens=amount), foreign=True)
                if isinstance(answer, Admitted) and self._has("output_tokens"):
                    self._pool.produce(at, self._output_of(amount), foreign=True)
            case "output_tokens":
                self._pool.produce(at, amount, foreign=True)

    def _schedule(self, after: float) -> None:
        resource, size = self._lead()
        rate = next(m.config.rate for m in self._pool.limits.meters if m.config.resource == resource)
        interval = size / (rate * self.config.percent / 100)
        self.next_at = after + self._random.expovariate(1 / interval)

    def _lead(self) -> tuple[Resource, float]:
        """The meter whose share is drawn, and the size of a call on it."""
        order: tuple[Resource, ...] = ("tokens", "input_tokens", "output_tokens", "requests")
        for resource in order:
            for meter in self._pool.limits.meters:
                if meter.config.resource == resource:
                    if resource == "requests":
                        return resource, 1.0
                    config = meter.config
                    size = self.config.call_tokens or config.rate * self.config.percent / 100 * 2
                    return resource, min(max(1.0, size), config.size / 2)
        raise AssertionError("a pool has at least one meter")

    def _has(self, resource: Resource) -> bool:
        return any(meter.config.resource == resource for meter in self._pool.limits.meters)

    def _output_of(self, input_amount: float) -> float:
        share = self.config.output_share
        return input_amount * share / (1 - share) if share < 1 else input_amount
