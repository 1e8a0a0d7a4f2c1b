# SPDX-License-Identifier: Apache-2.0
"""Who gets a sidecar: the table of `decide`, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from sluicegate.injector.annotations import INJECT, NAMESPACE_LABEL, STATUS
from sluicegate.injector.decide import CONTAINER, SENTENCES, Verdict, decide


def pod(inject: str | None, **rest: Any) -> dict[str, Any]:
    annotations = rest.pop("annotations", {})
    return {
        "metadata": {"annotations": annotations | ({INJECT: inject} if inject is not None else {})},
        "spec": {"containers": [{"name": "app"}], **rest},
    }


SIDECAR = [{"name": CONTAINER}]
ROWS = [
    (pod("true"), None, Verdict.ASKED_BY_POD),
    (pod("true"), "enabled", Verdict.ASKED_BY_POD),
    (pod("true"), "disabled", Verdict.REFUSED_BY_NAMESPACE),
    (pod("false"), "enabled", Verdict.REFUSED_BY_POD),
    (pod("yes"), "enabled", Verdict.INVALID_ANNOTATION),
    (pod(None), "enabled", Verdict.ASKED_BY_NAMESPACE),
    (pod(None), "Enabled", Verdict.NOT_ASKED),
    (pod(None), None, Verdict.NOT_ASKED),
    (pod("true", hostNetwork=True), None, Verdict.HOST_NETWORK),
    (pod("true", os={"name": "windows"}), None, Verdict.WINDOWS),
    (pod(None, nodeSelector={"kubernetes.io/os": "windows"}), "enabled", Verdict.WINDOWS),
    (pod("true", os={"name": "linux"}), None, Verdict.ASKED_BY_POD),
    (pod("true", initContainers=SIDECAR), None, Verdict.ALREADY_INJECTED),
    (pod("true", containers=SIDECAR), None, Verdict.ALREADY_INJECTED),
    (pod("true", initContainers=SIDECAR, annotations={STATUS: "{}"}), None, Verdict.ASKED_BY_POD),
    (pod("true", annotations={"kubernetes.io/config.mirror": "x"}), None, Verdict.MIRROR_POD),
]


@pytest.mark.parametrize(("asked", "label", "verdict"), ROWS)
def test_the_table(asked: dict[str, Any], label: str | None, verdict: Verdict):
    labels = {} if label is None else {NAMESPACE_LABEL: label}
    decision = decide(asked, "acme", labels)
    assert decision.verdict is verdict
    assert decision.inject == (verdict in (Verdict.ASKED_BY_POD, Verdict.ASKED_BY_NAMESPACE))


def test_an_excluded_namespace_is_left_alone_whatever_its_pods_ask():
    assert decide(pod("true"), "kube-system", {}, frozenset({"kube-system"})).verdict is Verdict.EXCLUDED_NAMESPACE


def test_every_verdict_is_explained_and_met():
    assert set(SENTENCES) == set(Verdict)
    assert {row[2] for row in ROWS} | {Verdict.EXCLUDED_NAMESPACE} == set(Verdict)
