# SPDX-License-Identifier: Apache-2.0
"""Custom resource definitions, the Deployments, the broker, and what the operator brought to it."""

from __future__ import annotations

from sluicegate.broker.core import saved
from sluicegate.cli.checks.before import API
from sluicegate.cli.checks.model import Check, Found, Ok, Result, Severity, Skip
from sluicegate.cli.checks.world import World
from sluicegate.cli.cluster import GROUP, items
from sluicegate.cli.programme import snapshot_of
from sluicegate.cli.views import cluster_views
from sluicegate.kube.client import ApiError
from sluicegate.operator.core.compile import identity_of
from sluicegate.operator.core.crds import definitions

CRDS = "crds"
INSTALLED = "installed"
BROKER = "broker-answers"
_MOST = 20


def shortened(lines: list[str]) -> tuple[str, ...]:
    """At most so many lines that a person reads them."""
    more = len(lines) - _MOST
    return (*lines[:_MOST], f"and {more} more") if more > 0 else tuple(lines)


async def _definitions(world: World) -> Result:
    wrong: list[str] = []
    for wanted in definitions():
        name = wanted["metadata"]["name"]
        try:
            held = await world.client.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        except ApiError as error:
            if error.status != 404:
                raise
            wrong.append(f"{name} is not there")
            continue
        conditions = (held.get("status") or {}).get("conditions") or []
        if not any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
            wrong.append(f"{name} is not established")
    return Found(tuple(wrong)) if wrong else Ok(f"{len(definitions())} kinds")


async def _same_schema(world: World) -> Result:
    wrong: list[str] = []
    for wanted in definitions():
        name = wanted["metadata"]["name"]
        held = await world.client.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        schemas = {version["name"]: version.get("schema") for version in held["spec"]["versions"]}
        for version in wanted["spec"]["versions"]:
            if version["name"] not in schemas:
                wrong.append(f"{name} has no version {version['name']}")
            elif schemas[version["name"]] != version["schema"]:
                wrong.append(f"{name} {version['name']} has another schema than this program ({world.version})")
    return Found(tuple(wrong)) if wrong else Ok()


async def _installed(world: World) -> Result:
    found = await world.look()
    if found is None:
        where = world.options.system_namespace
        return Found((f"no Deployment of Sluicegate {f'in namespace {where}' if where else 'in any namespace'}",))
    missing = [part for part in ("broker", "operator") if part not in found.parts]
    if missing:
        return Found((f"namespace {found.namespace} has no {' and no '.join(missing)}",))
    return Ok(f"namespace {found.namespace}: {', '.join(sorted(found.parts))}")


async def _available(world: World) -> Result:
    found = await world.look()
    assert found is not None
    wrong: list[str] = []
    for name, part in sorted(found.parts.items()):
        status = part.deployment.get("status") or {}
        by_type = {condition["type"]: condition for condition in status.get("conditions") or []}
        available = by_type.get("Available", {})
        if available.get("status") != "True":
            why = available.get("message") or by_type.get("Progressing", {}).get("message") or "no pod is ready"
            wrong.append(f"{name} (Deployment {part.name}): {why}")
    return Found(tuple(wrong)) if wrong else Ok(", ".join(sorted(found.parts)))


async def _one_version(world: World) -> Result:
    assert world.found is not None
    versions = {name: part.version for name, part in sorted(world.found.parts.items())}
    other = [f"{name} is {version or 'unknown'}" for name, version in versions.items() if version != world.version]
    if other:
        return Found((*other, f"this program is {world.version}"))
    return Ok(world.version)


async def _broker(world: World) -> Result:
    assert world.found is not None
    async with cluster_views(world.client, world.found, world.options) as broker:
        world.pools = await broker.pools()
    return Ok(f"version {world.pools.broker_version or '?'}, {len(world.pools.pools)} pools")


async def _pushed(world: World) -> Result:
    operator = world.part("operator")
    kept = operator.ref("SLUICEGATE_OPERATOR_SNAPSHOT") if operator else None
    if kept is None:
        return Skip("the operator keeps no snapshot (SLUICEGATE_OPERATOR_SNAPSHOT)")
    assert world.found is not None
    held = await world.client.get(kept.config_map)
    try:
        documents = saved.unpack(held)
    except ValueError as error:
        return Found((f"ConfigMap {kept}: {error}",))
    if documents is None:
        return Found((f"ConfigMap {kept} is empty: the operator has not come to its first round",))
    wanted = snapshot_of({identity_of(document): document for document in documents}).version
    async with cluster_views(world.client, world.found, world.options) as broker:
        runs = (await broker.pools()).config_version
    if runs != wanted:
        return Found((f"the operator's snapshot is {wanted}, the broker runs {runs}",))
    return Ok(f"{wanted}, {len(documents)} documents")


async def _ready(world: World) -> Result:
    wrong: list[str] = []
    count = 0
    for plural in ("providerpools", "tenantpolicies"):
        for resource in await items(world.client, f"{GROUP}/{plural}"):
            count += 1
            conditions = {c["type"]: c for c in (resource.get("status") or {}).get("conditions") or []}
            ready = conditions.get("Ready")
            if ready is None:
                wrong.append(f"{identity_of(resource)}: the operator has not judged it yet")
            elif ready["status"] != "True":
                wrong.append(f"{identity_of(resource)}: {ready.get('reason')}: {ready.get('message')}")
            elif ready.get("observedGeneration", 0) < resource["metadata"].get("generation", 0):
                wrong.append(f"{identity_of(resource)}: its last change has not been judged yet")
            elif conditions.get("Accepted", {}).get("reason") == "AcceptedWithWarnings":
                wrong.append(f"{identity_of(resource)}: {conditions['Accepted'].get('message')}")
    return Found(shortened(wrong)) if wrong else Ok(f"{count} resources")


async def _some(world: World) -> Result:
    counts = {name: len(await items(world.client, f"{GROUP}/{name}")) for name in ("providerpools", "tenantpolicies")}
    wrong = []
    if not counts["providerpools"]:
        wrong.append("there is no ProviderPool: every call passes through ungoverned")
    if not counts["tenantpolicies"]:
        wrong.append("there is no TenantPolicy: every workload is of the lowest tier")
    return Found(tuple(wrong)) if wrong else Ok()


PLANE = "control plane"
CONTROL_PLANE = (
    Check(CRDS, "custom resources", "the definitions are there", Severity.FAIL, _definitions, (API,), starting=True),
    Check("crds-schema", "custom resources", "they have this program's schema", Severity.WARN, _same_schema, (CRDS,)),
    Check(INSTALLED, PLANE, "Sluicegate is installed", Severity.FAIL, _installed, (API,)),
    Check("available", PLANE, "its Deployments are available", Severity.FAIL, _available, (INSTALLED,), starting=True),
    Check("version", PLANE, "its parts are of this program's version", Severity.WARN, _one_version, (INSTALLED,)),
    Check(BROKER, PLANE, "the broker answers", Severity.FAIL, _broker, (INSTALLED,), starting=True),
    Check("pushed", PLANE, "the broker runs what the operator wants", Severity.FAIL, _pushed, (BROKER,), starting=True),
)
CONFIGURATION = (
    Check("configured", "configuration", "there are pools and policies", Severity.WARN, _some, (CRDS,)),
    Check("ready", "configuration", "pools and policies are in effect", Severity.WARN, _ready, (CRDS,), starting=True),
)
