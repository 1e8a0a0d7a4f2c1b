# SPDX-License-Identifier: Apache-2.0
"""What a resource's status says. Pure; a status is written only where it says something new.

    Accepted     True Accepted | True AcceptedWithWarnings | False Invalid
    Programmed   True Programmed | False Invalid | False LastGoodInEffect | False BrokerUnavailable
    Ready        True Ready | False with the reason of the first of the two that is False

Source: Kubernetes API conventions (conditions), GEP-713. Live figures are never here: they are metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.broker.core.findings import Finding, Severity

_MAX_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the broker took the programme. `failure`: why it did not, empty where it did; `version`: what it runs."""

    version: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _Condition:
    name: str
    true: bool
    reason: str
    message: str


def status_of(
    resource: Mapping[str, Any], findings: Sequence[Finding], delivery: Delivery, now: str, *, kept: bool
) -> dict[str, Any] | None:
    """The status to write to `resource`, None when what stands there says it already.

    `kept`: an earlier version of it is in effect. `now`: RFC 3339, for conditions that flip.
    """
    generation = resource["metadata"].get("generation", 0)
    present = resource.get("status") or {}
    held = {condition.get("type"): condition for condition in present.get("conditions") or []}
    conditions = [
        _written(each, held.get(each.name), generation, now) for each in _conditions(findings, delivery, kept)
    ]
    status: dict[str, Any] = {"observedGeneration": generation, "conditions": conditions}
    version = delivery.version if conditions[1]["status"] == "True" else present.get("programmedVersion", "")
    # Conditions of others may stand beside ours. The version changes with every other resource: only a generation that
    # is newly programmed writes it.
    same = all(held.get(condition["type"]) == condition for condition in conditions)
    unchanged = same and present.get("observedGeneration") == generation
    if unchanged and (present.get("programmedVersion") or not version):
        return None
    return {**status, **({"programmedVersion": version} if version else {})}


def _conditions(findings: Sequence[Finding], delivery: Delivery, kept: bool) -> list[_Condition]:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        accepted = _Condition("Accepted", False, "Invalid", _said(errors))
    elif findings:
        accepted = _Condition("Accepted", True, "AcceptedWithWarnings", _said(findings))
    else:
        accepted = _Condition("Accepted", True, "Accepted", "the document is valid")
    if errors and kept:
        programmed = _Condition("Programmed", False, "LastGoodInEffect", "its last good version stays in effect")
    elif errors:
        programmed = _Condition("Programmed", False, "Invalid", "an invalid document is not given to the broker")
    elif delivery.failure:
        programmed = _Condition("Programmed", False, "BrokerUnavailable", delivery.failure[:_MAX_MESSAGE])
    else:
        programmed = _Condition("Programmed", True, "Programmed", "the broker runs this generation")
    first = next((each for each in (accepted, programmed) if not each.true), None)
    ready = _Condition("Ready", first is None, "Ready", "accepted and in effect")
    if first is not None:
        ready = _Condition("Ready", False, first.reason, first.message)
    return [accepted, programmed, ready]


def _written(condition: _Condition, held: Mapping[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    status = "True" if condition.true else "False"
    flipped = held is None or held.get("status") != status
    return {
        "type": condition.name,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": now if flipped or held is None else held["lastTransitionTime"],
        "reason": condition.reason,
        "message": condition.message,
    }


def _said(findings: Sequence[Finding]) -> str:
    """Field, value and what is allowed of each finding."""
    parts = []
    for finding in findings:
        what = f"{finding.field} = {finding.value}" if finding.value else finding.field
        parts.append(f"{what}: {finding.message}" if what else finding.message)
    text = "; ".join(parts)
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
