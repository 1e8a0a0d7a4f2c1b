# SPDX-License-Identifier: Apache-2.0
"""Grants what can go.

Theory of operation. Take the head of the order; if the budget has room for it, grant and go on; if not, that call
holds the claim on the meter that it waits for, nothing passes it but backfill that cannot delay it, and the pool wakes
when the meter has refilled. A call of higher order that arrives meanwhile becomes the head and so takes the claim over;
a due guarantee keeps it (`queue`). Where only reserved headroom keeps a due guarantee, those who may draw that headroom
go before it and nobody else does: otherwise smaller calls at the same gate would take whatever flows in, for ever.
"""

from __future__ import annotations

from math import inf

from sluicegate.broker.core.budget import Lack
from sluicegate.broker.core.effects import Decision, Effect, Granted
from sluicegate.broker.core.flow import BATCH, Call, Flow, State
from sluicegate.broker.core.line import PREDICTION_MARGIN, Line
from sluicegate.broker.core.units import MeterKey
from sluicegate.wire.words import Reason, Resource

_SHORTEST_SLEEP = 0.001
_POLL = 1.0
_CANDIDATES = 4


class Pump:
    """The part of a pool's machine that decides which call of `line` goes next, and when to look again."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.binding: MeterKey | None = None
        self.blocked: Call | None = None  # the head of the order, which holds the claim
        self.blocked_until = inf
        self._at_gate = False  # it waits for headroom that others may draw
        self._claim: Lack | None = None  # what the head of the order waits for, where backfill may help

    def run(self, now: float, out: list[Effect], *, unchanged: bool = False) -> None:
        """Grant what can go. `unchanged`: the budget is as it was at the last run, but for time."""
        line = self.line
        line.ranking.advance(now)
        queue = line.queue
        for call in queue.expired(now):
            self._due_call(call, now)
        before, until = (self.blocked, self.blocked_until) if unchanged else (None, 0.0)
        self.blocked, self.blocked_until = None, inf
        if not queue.waiting:
            self.binding = None
            return
        gated: set[int] = set()
        gate: Call | None = None  # the first due guarantee that only headroom keeps
        while True:
            if not line.breaker.admits(now):
                self.binding, self.blocked_until = None, max(line.breaker.wakes_at(), now + _SHORTEST_SLEEP)
                return
            found = queue.head(now, line.ranking.rates, gated)
            if found is None:
                self.binding = None
                return
            call, due = found
            if gate is not None and line.held_back[call.tier] >= line.held_back[gate.tier]:
                call, due = gate, True
                queue.claiming_guarantee = call.tier
            if call is before and now < until and not self._at_gate:
                self.blocked, self.blocked_until = before, until
                if self._claim is not None:
                    self._backfill(call, self._claim, now, out)
                return
            lack = line.budget.lack(call.charge, now, self._gate(call, due=due))
            if lack is None:
                self.grant(call, Reason.GUARANTEE if due else None, now, out)
            elif due and lack.headroom and call is not gate:
                held = line.held_back[call.tier]
                gated.update([tier for tier, also in enumerate(line.held_back) if also >= held])
                if gate is None and lack.ready_at < inf:
                    gate = call
            elif lack.ready_at == inf and self._never_fits(call, lack):
                line.leave(call, Reason.NEVER_FITS, now)
            else:
                if not lack.headroom:
                    queue.tiers[call.tier].short = True
                self._block(call, lack, now, out)
                return

    def _block(self, call: Call, lack: Lack, now: float, out: list[Effect]) -> None:
        """`call` holds the claim on the meter that it lacks; what cannot delay it goes."""
        line = self.line
        self.blocked = call
        self._at_gate = lack.headroom
        self.binding = call.binding = lack.meter
        self.blocked_until = max(lack.ready_at, now + _SHORTEST_SLEEP) if lack.ready_at < inf else now + _POLL
        # A continuous meter that every call draws on leaves nothing that cannot delay the claim.
        binding = lack.meter
        drained = binding in line.ranking.continuous and binding.resource in (Resource.REQUESTS, Resource.TOKENS)
        self._claim = None if drained else lack
        if self._claim is not None:
            self._backfill(call, lack, now, out)

    def pass_through(self, call: Call, flow: Flow, now: float, out: list[Effect]) -> bool:
        """Grant a new call that nobody waits before, where it has room: what `run` would do, without the queue."""
        line = self.line
        queue = line.queue
        tier = queue.tiers[call.tier]
        if queue.waiting or flow.ceilings is not None or tier.ceiling < 1.0 or not line.breaker.admits(now):
            return False
        if line.budget.lack(call.charge, now, line.held_back[call.tier]) is not None:
            return False
        self.blocked, self.blocked_until = None, inf
        queue.claiming_guarantee = -1
        line.budget.take(call.call_id, call.charge, now)
        tier.pass_through(call, flow, now)
        self._granted(call, Reason.ROOM, queue.nobody, now, out)
        self.binding = None
        return True

    def _gate(self, call: Call, *, due: bool) -> float:
        held = self.line.held_back[call.tier]
        if due and held:
            # Headroom whose owner waits for the meter itself is drawn already: see `tiers`.
            tiers = self.line.queue.tiers[: call.tier]
            drawn = sum(tier.config.reserved_headroom_percent for tier in tiers if tier.short and tier.backlogged)
            held = max(0.0, held - drawn / 100.0)
        return held

    def _never_fits(self, call: Call, lack: Lack) -> bool:
        """A limit became lower, or the headroom leaves too little: could the call ever go?"""
        return lack.headroom or self.line.budget.never_fits(call.charge) is not None

    def _due_call(self, call: Call, now: float) -> None:
        """A call's time came: it is eligible again, or its wait is predicted again."""
        line = self.line
        if call.state is State.DELAYED and call.eligible_at <= now:
            line.queue.leave(call, now)
            if line.price(call, now):
                line.queue.enter(call, line.flow(call), now)
        elif call.state in (State.WAITING, State.DELAYED):
            if now >= call.give_up_at:
                line.leave(call, call.give_up_reason, now)
            else:
                line.check(call, now, PREDICTION_MARGIN)

    def _backfill(self, head: Call, lack: Lack, now: float, out: list[Effect]) -> None:
        """Grant followers that cannot delay the head: proven by reserving first and asking again."""
        line = self.line
        resource = lack.meter.resource
        continuous = lack.meter in line.ranking.continuous
        for call in line.queue.followers(head, _CANDIDATES):
            if not line.breaker.admits(now):
                return
            if continuous and call.charge.of(resource) > 0.0:
                continue
            flow = call.flow
            assert flow is not None
            if flow.ceilings is not None and flow.ceilings.ready_at(call.usage, now) > now:
                continue
            if line.budget.lack(call.charge, now, line.held_back[call.tier]) is not None:
                continue
            line.budget.reserve(call.call_id, call.charge, now)
            after = line.budget.lack(head.charge, now, line.held_back[head.tier])
            if after is None or after.ready_at > lack.ready_at + 1e-6:
                line.budget.settle(call.call_id, dispatched=False, usage=None, now=now)
                continue
            self.grant(call, Reason.BACKFILL, now, out, reserved=True)

    def grant(
        self, call: Call, reason: Reason | None, now: float, out: list[Effect], *, reserved: bool = False
    ) -> None:
        """Give `call`, which waits, its slot. `reason` None: it was its turn, or another pool could not serve it."""
        line = self.line
        queue = line.queue
        tier = queue.tiers[call.tier]
        if not reserved:
            line.budget.take(call.call_id, call.charge, now)
        if reason is Reason.GUARANTEE:
            tier.spend(call)
        tier.draw(call.vector)
        tier.granted(call, now)
        queue.leave(call, now)
        line.debit(call, now)
        waiting = queue.eligible(now, batch=call.rank == BATCH)
        if reason is None:
            reason = call.cause or (Reason.TIER_ORDER if any(count for _, count in waiting) else Reason.ROOM)
        self._granted(call, reason, waiting, now, out)

    def _granted(
        self, call: Call, reason: Reason, waiting: tuple[tuple[str, int], ...], now: float, out: list[Effect]
    ) -> None:
        line = self.line
        call.state = State.GRANTED
        call.epoch = line.breaker.granted(call.call_id, now)
        line.granted[call.call_id] = call
        if call.chain is not None:
            line.chains.granted(call, now)
        waited = max(0.0, now - call.arrival)
        binding = call.binding or (self.binding if waited > 0.0 else None)
        name, model = line.config.name, call.model
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
            call.trim_to,
            call.foreign,
            line.breaker.probe == call.call_id,
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
