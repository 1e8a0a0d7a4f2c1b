# SPDX-License-Identifier: Apache-2.0
"""Pods and their owners: who asked and has no sidecar, whose sidecar is old or reports something."""

from __future__ import annotations

import json
from typing import Any

from sluicegate.cli.checks.before import API
from sluicegate.cli.checks.control_plane import INSTALLED, shortened
from sluicegate.cli.checks.model import Check, Found, Ok, Result, Severity
from sluicegate.cli.checks.world import World
from sluicegate.cli.manifests import pod_of
from sluicegate.injector.annotations import NAMESPACE_LABEL, PREFIX, STATUS
from sluicegate.injector.decide import DISABLED, ENABLED, decide, has_sidecar

_PODS = "/api/v1/pods"
_NAMESPACES = "/api/v1/namespaces"
_OWNERS = {
    "Deployment": "/apis/apps/v1/deployments",
    "StatefulSet": "/apis/apps/v1/statefulsets",
    "DaemonSet": "/apis/apps/v1/daemonsets",
    "Job": "/apis/batch/v1/jobs",
    "CronJob": "/apis/batch/v1/cronjobs",
}


def _name(resource: dict[str, Any]) -> str:
    return f"{resource['metadata']['namespace']}/{resource['metadata']['name']}"


async def _alive(world: World) -> list[dict[str, Any]]:
    over = ("Succeeded", "Failed")
    return [pod for pod in await world.all(_PODS) if (pod.get("status") or {}).get("phase") not in over]


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads((pod["metadata"].get("annotations") or {}).get(STATUS, "{}"))
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


async def _uninjected(world: World) -> Result:
    injector = world.part("injector")
    told = injector.environment if injector else {}
    excluded = frozenset(told.get("SLUICEGATE_INJECTOR_EXCLUDED_NAMESPACES", "").split(","))
    labels = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in await world.all(_NAMESPACES)}
    wrong: list[str] = []
    injected = 0
    for pod in await _alive(world):
        namespace = pod["metadata"]["namespace"]
        if has_sidecar(pod):
            injected += 1
        elif decide(pod, namespace, labels.get(namespace, {}), excluded).inject:
            wrong.append(f"pod {_name(pod)} asks for the sidecar and has none; delete it, so that it is made again")
    return Found(shortened(wrong)) if wrong else Ok(f"{injected} pods are injected")


async def _misplaced(world: World) -> Result:
    wrong: list[str] = []
    for kind, path in _OWNERS.items():
        for owner in await world.all(path):
            own = [key for key in owner["metadata"].get("annotations") or {} if key.startswith(PREFIX)]
            template = pod_of({**owner, "kind": kind}) or {}
            inside = (template.get("metadata") or {}).get("annotations") or {}
            lost = sorted(key for key in own if key not in inside)
            if lost:
                where = "spec.jobTemplate.spec.template" if kind == "CronJob" else "spec.template"
                wrong.append(f"{kind} {_name(owner)}: {', '.join(lost)} belongs in {where}.metadata.annotations")
    return Found(shortened(wrong)) if wrong else Ok()


async def _reported(world: World) -> Result:
    wrong: list[str] = []
    for pod in await _alive(world):
        status = _status(pod)
        said = [str(warning) for warning in status.get("warnings") or []]
        if not said:
            skipped = status.get("skippedEnv") or {}
            said = [f"container {name}: {', '.join(names)} was set already" for name, names in skipped.items()]
        wrong.extend(f"pod {_name(pod)}: {text}" for text in said)
    return Found(shortened(wrong)) if wrong else Ok()


async def _old(world: World) -> Result:
    injector = world.part("injector")
    version = injector.version if injector else world.version
    wrong = [
        f"pod {_name(pod)} has version {status['version']}, the control plane {version}; restart its owner"
        for pod in await _alive(world)
        if (status := _status(pod)).get("version", version) != version
    ]
    return Found(shortened(wrong)) if wrong else Ok()


async def _labels(world: World) -> Result:
    wrong = [
        f"namespace {namespace['metadata']['name']}: {NAMESPACE_LABEL}={value}; known: {ENABLED}, {DISABLED}"
        for namespace in await world.all(_NAMESPACES)
        if (value := (namespace["metadata"].get("labels") or {}).get(NAMESPACE_LABEL, ENABLED))
        not in (ENABLED, DISABLED)
    ]
    return Found(shortened(wrong)) if wrong else Ok()


PODS = "workloads"
WORKLOADS = (
    Check("namespace-labels", PODS, "namespaces have a known label", Severity.WARN, _labels, (API,)),
    Check("misplaced", PODS, "annotations stand on pod templates", Severity.WARN, _misplaced, (API,)),
    Check("uninjected", PODS, "pods that ask have the sidecar", Severity.WARN, _uninjected, (INSTALLED,)),
    Check("reported", PODS, "sidecars report nothing", Severity.WARN, _reported, (API,)),
    Check("sidecar-version", PODS, "sidecars are of the control plane's version", Severity.WARN, _old, (INSTALLED,)),
)
