# SPDX-License-Identifier: Apache-2.0
"""The programme of a cluster, compiled here as its operator does, and what it means for one workload.

Rights needed: `list` ProviderPools, TenantPolicies and namespaces; `get` the snapshot ConfigMap (without it, what a
resource that is wrong now left in effect is not known).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.broker.core import saved
from sluicegate.broker.core.config import PoolConfig, Snapshot, TaskConfig, TenantConfig
from sluicegate.broker.core.documents import Identity, compile_documents
from sluicegate.broker.core.events import Acquire
from sluicegate.broker.core.manifests import RawDocument
from sluicegate.broker.core.resolve import Refusal, Resolver
from sluicegate.broker.core.units import Workload
from sluicegate.cli.cluster import GROUP, Installation, items
from sluicegate.kube.client import ApiError, Client
from sluicegate.operator.core.compile import Object, Programme, compile_programme, identity_of
from sluicegate.wire import durations
from sluicegate.wire.values import Estimate, FallbackOption, UseCached, UseDegraded, UseModel, UsePool, UseTrimmed
from sluicegate.wire.words import Latency, kebab

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds: the documents and what the broker makes of them. `written`: the fields that somebody wrote.

    The API server fills defaults in, so that a field stands in a resource says little; its managedFields tell more.
    """

    programme: Programme
    snapshot: Snapshot
    written: Mapping[Identity, tuple[Mapping[str, Any], ...]]

    def wrote(self, identity: Identity, path: tuple[str, ...]) -> bool:
        """Whether somebody gave the field at `path` of the resource's spec."""
        return any(_holds(fields, ("spec", *path)) for fields in self.written.get(identity, ()))


