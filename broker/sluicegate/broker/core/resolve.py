# SPDX-License-Identifier: Apache-2.0
"""Which pool a call goes to, which tenant it belongs to, and how urgent it is: policy applied to one Acquire.

Pool: by name; else the pools of the call's provider whose `keyFingerprints`, if any, hold the call's, and of those
the ones that list its model exactly, else by glob. Tenant: the policy of the workload's namespace that names its
ServiceAccount, else the one for every pod there, else `<namespace>/unassigned`, lowest tier, weight 1. A claim to
speak for another tenant holds when both policies say so. Access: the first rule of the pool that covers the
namespace bounds tier and weight; what is above is lowered to the bound, and no rule at all is a refusal. The namespace
is the tenant's: it is the tenant that claims a tier.

Without a cluster (`trust_claims`) nothing proves a workload: the tenant header is believed, and since there are no
namespace labels, rules by label cover every namespace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from sluicegate.broker.core.config import AccessRule, PoolConfig, Snapshot, TaskConfig, TenantConfig
from sluicegate.broker.core.effects import Party
from sluicegate.broker.core.events import Acquire
from sluicegate.broker.core.flow import RANK, Call
from sluicegate.broker.core.units import Workload
from sluicegate.wire.words import Latency, Provider, Reason, Unmanaged

UNASSIGNED = "unassigned"
_SHOWN = 10
_CACHED = 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """Policy refuses the call; `message` says whose fault and what is allowed."""

    reason: Reason
    message: str


class Passthrough:
    """The call's model is in no pool: it goes ungoverned."""


PASSTHROUGH = Passthrough()
_NO_TASK = TaskConfig("")


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's place in one pool."""

    tier: int
    tier_name: str
    weight: int


def _shown(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "none") + more


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern), re.DOTALL)


def _is_glob(model: str) -> bool:
    return "*" in model or "?" in model


