# SPDX-License-Identifier: Apache-2.0
"""One pool's machine: its budget and the queue before it.

Theory of operation. Whatever happens ends in `_pump`: take the head of the order; if the budget has room for it,
grant and go on; if not, that call holds the claim on the meter that it waits for, nothing passes it but backfill
that cannot delay it, and the pool wakes when the meter has refilled. A call of higher order that arrives meanwhile
becomes the head and so takes the claim over; a due guarantee keeps it (`queue`).

    event                                does
    offer                                enter, pump; still waiting: queue bounds, then the predicted wait
    settle, no retry                     settle the budget, correct the tenant's tag and ceilings, pump
    settle, quota 429                    the same; back into the queue when the budget says that it fits
    settle, overload / server / network  the same; back into the queue after a back-off, a few times
    cancel, session lost                 leave the queue, or settle as unknown, pump
    time                                 delayed calls enter; waits are predicted again; pump

Calls that cannot be served here are left in `unserved`; the dispatcher, which sees all pools, gives them their
fallback or their rejection.
"""

from __future__ import annotations

from math import inf

from sluicegate.broker.core.budget import Budget, Lack
from sluicegate.broker.core.ceiling import TenantCeilings
from sluicegate.broker.core.config import Ceiling, PoolConfig, TenantConfig
from sluicegate.broker.core.effects import Decision, Effect, Granted, Requeued, Settled
from sluicegate.broker.core.events import Settle
from sluicegate.broker.core.flow import BATCH, Call, Chains, Flow, State
from sluicegate.broker.core.predict import predict
from sluicegate.broker.core.queue import PoolQueue
from sluicegate.broker.core.ranking import Ranking
from sluicegate.broker.core.refuse import Unserved
from sluicegate.broker.core.retry import Final, estimated_usage, judge, real_usage
from sluicegate.broker.core.units import Charge, MeterKey
from sluicegate.wire.values import MeterReading, QuotaRejection
from sluicegate.wire.words import ErrorClass, Reason, Resource

_SHORTEST_SLEEP = 0.001
_POLL = 1.0
_CANDIDATES = 4
_SHORTEST_CHECK = 0.05
_PREDICTION_MARGIN = 1.25


