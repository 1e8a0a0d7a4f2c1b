# SPDX-License-Identifier: Apache-2.0
"""One tenant's calls in one pool, and the order among them.

Theory of operation. A `Call` is one acquire from arrival to its last answer. While it may be considered it sits
in its tenant's `Flow`: a heap by latency class, then chains begun before new ones, then earliest deadline (all
calls of a class see the same `now`, so that order is the order of slack), then arrival. The order is total,
hence replay is exact. Removal is lazy: a call that leaves clears `queued`, and its entry goes when it comes to
the top or when entries that are dead outnumber the live ones. What a call has of its chain (`chains`) may change while
it waits; it is taken out and put in again.

    state      meaning                                   left by
    DELAYED    requeued, not eligible before a time      its time, cancel, give-up
    WAITING    in its flow, eligible (its flow may park) grant, cancel, give-up
    GRANTED    holds a reservation of its pool           settle, session lost
    DONE       answered for good
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from sluicegate.broker.core.effects import Granted, Party
from sluicegate.broker.core.events import Acquire
from sluicegate.broker.core.units import Charge, MeterKey
from sluicegate.wire.values import Chain, Estimate, FallbackOption
from sluicegate.wire.words import ErrorClass, Latency, Outcome, Reason

if TYPE_CHECKING:
    from sluicegate.broker.core.ceiling import TenantCeilings
    from sluicegate.broker.core.queue import PoolQueue

RANK = {Latency.REAL_TIME: 0, Latency.NEAR_REAL_TIME: 1, Latency.BATCH: 2}
BATCH = RANK[Latency.BATCH]
LATENCY = {rank: latency for latency, rank in RANK.items()}

Vector = tuple[float, ...]
"""An amount on each continuous meter of the pool, in the pool's order of meters."""


_NOBODY = Party("", "", "")
_NOTHING = Charge()
_NEAR_REAL_TIME = RANK[Latency.NEAR_REAL_TIME]


class State(IntEnum):
    """Where a call is; see the table above."""

    NEW = 0
    DELAYED = 1
    WAITING = 2
    GRANTED = 3
    DONE = 4


@dataclass(frozen=True, slots=True)
class Urgency:
    """What a call's place among its tenant's calls depends on, and until when it may wait. Absolute seconds."""

    rank: int
    begun: bool
    deadline: float
    give_up_at: float
    give_up_reason: Reason


