# SPDX-License-Identifier: Apache-2.0
"""What documents say about each other. All of it is a WARNING: a mistake in one must not take down another.

A reference that leads nowhere is left out of the configuration, so that the core never meets one.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations

from sluicegate.broker.core.config import DEFAULT_TIERS, FailoverConfig, PoolConfig, TaskConfig, TenantConfig
from sluicegate.broker.core.findings import Finding, Severity, shown
from sluicegate.wire.values import FallbackOption, UseModel, UsePool

Sources = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Pools and tenants without dangling references, and a finding for each that was left out."""

    pools: Mapping[str, PoolConfig]
    tenants: Mapping[str, TenantConfig]
    findings: tuple[Finding, ...]


def resolve(pools: Mapping[str, PoolConfig], tenants: Mapping[str, TenantConfig], sources: Sources) -> Resolved:
    """`sources` maps (kind, name) to where the document came from."""
    findings: list[Finding] = []

    def warn(kind: str, name: str, field: str, value: str, message: str) -> None:
        source = sources.get((kind, name), "")
        findings.append(Finding(source, f"{kind} {name}", field, value, message, Severity.WARNING))

    good_pools: dict[str, PoolConfig] = {}
    for name, pool in pools.items():
        kept: list[FailoverConfig] = []
        for index, failover in enumerate(pool.failover):
            wrong = list(_failover_faults(pool, failover, pools))
            for part, value, message in wrong:
                warn("ProviderPool", name, f"spec.failover[{index}].{part}", value, message)
            if not any(part == "pool" for part, _, _ in wrong):
                kept.append(failover)
        good_pools[name] = dataclasses.replace(pool, failover=tuple(kept))
    for one, other, model in _overlaps(pools.values()):
        message = (
            f"pool {other.name} of the same provider takes {model} too: calls that name no pool are refused as "
            "ambiguous; give both pools keyFingerprints, or take the model out of one"
        )
        warn("ProviderPool", one.name, "spec.models", shown(model), message)

    tiers = {tier.name for pool in pools.values() for tier in pool.tiers} or {tier.name for tier in DEFAULT_TIERS}
    good_tenants: dict[str, TenantConfig] = {}
    for name, tenant in tenants.items():
        if tenant.tier not in tiers:
            message = f"is a tier of no pool, so its calls take the lowest; tiers are {', '.join(sorted(tiers))}"
            warn("TenantPolicy", name, "spec.tier", shown(tenant.tier), _near(tenant.tier, tiers) + message)
        ceilings = dict(tenant.ceilings)
        for pool_name in tenant.ceilings:
            if pool_name not in pools:
                del ceilings[pool_name]
                warn("TenantPolicy", name, "spec.pools.name", shown(pool_name), _unknown_pool(pool_name, pools))
        tasks = dict(tenant.tasks)
        for position, task in enumerate(tenant.tasks.values()):
            options: list[FallbackOption] = []
            for index, option in enumerate(task.fallback):
                fault = _option_fault(option, pools)
                if fault is not None:
                    where = f"spec.tasks[{position}].fallback[{index}].{fault[0]}"
                    warn("TenantPolicy", name, where, shown(fault[1]), fault[2])
                if fault is None or isinstance(option, UseModel):
                    options.append(option)
            tasks[task.task_type] = _with_fallback(task, tuple(options))
        good_tenants[name] = dataclasses.replace(tenant, ceilings=ceilings, tasks=tasks)
        for field, value, message in _delegation_faults(tenant, tenants):
            warn("TenantPolicy", name, field, value, message)
    for first, second, what in _double_selection(tenants.values()):
        message = f"is selected by {first.name} as well, which was made or read first and takes precedence"
        warn("TenantPolicy", second.name, "spec.workloads", what, message)
    return Resolved(good_pools, good_tenants, tuple(findings))


def _with_fallback(task: TaskConfig, options: tuple[FallbackOption, ...]) -> TaskConfig:
    return task if options == task.fallback else dataclasses.replace(task, fallback=options)


