# SPDX-License-Identifier: Apache-2.0
"""The version of what the operator asks for: a name of the content, and of nothing that Kubernetes keeps beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.operator.core.compile import compile_programme

NAMESPACES = {"acme": {"plan": "paid"}, "hobby": {}}
POOL: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "ProviderPool",
    "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {
        "provider": "OpenAI",
        "endpoint": "https://api.openai.com/v1",
        "models": ["m"],
        "limits": [{"resource": "Tokens", "limit": 1000, "window": "1m"}],
        "access": [{"namespaceSelector": {"matchLabels": {"plan": "paid"}}, "maxTier": "Premium"}],
    },
}
POLICIES: list[dict[str, Any]] = [
    {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "TenantPolicy",
        "metadata": {"name": name, "namespace": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"tier": "Premium", "weight": 3},
    }
    for name in NAMESPACES
]
RESOURCES = [POOL, *POLICIES]


def version(resources: list[dict[str, Any]], namespaces: dict[str, dict[str, str]] = NAMESPACES) -> str:
    programme = compile_programme(resources, namespaces, {})
    assert len(programme.documents) == len(resources), programme.findings
    return programme.version


def changed(path: str, value: Any) -> list[dict[str, Any]]:
    """The resources, of each of which the field at `path` is `value`."""
    resources = copy.deepcopy(RESOURCES)
    *parents, last = path.split(".")
    for resource in resources:
        here = resource
        for part in parents:
            here = here.setdefault(part, {})
        here[last] = value
    return resources


@given(st.permutations(RESOURCES))
def test_the_order_of_the_resources_and_of_their_fields_is_no_part_of_it(resources: list[dict[str, Any]]) -> None:
    turned = [dict(reversed(resource.items())) for resource in resources]
    assert version(turned) == version(RESOURCES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", {"conditions": [{"type": "Ready", "status": "True"}], "programmedVersion": "x"}),
        ("metadata.managedFields", [{"manager": "sluicegate-operator", "operation": "Apply"}]),
        ("metadata.resourceVersion", "4711"),
        ("metadata.generation", 7),
        ("metadata.uid", "u"),
        ("metadata.labels", {"team": "x"}),
        ("metadata.annotations", {"kubectl.kubernetes.io/last-applied-configuration": "{}"}),
    ],
)
def test_what_kubernetes_keeps_beside_a_document_is_no_part_of_it(path: str, value: Any) -> None:
    assert version(changed(path, value)) == version(RESOURCES)


def test_what_is_asked_is_all_of_it() -> None:
    weightier = copy.deepcopy(RESOURCES)
    weightier[1]["spec"]["weight"] = 4
    renamed = copy.deepcopy(RESOURCES)
    renamed[2]["metadata"]["name"] = "other"
    versions = [
        version(RESOURCES),
        version(weightier),
        version(renamed),
        version(RESOURCES[:2]),
        version(RESOURCES, {**NAMESPACES, "hobby": {"plan": "paid"}}),  # whom an access rule now selects
        # Of two policies for one workload the older holds, so the age decides too.
        version(changed("metadata.creationTimestamp", "2026-01-02T00:00:00Z")),
    ]
    assert len(set(versions)) == len(versions)
    assert version(RESOURCES, {**NAMESPACES, "hobby": {"team": "x"}}) == version(RESOURCES), "no rule reads that label"
