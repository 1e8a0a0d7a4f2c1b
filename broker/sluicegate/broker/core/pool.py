# SPDX-License-Identifier: Apache-2.0
"""One pool's machine: what happens to its calls.

Theory of operation. Whatever happens ends in the pump (`pump`), which grants what can go; `line` holds the budget and
the queue, what a call costs there and how long it will wait.

    event                                does
    offer                                enter, pump; still waiting: queue bounds, then the predicted wait
    settle, no retry                     settle the budget, correct the tenant's tag and ceilings, pump
    settle, quota 429                    the same; back into the queue when the budget says that it fits
    settle, overload / server / network  the same; back into the queue after a back-off, a few times
    the breaker opens                    waiting calls that may go elsewhere are sent away, the others predict again
    cancel, session lost                 leave the queue, or settle as unknown, pump
    time                                 delayed calls enter; waits are predicted again; pump

Calls that cannot be served here are left in `unserved`; the dispatcher, which sees all pools, gives them their
fallback or their rejection.
"""

from __future__ import annotations

from math import inf

from sluicegate.broker.core.breaker import Breaker, BreakerState
from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.chains import Chains
from sluicegate.broker.core.config import PoolConfig, TenantConfig
from sluicegate.broker.core.effects import Effect, Requeued, Settled
from sluicegate.broker.core.events import Observe, Settle
from sluicegate.broker.core.flow import Call, Flow, State
from sluicegate.broker.core.line import Line
from sluicegate.broker.core.pump import Pump
from sluicegate.broker.core.queue import PoolQueue
from sluicegate.broker.core.refuse import Unserved
from sluicegate.broker.core.retry import Final, judge, real_usage
from sluicegate.broker.core.units import Charge, MeterKey
from sluicegate.wire.values import QuotaRejection
from sluicegate.wire.words import ErrorClass, Reason