class Pool:
    """One pool. `chains` is the dispatcher's, shared by all pools."""

    def __init__(self, config: PoolConfig, chains: Chains, now: float) -> None:
        self.config = config
        self.budget = Budget(config, now)
        self.unserved: list[Unserved] = []
        self.granted: dict[str, Call] = {}
        self.binding: MeterKey | None = None
        self.blocked: Call | None = None  # the head of the order, which holds the claim
        self.retired = False
        self._chains = chains
        self._ceilings: dict[str, TenantCeilings] = {}
        self._ceilings_said: dict[str, tuple[Ceiling, ...]] = {}
        self._blocked_until = inf
        self._claim: Lack | None = None  # what the head of the order waits for, where backfill may help
        self._configured(now)
        self.queue = PoolQueue(config.tiers, len(self.ranking.meters), now)

    def _configured(self, now: float) -> None:
        held = 0.0
        self.held_back: list[float] = []
        for tier in self.config.tiers:
            self.held_back.append(held)
            held = min(1.0, held + tier.reserved_headroom_percent / 100.0)
        self.ranking = Ranking(self.budget, now)

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

    def reconfigure(self, config: PoolConfig, calls: list[Call], now: float, out: list[Effect]) -> None:
        """Go on under `config` with `calls`, whose tier and weight are already the new ones. Tags and credit stay."""
        self.budget.reconfigure(config, now)
        self.config = config
        self._configured(now)
        old, self.queue = self.queue, PoolQueue(config.tiers, len(self.ranking.meters), now)
        before = {tier.name: tier for tier in old.tiers}
        for tier in self.queue.tiers:
            if tier.name in before:
                tier.take_over(before[tier.name], now)
        for call in calls:
            if call.state is State.GRANTED:
                call.vector = self.ranking.vector(call.charge)
                self.queue.tiers[call.tier].carry(call, self._flow(call), self.ranking.share(call.vector))
            elif call.state is State.DELAYED:
                self.queue.delay(call, call.eligible_at)
                self._schedule_check(call, now)
            elif self._price(call):
                self.queue.enter(call, self._flow(call), now)
                self._schedule_check(call, now)
        self._pump(now, out)

    def retire(self, now: float) -> None:
        """The pool is no longer configured: nothing waits on it any more, what is in flight settles."""
        self.retired = True
        for call in self.calls():
            if call.state is not State.GRANTED:
                self.refuse(call, Reason.UNKNOWN_POOL, f"pool {self.config.name!r} is no longer configured", now)
        self._blocked_until = inf

    def refuse(self, call: Call, reason: Reason, message: str, now: float) -> None:
        """Policy no longer lets a waiting call wait."""
        self.queue.leave(call, now)
        self._unserve(call, reason, inf, message)

    # ---- what happens to it

    def offer(self, call: Call, now: float, out: list[Effect]) -> None:
        """A new call, resolved to this pool: granted, waiting, or in `unserved` when this returns."""
        self.ranking.advance(now)
        tier = self.queue.tiers[call.tier]
        if not self._price(call):
            return
        (tier.arrivals_batch if call.batch else tier.arrivals_interactive).add(call.vector, now)
        flow = self._flow(call)
        self.queue.enter(call, flow, now)
        self._pump(now, out, unchanged=True)
        if call.state is not State.WAITING:
            return
        if len(flow) > call.max_depth:
            self._leave(call, Reason.QUEUE_FULL_TENANT, now)
        elif self.queue.waiting > self.config.max_queue_depth:
            self._leave(call, Reason.QUEUE_FULL_POOL, now)
        else:
            self._check(call, now, 1.0)

    def try_now(self, call: Call, now: float, out: list[Effect]) -> bool:
        """Grant `call` as a fallback if it would be first in the order and the budget has room; else leave no trace."""
        self.ranking.advance(now)
        if self.retired or not self._price(call, quiet=True):
            return False
        head = self.queue.head(now, self.ranking.rates)
        if head is not None and (head[1] or head[0].tier <= call.tier):
            return False
        if self.budget.lack(call.charge, now, self.held_back[call.tier]) is not None:
            return False
        flow = self._flow(call)
        if flow.ceilings is not None and flow.ceilings.ready_at(call.usage, now) > now:
            return False
        if self.queue.tiers[call.tier].ceiling_ready_at(now, self.ranking.rates) > now:
            return False
        self.queue.enter(call, flow, now)
        self._grant(call, Reason.FALLBACK, now, out)
        self._pump(now, out)
        return True

    def resume(self, call: Call, now: float, out: list[Effect]) -> None:
        """A re-declared waiting call: as `offer`, but without queue bounds, since it waited already."""
        self.ranking.advance(now)
        if self._price(call):
            self.queue.enter(call, self._flow(call), now)
            self._pump(now, out)
            if call.state is State.WAITING:
                self._check(call, now, 1.0)

    def adopt(self, call: Call, age: float, now: float) -> None:
        """A re-declared call in flight: its reservation is taken over."""
        self._price(call, quiet=True)
        self.budget.adopt(call.call_id, call.charge, age, now)
        call.flow = self._flow(call)
        call.state = State.GRANTED
        self.granted[call.call_id] = call
        self.queue.tiers[call.tier].granted(call)
        self._debit(call, now)

    def withdraw(self, call: Call, now: float, out: list[Effect]) -> None:
        """A waiting call goes away."""
        self.queue.leave(call, now)
        call.state = State.DONE
        self._pump(now, out)

    def observe(self, call: Call, readings: tuple[MeterReading, ...], now: float, out: list[Effect]) -> None:
        """The headers of a granted call."""
        self.budget.observe(call.call_id, readings, now)
        self._pump(now, out)

    def lose(self, call: Call, now: float, out: list[Effect]) -> None:
        """A granted call whose sidecar is gone: it settles as unknown."""
        self._settle(call, Settle(call.call_id, ErrorClass.CANCELLED), now, out)
        call.state = State.DONE
        self._pump(now, out)

    def settle(self, call: Call, event: Settle, now: float, out: list[Effect]) -> bool:
        """One attempt of a granted call ended. True: the call is done; else it is delayed, or in `unserved`."""
        ready = self._settle(call, event, now, out)
        call.state = State.DONE
        again = event.retriable and event.error_class not in (ErrorClass.NONE, ErrorClass.CANCELLED)
        if again:
            self._retry(call, event, ready, now, out)
        self._pump(now, out)
        return not again

    def tick(self, now: float, out: list[Effect]) -> None:
        """Time went on."""
        self._pump(now, out)

    def next_wakeup(self) -> float:
        """When `tick` has something to do; inf: never. Absolute seconds."""
        return min(self._blocked_until, self.queue.next_timer())

    # ---- settlement and retries

    def _settle(self, call: Call, event: Settle, now: float, out: list[Effect]) -> float:
        """End the reservation. Returns when the call would fit, after a quota 429; else now."""
        ready = now
        del self.granted[call.call_id]
        if event.error_class is ErrorClass.QUOTA and event.dispatched:
            ready = self.budget.reject(call.call_id, event.quota or QuotaRejection(retry_after=event.retry_after), now)
            final: Charge | None = Charge()
            self.ranking.read_rates(now)
        else:
            final = self.budget.settle(call.call_id, dispatched=event.dispatched, usage=event.usage, now=now)
            if not event.dispatched:
                final = Charge(requests=0.0)
        charge = final or call.charge
        self.queue.tiers[call.tier].settled(call, self.ranking.share(self.ranking.vector(charge)))
        flow = call.flow
        assert flow is not None
        if flow.ceilings is not None:
            used = call.usage
            if event.usage is not None:
                used = real_usage(event.usage)
            elif not event.dispatched or event.error_class is not ErrorClass.NONE:
                used = Charge(requests=1.0 if event.dispatched else 0.0)
            flow.ceilings.correct(call.usage, used, call.debited_at, now)
            self.queue.unpark(flow)
        usage = event.usage
        out.append(
            Settled(
                call.call_id,
                call.party,
                self.config.name,
                str(event.error_class),
                call.charge.tokens or call.charge.input_tokens + call.charge.output_tokens,
                None if usage is None else usage.total,
                0 if usage is None else usage.input_tokens,
                0 if usage is None else usage.output_tokens,
            )
        )
        return ready

    def _retry(self, call: Call, event: Settle, ready: float, now: float, out: list[Effect]) -> None:
        verdict = judge(call, event, ready, self.config.max_attempts, now)
        if isinstance(verdict, Final):
            self._unserve(call, verdict.reason, verdict.wait, verdict.message)
        elif self.retired:
            self._unserve(call, Reason.UNKNOWN_POOL, inf, f"pool {self.config.name!r} is no longer configured")
        elif verdict.at >= call.give_up_at:
            self._unserve(call, call.give_up_reason, verdict.at - now)
        else:
            call.attempt += 1
            self.queue.delay(call, verdict.at)
            self._schedule_check(call, now)
            wait, name = verdict.at - now, self.config.name
            out.append(Requeued(call.call_id, call.session, call.party, name, verdict.reason, wait, call.attempt))

    # ---- the pump

    def _pump(self, now: float, out: list[Effect], *, unchanged: bool = False) -> None:
        """Grant what can go. `unchanged`: the budget is as it was at the last pump, but for time."""
        self.ranking.advance(now)
        queue = self.queue
        for call in queue.expired(now):
            self._due_call(call, now)
        before, until = (self.blocked, self._blocked_until) if unchanged else (None, 0.0)
        self._blocked_until = inf
        self.blocked = None
        gated: set[int] = set()
        while True:
            found = queue.head(now, self.ranking.rates, gated)
            if found is None:
                self.binding = None
                return
            call, due = found
            if call is before and now < until:
                self.blocked, self._blocked_until = before, until
                if self._claim is not None:
                    self._backfill(call, self._claim, now, out)
                return
            lack = self.budget.lack(call.charge, now, self._gate(call, due=due))
            if lack is None:
                self._grant(call, Reason.GUARANTEE if due else None, now, out)
            elif due and lack.headroom:
                gated.add(call.tier)
            elif lack.ready_at == inf and self._never_fits(call, lack):
                self._leave(call, Reason.NEVER_FITS, now)
            else:
                if not lack.headroom:
                    queue.tiers[call.tier].short = True
                self.blocked = call
                self.binding = call.binding = lack.meter
                self._blocked_until = max(lack.ready_at, now + _SHORTEST_SLEEP) if lack.ready_at < inf else now + _POLL
                # A continuous meter that every call draws on leaves nothing that cannot delay the claim.
                binding = lack.meter
                drained = binding in self.ranking.continuous and binding.resource in (
                    Resource.REQUESTS,
                    Resource.TOKENS,
                )
                self._claim = None if drained else lack
                if self._claim is not None:
                    self._backfill(call, lack, now, out)
                return

    def _gate(self, call: Call, *, due: bool) -> float:
        held = self.held_back[call.tier]
        if due and held:
            # Headroom whose owner waits for the meter itself is drawn already: see `tiers`.
            tiers = self.queue.tiers[: call.tier]
            drawn = sum(tier.config.reserved_headroom_percent for tier in tiers if tier.short and tier.backlogged)
            held = max(0.0, held - drawn / 100.0)
        return held

    def _backfill(self, head: Call, lack: Lack, now: float, out: list[Effect]) -> None:
        """Grant followers that cannot delay the head: proven by reserving first and asking again."""
        resource = lack.meter.resource
        continuous = lack.meter in self.ranking.continuous
        for call in self.queue.followers(head, _CANDIDATES):
            if continuous and call.charge.of(resource) > 0.0:
                continue
            flow = call.flow
            assert flow is not None
            if flow.ceilings is not None and flow.ceilings.ready_at(call.usage, now) > now:
                continue
            if self.budget.lack(call.charge, now, self.held_back[call.tier]) is not None:
                continue
            self.budget.reserve(call.call_id, call.charge, now)
            after = self.budget.lack(head.charge, now, self.held_back[head.tier])
            if after is None or after.ready_at > lack.ready_at + 1e-6:
                self.budget.settle(call.call_id, dispatched=False, usage=None, now=now)
                continue
            self._grant(call, Reason.BACKFILL, now, out, reserved=True)

    def _grant(
        self, call: Call, reason: Reason | None, now: float, out: list[Effect], *, reserved: bool = False
    ) -> None:
        queue = self.queue
        tier = queue.tiers[call.tier]
        if not reserved:
            self.budget.reserve(call.call_id, call.charge, now)
        if reason is Reason.GUARANTEE:
            tier.spend(call)
        tier.draw(call.vector)
        tier.granted(call)
        queue.leave(call, now)
        call.state = State.GRANTED
        self.granted[call.call_id] = call
        self._debit(call, now)
        if call.chain is not None:
            self._chains.granted(call)
        waiting = queue.eligible(now, batch=call.rank == BATCH)
        if reason is None:
            reason = Reason.TIER_ORDER if any(count for _, count in waiting) else Reason.ROOM
        waited = max(0.0, now - call.arrival)
        binding = call.binding or (self.binding if waited > 0.0 else None)
        name, model = self.config.name, call.model
        call.grant = Granted(
            call.call_id,
            call.session,
            call.party,
            name,
            call.outcome,
            reason,
            waited,
            call.attempt,
            binding,
            "" if model == call.acquire.model else model,
        )
        out.append(call.grant)
        out.append(
            Decision(
                now,
                call.call_id,
                call.party,
                name,
                model,
                call.outcome,
                reason,
                waited,
                call.attempt,
                binding,
                waiting,
            )
        )

    # ---- waits

    def _due_call(self, call: Call, now: float) -> None:
        """A call's time came: it is eligible again, or its wait is predicted again."""
        if call.state is State.DELAYED and call.eligible_at <= now:
            self.queue.leave(call, now)
            if self._price(call):
                self.queue.enter(call, self._flow(call), now)
        elif call.state in (State.WAITING, State.DELAYED):
            if now >= call.give_up_at:
                self._leave(call, call.give_up_reason, now)
            else:
                self._check(call, now, _PREDICTION_MARGIN)

    def _check(self, call: Call, now: float, margin: float) -> None:
        slack = call.give_up_at - now
        wait = self.predicted_wait(call, now)
        if wait > slack * margin:
            reason = Reason.DEADLINE if call.give_up_reason is Reason.DEADLINE else Reason.PREDICTED_WAIT
            self._leave(call, reason, now, wait)
        else:
            self._schedule_check(call, now)

    def _schedule_check(self, call: Call, now: float) -> None:
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
        return predict(self.queue, call, now, self.ranking.rates, drawable, ready)

    def _leave(self, call: Call, reason: Reason, now: float, wait: float | None = None) -> None:
        """Stop waiting, unserved."""
        if wait is None:
            wait = inf if reason is Reason.NEVER_FITS else self.predicted_wait(call, now)
        self.queue.leave(call, now)
        self._unserve(call, reason, wait, lack=self.budget.lack(call.charge, now, self.held_back[call.tier]))

    def _unserve(self, call: Call, reason: Reason, wait: float, message: str = "", lack: Lack | None = None) -> None:
        call.state = State.NEW
        self.unserved.append(Unserved(call, reason, wait, lack, message))

    # ---- arithmetic of one call

    def _price(self, call: Call, *, quiet: bool = False) -> bool:
        """Set what the call costs. False: it can never fit (and is unserved, unless `quiet`)."""
        estimate = call.acquire.estimate
        call.charge = charge = self.budget.charge(estimate, call.model)
        call.usage = estimated_usage(estimate)
        call.vector = self.ranking.vector(charge)
        call.share = self.ranking.share(call.vector)
        never = self.budget.never_fits(charge)
        if never is not None:
            message = (
                f"it needs {charge.of(never[0].resource):g} of {never[0]}, which never holds more than {never[1]:g}"
            )
            if not quiet:
                self._unserve(call, Reason.NEVER_FITS, inf, message, Lack(never[0], inf, False, never[1]))
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
                self._unserve(call, Reason.NEVER_FITS, inf, message, lack)
            return False
        return True

    def _never_fits(self, call: Call, lack: Lack) -> bool:
        """A limit became lower, or the headroom leaves too little: could the call ever go?"""
        return lack.headroom or self.budget.never_fits(call.charge) is not None

    def _flow(self, call: Call) -> Flow:
        flow = self.queue.tiers[call.tier].flow(call.party.tenant, call.weight, self._ceilings.get(call.party.tenant))
        call.flow = flow
        return flow

    def _debit(self, call: Call, now: float) -> None:
        flow = call.flow
        if flow is not None and flow.ceilings is not None:
            call.debited_at = now
            flow.ceilings.debit(call.usage, now)
