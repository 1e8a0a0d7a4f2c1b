# SPDX-License-Identifier: Apache-2.0
"""The order of a pool's waiting calls, and the times at which something about it changes.

Theory of operation. `head` answers which call is first now, whether or not the budget has room for it:

1. In order: the first tier with an eligible interactive call; when no tier has one, the first with a batch call; in
   the tier the tenant of least tag, in the tenant its first call (`tiers`, `fair`, `flow`).
2. A due guarantee comes before that call, if it is for another one that would have to wait for it: a call of a
   lower tier, or a batch call that would yield. Among several the highest tier's goes first, but a due guarantee that
   holds the claim keeps it.

A tenant at its ceiling is parked when one of its calls comes to the head, a tier at its ceiling likewise; a timer
brings them back. So a decision looks at a few heads: O(tiers + log n).

`timers` holds requeued calls until they are eligible, parked tenants and tiers, and for each waiting call the next
time to predict its wait again. Entries that mean nothing any more are dropped when they come up, or all at once
when they outnumber what waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from sluicegate.broker.core.config import TierConfig
from sluicegate.broker.core.flow import BATCH, Call, Flow, State, Urgency
from sluicegate.broker.core.tiers import Tier

Timer = Call | Flow | Tier
_NONE: frozenset[int] = frozenset()


class PoolQueue:
    """All calls that wait on one pool. `rates` are the effective rates of its continuous meters, kept by the pool."""

    def __init__(self, tiers: Sequence[TierConfig], meters: int, now: float) -> None:
        self.tiers = [Tier(config, index, meters, now) for index, config in enumerate(tiers)]
        self.waiting = 0
        self.delayed: dict[str, Call] = {}
        self.nobody = tuple((tier.name, 0) for tier in self.tiers)  # `eligible` while nothing waits
        self.claiming_guarantee = -1  # the tier whose due guarantee holds the claim
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = 0

    # ---- in and out

    def enter(self, call: Call, flow: Flow, now: float) -> None:
        """`call` becomes eligible."""
        call.state = State.WAITING
        call.queue = self
        self.waiting += 1
        self.tiers[call.tier].enter(call, flow, now)

    def delay(self, call: Call, until: float) -> None:
        """`call` is not considered before `until`."""
        call.state = State.DELAYED
        call.queue = self
        call.eligible_at = until
        self.waiting += 1
        self.delayed[call.call_id] = call
        self.schedule(until, call)

    def leave(self, call: Call, now: float) -> None:
        """`call` stops waiting, whatever for."""
        self.waiting -= 1
        if call.state is State.DELAYED:
            del self.delayed[call.call_id]
        else:
            self.tiers[call.tier].leave(call, now)
        call.state = State.NEW

    def urge(self, call: Call, to: Urgency, now: float) -> None:
        """`call`, which waits here, is more urgent now, or has to give up sooner."""
        if call.state is State.WAITING:
            self.tiers[call.tier].urge(call, to, now)
        else:
            call.urge(to)
        if call.give_up_at < inf and not now < call.check_at <= call.give_up_at:
            call.check_at = max(now, call.give_up_at)
            self.schedule(call.check_at, call)

    # ---- the order

    def head(self, now: float, rates: Sequence[float], gated: Collection[int] = _NONE) -> tuple[Call, bool] | None:
        """The first call, and whether a due guarantee put it there. `gated` tiers may not use their guarantee."""
        while True:
            first = self._in_order(now, rates)
            if first is None:
                self.claiming_guarantee = -1
                return None
            due = self._due(first, now, rates, gated)
            call = first if due is None else due
            flow = call.flow
            assert flow is not None
            if flow.ceilings is not None:
                ready = flow.ceilings.ready_at(call.usage, now)
                if ready > now:
                    self._park(flow, ready, now)
                    continue
            self.claiming_guarantee = -1 if due is None else due.tier
            return call, due is not None

    def _in_order(self, now: float, rates: Sequence[float]) -> Call | None:
        for tier in self.tiers:
            if tier.waiting_interactive and not self._over_ceiling(tier, now, rates):
                flow = tier.interactive.peek()
                assert flow is not None
                return flow.head()
        for tier in self.tiers:
            if tier.waiting_batch and not self._over_ceiling(tier, now, rates):
                flow = tier.everyone.peek()
                assert flow is not None
                return flow.head()
        return None

    def _due(self, first: Call, now: float, rates: Sequence[float], gated: Collection[int]) -> Call | None:
        holder = self.claiming_guarantee
        if holder >= 0 and holder not in gated:
            call = self._due_of(self.tiers[holder], first, now, rates)
            if call is not None:
                return call
        yielding = first.rank != BATCH
        for tier in self.tiers if yielding else self.tiers[first.tier + 1 :]:
            if tier.guaranteed and tier.weight_everyone and tier.index not in gated:
                call = self._due_of(tier, first, now, rates)
                if call is not None:
                    return call
        return None

    def _due_of(self, tier: Tier, first: Call, now: float, rates: Sequence[float]) -> Call | None:
        flow = tier.everyone.peek()
        call = None if flow is None else flow.head()
        if call is None or tier.surely_not_due(call, now) or self._over_ceiling(tier, now, rates):
            return None
        if call is first or (tier.index <= first.tier and (call.rank != BATCH or first.rank == BATCH)):
            return None
        tier.accrue(now, rates)
        return call if tier.due(call, now, rates) else None

    def _over_ceiling(self, tier: Tier, now: float, rates: Sequence[float]) -> bool:
        if tier.ceiling >= 1.0:
            return False
        if tier.parked_until > now:
            return True
        ready = tier.ceiling_ready_at(now, rates)
        if ready > now:
            tier.parked_until = ready
            self.schedule(ready, tier)
            return True
        return False

    def _park(self, flow: Flow, until: float, now: float) -> None:
        self.tiers[flow.tier].park(flow, until, now)
        self.schedule(until, flow)

    def unpark(self, flow: Flow, now: float) -> None:
        """A correction gave the tenant room under its ceiling: consider it again."""
        if flow.parked_until:
            self.tiers[flow.tier].unpark(flow, now)

    def eligible(self, now: float, *, batch: bool) -> tuple[tuple[str, int], ...]:
        """By tier, the calls that a grant now passes over: interactive ones, with `batch` the batch ones too."""
        if not self.waiting:
            return self.nobody
        return tuple(
            [
                (
                    tier.name,
                    0
                    if tier.parked_until > now
                    else tier.waiting_interactive + tier.waiting_batch
                    if batch
                    else tier.waiting_interactive,
                )
                for tier in self.tiers
            ]
        )

    def followers(self, head: Call, count: int) -> list[Call]:
        """Up to `count` calls that come next, one a tenant; the candidates of backfill."""
        calls: list[Call] = []
        for batch in (False, True):
            for tier in self.tiers:
                if tier.parked_until or not (tier.waiting_batch if batch else tier.waiting_interactive):
                    continue
                for flow in (tier.everyone if batch else tier.interactive).first(count + 1):
                    call = flow.head()
                    if call is not None and call is not head and call not in calls:
                        calls.append(call)
                        if len(calls) == count:
                            return calls
        return calls

    # ---- time

    def schedule(self, at: float, what: Timer) -> None:
        """`expired` returns `what` at `at`, if it still means something then."""
        self._order += 1
        heappush(self._timers, (at, self._order, what))
        if len(self._timers) > 4 * self.waiting + 1024:
            self._timers = [entry for entry in self._timers if self._means(entry[0], entry[2])]
            heapify(self._timers)

    def next_timer(self) -> float:
        """The earliest time that means something; inf: none."""
        timers = self._timers
        while timers:
            at, _, what = timers[0]
            if self._means(at, what):
                return at
            heappop(timers)
        return inf

    def expired(self, now: float) -> list[Call]:
        """Bring back whom the time frees; return the calls to look at: delayed ones now eligible, waits to predict."""
        calls: list[Call] = []
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, what = heappop(timers)
            if not self._means(at, what):
                continue
            if isinstance(what, Call):
                calls.append(what)
            elif isinstance(what, Flow):
                self.tiers[what.tier].unpark(what, now)
            else:
                what.parked_until = 0.0
        return calls

    @staticmethod
    def _means(at: float, what: Timer) -> bool:
        if isinstance(what, Call):
            if what.state is State.DELAYED:
                return at == what.eligible_at or at == what.check_at
            return what.state is State.WAITING and at == what.check_at
        return what.parked_until == at