class Pool:
    """One pool. `chains` is the dispatcher's, shared by all pools."""

    def __init__(self, config: PoolConfig, chains: Chains, now: float) -> None:
        self.retired = False
        self._line = Line(config, chains, now)
        self._pump = Pump(self._line)

    # ---- what others look at

    @property
    def config(self) -> PoolConfig:
        return self._line.config

    @property
    def budget(self) -> Budget:
        return self._line.budget

    @property
    def breaker(self) -> Breaker:
        return self._line.breaker

    @property
    def queue(self) -> PoolQueue:
        return self._line.queue

    @property
    def granted(self) -> dict[str, Call]:
        return self._line.granted

    @property
    def held_back(self) -> list[float]:
        """The share of each bucket that a tier, by its index, may not draw."""
        return self._line.held_back

    @property
    def binding(self) -> MeterKey | None:
        """The meter that the head of the order waits for."""
        return self._pump.binding

    @property
    def blocked(self) -> Call | None:
        """The head of the order, which holds the claim."""
        return self._pump.blocked

    def calls(self) -> list[Call]:
        """All its calls, waiting and granted, in order of arrival."""
        return self._line.calls()

    def predicted_wait(self, call: Call, now: float) -> float:
        """Seconds until `call`, which waits here, will be granted; inf: never, as things are."""
        return self._line.predicted_wait(call, now)

    def next_wakeup(self) -> float:
        """When `tick` has something to do; inf: never. Absolute seconds."""
        return min(self._pump.blocked_until, self._line.queue.next_timer())

    def take_unserved(self) -> list[Unserved]:
        """Calls that could not be served here, each once; the caller answers them."""
        unserved, self._line.unserved = self._line.unserved, []
        return unserved

    # ---- policy

    def ceilings_of(self, tenant: TenantConfig) -> None:
        """Take over the tenant's ceilings in this pool; what it used under the same ones is kept."""
        self._line.ceilings_of(tenant)

    def reconfigure(self, config: PoolConfig, calls: list[Call], now: float, out: list[Effect]) -> None:
        """Go on under `config` with `calls`, whose tier and weight are already the new ones. Tags and credit stay."""
        self._line.reconfigure(config, calls, now)
        self._pump.run(now, out)

    def retire(self, now: float) -> None:
        """The pool is no longer configured: nothing waits on it any more, what is in flight settles."""
        self.retired = True
        for call in self.calls():
            if call.state is not State.GRANTED:
                self.refuse(call, Reason.UNKNOWN_POOL, f"pool {self._line.config.name!r} is no longer configured", now)
        self._pump.blocked_until = inf

    def refuse(self, call: Call, reason: Reason, message: str, now: float) -> None:
        """Policy no longer lets a waiting call wait."""
        self._line.refuse(call, reason, message, now)

    # ---- what happens to it

    def offer(self, call: Call, now: float, out: list[Effect]) -> None:
        """A new call, resolved to this pool: granted, waiting, or in `unserved` when this returns."""
        line = self._line
        line.ranking.advance(now)
        tier = line.queue.tiers[call.tier]
        call.binding = None
        if not line.price(call, now):
            return
        if call.give_up_at <= now and call.give_up_reason is Reason.DEADLINE:
            line.unserve(call, Reason.DEADLINE, inf, "its deadline, or its chain's, has passed")
            return
        if not line.breaker.admits(now):
            line.send_away(call, now)
            return
        (tier.arrivals_batch if call.batch else tier.arrivals_interactive).add(call.vector, now)
        flow = line.flow(call)
        if self._pump.pass_through(call, flow, now, out):
            return
        line.queue.enter(call, flow, now)
        self._pump.run(now, out, unchanged=True)
        if call.state is not State.WAITING:
            return
        if self._bound(call, flow, now) and line.failover_after < inf:
            wait = line.predicted_wait(call, now)
            if wait > line.failover_after:
                line.queue.leave(call, now)
                line.unserve(call, Reason.PREDICTED_WAIT, wait, may_wait=True)
        self._left(call, now, out)

    def stay(self, call: Call, now: float, out: list[Effect]) -> None:
        """A call for which there is no other place waits here, if it may."""
        line = self._line
        if not line.price(call, now):
            return
        flow = line.flow(call)
        if call.eligible_at > now:
            line.queue.delay(call, call.eligible_at)
            wait, name = call.eligible_at - now, line.config.name
            out.append(Requeued(call.call_id, call.session, call.party, name, Reason.RETRY, wait, call.attempt))
        else:
            line.queue.enter(call, flow, now)
            self._pump.run(now, out)
        if call.state in (State.WAITING, State.DELAYED):
            self._bound(call, flow, now)
            self._left(call, now, out)

    def _bound(self, call: Call, flow: Flow, now: float) -> bool:
        """Turn away a waiting call that is one too many, or would wait too long. Returns whether it still waits."""
        line = self._line
        if flow.ahead_in_line(call) > call.max_depth:
            line.leave(call, Reason.QUEUE_FULL_TENANT, now)
        elif line.queue.waiting > line.config.max_queue_depth:
            line.leave(call, Reason.QUEUE_FULL_POOL, now)
        else:
            line.check(call, now, 1.0)
        return call.state is not State.NEW

    def host(self, call: Call, most: float, now: float, out: list[Effect]) -> bool:
        """Take over a call of another pool: granted now, or waiting here no longer than `most` seconds. False: no
        trace."""
        if self.try_now(call, now, out):
            return True
        line = self._line
        if self.retired or not line.breaker.admits(now) or not line.price(call, now, quiet=True):
            return False
        flow = line.flow(call)
        if flow.ahead_in_line(call) >= call.max_depth or line.queue.waiting >= line.config.max_queue_depth:
            return False
        line.queue.enter(call, flow, now)
        if line.predicted_wait(call, now) >= most:
            line.queue.leave(call, now)
            return False
        line.schedule_check(call, now)
        self._pump.run(now, out)
        return True

    def _left(self, call: Call, now: float, out: list[Effect]) -> None:
        """A call that gave up as it came holds no claim: the next one does."""
        if call.state is not State.WAITING and self._pump.blocked is call:
            self._pump.run(now, out)

    def try_now(self, call: Call, now: float, out: list[Effect]) -> bool:
        """Grant `call`, of another pool, if it would be first in the order and there is room; else leave no trace."""
        line = self._line
        line.ranking.advance(now)
        if self.retired or not line.breaker.admits(now) or not line.price(call, now, quiet=True):
            return False
        head = line.queue.head(now, line.ranking.rates)
        if head is not None and (head[1] or head[0].tier <= call.tier):
            return False
        if line.budget.lack(call.charge, now, line.held_back[call.tier]) is not None:
            return False
        flow = line.flow(call)
        if flow.ceilings is not None and flow.ceilings.ready_at(call.usage, now) > now:
            return False
        if line.queue.tiers[call.tier].ceiling_ready_at(now, line.ranking.rates) > now:
            return False
        line.queue.enter(call, flow, now)
        self._pump.grant(call, None, now, out)
        self._pump.run(now, out)
        return True

    def resume(self, call: Call, now: float, out: list[Effect]) -> None:
        """A re-declared waiting call: as `offer`, but without queue bounds, since it waited already."""
        line = self._line
        line.ranking.advance(now)
        if line.price(call, now):
            line.queue.enter(call, line.flow(call), now)
            self._pump.run(now, out)
            if call.state is State.WAITING:
                line.check(call, now, 1.0)
                self._left(call, now, out)

    def adopt(self, call: Call, age: float, now: float) -> None:
        """A re-declared call in flight: its reservation is taken over."""
        line = self._line
        line.price(call, now, quiet=True)
        line.budget.adopt(call.call_id, call.charge, age, now)
        call.flow = line.flow(call)
        call.state = State.GRANTED
        call.epoch = line.breaker.adopted()
        line.granted[call.call_id] = call
        line.queue.tiers[call.tier].granted(call, now)
        line.debit(call, now)

    def withdraw(self, call: Call, now: float, out: list[Effect]) -> None:
        """A waiting call goes away."""
        self._line.queue.leave(call, now)
        call.state = State.DONE
        self._pump.run(now, out)

    def observe(self, call: Call, event: Observe, now: float, out: list[Effect]) -> None:
        """The headers of a granted call."""
        grown = self._line.budget.observe(call.call_id, event.readings, now)
        closed = event.accepted and self._line.breaker.accepted(call.epoch)
        self._pump.run(now, out, unchanged=not (grown or closed))

    def lose(self, call: Call, now: float, out: list[Effect]) -> None:
        """A granted call whose sidecar is gone: it settles as unknown."""
        self._settle(call, Settle(call.call_id, ErrorClass.CANCELLED), now, out)
        call.state = State.DONE
        self._pump.run(now, out)

    def settle(self, call: Call, event: Settle, now: float, out: list[Effect]) -> bool:
        """One attempt of a granted call ended. True: the call is done; else it is delayed, or in `unserved`."""
        waited_for = self._line.breaker.transitions[BreakerState.OPEN]
        ready, returned = self._settle(call, event, now, out)
        call.state = State.DONE
        call.failed_with = event.error_class
        again = event.retriable and event.error_class not in (ErrorClass.NONE, ErrorClass.CANCELLED)
        if again:
            self._retry(call, event, ready, now, out)
        if self._line.breaker.transitions[BreakerState.OPEN] != waited_for:
            self._opened(now)
        self._pump.run(now, out, unchanged=not returned)
        return not again

    def tick(self, now: float, out: list[Effect]) -> None:
        """Time went on."""
        self._pump.run(now, out)

    # ---- settlement and retries

    def _settle(self, call: Call, event: Settle, now: float, out: list[Effect]) -> tuple[float, bool]:
        """End the reservation. Returns when the call would fit, after a quota 429, else now; and whether room came
        back."""
        line = self._line
        ready = now
        del line.granted[call.call_id]
        opened = line.breaker.ended(
            call.epoch, event.error_class, now, retry_after=event.retry_after, sent=event.dispatched
        )
        if event.error_class is ErrorClass.QUOTA and event.dispatched:
            ready = line.budget.reject(call.call_id, event.quota or QuotaRejection(retry_after=event.retry_after), now)
            final: Charge | None = Charge()
            line.ranking.read_rates(now)
        else:
            final = line.budget.settle(call.call_id, dispatched=event.dispatched, usage=event.usage, now=now)
            if not event.dispatched:
                final = Charge(requests=0.0)
        charge = final or call.charge
        vector = line.ranking.vector(charge)
        line.queue.tiers[call.tier].settled(call, vector, line.ranking.share(vector))
        flow = call.flow
        assert flow is not None
        if flow.ceilings is not None:
            used = call.usage
            if event.usage is not None:
                used = real_usage(event.usage)
            elif not event.dispatched or event.error_class is not ErrorClass.NONE:
                used = Charge(requests=1.0 if event.dispatched else 0.0)
            flow.ceilings.correct(call.usage, used, call.debited_at, now)
            line.queue.unpark(flow, now)
        usage = event.usage
        out.append(
            Settled(
                call.call_id,
                call.party,
                line.config.name,
                _kind(event),
                call.charge.tokens or call.charge.input_tokens + call.charge.output_tokens,
                None if usage is None else usage.total,
                0 if usage is None else usage.input_tokens,
                0 if usage is None else usage.output_tokens,
                call.estimate.input_tokens,
                opened,
            )
        )
        changed = charge is not call.charge and charge != call.charge
        return ready, event.error_class is not ErrorClass.NONE or changed or flow.ceilings is not None

    def _retry(self, call: Call, event: Settle, ready: float, now: float, out: list[Effect]) -> None:
        line = self._line
        verdict = judge(call, event, ready, line.config.max_attempts, now)
        if isinstance(verdict, Final) and verdict.reason is Reason.BILLING:
            line.unserve(call, verdict.reason, line.breaker.ready_in(now) or inf, verdict.message)
        elif isinstance(verdict, Final):
            line.unserve(call, verdict.reason, verdict.wait, verdict.message)
        elif self.retired:
            line.unserve(call, Reason.UNKNOWN_POOL, inf, f"pool {line.config.name!r} is no longer configured")
        elif not line.breaker.admits(now):
            call.attempt += 1
            call.eligible_at = max(verdict.at, now)
            line.send_away(call, now)
        elif verdict.reason is Reason.QUOTA_REQUEUED and verdict.at - now > line.failover_after:
            call.attempt += 1
            call.eligible_at = verdict.at
            line.unserve(call, Reason.PREDICTED_WAIT, verdict.at - now, may_wait=True)
        elif verdict.at >= call.give_up_at:
            # After a transient error it is that which keeps the call from its pool, and not its wait.
            message = f"the last attempt failed with {event.error_class}, and the next would come too late"
            late = call.give_up_reason if verdict.reason is Reason.QUOTA_REQUEUED else Reason.ATTEMPTS_EXHAUSTED
            line.unserve(call, late, verdict.at - now, "" if late is call.give_up_reason else message)
        else:
            call.attempt += 1
            line.queue.delay(call, verdict.at)
            line.schedule_check(call, now)
            wait, name = verdict.at - now, line.config.name
            out.append(Requeued(call.call_id, call.session, call.party, name, verdict.reason, wait, call.attempt))

    def _opened(self, now: float) -> None:
        line = self._line
        for call in self.calls():
            if call.state is State.GRANTED:
                continue
            if line.config.failover or call.options:
                line.queue.leave(call, now)
                line.send_away(call, now)
            else:
                line.check(call, now, 1.0)


def _kind(event: Settle) -> str:
    if event.error_class is not ErrorClass.QUOTA:
        return str(event.error_class)
    return (event.quota or QuotaRejection()).kind
