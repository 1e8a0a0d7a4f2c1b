# SPDX-License-Identifier: Apache-2.0
"""How long a call will wait.

Theory of operation. On each continuous meter the wait is work ahead divided by the rate at which it is worked off.

- Ahead at higher priority: what waits in the tiers above (interactive work only, for an interactive call; for a batch
  call all interactive work of the pool too).
- Ahead in the tier: the tenant's own work of equal or more urgent class, and of the others' at most what their
  weights let them have meanwhile, plus what the tenant's tag is behind theirs.
- The rate is the effective one, less the guarantees of backlogged tiers below, and less the rate at which work of
  higher priority arrives, which is believed for no longer than it was measured over.

The floor of the rate is the tier's guarantee, which works off the tier's own work alone; the ceiling of the rate is
the tier's ceiling. A fixed window that is used up, a parked tenant and a retry that is not eligible yet are waited
out.

What the tenant really got per second since its backlog began tells better than any model what a steady load leaves it,
and knows nothing of what just changed: the longer it was measured the more it counts, as a geometric mean.

All sums are kept as calls come and go: O(tiers x meters).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from sluicegate.broker.core.flow import BATCH, Call
from sluicegate.broker.core.queue import PoolQueue
from sluicegate.broker.core.tiers import ARRIVAL_SECONDS

_BELIEVED_AFTER = 15.0
_MOST_BELIEVED = 0.95
_LEAST_SHARE = 0.01  # of the rate, where the guarantees below take all of it


def predict(
    queue: PoolQueue, call: Call, now: float, rates: Sequence[float], available: Sequence[float], ready_at: float
) -> float:
    """Seconds until `call`, which is in `queue`, will be granted; inf: never, as things are.

    `available` is what the call's tier may draw now on each meter; `ready_at` when the budget alone would have room
    for it, which knows about fixed windows.
    """
    flow = call.flow
    assert flow is not None
    tier = queue.tiers[call.tier]
    if not tier.ceiling:
        return inf
    batch = call.rank == BATCH
    weights = (tier.weight_everyone if batch else tier.weight_interactive) - flow.weight
    others_ratio = max(0.0, weights / flow.weight)
    debt = max(0.0, flow.tag - (tier.everyone if batch else tier.interactive).virtual)
    below = sum(other.guaranteed for other in queue.tiers[call.tier + 1 :] if other.weight_everyone)
    higher = queue.tiers[: call.tier]
    wait = max(0.0, ready_at - now, call.eligible_at - now, flow.parked_until - now)
    ahead_of_it = [other.arrivals_interactive.rate(now) for other in (queue.tiers if batch else higher)]
    if batch:
        ahead_of_it += [other.arrivals_batch.rate(now) for other in higher]
    peers = tier.arrivals_interactive.rate(now)
    if batch:
        peers = [a + b for a, b in zip(peers, tier.arrivals_batch.rate(now), strict=True)]
    peers_part = max(0, weights) / (max(0, weights) + flow.weight)
    for index, amount in enumerate(call.vector):
        rate = rates[index]
        if amount <= 0.0:
            continue
        if rate <= 0.0:
            return inf
        own = amount
        if call.ahead:
            own += max(0.0, call.ahead[index] - (flow.served[index] - call.served_before[index]))
        queued = tier.work_interactive[index] + (tier.work_batch[index] if batch else 0.0)
        mine = sum(work[index] for work in (flow.work if batch else flow.work[: 2 * BATCH]))
        fair = own * others_ratio + debt * rate * max(weights, 0)
        share = max(1.0 - below, tier.guaranteed, _LEAST_SHARE)
        others = min(fair, _others(max(0.0, queued - mine), own, rate * share, peers[index] * peers_part))
        in_tier = own + others
        above: float = sum(other.work_interactive[index] for other in higher)
        arriving = sum([arrivals[index] for arrivals in ahead_of_it])
        if batch:
            above += sum(other.work_batch[index] for other in higher)
            for other in queue.tiers[call.tier + 1 :]:
                above += other.work_interactive[index]
        work = above + in_tier - available[index]
        in_order = _worked_off(work, rate * share, arriving) if work > 0.0 else 0.0
        guaranteed = in_tier / (rate * tier.guaranteed) if tier.guaranteed else inf
        slowest = in_tier / (rate * tier.ceiling) - 1.0 if tier.ceiling < 1.0 else 0.0
        modelled = min(in_order, guaranteed)
        pace, seconds = flow.pace(now, index)
        if pace > 0.0 and own > amount and modelled > 0.0:
            believed = min(_MOST_BELIEVED, seconds / _BELIEVED_AFTER)
            modelled = modelled ** (1.0 - believed) * (own / pace) ** believed
        wait = max(wait, modelled, slowest)
    return wait


def _others(queued: float, own: float, rate: float, arriving: float) -> float:
    """What other tenants have before a call whose tenant has `own`: what waits, and what comes meanwhile."""
    seconds = _worked_off(own + queued, rate, arriving)
    return queued + arriving * seconds


def _worked_off(work: float, rate: float, arriving: float) -> float:
    """Seconds to work off `work` at `rate` (> 0), with more of higher priority arriving for a while."""
    free = rate - arriving
    if free > 0.0 and work / free <= ARRIVAL_SECONDS:
        return work / free
    return (work + arriving * ARRIVAL_SECONDS) / rate
