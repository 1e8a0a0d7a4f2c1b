# SPDX-License-Identifier: Apache-2.0
"""The broker's core: all pools, events in, effects out. Pure and deterministic: the same events give the same effects.

Theory of operation. The dispatcher resolves each acquire to a pool and a tenant (`resolve`), hands it to the pool's
machine (`pool`), and answers what the pool could not serve with the first fallback that is possible now, or with
a rejection. It owns what spans pools: which calls are outstanding, which session holds them, the answers given
lately (so that a repeated acquire gets the same answer), and what each tenant got.

    acquire of   unknown id      resolve, offer to the pool
                 waiting call    nothing: its answer follows
                 granted call    the same grant again
                 answered call   the same answer again, while it is remembered
                 another's call  refused, whatever became of that

A repeated answer has no second `Decision`: nothing was decided.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import assert_never

from sluicegate.broker.core import views
from sluicegate.broker.core.calibrate import Calibration
from sluicegate.broker.core.chains import Chains
from sluicegate.broker.core.config import PoolConfig, Snapshot
from sluicegate.broker.core.divert import Diversions, Moved
from sluicegate.broker.core.effects import Decision, Effect, FellBack, Granted, Party, Rejected
from sluicegate.broker.core.events import (
    Acquire,
    Attach,
    Cancel,
    Configure,
    Event,
    Observe,
    SessionLost,
    Settle,
    Tick,
)
from sluicegate.broker.core.flow import Call, State
from sluicegate.broker.core.leases import Leases
from sluicegate.broker.core.ledger import Ledger
from sluicegate.broker.core.pool import Pool
from sluicegate.broker.core.refuse import Unserved
from sluicegate.broker.core.resolve import Passthrough, Refusal, Resolver, apply_criticality
from sluicegate.broker.core.status import PoolStatus, TenantStatus, WaitingCall
from sluicegate.broker.core.units import MeterKey, SafeShare
from sluicegate.wire.values import UseCached
from sluicegate.wire.words import ErrorClass, Outcome, Reason

_ANSWERS = 10_000
_SAFE_FRACTION = 0.5

Answer = Granted | FellBack | Rejected


class Dispatcher:
    """All pools of one broker. `trust_claims`: no cluster proves workloads, so the tenant header is believed."""

    def __init__(self, snapshot: Snapshot, now: float, *, trust_claims: bool = False) -> None:
        self._trust_claims = trust_claims
        self._resolver = Resolver(snapshot, trust_claims=trust_claims)
        self._chains = Chains()
        self._ledger = Ledger()
        self._calibration = Calibration()
        self._pools: dict[str, Pool] = {}
        self._diversions = Diversions(self._resolver, self._pools, self._calibration)
        self._calls: dict[str, tuple[Call, Pool]] = {}
        self._sessions: dict[str, dict[str, None]] = {}
        self._answers: dict[str, Answer] = {}
        self._seq = 0
        self._leases = Leases()
        self.strays = 0  # what sessions said of another session's calls
        self.expired = 0  # grants whose lease ended
        for name, config in snapshot.pools.items():
            self._pools[name] = Pool(config, self._chains, now)

    # ---- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do because of `event`, in order. `now`: seconds, monotonic, never less than before."""
        out: list[Effect] = []
        match event:
            case Acquire():
                self._acquire(event, now, out)
            case Settle():
                self._settle(event, now, out)
            case Observe():
                found = self._held(event.call_id, event.session)
                if found is not None and found[0].state is State.GRANTED:
                    found[1].observe(found[0], event, now, out)
                    self._finish(found[1], now, out)
            case Cancel():
                self._cancel(event, now, out)
            case Attach():
                self._attach(event, now, out)
            case SessionLost():
                self._lose(event.session, now, out)
            case Configure():
                self._configure(event.snapshot, now, out)
            case Tick():
                for call in self._leases.ended(now):
                    self._give_up(call, now, out)
                for pool in self._pools.values():
                    if pool.next_wakeup() <= now:
                        pool.tick(now, out)
                        self._finish(pool, now, out)
            case _:
                assert_never(event)
        for effect in out:
            if type(effect) is Decision:
                self._ledger.decided(effect)
            elif type(effect) is Granted and effect.call_id in self._calls:
                self._leases.begin(self._calls[effect.call_id][0], now)
        return out

    def next_wakeup(self) -> float | None:
        """When to handle a Tick at the latest; None: nothing waits for time."""
        earliest = min((pool.next_wakeup() for pool in self._pools.values()), default=inf)
        earliest = min(earliest, self._leases.next_end())
        return None if earliest == inf else earliest

    def _acquire(self, acquire: Acquire, now: float, out: list[Effect]) -> None:
        held = self._calls.get(acquire.call_id)
        if held is not None:
            if held[0].session != acquire.session:
                self._foreign(acquire, out)
            elif held[0].grant is not None and held[0].state is State.GRANTED:
                out.append(held[0].grant)
            return
        answer = self._answers.get(acquire.call_id)
        if answer is not None:
            if answer.session != acquire.session:
                self._foreign(acquire, out)
            else:
                out.append(answer)
            return
        self._sessions.setdefault(acquire.session, {})
        call = Call(acquire, now, self._next_seq())
        pool = self._place(call, now, out)
        if pool is not None:
            self._hold(call, pool)
            pool.offer(call, now, out)
            self._finish(pool, now, out)

    def _foreign(self, acquire: Acquire, out: list[Effect]) -> None:
        """Refuse an id that is another session's call: its grant is none of this session's business."""
        self.strays += 1
        message = f"call_id: {acquire.call_id!r} is another session's call; an id must be unique, such as a random UUID"
        out.append(Rejected(acquire.call_id, acquire.session, Party("", "", ""), "", Reason.INVALID_REQUEST, message))

    def _place(self, call: Call, now: float, out: list[Effect]) -> Pool | None:
        """Resolve a new call; None: it is answered already."""
        acquire = call.acquire
        target = self._resolver.pool(acquire)
        if isinstance(target, Refusal):
            self._refuse(call, target, now, out)
            return None
        tenant = self._resolver.tenant(acquire)
        if isinstance(tenant, Refusal):
            self._refuse(call, tenant, now, out)
            return None
        call.party = Party(tenant.name, tenant.tier, acquire.criticality.task_type)
        if isinstance(target, Passthrough):
            self._pass(call, now, out)
            return None
        call.pool = call.home = target.name
        call.estimate = self._calibration.correct(acquire.estimate, target.name, acquire.model, call.party.task_type)
        standing = self._resolver.standing(tenant, target, acquire.workload)
        if isinstance(standing, Refusal):
            self._refuse(call, standing, now, out)
            return None
        orchestrator = apply_criticality(call, tenant, standing)
        self._chains.enter(call, now, orchestrator=orchestrator)
        self._ledger.seen(tenant.name, tenant.tier, tenant.weight)
        pool = self._pools[target.name]
        pool.ceilings_of(tenant)
        return pool

    def _settle(self, event: Settle, now: float, out: list[Effect]) -> None:
        found = self._held(event.call_id, event.session)
        if found is None:
            return
        call, pool = found
        if call.state is not State.GRANTED or (event.attempt and event.attempt != call.attempt):
            return
        if event.usage is not None:
            self._ledger.used(call.party.tenant, event.usage.total)
            if event.error_class is ErrorClass.NONE and not call.trim_to:
                self._calibration.learn(call.acquire.estimate, event.usage, call.pool, call.model, call.party.task_type)
        if pool.settle(call, event, now, out):
            self._drop(call)
        self._finish(pool, now, out)

    def _held(self, call_id: str, session: str) -> tuple[Call, Pool] | None:
        """The outstanding call that `session` speaks of; another session's is none of its business."""
        found = self._calls.get(call_id)
        if found is not None and session and found[0].session != session:
            self.strays += 1
            return None
        return found

    def _give_up(self, call: Call, now: float, out: list[Effect]) -> None:
        """A granted call that nobody will settle."""
        _, pool = self._calls[call.call_id]
        self.expired += 1
        pool.lose(call, now, out)
        self._drop(call)
        self._finish(pool, now, out)

    def _cancel(self, event: Cancel, now: float, out: list[Effect]) -> None:
        found = self._held(event.call_id, event.session)
        if found is None or found[0].state is State.GRANTED:
            return
        call, pool = found
        pool.withdraw(call, now, out)
        self._cancelled(call, pool, now, out)
        self._finish(pool, now, out)

    def _cancelled(self, call: Call, pool: Pool, now: float, out: list[Effect]) -> None:
        self._drop(call)
        out.append(self._decision(call, pool.config.name, Outcome.CANCELLED, Reason.CANCELLED, now))

    def _lose(self, session: str, now: float, out: list[Effect]) -> None:
        for call_id in list(self._sessions.pop(session, {})):
            call, pool = self._calls[call_id]
            if call.state is State.GRANTED:
                pool.lose(call, now, out)
                self._drop(call)
            else:
                pool.withdraw(call, now, out)
                self._cancelled(call, pool, now, out)
            self._finish(pool, now, out)

    def _attach(self, event: Attach, now: float, out: list[Effect]) -> None:
        acquire = event.acquire
        held = self._calls.get(acquire.call_id)
        if held is not None or (not event.granted and acquire.call_id in self._answers):
            if not event.granted:
                self._acquire(acquire, now, out)
            elif held is not None and held[0].session != acquire.session:
                self.strays += 1
            return
        self._sessions.setdefault(acquire.session, {})
        call = Call(acquire, now - max(0.0, event.age), self._next_seq())
        call.attempt = max(1, event.attempt)
        if event.granted:
            self._adopt(call, max(0.0, event.age), now)
            return
        pool = self._place(call, now, out)
        if pool is not None:
            self._hold(call, pool)
            pool.resume(call, now, out)
            self._finish(pool, now, out)

    def _adopt(self, call: Call, age: float, now: float) -> None:
        """Take over a call in flight; where policy no longer has a place for it there is nothing to account for."""
        pool = self._place(call, now, [])
        if pool is not None:
            self._hold(call, pool)
            call.grant = Granted(
                call.call_id,
                call.session,
                call.party,
                call.pool,
                call.outcome,
                Reason.ROOM,
                0.0,
                call.attempt,
            )
            pool.adopt(call, age, now)
            self._chains.granted(call, now)

    # ---- configuration

    def _configure(self, snapshot: Snapshot, now: float, out: list[Effect]) -> None:
        self._resolver = self._diversions.resolver = Resolver(snapshot, trust_claims=self._trust_claims)
        for name in [name for name in self._pools if name not in snapshot.pools]:
            pool = self._pools.pop(name)
            pool.retire(now)
            self._finish(pool, now, out)
        for name, config in snapshot.pools.items():
            kept = self._pools.get(name)
            if kept is None:
                self._pools[name] = Pool(config, self._chains, now)
                continue
            placed = [call for call in kept.calls() if self._replace(call, config, kept, now)]
            kept.reconfigure(config, placed, now, out)
            self._finish(kept, now, out)

    def _replace(self, call: Call, config: PoolConfig, pool: Pool, now: float) -> bool:
        """Apply new policy to a call of a pool that stays; a refused call stays where it is only if it is in flight."""
        tenant = self._resolver.tenant(call.acquire)
        standing = (
            tenant if isinstance(tenant, Refusal) else self._resolver.standing(tenant, config, call.acquire.workload)
        )
        if isinstance(tenant, Refusal) or isinstance(standing, Refusal):
            call.tier = min(call.tier, len(config.tiers) - 1)
            assert isinstance(standing, Refusal)
            if call.state is not State.GRANTED:
                pool.refuse(call, standing.reason, standing.message, now)
                return False
            return True
        call.tier, call.weight = standing.tier, standing.weight
        call.party = Party(tenant.name, standing.tier_name, call.party.task_type)
        call.max_depth = tenant.max_queue_depth
        pool.ceilings_of(tenant)
        self._ledger.seen(tenant.name, tenant.tier, tenant.weight)
        return True

    # ---- answers

    def _finish(self, pool: Pool, now: float, out: list[Effect]) -> None:
        """Answer what `pool` could not serve; nothing of that waits."""
        while unserved := pool.take_unserved():
            for item in unserved:
                self._unserved(item, pool, now, out)

    def _unserved(self, item: Unserved, pool: Pool, now: float, out: list[Effect]) -> None:
        call = item.call
        found = self._diversions.serve(item, pool, now, out)
        match found:
            case Moved(target):
                self._calls[call.call_id] = (call, target)
                if target is not pool:
                    self._finish(target, now, out)
            case FellBack(option=UseCached()):
                self._answer(call, found, Outcome.CACHED, item.reason, now, out)
            case FellBack():
                self._answer(call, found, Outcome.DEGRADED, item.reason, now, out)
            case Rejected():
                self._answer(call, found, Outcome.REJECTED, item.reason, now, out)
            case _:
                assert_never(found)

    def _refuse(self, call: Call, refusal: Refusal, now: float, out: list[Effect]) -> None:
        rejected = Rejected(call.call_id, call.session, call.party, call.pool, refusal.reason, refusal.message)
        self._answer(call, rejected, Outcome.REJECTED, refusal.reason, now, out)

    def _pass(self, call: Call, now: float, out: list[Effect]) -> None:
        granted = Granted(
            call.call_id, call.session, call.party, "", Outcome.UNMANAGED, Reason.UNMANAGED, 0.0, call.attempt
        )
        self._answer(call, granted, Outcome.UNMANAGED, Reason.UNMANAGED, now, out)

    def _answer(
        self, call: Call, answer: Answer, outcome: Outcome, reason: Reason, now: float, out: list[Effect]
    ) -> None:
        """The last answer of a call that holds nothing."""
        self._drop(call)
        self._answers[call.call_id] = answer
        if len(self._answers) > _ANSWERS:
            del self._answers[next(iter(self._answers))]
        out.append(answer)
        binding = None if isinstance(answer, Granted) else answer.binding
        out.append(self._decision(call, answer.pool, outcome, reason, now, binding))

    def _decision(
        self, call: Call, pool_name: str, outcome: Outcome, reason: Reason, now: float, binding: MeterKey | None = None
    ) -> Decision:
        pool = self._pools.get(pool_name)
        waiting = () if pool is None else pool.queue.eligible(now, batch=True)
        return Decision(
            now,
            call.call_id,
            call.party,
            pool_name,
            call.model,
            outcome,
            reason,
            max(0.0, now - call.arrival),
            call.attempt,
            binding,
            waiting,
        )

    # ---- who is outstanding

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _hold(self, call: Call, pool: Pool) -> None:
        self._calls[call.call_id] = (call, pool)
        self._sessions.setdefault(call.session, {})[call.call_id] = None

    def _drop(self, call: Call) -> None:
        call.state = State.DONE
        self._chains.left(call)
        self._calls.pop(call.call_id, None)
        session = self._sessions.get(call.session)
        if session is not None:
            session.pop(call.call_id, None)

    # ---- views

    def pool_status(self, now: float) -> list[PoolStatus]:
        """Every pool, by name."""
        return [views.pool_status(self._pools[name], now) for name in sorted(self._pools)]

    def failovers(self) -> list[tuple[str, str, str, int]]:
        """How many calls went from a pool to another because of an error class, since the start."""
        return [(*key, count) for key, count in sorted(self._diversions.failovers.items())]

    def tenant_status(self, now: float) -> list[TenantStatus]:
        """Every tenant that had a call, by name. O(calls)."""
        del now
        return views.tenant_status(self._ledger, (call for call, _ in self._calls.values()))

    def queue(self, pool: str, now: float, limit: int) -> list[WaitingCall]:
        """Up to `limit` waiting calls of `pool` in about the order in which they would go; none for an unknown pool."""
        found = self._pools.get(pool)
        return [] if found is None else list(islice(views.waiting_calls(found, now), limit))

    def sharers(self, session: str) -> int:
        """Among how many the safe shares are split, `session` included: rounded up by an eighth at most, so that not
        every session that comes or goes changes everyone's."""
        sessions = len(self._sessions) + (session not in self._sessions)
        step = 1 << max(0, sessions.bit_length() - 4)
        return -(-sessions // step) * step

    def safe_shares(self, sharers: int) -> tuple[SafeShare, ...]:
        """What each of `sharers` may spend alone per window while the broker is away: half of each limit, split."""
        return tuple(
            SafeShare(name, key, limit * _SAFE_FRACTION / sharers)
            for name, pool in self._pools.items()
            for key, limit in pool.budget.limits()
        )
