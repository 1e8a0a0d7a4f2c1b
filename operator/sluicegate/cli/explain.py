# SPDX-License-Identifier: Apache-2.0
"""`sluicegate explain POD`: whether it is injected and why, whose tenant it is, and where each value comes from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from sluicegate.broker.core.resolve import UNASSIGNED
from sluicegate.broker.core.units import Workload
from sluicegate.cli.cluster import Installation, UsageError, installation, reached
from sluicegate.cli.flags import add_cluster, add_output
from sluicegate.cli.injection import of_cluster
from sluicegate.cli.manifests import pod_of
from sluicegate.cli.programme import Effective, effective, policy_values, pool_values, tenant_of
from sluicegate.cli.tables import out, structured, table
from sluicegate.cli.views import bounded
from sluicegate.injector.annotations import INJECT, STATUS
from sluicegate.injector.annotations import read as wishes_of
from sluicegate.injector.decide import CONTAINER, decide, has_sidecar
from sluicegate.injector.patch import BASE_URLS, patch
from sluicegate.kube.client import Client

Value = dict[str, Any]

_PLACES = {
    ("pod", "pods", "po"): "/api/v1/namespaces/{}/pods/{}",
    ("deployment", "deployments", "deploy"): "/apis/apps/v1/namespaces/{}/deployments/{}",
    ("statefulset", "statefulsets", "sts"): "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    ("daemonset", "daemonsets", "ds"): "/apis/apps/v1/namespaces/{}/daemonsets/{}",
    ("job", "jobs"): "/apis/batch/v1/namespaces/{}/jobs/{}",
    ("cronjob", "cronjobs", "cj"): "/apis/batch/v1/namespaces/{}/cronjobs/{}",
}
_LONG = frozenset({"SLUICEGATE_SIDECAR_BROKER_CA_PEM"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("pod", metavar="POD", help="a pod, or a workload as KIND/NAME such as deployment/chat")
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="its namespace; default: the context's")
    add_cluster(parser)
    add_output(parser, ("table", "wide", "json", "yaml"))


def run(options: argparse.Namespace) -> int:
    """Exit code 0; 1 where something cannot be read; 2 for wrong usage."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    async with reached(options) as client:
        namespace = options.namespace or client.access.namespace
        resource = await client.get(_path(options.pod, namespace))
        found = await installation(client, options.system_namespace or "")
        labels = (await client.get(f"/api/v1/namespaces/{namespace}"))["metadata"].get("labels") or {}
        value = await explained(client, found, resource, namespace, labels)
    out(structured(value, options.output) if options.output in ("json", "yaml") else drawn(value))
    return 0


def _path(what: str, namespace: str) -> str:
    kind, slash, name = what.rpartition("/")
    for words, path in _PLACES.items():
        if (kind.lower() if slash else "pod") in words:
            return path.format(namespace, name)
    raise UsageError(f"{what!r}: the kind must be one of {', '.join(words[0] for words in _PLACES)}")


async def explained(
    client: Client, found: Installation | None, resource: Value, namespace: str, labels: Mapping[str, str]
) -> Value:
    """All that is to be said about `resource`. Raises KubeError."""
    pod = pod_of(resource)
    if pod is None:
        raise UsageError("it makes no pods")
    account = pod["spec"].get("serviceAccountName") or "default"
    workload = Workload(namespace, account)
    effect = await effective(client, found)
    wishes = wishes_of((pod.get("metadata") or {}).get("annotations") or {})
    tenant = tenant_of(effect.snapshot, workload)
    return {
        "kind": resource.get("kind", "Pod"),
        "namespace": namespace,
        "name": resource["metadata"]["name"],
        "serviceAccount": account,
        "injection": await _injection(client, found, resource, pod, namespace, labels),
        "tenant": {"name": tenant.name, "why": _selection(effect, tenant.name, account)},
        "values": policy_values(effect, tenant, wishes.values),
        "pools": pool_values(effect, tenant, workload),
    }