def _holds(fields: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        fields = fields.get(f"f:{name}") if isinstance(fields, Mapping) else None
    return fields is not None


async def effective(client: Client, found: Installation | None) -> Effective:
    """The programme of the cluster now. Raises KubeError."""
    resources = [r for plural in ("providerpools", "tenantpolicies") for r in await items(client, f"{GROUP}/{plural}")]
    namespaces = {
        n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in await items(client, "/api/v1/namespaces")
    }
    programme = compile_programme(resources, namespaces, await _before(client, found))
    written = {
        identity_of(resource): tuple(
            entry.get("fieldsV1") or {} for entry in resource["metadata"].get("managedFields") or []
        )
        for resource in resources
    }
    return Effective(programme, snapshot_of(programme.documents), written)


async def _before(client: Client, found: Installation | None) -> Mapping[Identity, Object]:
    operator = found.parts.get("operator") if found else None
    kept = operator.ref("SLUICEGATE_OPERATOR_SNAPSHOT") if operator else None
    if kept is None:
        return {}
    try:
        return {identity_of(d): d for d in saved.unpack(await client.get(kept.config_map)) or []}
    except (ApiError, ValueError, KeyError, TypeError):
        return {}


def snapshot_of(documents: Mapping[Identity, Object]) -> Snapshot:
    """What a broker that is given `documents` runs, its version too."""
    ordered = [RawDocument(str(identity), dict(documents[identity])) for identity in sorted(documents)]
    return compile_documents(ordered).snapshot


def tenant_of(snapshot: Snapshot, workload: Workload) -> TenantConfig:
    """Whom the calls of `workload` belong to when they claim nothing."""
    acquire = Acquire("", "", workload, None, "", Estimate(0))
    found = Resolver(snapshot, trust_claims=False).tenant(acquire)
    assert isinstance(found, TenantConfig)  # refusals answer claims only
    return found


def policy_values(effect: Effective, tenant: TenantConfig, wishes: Mapping[str, str]) -> list[Value]:
    """The values that hold for a call without headers of its own, each with where it comes from."""
    identity = Identity("TenantPolicy", *tenant.name.split("/", 1))
    document = effect.programme.documents.get(identity)
    task_type = wishes.get("task-type", "")
    task = tenant.tasks.get(task_type)
    policy = f"TenantPolicy {tenant.name}"

    def said(*path: str) -> str:
        return f"{policy}, spec.{'.'.join(path)}" if effect.wrote(identity, path) else "default"

    def of_task(name: str, annotation: str, value: str | None, otherwise: str, source: str) -> Value:
        if annotation in wishes:
            return _value(name, wishes[annotation], f"annotation sluicegate.dev/{annotation}")
        if value is not None:
            return _value(name, value, f"{policy}, task type {task_type}")
        return _value(name, otherwise, source)

    said_task = task or TaskConfig(task_type)
    return [
        _value(
            "tier", tenant.tier or "the pool's lowest", said("tier") if document else "default: no policy selects it"
        ),
        _value("weight", str(tenant.weight), said("weight")),
        _value(
            "pool", wishes.get("pool", "by model"), "annotation sluicegate.dev/pool" if "pool" in wishes else "default"
        ),
        _value(
            "task-type",
            task_type or "none",
            "default"
            if not task_type
            else f"annotation sluicegate.dev/task-type{'' if task else ' (no policy has it)'}",
        ),
        of_task(
            "latency",
            "latency",
            kebab(said_task.latency) if said_task.latency else None,
            kebab(Latency.NEAR_REAL_TIME),
            "default",
        ),
        of_task(
            "max-wait",
            "max-wait",
            _duration(said_task.max_wait),
            durations.spell(tenant.max_wait),
            said("queue", "maxWait"),
        ),
        of_task("deadline", "deadline", _duration(said_task.deadline), "none", "default"),
        of_task("fallback", "fallback", ", ".join(_option(o) for o in said_task.fallback) or None, "none", "default"),
        _value("max-queue-depth", str(tenant.max_queue_depth), said("queue", "maxDepth")),
        _value("on-broker-unavailable", kebab(tenant.on_broker_unavailable), said("onBrokerUnavailable")),
    ]


def _value(name: str, value: str, source: str) -> Value:
    return {"name": name, "value": value, "from": source}


def _duration(value: float | None) -> str | None:
    return None if value is None else durations.spell(value)


def _option(option: FallbackOption) -> str:
    match option:
        case UseModel(model):
            return f"model:{model}"
        case UsePool(pool):
            return f"pool:{pool}"
        case UseCached(age):
            return f"cached:{durations.spell(age)}"
        case UseTrimmed(tokens):
            return f"trim:{tokens}"
        case UseDegraded():
            return "degrade"


def pool_values(effect: Effective, tenant: TenantConfig, workload: Workload) -> list[Value]:
    """Each pool: whether the workload may use it, as what, and why."""
    resolver = Resolver(effect.snapshot, trust_claims=False)
    return [_pool(resolver, effect.snapshot.pools[name], tenant, workload) for name in sorted(effect.snapshot.pools)]


def _pool(resolver: Resolver, pool: PoolConfig, tenant: TenantConfig, workload: Workload) -> Value:
    standing = resolver.standing(tenant, pool, workload)
    value: Value = {"name": pool.name, "models": list(pool.models)}
    if isinstance(standing, Refusal):
        return {**value, "allowed": False, "tier": "", "weight": 0, "why": standing.message, "ceilings": []}
    bounds = []
    if tenant.tier and standing.tier_name != tenant.tier:
        known = tenant.tier in {tier.name for tier in pool.tiers}
        bounds.append(f"tier {tenant.tier} {'is above its access rule' if known else 'is none of its tiers'}")
    if standing.weight != tenant.weight:
        bounds.append(f"weight {tenant.weight} is above its access rule")
    why = "; ".join(bounds) or (
        "no access rules: every namespace" if pool.access is None else "an access rule covers it"
    )
    ceilings = [
        f"{ceiling.resource} {ceiling.limit:g}/{durations.spell(ceiling.window)}"
        for ceiling in tenant.ceilings.get(pool.name, ())
    ]
    return {
        **value,
        "allowed": True,
        "tier": standing.tier_name,
        "weight": standing.weight,
        "why": why,
        "ceilings": ceilings,
    }
