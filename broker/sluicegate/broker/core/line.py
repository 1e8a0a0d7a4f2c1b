# SPDX-License-Identifier: Apache-2.0
"""What the parts of a pool's machine share: its budget, the queue before it, what a call costs there and how long it
will wait.

A call that cannot be served here is left in `unserved`; the dispatcher, which sees all pools, gives it its fallback or
its rejection.
"""

from __future__ import annotations

from math import inf

from sluicegate.broker.core.breaker import Breaker, BreakerState
from sluicegate.broker.core.budget import Budget, Lack
from sluicegate.broker.core.ceiling import TenantCeilings
from sluicegate.broker.core.chains import Chains
from sluicegate.broker.core.config import Ceiling, PoolConfig, TenantConfig
from sluicegate.broker.core.flow import Call, Flow, State
from sluicegate.broker.core.predict import predict
from sluicegate.broker.core.queue import PoolQueue
from sluicegate.broker.core.ranking import Ranking
from sluicegate.broker.core.refuse import Unserved
from sluicegate.broker.core.retry import estimated_usage
from sluicegate.broker.core.units import MeterKey
from sluicegate.wire.words import ErrorClass, Reason

_SHORTEST_CHECK = 0.05
PREDICTION_MARGIN = 1.25


class Line:
    """The calls of one pool, waiting and granted. `chains` is the dispatcher's, shared by all pools."""

    def __init__(self, config: PoolConfig, chains: Chains, now: float) -> None:
        self.config = config
        self.chains = chains
        self.budget = Budget(config, now)
        self.breaker = Breaker(config.breaker)
        self.unserved: list[Unserved] = []
        self.granted: dict[str, Call] = {}
        self._ceilings: dict[str, TenantCeilings] = {}
        self._ceilings_said: dict[str, tuple[Ceiling, ...]] = {}
        self.configured(now)
        self.queue = PoolQueue(config.tiers, len(self.ranking.meters), now)

    def configured(self, now: float) -> None:
        held = 0.0
        self.held_back: list[float] = []
        for tier in self.config.tiers:
            self.held_back.append(held)
            held = min(1.0, held + tier.reserved_headroom_percent / 100.0)
        self.ranking = Ranking(self.budget, now)
        quota = [entry.after_wait for entry in self.config.failover if ErrorClass.QUOTA in entry.on]
        self.failover_after = min(quota, default=inf)  # seconds of predicted wait that make a call look elsewhere

    def reconfigure(self, config: PoolConfig, calls: list[Call], now: float) -> None:
        """Go on under `config` with `calls`, whose tier and weight are already the new ones. Tags and credit stay."""
        self.budget.reconfigure(config, now)
        self.breaker.reconfigure(config.breaker, now, changed=config != self.config)
        self.config = config
        meters = self.ranking.meters
        self.configured(now)
        old, self.queue = self.queue, PoolQueue(config.tiers, len(self.ranking.meters), now)
        before = {tier.name: tier for tier in old.tiers}
        for tier in self.queue.tiers:
            if tier.name in before:
                tier.take_over(before[tier.name], now, same_meters=self.ranking.meters == meters)
        for call in calls:
            if call.state is State.GRANTED:
                call.vector = self.ranking.vector(call.charge)
                self.queue.tiers[call.tier].carry(call, self.flow(call), self.ranking.share(call.vector))
            elif call.state is State.DELAYED:
                self.queue.delay(call, call.eligible_at)
                self.schedule_check(call, now)
            elif self.price(call, now):
                self.queue.enter(call, self.flow(call), now)
                self.schedule_check(call, now)

    def ceilings_of(self, tenant: TenantConfig) -> None:
        """Take over the tenant's ceilings in this pool; what it used under the same ones is kept."""
        said = tenant.ceilings.get(self.config.name, ())
        if said == self._ceilings_said.get(tenant.name, ()):
            return
        if said:
            self._ceilings_said[tenant.name] = said
            self._ceilings[tenant.name] = TenantCeilings(said)
        else:
            del self._ceilings_said[tenant.name], self._ceilings[tenant.name]

    def calls(self) -> list[Call]:
        """All its calls, waiting and granted, in order of arrival."""
        waiting = [call for tier in self.queue.tiers for flow in tier.flows() for call in flow.calls()]
        return sorted([*waiting, *self.queue.delayed.values(), *self.granted.values()], key=lambda call: call.seq)

    # ---- arithmetic of one call

    def price(self, call: Call, now: float, *, quiet: bool = False) -> bool:
        """Set what the call costs. False: it can never fit (and is unserved, unless `quiet`)."""
        estimate = call.estimate
        call.charge = charge = self.budget.charge(estimate, call.model)
        call.usage = estimated_usage(estimate)
        if self.budget.relax(charge, now):
            self.ranking.read_limits(now)
        call.vector = self.ranking.vector(charge)
        call.share = self.ranking.share(call.vector)
        never = self.budget.never_fits(charge)
        if never is not None:
            message = (
                f"it needs {charge.of(never[0].resource):g} of {never[0]}, which never holds more than {never[1]:g}"
            )
            if not quiet:
                self.unserve(call, Reason.NEVER_FITS, inf, message, Lack(never[0], inf, False, never[1]))
            return False
        ceilings = self._ceilings.get(call.party.tenant)
        ceiling = ceilings.never_fits(call.usage) if ceilings is not None else None
        if ceiling is not None:
            message = (
                f"it needs {call.usage.of(ceiling.resource):g} {ceiling.resource}, "
                f"above its tenant's ceiling of {ceiling.limit:g}"
            )
            if not quiet:
                lack = Lack(MeterKey(ceiling.resource, ceiling.window), inf, False, ceiling.limit)
                self.unserve(call, Reason.NEVER_FITS, inf, message, lack)
            return False
        return True

    def flow(self, call: Call) -> Flow:
        flow = self.queue.tiers[call.tier].flow(call.party.tenant, call.weight, self._ceilings.get(call.party.tenant))
        call.flow = flow
        return flow

    def debit(self, call: Call, now: float) -> None:
        flow = call.flow
        if flow is not None and flow.ceilings is not None:
            call.debited_at = now
            flow.ceilings.debit(call.usage, now)

    # ---- waits

    def check(self, call: Call, now: float, margin: float) -> None:
        """Predict the wait of `call`; a hopeless one leaves now."""
        slack = call.give_up_at - now
        wait = self.predicted_wait(call, now)
        if wait > slack * margin:
            late = Reason.DEADLINE if call.give_up_reason is Reason.DEADLINE else Reason.PREDICTED_WAIT
            self.leave(call, late if self.breaker.ready_in(now) < wait else self.shut_reason, now, wait)
        else:
            self.schedule_check(call, now)

    def schedule_check(self, call: Call, now: float) -> None:
        slack = call.give_up_at - now
        if slack < inf:
            call.check_at = call.give_up_at if slack <= _SHORTEST_CHECK else now + slack / 2.0
            self.queue.schedule(call.check_at, call)

    def predicted_wait(self, call: Call, now: float) -> float:
        """Seconds until `call`, which waits here, will be granted; inf: never, as things are."""
        available = self.budget.available(now)
        held = self.held_back[call.tier]
        drawable = [
            max(0.0, available.get(key, 0.0) - held * capacity)
            for key, capacity in zip(self.ranking.meters, self.ranking.capacity, strict=True)
        ]
        lack = self.budget.lack(call.charge, now, held)
        ready = now if lack is None else lack.ready_at
        return predict(
            self.queue, call, now, self.ranking.rates, drawable, max(ready, now + self.breaker.ready_in(now))
        )

    @property
    def shut_reason(self) -> Reason:
        """Why nothing is granted while the breaker is not closed."""
        return Reason.BILLING if self.breaker.cause is ErrorClass.BILLING else Reason.BREAKER_OPEN

    @property
    def shut(self) -> bool:
        """The breaker is not closed."""
        return self.breaker.state is not BreakerState.CLOSED

    def send_away(self, call: Call, now: float) -> None:
        """Let the dispatcher look for another place for a call that is in no queue, since the breaker is not closed."""
        self.unserve(call, self.shut_reason, self.breaker.ready_in(now), may_wait=True)

    def refuse(self, call: Call, reason: Reason, message: str, now: float) -> None:
        """Policy no longer lets a waiting call wait."""
        self.queue.leave(call, now)
        self.unserve(call, reason, inf, message)

    def leave(self, call: Call, reason: Reason, now: float, wait: float | None = None) -> None:
        """Stop waiting, unserved."""
        if wait is None:
            wait = inf if reason is Reason.NEVER_FITS else self.predicted_wait(call, now)
        self.queue.leave(call, now)
        self.unserve(call, reason, wait, lack=self.budget.lack(call.charge, now, self.held_back[call.tier]))

    def unserve(
        self,
        call: Call,
        reason: Reason,
        wait: float,
        message: str = "",
        lack: Lack | None = None,
        *,
        may_wait: bool = False,
    ) -> None:
        """Leave a call that is in no queue to the dispatcher."""
        call.state = State.NEW
        self.unserved.append(Unserved(call, reason, wait, lack, message, may_wait))
