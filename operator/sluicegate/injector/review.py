# SPDX-License-Identifier: Apache-2.0
"""One AdmissionReview, request to response. Pure; a pod is never refused.

Source: Kubernetes' AdmissionReview, admission.k8s.io/v1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.injector.annotations import NAMESPACE_LABEL, read
from sluicegate.injector.decide import ENABLED, Decision, decide
from sluicegate.injector.patch import Injection, Patch, patch

_MAX_WARNING = 256
_MAX_WARNINGS = 12


class InvalidReviewError(ValueError):
    """The body is no AdmissionReview for a pod; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """`response`: the AdmissionReview to answer. `patch` is None where the decision was not to inject."""

    response: dict[str, Any]
    decision: Decision
    patch: Patch | None
    namespace: str
    name: str


def review(
    body: Mapping[str, Any], injection: Injection, excluded: frozenset[str], *, by_namespace: bool = False
) -> Reviewed:
    """The answer to `body`. `by_namespace`: the webhook was called because the namespace's label asks for it.

    Raises InvalidReviewError.
    """
    request = body.get("request")
    if body.get("kind") != "AdmissionReview" or not isinstance(request, Mapping) or not request.get("uid"):
        raise InvalidReviewError("must be an AdmissionReview with a request that has a uid")
    pod = request.get("object")
    if (request.get("kind") or {}).get("kind") != "Pod" or not isinstance(pod, Mapping):
        raise InvalidReviewError("must hold a Pod as request.object")
    namespace = str(request.get("namespace") or "default")  # the pod itself may not say it yet
    metadata = pod.get("metadata") or {}
    labels = {NAMESPACE_LABEL: ENABLED} if by_namespace else {}
    decision = decide(pod, namespace, labels, excluded)
    wishes = read(metadata.get("annotations") or {})
    answer: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    made = patch(pod, injection, wishes) if decision.inject else None
    warnings: tuple[str, ...] = ()
    if made is not None:
        warnings = made.warnings
        if made.operations:
            answer["patchType"] = "JSONPatch"
            answer["patch"] = base64.b64encode(json.dumps(made.operations).encode()).decode()
    elif not by_namespace:
        warnings = (f"not injected: {decision.sentence}",)
    if warnings:
        answer["warnings"] = [f"sluicegate: {text}"[:_MAX_WARNING] for text in warnings[:_MAX_WARNINGS]]
    response = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    return Reviewed(response, decision, made, namespace, name)
