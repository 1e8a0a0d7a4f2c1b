# SPDX-License-Identifier: Apache-2.0
"""Cost of a scheduling decision by what waits: 100, 10,000 and 100,000 calls of up to 10,000 tenants.

A decision is one grant with what belongs to it: the time event, the settlement of the call, and a new arrival, so that
the depth stays. The three depths are measured in turns, since a shared machine is not equally fast all the time; the
figure of each is its best turn. Exits 1 when the cost at 100,000 is more than 3 times that at 100.
"""

from __future__ import annotations

import gc
import sys
import time

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TenantConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Effect, Granted
from sluicegate.broker.core.events import Acquire, Settle, Tick
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import Provider, Resource

DEPTHS = ((100, 10), (10_000, 1_000), (100_000, 10_000))
TURNS = 5
GRANTS = 400
BAR = 3.0
TIERS = ("Critical", "Premium", "Standard", "Free")


class Load:
    """A pool with `waiting` calls of `tenants` tenants before it."""

    def __init__(self, waiting: int, tenants: int) -> None:
        self.waiting, self.tenants = waiting, tenants
        self.now = 0.0
        self.made = 0
        limits = tuple(LimitConfig(r, 180_000.0, 60.0) for r in (Resource.TOKENS, Resource.REQUESTS))
        pool = PoolConfig("gpt", Provider.OPENAI, "https://x", ("gpt",), limits, max_queue_depth=10**7)
        policies = {
            f"a/{i}": TenantConfig(f"a/{i}", "a", TIERS[i % 4], 1 + i % 3, max_queue_depth=10**7, max_wait=1e9)
            for i in range(tenants)
        }
        self.broker = Dispatcher(Snapshot("v", {"gpt": pool}, policies), 0.0, trust_claims=True)
        start = time.perf_counter()
        while self.made < waiting + 10:
            self.arrive()
        self.arrival = (time.perf_counter() - start) / self.made

    def arrive(self) -> list[Effect]:
        self.made += 1
        tenant = f"a/{self.made % self.tenants}"
        acquire = Acquire(f"c{self.made}", "s", Workload(), None, "gpt", Estimate(400, 100, 200), tenant=tenant)
        return self.broker.handle(acquire, self.now)

    def turn(self) -> float:
        """Seconds per grant."""
        granted = 0
        start = time.perf_counter()
        while granted < GRANTS:
            wake = self.broker.next_wakeup()
            assert wake is not None
            self.now = max(self.now, wake)
            effects = self.broker.handle(Tick(), self.now)
            for effect in effects:
                if isinstance(effect, Granted):
                    granted += 1
                    effects += self.broker.handle(Settle(effect.call_id, usage=Usage(400, 80)), self.now)
                    effects += self.arrive()
        return (time.perf_counter() - start) / granted


def main() -> int:
    loads = [Load(waiting, tenants) for waiting, tenants in DEPTHS]
    gc.collect()
    gc.freeze()
    best = [min(times) for times in zip(*[[load.turn() for load in loads] for _ in range(TURNS)], strict=True)]
    print(f"{'waiting':>8} {'tenants':>8} {'us/decision':>12} {'us/arrival':>11} {'ratio':>6}")
    for load, cost in zip(loads, best, strict=True):
        ratio = cost / best[0]
        print(f"{load.waiting:>8} {load.tenants:>8} {cost * 1e6:>12.1f} {load.arrival * 1e6:>11.1f} {ratio:>6.2f}")
    if best[-1] > BAR * best[0]:
        print(
            f"FAILED: the cost at {DEPTHS[-1][0]:,} waiting calls is more than {BAR:g} times that at {DEPTHS[0][0]:,}"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
