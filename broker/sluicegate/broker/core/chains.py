# SPDX-License-Identifier: Apache-2.0
"""Chains of calls, over all pools and sidecars: what has begun finishes first, deadlines hold for all of a chain.

    begun      a call of it was granted, or said that it is not the first step
    deadline   the earliest that any of its calls said; a time limit of one call alone is its max wait
    urgency    of an orchestrator's call: the most urgent latency class and earliest deadline of its chain;
               of equals it goes first, so that none of its own agents goes before it

What a call brings holds for those of its chain that wait already: their places change. A chain is known by its tenant
and id. It is forgotten an hour after its last call, the longest unused ones first where there are too many, of one
tenant or of all; after its last step, a call that is no later step begins it anew.
"""

from __future__ import annotations

from math import inf

from sluicegate.broker.core.flow import BATCH, Call, State, Urgency
from sluicegate.wire.words import Reason

_LIFE = 3_600.0
_TENANTS_PART = 10  # of the chains remembered, one tenant may have 1 in this many


class _Chain:
    __slots__ = ("begun", "calls", "deadline", "earliest", "finished", "rank", "seen")

    def __init__(self) -> None:
        self.begun = False
        self.finished = False  # its last step was granted
        self.deadline = inf  # what its calls said
        self.earliest = inf  # the same, or a default of policy for one of its calls
        self.rank = BATCH
        self.seen = 0.0
        self.calls: dict[str, Call] = {}  # outstanding


class Chains:
    """What is known of the chains of all tenants: at most `limit`, a tenth of that of one tenant."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._chains: dict[tuple[str, str], _Chain] = {}  # that heard of longest ago first
        self._of: dict[str, dict[str, None]] = {}  # ids by tenant, in the same order

    def __len__(self) -> int:
        return len(self._chains)

    def enter(self, call: Call, now: float, *, orchestrator: bool) -> None:
        """A call that policy has been applied to: lend it what its chain has, and its chain what it brings."""
        call.leads = orchestrator
        if call.chain is None:
            return
        chain = self._touch(call, now)
        if chain.finished and call.chain.step <= 1 and not chain.calls:
            chain = self._renew(call, now)
        before = (chain.begun, chain.rank, chain.deadline, chain.earliest)
        chain.calls[call.call_id] = call
        chain.begun = chain.begun or call.chain.step > 1
        chain.rank = min(chain.rank, call.rank)
        chain.earliest = min(chain.earliest, call.deadline)
        if call.acquire.criticality.deadline is not None:
            chain.deadline = min(chain.deadline, call.deadline)
        changed = before != (chain.begun, chain.rank, chain.deadline, chain.earliest)
        for other in list(chain.calls.values()) if changed else [call]:
            _lend(chain, other, now)

    def granted(self, call: Call, now: float) -> None:
        """A call of a chain was granted: the chain has begun, its waiting calls go before new chains."""
        if call.chain is None:
            return
        chain = self._touch(call, now)
        chain.finished = chain.finished or 0 < call.chain.of <= call.chain.step
        if not chain.begun:
            chain.begun = True
            for other in list(chain.calls.values()):
                _lend(chain, other, now)

    def left(self, call: Call) -> None:
        """A call is outstanding no longer."""
        if call.chain is not None:
            chain = self._chains.get((call.party.tenant, call.chain.id))
            if chain is not None:
                chain.calls.pop(call.call_id, None)

    def _renew(self, call: Call, now: float) -> _Chain:
        assert call.chain is not None
        self._forget(call.party.tenant, call.chain.id)
        return self._touch(call, now)

    def _touch(self, call: Call, now: float) -> _Chain:
        assert call.chain is not None
        tenant, name = call.party.tenant, call.chain.id
        chain = self._chains.pop((tenant, name), None) or _Chain()
        self._chains[tenant, name] = chain
        own = self._of.setdefault(tenant, {})
        own.pop(name, None)
        own[name] = None
        chain.seen = max(chain.seen, now)
        if len(own) > max(1, self._limit // _TENANTS_PART):
            self._forget(tenant, next(iter(own)))
        oldest = next(iter(self._chains))
        if len(self._chains) > self._limit or self._chains[oldest].seen < now - _LIFE:
            self._forget(*oldest)
        return chain

    def _forget(self, tenant: str, name: str) -> None:
        del self._chains[tenant, name]
        own = self._of[tenant]
        del own[name]
        if not own:
            del self._of[tenant]


def _lend(chain: _Chain, call: Call, now: float) -> None:
    had = call.urgency
    inherits = chain.deadline <= had.give_up_at
    lent = Urgency(
        min(had.rank, chain.rank) if call.leads else had.rank,
        chain.begun,
        min(had.deadline, chain.earliest if call.leads else chain.deadline),
        chain.deadline if inherits else had.give_up_at,
        Reason.DEADLINE if inherits and chain.deadline < inf else had.give_up_reason,
    )
    if lent == had:
        return
    if call.queue is not None and call.state in (State.WAITING, State.DELAYED):
        call.queue.urge(call, lent, now)
    else:
        call.urge(lent)
