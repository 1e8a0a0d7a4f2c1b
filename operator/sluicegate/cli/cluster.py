# SPDX-License-Identifier: Apache-2.0
"""A cluster and the installation in it, as a person with a kubeconfig sees them.

Rights that are needed: `get`/`list` Deployments where Sluicegate is installed (in all namespaces where its namespace
is not given), `get` the ConfigMaps that its Deployments name, and for the broker see `sluicegate.cli.views`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.cli.credential import credential
from sluicegate.kube.client import ApiError, Client, KubeError, Object, ObjectRef, access, connect

SYSTEM = "sluicegate-system"
GROUP = "/apis/sluicegate.dev/v1alpha1"
_COMPONENT = "app.kubernetes.io/component"


class UsageError(Exception):
    """The command cannot be done as it was asked; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Deployment of the installation. `environment`: what its container is told, as far as it stands there."""

    deployment: Object
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def version(self) -> str:
        labels = self.deployment["metadata"].get("labels") or {}
        return str(labels.get("app.kubernetes.io/version", ""))

    def ref(self, variable: str) -> ObjectRef | None:
        """The object that a variable names."""
        try:
            return ObjectRef.parse(self.environment.get(variable, ""))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Installation:
    """The parts (`broker`, `operator`, `injector`) that one release has in `namespace`."""

    namespace: str
    parts: Mapping[str, Part]


def problem_of(error: KubeError) -> str:
    """`error` for a person who may lack a right."""
    return f"the right is missing: {error}" if isinstance(error, ApiError) and error.status == 403 else str(error)


@contextlib.asynccontextmanager
async def reached(options: argparse.Namespace) -> AsyncIterator[Client]:
    """A client of the API server that the flags name. Raises KubeError."""
    async with connect(access(os.environ, options.kubeconfig, options.context, credential)) as client:
        yield client


async def installation(client: Client, namespace: str) -> Installation | None:
    """What is installed in `namespace`, or in any where that is empty; None: nothing. Raises UsageError, KubeError."""
    selector = {"labelSelector": "app.kubernetes.io/name=sluicegate"}
    try:
        scope = f"/namespaces/{namespace}" if namespace else ""
        found = await client.get(f"/apis/apps/v1{scope}/deployments", **selector)
    except ApiError as error:
        if error.status != 403 or namespace:
            raise
        found = await client.get(f"/apis/apps/v1/namespaces/{SYSTEM}/deployments", **selector)
    by_release: dict[tuple[str, str], dict[str, Part]] = {}
    for deployment in found.get("items") or []:
        metadata = deployment["metadata"]
        labels = metadata.get("labels") or {}
        release = (metadata["namespace"], labels.get("app.kubernetes.io/instance", ""))
        by_release.setdefault(release, {})[labels.get(_COMPONENT, "")] = Part(deployment, environment_of(deployment))
    if len(by_release) > 1:
        names = ", ".join(f"{name or '?'} in {where}" for where, name in sorted(by_release))
        raise UsageError(f"more than one installation: {names}; choose by --system-namespace")
    for (where, _), parts in by_release.items():
        return Installation(where, parts)
    return None


async def installed(client: Client, options: argparse.Namespace) -> Installation:
    """The installation that the flags name. Raises UsageError where there is none."""
    found = await installation(client, options.system_namespace or "")
    if found is None:
        where = f"namespace {options.system_namespace}" if options.system_namespace else "this cluster"
        raise UsageError(f"no Sluicegate in {where}; install it, or name its namespace by --system-namespace")
    return found


def environment_of(deployment: Object) -> dict[str, str]:
    """The plain values of the first container's environment."""
    containers = deployment.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    return {
        entry["name"]: entry.get("value", "") for entry in containers[0].get("env") or [] if "valueFrom" not in entry
    }


async def authorities(client: Client, part: Part, variable: str) -> str:
    """PEM of the ConfigMap that `variable` names, empty where none is named. Raises KubeError."""
    published = part.ref(variable)
    if published is None:
        return ""
    held = await client.get(published.config_map)
    pem = str((held.get("data") or {}).get("ca.crt", ""))
    if not pem:
        raise KubeError(f"ConfigMap {published} has no ca.crt: the broker has not published its authorities yet")
    return pem


async def items(client: Client, path: str) -> list[dict[str, Any]]:
    """The objects of a collection, page by page. Raises KubeError."""
    found: list[dict[str, Any]] = []
    more = ""
    while True:
        page = await client.get(path, limit="500", **({"continue": more} if more else {}))
        found.extend(page.get("items") or [])
        more = (page.get("metadata") or {}).get("continue", "")
        if not more:
            return found