class Resolver:
    """One snapshot, indexed."""

    def __init__(self, snapshot: Snapshot, *, trust_claims: bool) -> None:
        self.snapshot = snapshot
        self._trust_claims = trust_claims
        self._exact: dict[str, list[PoolConfig]] = {}
        self._globs: list[tuple[re.Pattern[str], PoolConfig]] = []
        for pool in snapshot.pools.values():
            for model in dict.fromkeys(pool.models):
                if _is_glob(model):
                    self._globs.append((_glob(model), pool))
                else:
                    self._exact.setdefault(model, []).append(pool)
        self._refusing = {pool.provider for pool in snapshot.pools.values() if pool.unmanaged is Unmanaged.REJECT}
        self._by_namespace: dict[str, list[TenantConfig]] = {}
        for tenant in snapshot.tenants.values():  # those that take precedence first
            self._by_namespace.setdefault(tenant.namespace, []).append(tenant)
        self._tenants: dict[tuple[str, str], TenantConfig] = {}
        self._standings: dict[tuple[str, str], Standing] = {}

    # ---- pool

    def pool(self, acquire: Acquire) -> PoolConfig | Passthrough | Refusal:
        """The pool of a call."""
        if acquire.pool:
            named = self.snapshot.pools.get(acquire.pool)
            if named is not None:
                return named
            message = f"pool {acquire.pool!r} is not configured; known pools: {_shown(self.snapshot.pools)}"
            return Refusal(Reason.UNKNOWN_POOL, message)
        found = self.pools_of(acquire.provider, acquire.model, acquire.key_fingerprint)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(pool.name for pool in found))
            message = (
                f"model {acquire.model!r} is in more than one pool: {names}; name one with /pools/<name> or the "
                "annotation sluicegate.dev/pool, or tell them apart by keyFingerprints"
            )
            return Refusal(Reason.AMBIGUOUS_POOL, message)
        refusing = self._refusing if acquire.provider is None else self._refusing & {acquire.provider}
        if refusing:
            message = f"model {acquire.model!r} is in no pool, and calls to models in no pool are refused here"
            return Refusal(Reason.UNMANAGED_REJECTED, message)
        return PASSTHROUGH

    def pools_of(self, provider: Provider | None, model: str, fingerprint: str) -> list[PoolConfig]:
        """The pools that match, exact names before globs."""
        exact = [pool for pool in self._exact.get(model, ()) if _usable(pool, provider, fingerprint)]
        if exact:
            return exact
        matching = (
            pool for glob, pool in self._globs if glob.fullmatch(model) and _usable(pool, provider, fingerprint)
        )
        return list({pool.name: pool for pool in matching}.values())

    def model_in(self, pool: PoolConfig, model: str, source: PoolConfig | None) -> str | None:
        """What to call `model` in `pool`: by `source`'s failover, by its name, else the pool's first; None: no way."""
        for failover in source.failover if source is not None else ():
            if failover.pool == pool.name and model in failover.models:
                return failover.models[model]
        if any(_glob(name).fullmatch(model) if _is_glob(name) else name == model for name in pool.models):
            return model
        return next((name for name in pool.models if not _is_glob(name)), None)

    # ---- tenant

    def tenant(self, acquire: Acquire) -> TenantConfig | Refusal:
        """Whom the call belongs to."""
        claim = acquire.tenant
        if self._trust_claims and claim:
            tenant = self.snapshot.tenants.get(claim)
            if tenant is not None:
                return tenant
            if claim == _unassigned_name(acquire.workload):
                return self._own(acquire.workload)
            message = (
                f"x-sluicegate-tenant: {claim!r} is no known tenant; known tenants: {_shown(self.snapshot.tenants)}"
            )
            return Refusal(Reason.UNKNOWN_TENANT, message)
        own = self._own(acquire.workload)
        if not claim or claim == own.name:
            return own
        target = self.snapshot.tenants.get(claim)
        if target is not None and claim in own.on_behalf_of and own.name in target.allow_actors:
            return target
        known = self.snapshot.tenants
        may = [own.name, *(name for name in own.on_behalf_of if name in known and own.name in known[name].allow_actors)]
        message = (
            f"x-sluicegate-tenant: the workload of {own.name} may not speak for {claim!r}; it needs onBehalfOf in "
            f"its own policy and allowActors in the other's; it may name: {_shown(may)}"
        )
        return Refusal(Reason.TENANT_NOT_ALLOWED, message)

    def _own(self, workload: Workload) -> TenantConfig:
        key = (workload.namespace, workload.service_account)
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self._select(workload)
            if len(self._tenants) >= _CACHED:
                self._tenants.clear()
            self._tenants[key] = tenant
        return tenant

    def _select(self, workload: Workload) -> TenantConfig:
        general: TenantConfig | None = None
        for tenant in self._by_namespace.get(workload.namespace, ()):
            if tenant.workloads is None:
                general = general or tenant
            elif workload.service_account in tenant.workloads:
                return tenant
        return general or TenantConfig(_unassigned_name(workload), workload.namespace, tier="")

    # ---- access

    def standing(self, tenant: TenantConfig, pool: PoolConfig, workload: Workload) -> Standing | Refusal:
        """The tenant's tier and weight in `pool`, bounded by its access rules. Unknown tiers are the lowest."""
        if pool.access is None:
            return self._unbounded(tenant, pool)
        rule = next((rule for rule in pool.access if self._covers(rule, tenant, workload)), None)
        if rule is None:
            message = f"namespace {tenant.namespace!r} may not use pool {pool.name!r}: no rule of spec.access covers it"
            return Refusal(Reason.ACCESS_DENIED, message)
        tier, weight = pool.tier_index(tenant.tier), max(1, tenant.weight)
        if rule.max_tier is not None:
            tier = max(tier, pool.tier_index(rule.max_tier))
        if rule.max_weight is not None:
            weight = max(1, min(weight, rule.max_weight))
        return Standing(tier, pool.tiers[tier].name, weight)

    def _unbounded(self, tenant: TenantConfig, pool: PoolConfig) -> Standing:
        key = (tenant.name, pool.name)
        standing = self._standings.get(key)
        if standing is None:
            tier = pool.tier_index(tenant.tier)
            standing = Standing(tier, pool.tiers[tier].name, max(1, tenant.weight))
            if len(self._standings) >= _CACHED:
                self._standings.clear()
            self._standings[key] = standing
        return standing

    def _covers(self, rule: AccessRule, tenant: TenantConfig, workload: Workload) -> bool:
        if "*" in rule.namespaces or tenant.namespace in rule.namespaces:
            return True
        if rule.match_labels is None:
            return False
        if self._trust_claims:
            return True
        labels = dict(workload.labels) if tenant.namespace == workload.namespace else {}
        return all(labels.get(key) == value for key, value in rule.match_labels.items())


def apply_criticality(call: Call, tenant: TenantConfig, standing: Standing) -> bool:
    """Set the call's tier and urgency: its words over its task type's over its tenant's. Its party is its tenant's.

    Returns whether it is an orchestrator's call.
    """
    said = call.acquire.criticality
    task = tenant.tasks.get(said.task_type, _NO_TASK)
    if call.party.tier != standing.tier_name:
        call.party = Party(tenant.name, standing.tier_name, said.task_type)
    call.tier = standing.tier
    call.weight = standing.weight
    call.max_depth = tenant.max_queue_depth
    call.rank = RANK[said.latency or task.latency or Latency.NEAR_REAL_TIME]
    call.chain = said.chain
    call.options = task.fallback if said.fallback is None else said.fallback
    max_wait = _first(said.max_wait, task.max_wait, tenant.max_wait)
    deadline = _first(said.deadline, task.deadline, inf)
    call.deadline = call.arrival + deadline
    call.give_up_at = call.arrival + min(max_wait, deadline)
    call.give_up_reason = Reason.DEADLINE if deadline <= max_wait else Reason.MAX_WAIT
    return task.orchestrator if said.orchestrator is None else said.orchestrator


def _first(said: float | None, task: float | None, default: float) -> float:
    value = said if said is not None else task if task is not None else default
    return max(0.0, value)


def _usable(pool: PoolConfig, provider: Provider | None, fingerprint: str) -> bool:
    return (provider is None or pool.provider is provider) and (
        not pool.key_fingerprints or fingerprint in pool.key_fingerprints
    )


def _unassigned_name(workload: Workload) -> str:
    return f"{workload.namespace}/{UNASSIGNED}"
