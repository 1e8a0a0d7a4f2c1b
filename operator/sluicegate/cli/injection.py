# SPDX-License-Identifier: Apache-2.0
"""What the cluster's injector would give a pod: by its Deployment, the broker's authorities and the pools' keys.

Rights needed: `get` the injector's Deployment and the ConfigMap of the authorities, `list` ProviderPools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.cli.cluster import GROUP, Installation, UsageError, authorities, items
from sluicegate.injector.main import credentials_of
from sluicegate.injector.patch import Injection, Operation
from sluicegate.injector.settings import Settings, read_settings
from sluicegate.kube.client import Client
from sluicegate.wire.environment import SettingsError
from sluicegate.wire.version import VERSION


@dataclass(frozen=True, slots=True)
class Injecting:
    """`injection`: what every sidecar gets; `excluded`: namespaces that are never injected."""

    injection: Injection
    excluded: frozenset[str]


def offline(image: str, broker: str, broker_ca: str) -> Injecting:
    """The defaults, without a cluster; `broker_ca` is PEM."""
    injection = Injection(image=image, broker=broker, broker_ca=broker_ca, version=VERSION)
    return Injecting(injection, frozenset(Settings().excluded_namespaces))


async def of_cluster(client: Client, found: Installation) -> Injecting:
    """As the injector of an installation would. Raises UsageError where there is none, KubeError."""
    part = found.parts.get("injector")
    if part is None:
        raise UsageError(f"the installation in namespace {found.namespace} has no injector (injector.enabled)")
    try:
        settings = read_settings(part.environment)
    except SettingsError as error:
        raise UsageError(f"Deployment {found.namespace}/{part.name}: {error}") from None
    pem = await authorities(client, part, "SLUICEGATE_INJECTOR_BROKER_CA_CONFIG_MAP")
    pools = await items(client, f"{GROUP}/providerpools")
    return Injecting(_injection(settings, pem, pools), frozenset(settings.excluded_namespaces))


def _injection(settings: Settings, broker_ca: str, pools: Sequence[Mapping[str, Any]]) -> Injection:
    return Injection(
        image=settings.image,
        broker=settings.broker,
        broker_ca=broker_ca,
        audience=settings.audience,
        pull_policy=settings.pull_policy,
        pull_secrets=settings.pull_secrets,
        run_as_user=settings.run_as_user,
        cpu_request=settings.cpu_request,
        memory_request=settings.memory_request,
        memory_limit=settings.memory_limit,
        cpu_limit=settings.cpu_limit,
        environment=settings.environment,
        credentials=tuple(credentials_of(list(pools))),
        version=VERSION,
    )


def apply(document: dict[str, Any], operations: Sequence[Operation]) -> None:
    """Carries out `add` operations of RFC 6902, all that a patch of the injector holds, on `document` itself."""
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        here: Any = document
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        if isinstance(here, list):
            here.insert(len(here) if last == "-" else int(last), operation["value"])
        else:
            here[last] = operation["value"]