def _selection(effect: Effective, name: str, account: str) -> str:
    tenant = effect.snapshot.tenants.get(name)
    if tenant is None:
        return f"no TenantPolicy selects ServiceAccount {account}: calls are of {UNASSIGNED}, the lowest tier"
    how = f"selects ServiceAccount {account}" if tenant.workloads is not None else "is for every pod of the namespace"
    kept = any(
        identity.kind == "TenantPolicy" and str(identity).endswith(f" {name}") for identity in effect.programme.kept
    )
    return f"TenantPolicy {name} {how}" + (" (it is wrong now: its last good version is in effect)" if kept else "")


async def _injection(
    client: Client, found: Installation | None, resource: Value, pod: Value, namespace: str, labels: Mapping[str, str]
) -> Value:
    injecting = await of_cluster(client, found) if found and "injector" in found.parts else None
    excluded = injecting.excluded if injecting else frozenset[str]()
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    decision = decide(pod, namespace, labels, excluded)
    present = has_sidecar(pod)
    wishes = wishes_of(annotations)
    warnings = list(wishes.problems)
    if injecting and decision.inject:
        warnings = list(patch(pod, injecting.injection, wishes).warnings)
    held = _status(annotations.get(STATUS))
    warnings.extend(text for text in held.get("warnings", []) if text not in warnings)
    own = (resource.get("metadata") or {}).get("annotations") or {}
    if pod is not resource and INJECT in own and INJECT not in annotations:
        warnings.append(f"annotation {INJECT} stands on the {resource['kind']} itself, where it does nothing")
    if resource.get("kind") == "Pod" and decision.inject and not present:
        warnings.append(
            "it asks for the sidecar and has none: it was made before it asked, or while the injector was away"
        )
    if injecting is None:
        warnings.append("no injector is installed")
    return {
        "injected": present,
        "inject": decision.inject,
        "verdict": decision.verdict.value,
        "why": decision.sentence,
        "status": held,
        "warnings": warnings,
        "environment": _environment(pod),
    }


def _status(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _environment(pod: Value) -> list[Value]:
    """The sidecar's settings and the apps' base URLs, as they stand in the pod."""
    found: list[Value] = []
    for container in [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]:
        for entry in container.get("env") or []:
            name = entry["name"]
            if container["name"] == CONTAINER or name in BASE_URLS:
                if name in _LONG:
                    value = "(PEM)"
                elif "valueFrom" in entry:
                    value = f"({', '.join(entry['valueFrom'])})"
                else:
                    value = entry.get("value", "")
                note = "" if BASE_URLS.get(name, value) == value else "not the sidecar's: its calls pass by"
                found.append({"container": container["name"], "name": name, "value": value, "note": note})
    return found


def drawn(value: Value) -> str:
    """The same for people."""
    injection = value["injection"]
    state = "injected" if injection["injected"] else "not injected"
    version = injection["status"].get("version")
    by = f", by version {version}, image {injection['status'].get('image', '?')}" if version else ""
    asks = "asks for injection" if injection["inject"] else "does not get injection"
    parts = [
        f"{value['kind']} {value['namespace']}/{value['name']}, ServiceAccount {value['serviceAccount']}\n\n",
        f"Injection: {state}{by}\n  {asks} ({injection['verdict']}): {injection['why']}\n",
        *(f"  ‼ {warning}\n" for warning in injection["warnings"]),
        f"\nTenant: {value['tenant']['name']}\n  {value['tenant']['why']}\n\n",
        table(["VALUE", "IS", "FROM"], [[v["name"], v["value"], v["from"]] for v in value["values"]]),
    ]
    if value["pools"]:
        rows = [
            [
                pool["name"],
                "yes" if pool["allowed"] else "no",
                pool["tier"] or "-",
                str(pool["weight"] or "-"),
                ", ".join(pool["ceilings"]) or "-",
                pool["why"],
            ]
            for pool in value["pools"]
        ]
        parts += ["\n", table(["POOL", "MAY USE", "TIER", "WEIGHT", "CEILINGS", "WHY"], rows)]
    else:
        parts.append("\nNo ProviderPool is in effect: every call passes through ungoverned.\n")
    if injection["environment"]:
        rows = [[e["container"], e["name"], e["value"], e["note"]] for e in injection["environment"]]
        parts += ["\n", table(["CONTAINER", "ENVIRONMENT", "VALUE", ""], rows)]
    return "".join(parts)
