# SPDX-License-Identifier: Apache-2.0
"""Somebody else on the same key: a seeded consumer that draws a share of a pool's limit. Pure, in virtual time."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from sluicegate.testing.limits import Admitted, Demand
from sluicegate.testing.meters import Resource
from sluicegate.testing.truth import AccountedLimits

_REPEATS = 3
_MOST_REPEATS = 1000


@dataclass(frozen=True, slots=True)
class ForeignConfig:
    """`percent` of the limit's rate, in calls of about `call_tokens` (default: a quarter second's worth of the share).

    `output_share`: of a call's tokens, on pools with output limits, how much is output. Calls come at exponential
    intervals (a Poisson stream), which is what a crowd of independent callers looks like; a rejected call is repeated
    up to three times, when its answer says that it would fit or a little later, so that the share is drawn under
    pressure too. `start` and `stop`: seconds on the clock of the pool.
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
        self._repeats: list[tuple[float, float, int]] = []  # when, how much, how many more times
        self._arrival = math.inf
        if config.percent > 0:
            self._schedule(config.start)

    @property
    def next_at(self) -> float:
        """When the next call is due; inf for never."""
        return min(self._arrival, self._repeats[0][0] if self._repeats else math.inf)

    def run(self, now: float) -> int:
        """Make every call that was due by `now`, each at its own time; returns how many."""
        made = 0
        while (at := self.next_at) <= now:
            if at >= self.config.stop:
                self._arrival = math.inf
                self._repeats.clear()
                break
            if at == self._arrival:
                amount = max(1.0, round(self._lead()[1] * self._random.uniform(0.5, 1.5)))
                self._schedule(at)
                self._call(at, amount, _REPEATS)
            else:
                _, amount, left = heapq.heappop(self._repeats)
                self._call(at, amount, left)
            made += 1
        return made

    def _call(self, at: float, amount: float, repeats: int) -> None:
        resource, _ = self._lead()
        demand = Demand(
            tokens=amount if resource == "tokens" else 0,
            input_tokens=amount if resource == "input_tokens" else 0,
        )
        answer = self._pool.admit(at, demand, foreign=True)
        if isinstance(answer, Admitted):
            if self._has("output_tokens"):
                made = amount if resource == "output_tokens" else self._output_of(amount)
                self._pool.produce(at, made, foreign=True)
        elif repeats > 0 and math.isfinite(answer.wait) and len(self._repeats) < _MOST_REPEATS:
            again = at + answer.wait * self._random.uniform(1.0, 1.5) + 0.001
            heapq.heappush(self._repeats, (again, amount, repeats - 1))

    def _schedule(self, after: float) -> None:
        resource, size = self._lead()
        rate = next(m.config.rate for m in self._pool.limits.meters if m.config.resource == resource)
        interval = size / (rate * self.config.percent / 100)
        self._arrival = after + self._random.expovariate(1 / interval)

    def _lead(self) -> tuple[Resource, float]:
        """The meter whose share is drawn, and the size of a call on it."""
        order: tuple[Resource, ...] = ("tokens", "input_tokens", "output_tokens", "requests")
        for resource in order:
            for meter in self._pool.limits.meters:
                if meter.config.resource == resource:
                    if resource == "requests":
                        return resource, 1.0
                    config = meter.config
                    size = self.config.call_tokens or config.rate * self.config.percent / 100 * 0.25
                    return resource, min(max(1.0, size), config.size / 2)
        raise AssertionError("a pool has at least one meter")

    def _has(self, resource: Resource) -> bool:
        return any(meter.config.resource == resource for meter in self._pool.limits.meters)

    def _output_of(self, input_amount: float) -> float:
        share = self.config.output_share
        return input_amount * share / (1 - share) if share < 1 else input_amount
