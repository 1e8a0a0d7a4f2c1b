# SPDX-License-Identifier: Apache-2.0
"""All custom resources to the documents that the broker gets. Pure.

Theory of operation. The whole is compiled each time, so a missed event, a deleted object and a restart are all the
same. Three things are settled here, so that the broker needs no view of the cluster:

- a resource that became wrong keeps its last good version in effect, and says so in its conditions;
- `access[].namespaceSelector` becomes the names of the namespaces that match now;
- what Kubernetes keeps beside the document (managed fields, status) is left out, so that the version is a hash of
  what was asked alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.broker.core.documents import Identity, compile_documents
from sluicegate.broker.core.findings import Finding, Severity
from sluicegate.broker.core.manifests import RawDocument

Object = Mapping[str, Any]

_MAX_NAMESPACES = 1_000


@dataclass(frozen=True, slots=True)
class Programme:
    """What is to be in effect. `documents`: good ones only, by identity; `version` names their content.

    `findings`: what is wrong with each resource; `kept`: those of which an earlier version stays in effect.
    """

    version: str
    documents: Mapping[Identity, Object]
    findings: Mapping[Identity, tuple[Finding, ...]]
    kept: frozenset[Identity]


def compile_programme(
    resources: Iterable[Object], namespaces: Mapping[str, Mapping[str, str]], before: Mapping[Identity, Object]
) -> Programme:
    """The programme of all `resources`. `namespaces`: labels by name; `before`: the documents in effect until now."""
    asked = {identity_of(resource): document_of(resource, namespaces) for resource in resources}
    findings = _findings(asked)
    documents: dict[Identity, Object] = {}
    kept: set[Identity] = set()
    for identity, document in asked.items():
        if not any(finding.severity is Severity.ERROR for finding in findings.get(identity, ())):
            documents[identity] = document
        elif identity in before:
            documents[identity] = before[identity]
            kept.add(identity)
    return Programme(_version(documents), documents, findings, frozenset(kept))


def identity_of(resource: Object) -> Identity:
    """The identity of a ProviderPool or TenantPolicy as the API server sends it."""
    metadata = resource["metadata"]
    return Identity(resource["kind"], metadata.get("namespace", ""), metadata["name"])


def document_of(resource: Object, namespaces: Mapping[str, Mapping[str, str]]) -> Object:
    """The document that `resource` is, with the namespaces that its access rules select."""
    metadata = resource["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "creationTimestamp") if name in metadata}
    spec = resource.get("spec", {})
    if isinstance(spec, Mapping) and isinstance(spec.get("access"), list):
        spec = {**spec, "access": [rule for entry in spec["access"] for rule in _selected(entry, namespaces)]}
    return {"apiVersion": resource["apiVersion"], "kind": resource["kind"], "metadata": kept, "spec": spec}


def _selected(rule: Any, namespaces: Mapping[str, Mapping[str, str]]) -> Iterable[Any]:
    """`rule` by name; nothing where no namespace matches its selector."""
    match rule:
        case {"namespaceSelector": {"matchLabels": Mapping() as wanted}, **rest} if "namespaces" not in rule:
            names = sorted(name for name, labels in namespaces.items() if wanted.items() <= labels.items())
            parts = range(0, len(names), _MAX_NAMESPACES)
            return [{**rest, "namespaces": names[start : start + _MAX_NAMESPACES]} for start in parts]
        case _:
            return [rule]


def _findings(asked: Mapping[Identity, Object]) -> dict[Identity, tuple[Finding, ...]]:
    sources = {str(identity): identity for identity in asked}
    compiled = compile_documents(RawDocument(str(identity), document) for identity, document in asked.items())
    by_identity: defaultdict[Identity, list[Finding]] = defaultdict(list)
    for finding in compiled.findings:
        identity = sources.get(finding.source)
        if identity is not None:
            by_identity[identity].append(finding)
    return {identity: tuple(found) for identity, found in by_identity.items()}


def _version(documents: Mapping[Identity, Object]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the documents, in the order of their identities."""
    return hashlib.sha256(canonical(listed(documents)).encode()).hexdigest()[:16]


def canonical(value: object) -> str:
    """JSON in one spelling."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def listed(documents: Mapping[Identity, Object]) -> list[Object]:
    """The documents in the order of their identities."""
    return [documents[identity] for identity in sorted(documents)]
