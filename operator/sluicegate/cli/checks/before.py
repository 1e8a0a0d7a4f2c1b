# SPDX-License-Identifier: Apache-2.0
"""What holds before an installation: the API server, its version, and the rights to install."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from sluicegate.cli.checks.model import Check, Found, Ok, Result, Severity, Skip
from sluicegate.cli.checks.world import World
from sluicegate.cli.cluster import SYSTEM

API = "kubernetes-api"
LEAST = (1, 29)
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

# What the chart installs: group, resource, and whether it is in the release's namespace.
_INSTALLED = (
    ("", "namespaces", False),
    ("apiextensions.k8s.io", "customresourcedefinitions", False),
    ("rbac.authorization.k8s.io", "clusterroles", False),
    ("rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
    ("", "serviceaccounts", True),
    ("", "services", True),
    ("", "configmaps", True),
    ("", "secrets", True),
    ("apps", "deployments", True),
    ("rbac.authorization.k8s.io", "roles", True),
    ("rbac.authorization.k8s.io", "rolebindings", True),
    ("policy", "poddisruptionbudgets", True),
)


async def _reachable(world: World) -> Result:
    await world.client.get("/version")
    return Ok(world.client.access.url)


async def _new_enough(world: World) -> Result:
    version = await world.client.get("/version")
    numbers = [re.match(r"\d+", str(version.get(name, ""))) for name in ("major", "minor")]
    said = str(version.get("gitVersion", "?"))
    if not all(numbers):
        return Skip(f"the API server says {said}, which is no version")
    if tuple(int(number[0]) for number in numbers if number) < LEAST:
        least = ".".join(map(str, LEAST))
        return Found((f"it is {said}; native sidecars need {least} or later",))
    return Ok(said)


async def _may_install(world: World) -> Result:
    namespace = world.options.system_namespace or SYSTEM

    async def denied(group: str, resource: str, namespaced: bool) -> str:
        attributes: dict[str, Any] = {"group": group, "resource": resource, "verb": "create"}
        attributes |= {"namespace": namespace} if namespaced else {}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        status = (await world.client.create(_REVIEWS, body)).get("status") or {}
        where = f" in namespace {namespace}" if namespaced else ""
        name = f"{resource}.{group}" if group else resource
        return "" if status.get("allowed") else f"you may not create {name}{where}"

    answers = await asyncio.gather(*(denied(*each) for each in _INSTALLED))
    refused = tuple(answer for answer in answers if answer)
    return Found(refused) if refused else Ok(f"{len(answers)} kinds of objects")


async def _free(world: World) -> Result:
    found = await world.look()
    if found is None:
        return Ok()
    return Found((f"there is one in namespace {found.namespace}: `helm upgrade` it, or choose names of their own",))


KUBERNETES = (
    Check(API, "kubernetes", "the API server answers", Severity.FAIL, _reachable),
    Check("kubernetes-version", "kubernetes", "its version has native sidecars", Severity.FAIL, _new_enough, (API,)),
)
PRE = (
    *KUBERNETES,
    Check("pre-rights", "before installation", "you may install the chart", Severity.FAIL, _may_install, (API,)),
    Check("pre-installed", "before installation", "no installation is there yet", Severity.WARN, _free, (API,)),
)
