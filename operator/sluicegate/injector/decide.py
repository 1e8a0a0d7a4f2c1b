# SPDX-License-Identifier: Apache-2.0
"""Whether a pod gets the sidecar, and why or why not. Pure.

    pod annotation inject   namespace label injection   then
    "true"                  any but disabled            inject
    "false"                 any                         no: it was refused
    other value             any                         no: the value is not allowed
    absent                  enabled                     inject
    absent                  absent                      no: nobody asked
    any                     disabled                    no: the namespace refuses

An excluded namespace, a mirror pod, a pod on its node's network (every process of the node could use its sidecar and
the keys mounted there), a pod of Windows, and a pod with a sidecar that is not of our making are left as they are,
whatever they ask. A pod that we injected is decided again, since another webhook may have added containers since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sluicegate.injector.annotations import INJECT, NAMESPACE_LABEL, STATUS

CONTAINER = "sluicegate-proxy"
ENABLED, DISABLED = "enabled", "disabled"


class Verdict(StrEnum):
    """Why a pod is injected or not: the word in metrics, logs and `sluicegate explain`."""

    ASKED_BY_POD = "asked_by_pod"
    ASKED_BY_NAMESPACE = "asked_by_namespace"
    NOT_ASKED = "not_asked"
    REFUSED_BY_POD = "refused_by_pod"
    REFUSED_BY_NAMESPACE = "refused_by_namespace"
    INVALID_ANNOTATION = "invalid_annotation"
    EXCLUDED_NAMESPACE = "excluded_namespace"
    ALREADY_INJECTED = "already_injected"
    MIRROR_POD = "mirror_pod"
    HOST_NETWORK = "host_network"
    WINDOWS = "windows"


SENTENCES: Mapping[Verdict, str] = {
    Verdict.ASKED_BY_POD: f"the pod's annotation {INJECT} asks for it",
    Verdict.ASKED_BY_NAMESPACE: f"the namespace's label {NAMESPACE_LABEL}: {ENABLED} asks for it",
    Verdict.NOT_ASKED: f"neither the pod's annotation {INJECT} nor the namespace's label {NAMESPACE_LABEL} asks for it",
    Verdict.REFUSED_BY_POD: f'the pod\'s annotation {INJECT}: "false" refuses it',
    Verdict.REFUSED_BY_NAMESPACE: f"the namespace's label {NAMESPACE_LABEL}: {DISABLED} refuses it",
    Verdict.INVALID_ANNOTATION: f'the pod\'s annotation {INJECT} is neither "true" nor "false"',
    Verdict.EXCLUDED_NAMESPACE: "pods of this namespace are never injected",
    Verdict.ALREADY_INJECTED: "the pod has the sidecar already",
    Verdict.MIRROR_POD: "the pod belongs to a kubelet (mirror pod)",
    Verdict.HOST_NETWORK: "the pod is on its node's network, where every process could use its sidecar",
    Verdict.WINDOWS: "the pod is for Windows, and the sidecar is for Linux",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict`, and whether to inject."""

    verdict: Verdict

    @property
    def inject(self) -> bool:
        return self.verdict in (Verdict.ASKED_BY_POD, Verdict.ASKED_BY_NAMESPACE)

    @property
    def sentence(self) -> str:
        return SENTENCES[self.verdict]


def decide(
    pod: Mapping[str, Any], namespace: str, labels: Mapping[str, str], excluded: frozenset[str] = frozenset()
) -> Decision:
    """The decision on `pod` of `namespace`, which has `labels`. `excluded`: namespaces that are never injected."""
    annotations = pod.get("metadata", {}).get("annotations") or {}
    asked = annotations.get(INJECT)
    if namespace in excluded:
        return Decision(Verdict.EXCLUDED_NAMESPACE)
    if "kubernetes.io/config.mirror" in annotations:
        return Decision(Verdict.MIRROR_POD)
    if asked == "false":
        return Decision(Verdict.REFUSED_BY_POD)
    if labels.get(NAMESPACE_LABEL) == DISABLED:
        return Decision(Verdict.REFUSED_BY_NAMESPACE)
    if asked not in (None, "true"):
        return Decision(Verdict.INVALID_ANNOTATION)
    if asked is None and labels.get(NAMESPACE_LABEL) != ENABLED:
        return Decision(Verdict.NOT_ASKED)
    if pod.get("spec", {}).get("hostNetwork"):
        return Decision(Verdict.HOST_NETWORK)
    if _for_windows(pod.get("spec", {})):
        return Decision(Verdict.WINDOWS)
    if has_sidecar(pod) and STATUS not in annotations:
        return Decision(Verdict.ALREADY_INJECTED)
    return Decision(Verdict.ASKED_BY_POD if asked else Verdict.ASKED_BY_NAMESPACE)


def _for_windows(spec: Mapping[str, Any]) -> bool:
    systems = ((spec.get("os") or {}).get("name"), (spec.get("nodeSelector") or {}).get("kubernetes.io/os"))
    return "windows" in systems


def has_sidecar(pod: Mapping[str, Any]) -> bool:
    """Whether a container of ours is there, as a native sidecar or not."""
    spec = pod.get("spec", {})
    every = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return any(container.get("name") == CONTAINER for container in every)