def _failover_faults(
    pool: PoolConfig, failover: FailoverConfig, pools: Mapping[str, PoolConfig]
) -> Iterator[tuple[str, str, str]]:
    target = pools.get(failover.pool)
    if failover.pool == pool.name:
        yield "pool", shown(failover.pool), "must be another pool"
    elif target is None:
        yield "pool", shown(failover.pool), _unknown_pool(failover.pool, pools)
    else:
        for model, substitute in failover.models.items():
            if not any(globs_meet(model, mine) for mine in pool.models):
                yield f"models.{model}", shown(model), f"is no model of this pool: {', '.join(pool.models)}"
            if not takes(target, substitute):
                message = f"is no model of pool {target.name}: {', '.join(target.models)}"
                yield f"models.{model}", shown(substitute), message


def _option_fault(option: FallbackOption, pools: Mapping[str, PoolConfig]) -> tuple[str, str, str] | None:
    match option:
        case UsePool(pool) if pool not in pools:
            return "pool", pool, _unknown_pool(pool, pools)
        case UseModel(model) if pools and not any(takes(pool, model) for pool in pools.values()):
            return "model", model, "is a model of no pool, so it is never chosen"
        case _:
            return None


def _delegation_faults(tenant: TenantConfig, tenants: Mapping[str, TenantConfig]) -> Iterator[tuple[str, str, str]]:
    for field, names, counterpart in (
        ("onBehalfOf", tenant.on_behalf_of, "allowActors"),
        ("allowActors", tenant.allow_actors, "onBehalfOf"),
    ):
        for index, name in enumerate(names):
            other = tenants.get(name)
            listed = other and (other.allow_actors if counterpart == "allowActors" else other.on_behalf_of)
            if other is None:
                message = f"is no TenantPolicy, so it has no effect; {_near(name, tenants)}".rstrip("; ")
            elif tenant.name not in (listed or ()):
                message = f"has no effect: that policy does not list {tenant.name} under {counterpart}"
            else:
                continue
            yield f"spec.{field}[{index}]", shown(name), message


def _double_selection(tenants: Iterable[TenantConfig]) -> Iterator[tuple[TenantConfig, TenantConfig, str]]:
    """Pairs of policies that select one workload with equal precision; a named ServiceAccount beats the namespace."""
    holders: dict[tuple[str, str], TenantConfig] = {}
    for tenant in tenants:
        for account in tenant.workloads if tenant.workloads is not None else ("",):
            what = f"ServiceAccount {account}" if account else f"every pod of namespace {tenant.namespace}"
            first = holders.setdefault((tenant.namespace, account), tenant)
            if first is not tenant:
                yield first, tenant, what


# ---- models


def takes(pool: PoolConfig, model: str) -> bool:
    """Whether `model` is one of the pool's names or matches one of its globs."""
    return any(fnmatchcase(model, pattern) for pattern in pool.models)


def _overlaps(pools: Iterable[PoolConfig]) -> Iterator[tuple[PoolConfig, PoolConfig, str]]:
    """Pairs of pools that one call could mean, and the name or glob. An exact name beats a glob: no overlap."""
    by_provider: defaultdict[str, list[PoolConfig]] = defaultdict(list)
    for pool in pools:
        by_provider[pool.provider].append(pool)
    for group in by_provider.values():
        for one, other in combinations(group, 2):
            apart = set(one.key_fingerprints).isdisjoint(other.key_fingerprints)
            if one.key_fingerprints and other.key_fingerprints and apart:
                continue
            for mine in one.models:
                if any(_is_glob(mine) == _is_glob(theirs) and globs_meet(mine, theirs) for theirs in other.models):
                    yield one, other, mine
                    break


def _is_glob(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def globs_meet(one: str, other: str) -> bool:
    """Whether some text matches both globs (`*` and `?`). O(len x len)."""

    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(one) and j == len(other):
            return True
        if i < len(one) and one[i] == "*":
            return meet(i + 1, j) or (j < len(other) and meet(i, j + 1))
        if j < len(other) and other[j] == "*":
            return meet(i, j + 1) or (i < len(one) and meet(i + 1, j))
        if i == len(one) or j == len(other):
            return False
        return (one[i] == other[j] or "?" in (one[i], other[j])) and meet(i + 1, j + 1)

    return meet(0, 0)


def _unknown_pool(name: str, pools: Iterable[str]) -> str:
    names = sorted(pools)
    return f"is no ProviderPool, so it is left out; {_near(name, names)}pools are {', '.join(names) or 'none'}"


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}? " if close else ""
