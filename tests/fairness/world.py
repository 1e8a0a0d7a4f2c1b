# SPDX-License-Identifier: Apache-2.0
"""A pool under load in virtual time: tenants that offer calls, the real dispatcher, and a provider that checks it.

The provider is the arithmetic of `sluicegate.testing.limits`, which shares no code with the broker. Nothing is random
but what the seed says.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot, TenantConfig, TierConfig
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Effect, FellBack, Granted, Rejected
from sluicegate.broker.core.events import Acquire, Event, Observe, Settle, Tick
from sluicegate.broker.core.flow import State
from sluicegate.broker.core.units import Workload
from sluicegate.testing.limits import Admitted, Demand, LimitsConfig, MeterConfig, ProviderLimits
from sluicegate.wire.values import Criticality, Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import ErrorClass, Latency, Provider, Resource

OVERHEAD = 4  # tokens that admission adds to a call's input


@dataclass(frozen=True, slots=True)
class Offer:
    """One tenant's load: `rate` calls per second of `tokens` (low, high), evenly spaced with jitter."""

    tenant: str
    tier: str = "Standard"
    weight: int = 1
    rate: float = 1.0
    tokens: tuple[int, int] = (100, 100)
    latency: Latency | None = None
    max_wait: float = 1e6


@dataclass(slots=True)
class Result:
    """What came of it. `tokens` by tenant: charged from `warm_up` to the end."""

    tokens: Counter[str] = field(default_factory=Counter)
    granted: Counter[str] = field(default_factory=Counter)
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reasons: Counter[str] = field(default_factory=Counter)
    decisions: list[Decision] = field(default_factory=list)
    quota_rejections: int = 0
    offered: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[float, float]] = field(default_factory=list)  # predicted, real wait
    served: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))  # by tier: when, size

    def share(self, tenant: str) -> float:
        return self.tokens[tenant] / sum(self.tokens.values())


def run(
    offers: Sequence[Offer],
    tiers: Sequence[TierConfig],
    *,
    seconds: float,
    per_minute: float = 60_000.0,
    requests: float = 60_000.0,
    warm_up: float = 20.0,
    latency: float = 1.0,
    seed: int = 1,
    keep: bool = True,
) -> Result:
    """Offer the load for `seconds` of virtual time."""
    rng = random.Random(seed)
    limits = (
        LimitConfig(Resource.TOKENS, per_minute, 60.0),
        LimitConfig(Resource.REQUESTS, requests, 60.0),
    )
    pool = PoolConfig("gpt", Provider.OPENAI, "https://x", ("gpt",), limits, tiers=tuple(tiers))
    tenants = {
        offer.tenant: TenantConfig(
            offer.tenant, "a", offer.tier, offer.weight, max_queue_depth=10**6, max_wait=offer.max_wait
        )
        for offer in offers
    }
    broker = Dispatcher(Snapshot("v", {"gpt": pool}, tenants), 0.0, trust_claims=True)
    meters = (MeterConfig("tokens", per_minute, initial=per_minute / 20), MeterConfig("requests", requests))
    provider = ProviderLimits(LimitsConfig("openai", meters))
    result = Result()
    sizes: dict[str, int] = {}
    predicted: dict[str, float] = {}
    events: list[tuple[float, int, Event | int]] = []
    order = 0

    def later(at: float, what: Event | int) -> None:
        nonlocal order
        order += 1
        heappush(events, (at, order, what))

    def act(effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Granted():
                    tenant, size = effect.party.tenant, sizes[effect.call_id]
                    outcome = provider.admit(now, Demand(tokens=size))
                    if isinstance(outcome, Admitted):
                        readings = tuple(
                            MeterReading(Resource(f.resource), f.window, f.limit, f.shown, f.shown + 1, f.reset)
                            for f in outcome.figures
                        )
                        later(now + latency / 2, Observe(effect.call_id, readings))
                        later(now + latency, Settle(effect.call_id, usage=Usage(size - OVERHEAD, 0)))
                        result.answered[effect.call_id] += 1
                        result.granted[tenant] += 1
                        result.waits[effect.party.tier].append(effect.waited)
                        result.served[effect.party.tier].append((now, size))
                        if effect.call_id in predicted:
                            result.errors.append((predicted.pop(effect.call_id), effect.waited))
                        result.reasons[effect.reason] += 1
                        if now >= warm_up:
                            result.tokens[tenant] += size
                    else:
                        result.quota_rejections += 1
                        quota = QuotaRejection(Resource.TOKENS, 60.0, outcome.wait)
                        later(now + 0.1, Settle(effect.call_id, ErrorClass.QUOTA, retriable=True, quota=quota))
                case FellBack() | Rejected():
                    result.answered[effect.call_id] += 1
                case Decision() if keep:
                    result.decisions.append(effect)
                case _:
                    pass

    for index, offer in enumerate(offers):
        later(rng.random() / offer.rate, index)
    while events:
        wake = broker.next_wakeup()
        at = events[0][0]
        now = at if wake is None else min(at, wake)
        if now > seconds:
            break
        if wake is not None and wake <= at:
            act(broker.handle(Tick(), now), now)
            continue
        _, _, what = heappop(events)
        if isinstance(what, int):
            offer = offers[what]
            result.offered += 1
            name = f"{offer.tenant}-{result.offered}"
            sizes[name] = rng.randint(*offer.tokens) + OVERHEAD
            estimate = Estimate(sizes[name] - OVERHEAD, 0, 0, exact=True)
            criticality = Criticality(latency=offer.latency)
            what = Acquire(name, "s", Workload(), None, "gpt", estimate, criticality, tenant=offer.tenant)
            later(now + (0.5 + rng.random()) / offer.rate, offers.index(offer))
        act(broker.handle(what, now), now)
        if isinstance(what, Acquire) and now >= warm_up and what.call_id in broker._calls:
            call, place = broker._calls[what.call_id]
            if call.state is State.WAITING:
                predicted[what.call_id] = place.predicted_wait(call, now)
    return result
