# SPDX-License-Identifier: Apache-2.0
"""What becomes of a call that its pool cannot serve: failover, its own fallbacks, a place in the queue, or a refusal.

Theory of operation. The pool says why (`Unserved`). In order:

1. Failover, the pool's word: the pools that its `failover` names for this kind of error, in order. The call goes
   there at once, or waits there where that is shorter than here and within its max wait. Parts never change model.
2. The call's own fallbacks, in order: another model or pool with room now, trimming, a cached or degraded answer. A
   call whose pool is merely slower than the policy likes (quota, `may_wait`) does not use them up.
3. A call that may wait goes back to its pool, which says whether its max wait permits.
4. A rejection that says what binds.

A call never comes back to a pool that it was sent away from, so a chain of failovers ends with the pools. It goes only
where there is a key for it: the app's own for pools of the account that it was for, the session's for those that the
session names. Tier, weight, ceilings and access are the target pool's; the reservation at the source is settled before
anything is looked for. To another provider it goes only where that provider takes its API (`Acquire.taken_by`).

    the target is of the call's own account      unless
    it is the pool that the call was for         -
    same provider and endpoint as that           it names a Secret, and that pool another or none; its keyFingerprints
                                                 leave the call's key out; or both pools are for the call's model and
                                                 key, since one account's limit of a model is in one pool
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from typing import assert_never

from sluicegate.broker.core import relief
from sluicegate.broker.core.calibrate import Calibration
from sluicegate.broker.core.config import FailoverConfig, PoolConfig
from sluicegate.broker.core.effects import Effect, FellBack, Party, Rejected
from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.pool import Pool
from sluicegate.broker.core.references import takes
from sluicegate.broker.core.refuse import Unserved, explain, mitigation_of
from sluicegate.broker.core.resolve import Refusal, Resolver
from sluicegate.wire.values import FallbackOption, UseCached, UseDegraded, UseModel, UsePool, UseTrimmed
from sluicegate.wire.words import ErrorClass, Outcome, Reason

MOST_POOLS = 4
"""How many pools one call may be sent away from."""

_OUT_OF_QUOTA = frozenset(
    {
        Reason.PREDICTED_WAIT,
        Reason.DEADLINE,
        Reason.MAX_WAIT,
        Reason.QUEUE_FULL_TENANT,
        Reason.QUEUE_FULL_POOL,
        Reason.NEVER_FITS,
    }
)


@dataclass(frozen=True, slots=True)
class Moved:
    """Another pool, or the same one again, has the call now."""

    pool: Pool


class Diversions:
    """Finds the next place for calls that a pool cannot serve. `pools` is the dispatcher's.

    `failovers` counts calls that a failover moved, by (from, to, error class).
    """

    def __init__(self, resolver: Resolver, pools: Mapping[str, Pool], calibration: Calibration) -> None:
        self.resolver = resolver
        self.failovers: Counter[tuple[str, str, ErrorClass]] = Counter()
        self._pools = pools
        self._calibration = calibration

    def serve(self, item: Unserved, source: Pool, now: float, out: list[Effect]) -> Moved | FellBack | Rejected:
        """Where the call is now, or its last answer."""
        call = item.call
        relief.restore(call)
        moved = self._fail_over(item, source, now, out)
        if moved is not None:
            return Moved(moved)
        parts = relief.part_tokens(item)
        if not parts and not (item.may_wait and item.reason is Reason.PREDICTED_WAIT):
            answer = self._fall_back(item, source, now, out)
            if answer is not None:
                return answer
        if item.may_wait:
            source.stay(call, now, out)
            return Moved(source)
        mitigation, fits_now = mitigation_of(item)
        config = source.config
        return Rejected(
            call.call_id,
            call.session,
            call.party,
            config.name,
            item.reason,
            explain(item, config.name, config.max_queue_depth, call.give_up_at - call.arrival),
            None if item.wait == inf else max(0.0, item.wait),
            None if item.lack is None else item.lack.meter,
            mitigation,
            fits_now,
            parts,
        )

    # ---- failover

    def _fail_over(self, item: Unserved, source: Pool, now: float, out: list[Effect]) -> Pool | None:
        call, cause = item.call, self._cause(item, source)
        if cause is None or len(call.visited) >= MOST_POOLS:
            return None
        for entry in source.config.failover:
            if cause not in entry.on or (cause is ErrorClass.QUOTA and item.may_wait and item.wait <= entry.after_wait):
                continue
            target = self._pools.get(entry.pool)
            if target is None or target is source or entry.pool in call.visited:
                continue
            model = model_of(entry, call.model, target.config)
            if model is None or (call.acquire.part and model != call.model):
                continue
            slack = call.give_up_at - now
            most = min(slack, item.wait) if item.may_wait and item.wait > 0.0 else slack
            if self._move(item, source, target, model, Outcome.FALLBACK_POOL, now, out, most):
                self.failovers[source.config.name, target.config.name, cause] += 1
                return target
        return None

    @staticmethod
    def _cause(item: Unserved, source: Pool) -> ErrorClass | None:
        """The kind of error that keeps the call from its pool; None: no other pool would help."""
        if item.reason is Reason.BREAKER_OPEN:
            return source.breaker.cause
        if item.reason is Reason.BILLING:
            return ErrorClass.BILLING
        if item.reason is Reason.ATTEMPTS_EXHAUSTED:
            return item.call.failed_with
        return ErrorClass.QUOTA if item.reason in _OUT_OF_QUOTA else None

    # ---- the call's own fallbacks

    def _fall_back(self, item: Unserved, source: Pool, now: float, out: list[Effect]) -> Moved | FellBack | None:
        call = item.call
        cached_age = call.acquire.cached_age
        held_for = (cached_age or 0.0) + now - call.arrival
        for index, option in enumerate(call.options):
            match option:
                case UseModel() | UsePool():
                    for target, model, outcome in self._detours(call, option, source):
                        if self._move(item, source, target, model, outcome, now, out):
                            return Moved(target)
                case UseTrimmed(target_tokens):
                    if relief.trim(call, target_tokens, item):
                        call.options = call.options[index + 1 :]
                        source.offer(call, now, out)
                        return Moved(source)
                case UseCached(max_age) if cached_age is not None and held_for > max_age:
                    pass
                case UseCached() | UseDegraded():
                    return FellBack(
                        call.call_id,
                        call.session,
                        call.party,
                        source.config.name,
                        option,
                        call.options[index + 1 :],
                        item.reason,
                        item.wait if item.wait < inf else 0.0,
                        None if item.lack is None else item.lack.meter,
                    )
                case _:
                    assert_never(option)
        return None

    def _detours(self, call: Call, option: FallbackOption, source: Pool) -> Iterator[tuple[Pool, str, Outcome]]:
        acquire = call.acquire
        if isinstance(option, UseModel):
            if option.model == call.model or acquire.part:
                return
            provider = acquire.provider or source.config.provider
            found = self.resolver.pools_of(provider, option.model, acquire.key_fingerprint)
            if len(found) == 1:
                yield self._pools[found[0].name], option.model, Outcome.FALLBACK_MODEL
        elif isinstance(option, UsePool):
            target = self._pools.get(option.pool)
            if target is not None and target is not source and option.pool not in call.visited:
                model = self._mapped(source.config, target.config, acquire.model)
                model = model or self.resolver.model_in(target.config, acquire.model, source.config)
                if model is not None and not (acquire.part and model != acquire.model):
                    yield target, model, Outcome.FALLBACK_POOL

    @staticmethod
    def _mapped(source: PoolConfig, target: PoolConfig, model: str) -> str | None:
        return next((model_of(entry, model, target) for entry in source.failover if entry.pool == target.name), None)

    # ---- moving

    def _move(
        self,
        item: Unserved,
        source: Pool,
        target: Pool,
        model: str,
        outcome: Outcome,
        now: float,
        out: list[Effect],
        most: float | None = None,
    ) -> bool:
        """Hand a call over if `target` has room now, or (`most`) in so many seconds. False: nothing changed."""
        call = item.call
        if not _takes_api(call, target.config):
            return False
        foreign = not self._own_account(call, target.config)
        if foreign and target.config.name not in call.acquire.authenticated_pools:
            return False
        tenant = self.resolver.tenant(call.acquire)
        if isinstance(tenant, Refusal):
            return False
        standing = self.resolver.standing(tenant, target.config, call.acquire.workload)
        if isinstance(standing, Refusal):
            return False
        target.ceilings_of(tenant)
        before = (call.pool, call.model, call.outcome, call.party, call.tier, call.weight, call.cause)
        held = (call.estimate, call.attempt, call.transient, call.eligible_at, call.visited, call.foreign)
        name = target.config.name
        call.pool, call.model, call.outcome, call.foreign = name, model, outcome, foreign
        call.cause = item.reason
        call.party = Party(tenant.name, standing.tier_name, call.party.task_type)
        call.tier, call.weight = standing.tier, standing.weight
        call.estimate = self._calibration.correct(call.acquire.estimate, name, model, call.party.task_type)
        call.transient, call.eligible_at = 0, 0.0
        if target is not source:
            call.visited = (*call.visited, source.config.name)
        if call.grant is not None and call.grant.attempt == call.attempt:
            call.attempt += 1
        if target.try_now(call, now, out) if most is None else target.host(call, most, now, out):
            return True
        call.pool, call.model, call.outcome, call.party, call.tier, call.weight, call.cause = before
        call.estimate, call.attempt, call.transient, call.eligible_at, call.visited, call.foreign = held
        return False

    def _own_account(self, call: Call, target: PoolConfig) -> bool:
        """Whether the app's own key is one for `target`. See the module's text."""
        pool, acquire = self._pools.get(call.home), call.acquire
        if pool is None:
            return False
        home = pool.config
        if target.name == home.name:
            return True
        if (target.provider, target.endpoint) != (home.provider, home.endpoint):
            return False
        if target.credentials is not None and target.credentials != home.credentials:
            return False
        if target.key_fingerprints:
            return acquire.key_fingerprint in target.key_fingerprints
        claiming = {pool.name for pool in self.resolver.pools_of(home.provider, acquire.model, acquire.key_fingerprint)}
        return not claiming >= {home.name, target.name}


def _takes_api(call: Call, target: PoolConfig) -> bool:
    return not call.acquire.taken_by or target.provider in call.acquire.taken_by


def model_of(entry: FailoverConfig, model: str, target: PoolConfig) -> str | None:
    """What `model` is called in `target`: by the exact name, the first glob, its own name; None: no way."""
    if model in entry.models:
        return entry.models[model]
    for pattern, substitute in entry.models.items():
        if fnmatchcase(model, pattern):
            return substitute
    return model if takes(target, model) else None