class Call:
    """One acquire. Times are absolute seconds; `inf` where there is none."""

    __slots__ = (
        "acquire",
        "ahead",
        "arrival",
        "attempt",
        "begun",
        "binding",
        "call_id",
        "cause",
        "chain",
        "charge",
        "check_at",
        "cost",
        "deadline",
        "debited_at",
        "eligible_at",
        "entry",
        "epoch",
        "estimate",
        "failed_with",
        "flow",
        "foreign",
        "give_up_at",
        "give_up_reason",
        "grant",
        "home",
        "leads",
        "max_depth",
        "model",
        "options",
        "outcome",
        "party",
        "pool",
        "queue",
        "queued",
        "rank",
        "seq",
        "served_before",
        "session",
        "share",
        "state",
        "tier",
        "transient",
        "trim_to",
        "untrimmed",
        "usage",
        "vector",
        "visited",
        "weight",
    )

    def __init__(self, acquire: Acquire, arrival: float, seq: int) -> None:
        self.acquire = acquire
        self.call_id = acquire.call_id
        self.session = acquire.session
        self.arrival = arrival
        self.seq = seq
        self.state = State.NEW
        self.attempt = 1
        self.transient = 0  # attempts in this pool that ended in a transient error
        self.failed_with = ErrorClass.NONE  # how the last attempt ended
        self.epoch = 0  # of the pool's breaker when it was granted
        self.model = acquire.model
        self.outcome = Outcome.GRANTED
        self.trim_to = 0  # input tokens that its history is trimmed to; 0: untouched
        self.estimate = acquire.estimate  # as calibrated and trimmed
        self.untrimmed: Estimate | None = None  # the same before it was trimmed, while it is
        self.grant: Granted | None = None
        self.binding: MeterKey | None = None
        # Set by the dispatcher from policy.
        self.pool = ""
        self.cause: Reason | None = None  # why another pool could not serve it
        self.home = ""  # the pool that it was for, whose key its app holds
        self.foreign = False  # where it is now is not of its home's account
        self.visited: tuple[str, ...] = ()  # the pools that it was sent away from
        self.party = _NOBODY
        self.tier = 0
        self.weight = 1
        self.max_depth = 0
        self.rank = _NEAR_REAL_TIME
        self.chain: Chain | None = None
        self.begun = False
        self.leads = False  # it is an orchestrator's: of its chain's calls it goes first
        self.deadline = inf
        self.give_up_at = inf
        self.give_up_reason = Reason.MAX_WAIT
        self.options: tuple[FallbackOption, ...] = ()
        # Set by the pool.
        self.charge = _NOTHING
        self.vector: Vector = ()
        self.share = 0.0  # seconds of the whole pool: the dominant share
        self.cost = 0.0  # what its tenant's tag was moved by
        self.usage = _NOTHING  # the estimate of its usage, for ceilings
        self.debited_at = 0.0  # when that was debited to its tenant's ceilings
        self.check_at = 0.0  # when its wait is predicted again
        self.eligible_at = 0.0
        self.queue: PoolQueue | None = None  # where it waits, or waited last
        self.queued = False
        self.entry = 0  # its entry in its flow's heap that counts
        self.flow: Flow | None = None
        self.ahead: Vector = ()  # own tenant's work ahead when it entered
        self.served_before: Vector = ()  # its flow's served work when it entered

    @property
    def batch(self) -> bool:
        return self.rank == BATCH

    @property
    def urgency(self) -> Urgency:
        """Its urgency now; see `urge`."""
        return Urgency(self.rank, self.begun, self.deadline, self.give_up_at, self.give_up_reason)

    def urge(self, to: Urgency) -> None:
        """Change its urgency; it must be in no flow."""
        self.rank, self.begun, self.deadline = to.rank, to.begun, to.deadline
        self.give_up_at, self.give_up_reason = to.give_up_at, to.give_up_reason


Entry = tuple[int, bool, float, bool, int, int, Call]
"""Rank, not begun, deadline, arrival; then a number that makes it unique, for a call that left and came back."""


_PACE_SECONDS = 15.0


