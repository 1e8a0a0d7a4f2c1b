# SPDX-License-Identifier: Apache-2.0
"""One tier of a pool: its tenants in fair order, its guarantee and its ceiling.

Theory of operation.

Two fair queues hold the tier's backlogged tenants: `everyone`, and `interactive`, those with a call that is not
batch. The order of the pool goes by `interactive` while any interactive call of the pool is eligible, else by
`everyone`; a due guarantee goes by `everyone`, so that a batch call gets its tenant's share of the guarantee and no
more than that.

*Guarantee.* Credit accrues on each continuous meter at `guaranteed_percent` of its effective rate, only while the
tier is backlogged. It is debited by guarantee grants alone, not by what the tier gets in order or borrows, for what
they turned out to be charged. It is due when it covers the charge on every meter. So a backlogged tier gets its
guarantee of the meter that its calls take most of, but for what the caps cut. A guarantee of 0 never is due: the order
is strict.

What is due but has no room does not pile up: on the meter where there is least above the largest charge of this
backlog, in seconds, credit stays within one second's worth above it, so that a due call that waits until the bucket
holds its charge, or a smaller one that comes to the head before it, loses none. The other meters lose as many seconds.

What is left on a meter because another one kept the call is for the next calls, which may take more of it: up to two
seconds of the whole pool above the largest charge, which is what those above may have to wait for it. Without that each
call would wait for the meter that it takes most of by itself, and a tier whose calls differ would get less than its
guarantee of every meter. Some is lost with it, too, where single calls take many seconds of one meter.

*Ceiling.* A bucket per meter that fills at `ceiling_percent` of the effective rate and holds one second of it. A grant
may take it below zero; the tier is then out of the order until it is not.

*Headroom.* `held_back` is the share of each bucket that is reserved for the tiers above. The gate holds for
guarantees too, but only for headroom that its owner has left: a tier above that waits for the meter itself
(`short`) has drawn its own headroom already, and then there is nothing for the gate to protect. Otherwise a
tier that takes everything could starve the guarantees below it through the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import exp, inf

from sluicegate.broker.core.ceiling import TenantCeilings
from sluicegate.broker.core.config import TierConfig
from sluicegate.broker.core.fair import FairQueue
from sluicegate.broker.core.flow import BATCH, Call, Flow, Urgency, Vector
from sluicegate.wire.words import Reason

_CREDIT_SECONDS = 1.0  # of the guarantee, above the largest charge, on the meter that has least
_UNEVEN_SECONDS = 2.0  # of the pool, above the largest charge, on any meter
_ASK_AGAIN = 1.0  # seconds until a call that was not due may be, since rates change
_CEILING_SECONDS = 1.0
ARRIVAL_SECONDS = 10.0  # time constant of the arrival rate
_EPSILON = 1e-9


class Arrivals:
    """The rate at which work arrives, per second on each meter: a decaying average of a decaying average.

    One burst says nothing about the rate at the moment that it comes; twice smoothed, it counts for nothing then.
    """

    __slots__ = ("_at", "_rate", "_smooth")

    def __init__(self, meters: int, now: float) -> None:
        self._rate = [0.0] * meters
        self._smooth = [0.0] * meters
        self._at = now

    def add(self, vector: Vector, now: float) -> None:
        self._decay(now)
        for index, amount in enumerate(vector):
            self._rate[index] += amount / ARRIVAL_SECONDS

    def rate(self, now: float) -> list[float]:
        self._decay(now)
        return self._smooth

    def _decay(self, now: float) -> None:
        if now > self._at:
            factor = exp((self._at - now) / ARRIVAL_SECONDS)
            share = (now - self._at) / ARRIVAL_SECONDS
            for index, rate in enumerate(self._rate):
                self._smooth[index] = (self._smooth[index] + rate * share) * factor
                self._rate[index] = rate * factor
            self._at = now


class Tier:
    """One tier. `meters` is the number of continuous meters; vectors are in their order."""

    def __init__(self, config: TierConfig, index: int, meters: int, now: float) -> None:
        self.config = config
        self.name = config.name
        self.index = index
        self.guaranteed = config.guaranteed_percent / 100.0
        self.ceiling = config.ceiling_percent / 100.0
        self.everyone = FairQueue(0)
        self.interactive = FairQueue(1)
        self.waiting_interactive = 0  # eligible and not parked
        self.waiting_batch = 0
        self.work_interactive = [0.0] * meters
        self.work_batch = [0.0] * meters
        self.weight_interactive = 0
        self.weight_everyone = 0
        self.arrivals_interactive = Arrivals(meters, now)
        self.arrivals_batch = Arrivals(meters, now)
        self.parked_until = 0.0
        self.short = False
        self._meters = meters
        self._flows: dict[str, Flow] = {}
        self._idle: list[tuple[float, int, Flow]] = []
        self._idle_order = 0
        self._idle_since = now
        self._credit = [0.0] * meters
        self._credit_at = now
        self._largest = [0.0] * meters  # charge that came to the head in this backlog
        self._unaccrued = 0.0  # backlogged seconds before `_credit_at` that gave no credit yet
        self._not_due: Call | None = None
        self._not_due_before = 0.0
        self._level = [inf] * meters
        self._level_at = now

    # ---- tenants

    def flow(self, tenant: str, weight: int, ceilings: TenantCeilings | None) -> Flow:
        """The tenant's flow, made where it is not there."""
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = Flow(tenant, self.index, weight, self._meters, ceilings)
        elif flow.weight != weight:
            if flow.keys[0] is not None:
                self.weight_everyone += weight - flow.weight
            if flow.keys[1] is not None:
                self.weight_interactive += weight - flow.weight
            flow.weight = weight
        flow.ceilings = ceilings
        return flow

    def flows(self) -> list[Flow]:
        return list(self._flows.values())

    def enter(self, call: Call, flow: Flow, now: float) -> None:
        """An eligible call joins its flow."""
        if not len(flow):
            flow.begin(now)
        flow.push(call)
        work = self.work_batch if call.rank == BATCH else self.work_interactive
        for index, amount in enumerate(call.vector):
            work[index] += amount
        if flow.parked_until:
            return
        if call.rank == BATCH:
            self.waiting_batch += 1
        else:
            self.waiting_interactive += 1
        self._place(flow, now)

    def leave(self, call: Call, now: float) -> None:
        """A call leaves its flow: granted, cancelled or given up."""
        flow = call.flow
        assert flow is not None
        flow.remove(call)
        work = self.work_batch if call.rank == BATCH else self.work_interactive
        for index, amount in enumerate(call.vector):
            work[index] = max(0.0, work[index] - amount)
        if not flow.parked_until:
            if call.rank == BATCH:
                self.waiting_batch -= 1
            else:
                self.waiting_interactive -= 1
            self._displace(flow, now)
        elif not len(flow):
            flow.parked_until = 0.0
        self._rest(flow)

    def urge(self, call: Call, to: Urgency, now: float) -> None:
        """A call that waits is more urgent now; its tenant's place among others stays."""
        flow = call.flow
        assert flow is not None
        was_batch = call.rank == BATCH
        flow.remove(call)
        call.urge(to)
        flow.push(call)
        if was_batch and call.rank != BATCH:
            for index, amount in enumerate(call.vector):
                self.work_batch[index] = max(0.0, self.work_batch[index] - amount)
                self.work_interactive[index] += amount
            if not flow.parked_until:
                self.waiting_batch -= 1
                self.waiting_interactive += 1
                self._place(flow, now)

    def park(self, flow: Flow, until: float, now: float) -> None:
        """The tenant is at a ceiling: none of its calls is eligible before `until`."""
        flow.parked_until = until
        self.waiting_interactive -= flow.interactive
        self.waiting_batch -= flow.batch
        self._withdraw(flow, now, everyone=True, interactive=True)

    def unpark(self, flow: Flow, now: float) -> None:
        """The tenant, which has calls, is eligible again."""
        flow.parked_until = 0.0
        self.waiting_interactive += flow.interactive
        self.waiting_batch += flow.batch
        self._place(flow, now)

    @property
    def backlogged(self) -> bool:
        return self.weight_everyone > 0

    def _place(self, flow: Flow, now: float) -> None:
        if not self.weight_everyone:
            self._begin(now)
        if flow.keys[0] is None:
            self.everyone.add(flow)
            self.weight_everyone += flow.weight
        if flow.interactive and flow.keys[1] is None:
            self.interactive.add(flow)
            self.weight_interactive += flow.weight

    def _begin(self, now: float) -> None:
        """A backlog begins. Virtual time ran with real time while there was none."""
        self.everyone.virtual += max(0.0, now - self._idle_since)
        self.interactive.virtual = max(self.interactive.virtual, self.everyone.virtual)
        self._forget()
        self._credit_at = now
        if now > self._idle_since:
            self._largest = [0.0] * self._meters

    def _displace(self, flow: Flow, now: float) -> None:
        self._withdraw(flow, now, everyone=not len(flow), interactive=not flow.interactive)

    def _withdraw(self, flow: Flow, now: float, *, everyone: bool, interactive: bool) -> None:
        if everyone and flow.keys[0] is not None:
            self.everyone.discard(flow)
            self.weight_everyone -= flow.weight
            if not self.weight_everyone:
                self._idle_since = now
                self._unaccrued = self._backlogged_for(now)
                self.short = False
        if interactive and flow.keys[1] is not None:
            self.interactive.discard(flow)
            self.weight_interactive -= flow.weight

    # ---- fairness

    def granted(self, call: Call, now: float) -> None:
        """`call` is about to leave with a grant: move virtual time and its tenant's tag."""
        flow = call.flow
        assert flow is not None
        if flow.keys[1] is not None and call.rank != BATCH:
            self.interactive.virtual = max(self.interactive.virtual, flow.tag)
        least = self.everyone.peek()
        if least is not None:
            self.everyone.virtual = max(self.everyone.virtual, least.tag)
        call.cost = call.share / flow.weight
        flow.tag += call.cost
        flow.in_flight += 1
        for index, amount in enumerate(call.vector):
            flow.served[index] += amount
        flow.mark(now)

    def pass_through(self, call: Call, flow: Flow, now: float) -> None:
        """`enter`, `granted` and `leave` in one, for a call that nobody waits before."""
        flow.begin(now)
        flow.in_flight += 1  # before `_begin`, which forgets tenants without calls
        self._begin(now)
        tag = max(flow.tag, self.everyone.virtual)
        if call.rank != BATCH:
            tag = self.interactive.virtual = max(tag, self.interactive.virtual)
        self.everyone.virtual = tag
        call.cost = call.share / flow.weight
        flow.tag = tag + call.cost
        for index, amount in enumerate(call.vector):
            flow.served[index] += amount
        flow.mark(now)
        self.short = False
        self._idle_since = now
        self._forget()

    def settled(self, call: Call, vector: Vector, share: float) -> None:
        """`call` is no longer in flight and turned out to cost `vector`, a dominant share of `share`."""
        flow = call.flow
        assert flow is not None
        if call.grant is not None and call.grant.reason is Reason.GUARANTEE:
            for index, (reserved, charged) in enumerate(zip(call.vector, vector, strict=True)):
                self._credit[index] += reserved - charged
            self._not_due = None
        change = share / flow.weight - call.cost
        flow.in_flight -= 1
        flow.tag = max(0.0, flow.tag + change)
        if change < 0.0:
            self.everyone.shrunk(flow)
            self.interactive.shrunk(flow)
        self._rest(flow)

    def _rest(self, flow: Flow) -> None:
        """Remember the tag of a tenant without calls until virtual time has passed it."""
        if not flow.in_flight and not len(flow) and flow.idle_key != flow.tag:
            flow.idle_key = flow.tag
            self._idle_order += 1
            heappush(self._idle, (flow.tag, self._idle_order, flow))
        self._forget()

    def _forget(self) -> None:
        virtual, idle = self.everyone.virtual, self._idle
        while idle and idle[0][0] <= virtual:
            key, _, flow = heappop(idle)
            if flow.idle_key != key:
                continue
            flow.idle_key = None
            if not flow.in_flight and not len(flow):
                if flow.tag > virtual:
                    self._rest(flow)
                elif self._flows.get(flow.tenant) is flow:
                    del self._flows[flow.tenant]

    # ---- guarantee

    def _backlogged_for(self, now: float) -> float:
        """Seconds that gave no credit yet, of a tier that is backlogged until `now`."""
        return self._unaccrued + max(0.0, now - self._credit_at)

    def accrue(self, now: float, rates: Sequence[float]) -> None:
        """Credit for the backlogged time since the last call; the tier is backlogged."""
        elapsed = self._backlogged_for(now)
        if elapsed:
            self._unaccrued = 0.0
            self._credit_at = now
            for index, rate in enumerate(rates):
                self._credit[index] += self.guaranteed * rate * elapsed

    def due(self, call: Call, now: float, rates: Sequence[float]) -> bool:
        """Does the credit, within its caps, cover `call`? Call `accrue` before."""
        unused = inf  # seconds above the first cap, of the meter that has least
        for index, amount in enumerate(call.vector):
            largest = self._largest[index] = max(self._largest[index], amount)
            filling = self.guaranteed * rates[index]
            if filling > 0.0:
                unused = min(unused, (self._credit[index] - largest) / filling - _CREDIT_SECONDS)
        unused = max(0.0, unused) if unused < inf else 0.0
        wait = 0.0
        for index, amount in enumerate(call.vector):
            filling = self.guaranteed * rates[index]
            most = self._largest[index] + _UNEVEN_SECONDS * rates[index]
            credit = self._credit[index] = min(self._credit[index] - unused * filling, most)
            if credit + _EPSILON < amount:
                wait = max(wait, (amount - credit) / filling if filling > 0.0 else inf)
        self._not_due = call
        self._not_due_before = now + min(wait, _ASK_AGAIN)
        return not wait

    def surely_not_due(self, call: Call, now: float) -> bool:
        """`due` said so of this call, and the credit cannot have reached it since."""
        return self._not_due is call and now < self._not_due_before

    def spend(self, call: Call) -> None:
        """A guarantee grant."""
        for index, amount in enumerate(call.vector):
            self._credit[index] -= amount

    # ---- ceiling

    def ceiling_ready_at(self, now: float, rates: Sequence[float]) -> float:
        """When the tier may go again: `now`, or later when it is over its ceiling."""
        if self.ceiling >= 1.0:
            return now
        if not self.ceiling:
            return inf
        elapsed = max(0.0, now - self._level_at)
        self._level_at = now
        ready = now
        for index, rate in enumerate(rates):
            filling = self.ceiling * rate
            level = min(self._level[index] + filling * elapsed, filling * _CEILING_SECONDS)
            self._level[index] = level
            if level < -_EPSILON:
                ready = max(ready, now - level / filling if filling else inf)
        return ready

    def draw(self, vector: Vector) -> None:
        """A grant counts against the ceiling."""
        if self.ceiling < 1.0:
            for index, amount in enumerate(vector):
                self._level[index] -= amount

    # ---- a new configuration

    def take_over(self, old: Tier, now: float, *, same_meters: bool) -> None:
        """Keep what the tier of the same name knew before the configuration changed: all but its calls."""
        self.everyone.virtual = old.everyone.virtual
        self.interactive.virtual = old.interactive.virtual
        self._idle_since = now if old.weight_everyone else old._idle_since
        if same_meters:
            self._credit, self._largest = old._credit, old._largest
            self._unaccrued = old._backlogged_for(now) if old.weight_everyone else old._unaccrued
            self._level, self._level_at = old._level, old._level_at
            self.arrivals_interactive, self.arrivals_batch = old.arrivals_interactive, old.arrivals_batch
        for known in old.flows():
            flow = self.flow(known.tenant, known.weight, known.ceilings)
            flow.tag = known.tag
            self._rest(flow)

    def carry(self, call: Call, flow: Flow, share: float) -> None:
        """A call in flight belongs to `flow` now; its cost is in the tag already."""
        call.flow = flow
        call.share = share
        call.cost = share / flow.weight
        flow.in_flight += 1
