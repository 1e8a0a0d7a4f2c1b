# SPDX-License-Identifier: Apache-2.0
"""What a custom resource's status says, and when it is written."""

from __future__ import annotations

from typing import Any

from sluicegate.broker.core.findings import Finding, Severity
from sluicegate.operator.core.conditions import Delivery, status_of

TAKEN = Delivery(version="v1")
AWAY = Delivery(failure="the broker cannot be reached")
ERROR = Finding("source", "TenantPolicy", "spec.weight", "0", "must be at least 1", Severity.ERROR)


def resource(status: dict[str, Any] | None = None, generation: int = 1) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, **({"status": status} if status else {})}


def reasons(status: dict[str, Any] | None) -> list[tuple[str, str]]:
    assert status is not None
    return [(condition["status"], condition["reason"]) for condition in status["conditions"]]


def test_a_status_is_written_only_where_it_says_something_new():
    first = status_of(resource(), (), TAKEN, "t1", kept=False)
    assert reasons(first) == [("True", "Accepted"), ("True", "Programmed"), ("True", "Ready")]
    assert first is not None
    assert first["programmedVersion"] == "v1"
    assert status_of(resource(first), (), TAKEN, "t2", kept=False) is None
    assert status_of(resource(first), (), Delivery(version="v2"), "t2", kept=False) is None, "another's change"
    away = status_of(resource(first), (), AWAY, "t2", kept=False)
    assert reasons(away) == [("True", "Accepted"), ("False", "BrokerUnavailable"), ("False", "BrokerUnavailable")]
    assert status_of(resource(away), (), AWAY, "t3", kept=False) is None, "it is away still"
    newer = status_of(resource(first, generation=2), (), TAKEN, "t2", kept=False)
    assert newer is not None
    assert {condition["lastTransitionTime"] for condition in newer["conditions"]} == {"t1"}, "none has flipped"


def test_a_condition_that_another_wrote_beside_ours_makes_no_writes():
    first = status_of(resource(), (), TAKEN, "t1", kept=False)
    assert first is not None
    other = {"type": "Reviewed", "status": "True", "reason": "ByFinance", "message": "", "lastTransitionTime": "t0"}
    first["conditions"].insert(0, other)
    assert status_of(resource(first), (), TAKEN, "t2", kept=False) is None


def test_what_is_wrong_names_field_and_value():
    status = status_of(resource(), (ERROR,), TAKEN, "t1", kept=False)
    assert reasons(status) == [("False", "Invalid")] * 3
    assert status is not None
    assert status["conditions"][0]["message"] == "spec.weight = 0: must be at least 1"
    kept = status_of(resource(), (ERROR,), TAKEN, "t1", kept=True)
    assert reasons(kept) == [("False", "Invalid"), ("False", "LastGoodInEffect"), ("False", "Invalid")]
