# SPDX-License-Identifier: Apache-2.0
"""What injection adds to a pod, as a JSON patch of `add` operations. Pure.

Theory of operation. The patch says what is missing, so a patched pod needs none (a second call of the webhook finds
what other webhooks added in between). Nothing that stands in the pod is replaced: a base URL that is set already stays
and is reported, in the status annotation and as a warning. Pods are plain data all the way, since typed models drop
the fields that they do not know. The sidecar is a native one (an init container that restarts, Kubernetes 1.29), the
first, so that later init containers can call models too; it never holds up the start for the broker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluicegate.injector.annotations import PREFIX, STATUS, TABLE, Wishes
from sluicegate.injector.decide import CONTAINER
from sluicegate.injector.quantities import quantity

Pod = Mapping[str, Any]
Operation = dict[str, Any]

PORT, ADMIN_PORT = 15080, 15081
TOKEN_VOLUME, KEYS_VOLUME = "sluicegate-token", "sluicegate-credentials"
TOKEN_DIR, KEYS_DIR = "/var/run/sluicegate/token", "/var/run/sluicegate/credentials"
_URL = f"http://127.0.0.1:{PORT}"

BASE_URLS: Mapping[str, str] = {
    # Not OPENAI_API_BASE too: LangChain's Azure embeddings refuse to start where it is set.
    "OPENAI_BASE_URL": f"{_URL}/openai/v1",
    "AZURE_OPENAI_ENDPOINT": f"{_URL}/azure",
    "ANTHROPIC_BASE_URL": f"{_URL}/anthropic",
    "ANTHROPIC_VERTEX_BASE_URL": f"{_URL}/vertex/v1",
    "GOOGLE_GEMINI_BASE_URL": f"{_URL}/google",
    "GOOGLE_VERTEX_BASE_URL": f"{_URL}/vertex",
    "MISTRAL_BASE_URL": f"{_URL}/mistral/v1",  # LangChain; Mistral's own SDK takes server_url only
}
# LangChain reads these before the ones above.
_RIVALS = ("OPENAI_API_BASE", "ANTHROPIC_API_URL")
_PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_EXCEPTIONS = ("NO_PROXY", "no_proxy")
_LOOPBACK = frozenset({"*", "127.0.0.1", "127.0.0.0/8"})


@dataclass(frozen=True, slots=True)
class Credential:
    """The Secret, in the pod's own namespace, that holds the key of a pool. A pod starts without it too."""

    pool: str
    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class Injection:
    """What every sidecar of this installation gets; annotations go over it. `broker_ca`: PEM; empty: plain text.

    `pull_secrets`: Secrets in the pod's own namespace for pulling the image; one that is not there is passed over.
    """

    image: str
    broker: str
    broker_ca: str = ""
    audience: str = "sluicegate-broker"
    token_seconds: int = 3600
    pull_policy: str = "IfNotPresent"
    run_as_user: int = 65532
    cpu_request: str = "20m"
    memory_request: str = "96Mi"
    memory_limit: str = "256Mi"
    cpu_limit: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    credentials: tuple[Credential, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """The operations, empty when nothing is missing, and what a person should know, in words."""

    operations: tuple[Operation, ...]
    warnings: tuple[str, ...]


def patch(pod: Pod, injection: Injection, wishes: Wishes) -> Patch:
    """What `pod` lacks."""
    spec = pod.get("spec", {})
    targets = list(_targets(pod, wishes))
    warnings = [*wishes.problems, *_unknown_containers(pod, wishes)]
    operations: list[Operation] = []
    skipped: dict[str, list[str]] = {}
    for path, container in targets:
        missing, kept = _base_urls(container)
        operations.extend(_append(path, container, "env", missing))
        if kept:
            skipped[container["name"]] = kept
        warnings.extend(_doubts(container))
    warnings.extend(
        f"container {name}: {', '.join(kept)} was set already and stays: such calls do not pass the sidecar"
        for name, kept in skipped.items()
    )
    resources, cut = _resources(spec, injection, wishes)
    warnings.extend(cut)
    present = next((c for c in spec.get("initContainers") or [] if c.get("name") == CONTAINER), None)
    if present is None:
        # After the operations on the other init containers, whose places it shifts.
        operations.extend(_first(spec, _sidecar(injection, wishes, resources)))
    volumes = [volume for volume in _volumes(injection) if volume["name"] not in _names(spec.get("volumes"))]
    operations.extend(_append("/spec", spec, "volumes", volumes))
    secrets = [{"name": name} for name in injection.pull_secrets if name not in _names(spec.get("imagePullSecrets"))]
    operations.extend(_append("/spec", spec, "imagePullSecrets", secrets))
    image = present["image"] if present is not None and "image" in present else _image(injection, wishes)
    status = _status(injection, image, [c["name"] for _, c in targets], skipped, warnings)
    operations.extend(_annotate(pod, status))
    return Patch(tuple(operations), tuple(warnings))


# ---- the app's containers


def _targets(pod: Pod, wishes: Wishes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    chosen = {name.strip() for name in wishes.values.get("containers", "").split(",") if name.strip()}
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(pod.get("spec", {}).get(kind) or []):
            name = container.get("name")
            if name != CONTAINER and (not chosen or name in chosen):
                yield f"/spec/{kind}/{index}", container


def _unknown_containers(pod: Pod, wishes: Wishes) -> Iterator[str]:
    spec = pod.get("spec", {})
    there = _names(spec.get("initContainers")) | _names(spec.get("containers"))
    for name in wishes.values.get("containers", "").split(","):
        if name.strip() and name.strip() not in there:
            yield f"annotation sluicegate.dev/containers: the pod has no container {name.strip()!r}"


def _base_urls(container: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
    """What to add to the container's environment, and the names that are taken by another value."""
    held = {entry.get("name"): entry for entry in container.get("env") or []}
    missing = [{"name": name, "value": url} for name, url in BASE_URLS.items() if name not in held]
    kept = [name for name, url in BASE_URLS.items() if name in held and held[name].get("value") != url]
    sidecars = set(BASE_URLS.values())
    kept += [name for name in _RIVALS if name in held and held[name].get("value") not in sidecars]
    return missing, kept


def _doubts(container: Mapping[str, Any]) -> Iterator[str]:
    name = container.get("name")
    values = {entry.get("name"): str(entry.get("value", "")) for entry in container.get("env") or []}
    proxies = [proxy for proxy in _PROXIES if proxy in values]
    exceptions = {part.strip() for key in _EXCEPTIONS for part in values.get(key, "").split(",")}
    if proxies and not exceptions & _LOOPBACK:
        yield (
            f"container {name}: {', '.join(proxies)} is set and NO_PROXY lacks 127.0.0.1:"
            " calls to the sidecar would go to that proxy"
        )
    if container.get("envFrom"):
        yield f"container {name}: base URLs that its envFrom may hold give way to the sidecar's"
    for port in container.get("ports") or []:
        if port.get("containerPort") in (PORT, ADMIN_PORT):
            yield f"container {name}: port {port['containerPort']} is the sidecar's"


# ---- the sidecar


def _image(injection: Injection, wishes: Wishes) -> str:
    return wishes.values.get("image", injection.image)


def _resources(
    spec: Mapping[str, Any], injection: Injection, wishes: Wishes
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The sidecar's requests and limits, and which wish could not be met.

    A request above its limit would keep the pod from starting: of the two, what nobody wished follows the other. In a
    pod with resources of its own, which its containers share, the sidecar has those that are wished only.
    """
    held: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    problems: list[str] = []
    defaults = {
        "cpu": (injection.cpu_request, injection.cpu_limit),
        "memory": (injection.memory_request, injection.memory_limit),
    }
    for name, (usual_request, usual_limit) in defaults.items():
        wished = [wishes.values.get(f"{name}-{side}") for side in ("request", "limit")]
        request = wished[0] or ("" if spec.get("resources") else usual_request)
        limit = wished[1] or ("" if spec.get("resources") else usual_limit)
        if request and limit and quantity(request) > quantity(limit):
            if all(wished):
                problems.append(
                    f"annotation {PREFIX}{name}-request: {request} is above the limit, which holds: {limit}"
                )
            request, limit = (limit, limit) if wished[1] or not wished[0] else (request, request)
        held["requests"] |= {name: request} if request else {}
        held["limits"] |= {name: limit} if limit else {}
    return held, problems


def _sidecar(injection: Injection, wishes: Wishes, resources: Mapping[str, Any]) -> dict[str, Any]:
    mounts = [{"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": True}]
    if injection.credentials:
        mounts.append({"name": KEYS_VOLUME, "mountPath": KEYS_DIR, "readOnly": True})
    probe = {"httpGet": {"path": "/livez", "port": ADMIN_PORT}}
    return {
        "name": CONTAINER,
        "image": _image(injection, wishes),
        "imagePullPolicy": injection.pull_policy,
        "command": ["sluicegate-sidecar"],
        "restartPolicy": "Always",
        "env": _environment(injection, wishes),
        "ports": [{"name": "sluicegate-adm", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": ADMIN_PORT}, "periodSeconds": 5},
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": injection.run_as_user,
            "runAsNonRoot": True,
            "runAsUser": injection.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _environment(injection: Injection, wishes: Wishes) -> list[dict[str, Any]]:
    prefix = "SLUICEGATE_SIDECAR_"
    plain = {
        f"{prefix}BROKER": injection.broker,
        f"{prefix}BROKER_CA_PEM": injection.broker_ca,
        f"{prefix}PORT": str(PORT),
        f"{prefix}ADMIN_HOST": "0.0.0.0",  # noqa: S104 - the kubelet probes the pod's address
        f"{prefix}ADMIN_PORT": str(ADMIN_PORT),
        f"{prefix}TOKEN_FILE": f"{TOKEN_DIR}/token",
        f"{prefix}CREDENTIALS_DIR": KEYS_DIR if injection.credentials else "",
    }
    plain |= {row.setting: wishes.values[row.name] for row in TABLE if row.setting and row.name in wishes.values}
    fields = {
        f"{prefix}NAMESPACE": "metadata.namespace",
        f"{prefix}SERVICE_ACCOUNT": "spec.serviceAccountName",
        f"{prefix}POD": "metadata.name",
    }
    return [
        *({"name": name, "value": value} for name, value in {**injection.environment, **plain}.items() if value),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
    ]


def _volumes(injection: Injection) -> list[dict[str, Any]]:
    token = {
        "audience": injection.audience,
        "expirationSeconds": injection.token_seconds,
        "path": "token",
    }
    volumes: list[dict[str, Any]] = [
        {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]
    if injection.credentials:
        keys = [
            {"secret": {"name": held.secret, "optional": True, "items": [{"key": held.key, "path": held.pool}]}}
            for held in injection.credentials
        ]
        volumes.append({"name": KEYS_VOLUME, "projected": {"sources": keys}})
    return volumes


# ---- operations


def _first(spec: Mapping[str, Any], sidecar: dict[str, Any]) -> Iterator[Operation]:
    if spec.get("initContainers"):
        yield {"op": "add", "path": "/spec/initContainers/0", "value": sidecar}
    else:
        yield {"op": "add", "path": "/spec/initContainers", "value": [sidecar]}


def _append(path: str, holder: Mapping[str, Any], name: str, values: list[Any]) -> Iterator[Operation]:
    if not values:
        return
    if not holder.get(name):
        yield {"op": "add", "path": f"{path}/{name}", "value": values}
        return
    for value in values:
        yield {"op": "add", "path": f"{path}/{name}/-", "value": value}


def _annotate(pod: Pod, status: str) -> Iterator[Operation]:
    annotations = pod.get("metadata", {}).get("annotations")
    if not annotations:
        yield {"op": "add", "path": "/metadata/annotations", "value": {STATUS: status}}
    elif annotations.get(STATUS) != status:
        yield {"op": "add", "path": f"/metadata/annotations/{STATUS.replace('/', '~1')}", "value": status}


def _status(
    injection: Injection, image: str, containers: list[str], skipped: Mapping[str, list[str]], warnings: list[str]
) -> str:
    status = {
        "version": injection.version,
        "image": image,
        "container": CONTAINER,
        "injectedInto": containers,
        "skippedEnv": skipped,
        "warnings": warnings,
    }
    return json.dumps({name: value for name, value in status.items() if value}, separators=(",", ":"), sort_keys=True)


def _names(entries: Any) -> set[str]:
    return {entry.get("name", "") for entry in entries or []}