class Flow:
    """A tenant's eligible calls in one tier of one pool, and its fairness tag (virtual seconds).

    `interactive` and `batch` count its calls, `leading` those of orchestrators; `work` sums their charges by latency
    class.
    """

    __slots__ = (
        "_entries",
        "_heap",
        "_marks",
        "batch",
        "ceilings",
        "idle_key",
        "in_flight",
        "interactive",
        "keys",
        "leading",
        "parked_until",
        "served",
        "tag",
        "tenant",
        "tier",
        "weight",
        "work",
    )

    def __init__(self, tenant: str, tier: int, weight: int, meters: int, ceilings: TenantCeilings | None) -> None:
        self.tenant = tenant
        self.tier = tier
        self.weight = weight
        self.ceilings = ceilings
        self.tag = 0.0
        self.keys: list[float | None] = [None, None]  # its valid entry's key in each fair queue; None: not in it
        self.idle_key: float | None = None
        self.parked_until = 0.0  # 0: not parked
        self.interactive = 0
        self.batch = 0
        self.leading = 0
        self.in_flight = 0
        # By rank, and within one what belongs to chains that have begun before the rest.
        self.work = [[0.0] * meters for _ in range(2 * len(RANK))]
        self.served = [0.0] * meters
        self._marks: list[tuple[float, list[float]]] = []  # the last two times at which `served` was written down
        self._heap: list[Entry] = []
        self._entries = 0

    def __len__(self) -> int:
        return self.interactive + self.batch

    def ahead_in_line(self, call: Call) -> int:
        """How many of its calls count against the tenant's queue bound when `call` comes, itself included if it is in:
        for an orchestrator's those of orchestrators alone, since its own agents must not keep it out."""
        return self.leading if call.leads else len(self)

    def begin(self, now: float) -> None:
        """Its backlog begins."""
        self._marks = [(now, list(self.served))]

    def mark(self, now: float) -> None:
        """It was served."""
        if not self._marks or now - self._marks[-1][0] >= _PACE_SECONDS:
            self._marks = [*self._marks[-1:], (now, list(self.served))]

    def pace(self, now: float, index: int) -> tuple[float, float]:
        """How much it got per second on a meter while it was backlogged, lately, and over how many seconds that was."""
        if not self._marks:
            return 0.0, 0.0
        since, served = self._marks[0]
        seconds = now - since
        return ((self.served[index] - served[index]) / seconds, seconds) if seconds > 0.0 else (0.0, 0.0)

    def push(self, call: Call) -> None:
        """Enter `call`; O(log n)."""
        rank = call.rank
        ahead = [0.0] * len(self.served)
        for other in range(_level(call) + 1):
            for index, amount in enumerate(self.work[other]):
                ahead[index] += amount
        if call.leads and call.chain is not None:
            # Its own chain's calls let it pass.
            for agent in self.calls_of(call.chain.id):
                if _level(agent) <= _level(call):
                    for index, amount in enumerate(agent.vector):
                        ahead[index] = max(0.0, ahead[index] - amount)
        call.ahead = tuple(ahead)
        call.served_before = tuple(self.served)
        call.flow = self
        call.queued = True
        self._entries += 1
        call.entry = self._entries
        heappush(self._heap, (rank, not call.begun, call.deadline, not call.leads, call.seq, call.entry, call))
        if rank == BATCH:
            self.batch += 1
        else:
            self.interactive += 1
        self.leading += call.leads
        work = self.work[_level(call)]
        for index, amount in enumerate(call.vector):
            work[index] += amount

    def head(self) -> Call | None:
        """The call that goes next; amortised O(log n)."""
        heap = self._heap
        while heap:
            if self._means(heap[0]):
                return heap[0][6]
            heappop(heap)
        return None

    def remove(self, call: Call) -> None:
        """Take out `call`, which must be in it; amortised O(log n)."""
        call.queued = False
        if call.rank == BATCH:
            self.batch -= 1
        else:
            self.interactive -= 1
        self.leading -= call.leads
        work = self.work[_level(call)]
        if not self.interactive and not self.batch:
            self._heap.clear()
            for amounts in self.work:
                for index in range(len(amounts)):
                    amounts[index] = 0.0
            return
        for index, amount in enumerate(call.vector):
            work[index] = max(0.0, work[index] - amount)
        if self._heap[0][6] is call:
            heappop(self._heap)
        elif len(self._heap) > 2 * len(self) + 16:
            self._heap = [entry for entry in self._heap if self._means(entry)]
            heapify(self._heap)

    def _means(self, entry: Entry) -> bool:
        call = entry[6]
        return call.queued and call.flow is self and call.entry == entry[5]

    def calls_of(self, chain_id: str) -> list[Call]:
        """Its calls of one chain, in no order; O(n)."""
        live = (entry[6] for entry in self._heap if self._means(entry))
        return [call for call in live if call.chain is not None and call.chain.id == chain_id]

    def calls(self) -> list[Call]:
        """Its calls in order; for views, O(n log n)."""
        return [entry[6] for entry in sorted(self._heap) if self._means(entry)]


def _level(call: Call) -> int:
    return 2 * call.rank + (not call.begun)
