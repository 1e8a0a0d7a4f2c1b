# SPDX-License-Identifier: Apache-2.0
"""Checks a log of decisions against the rules of the order, without the machine that took them.

A grant breaks the order when eligible calls of a higher tier waited at that moment, unless its reason allows it:

- `guarantee`: its tier's guarantee was due; `backfill`: it cannot delay the call that it passed.
- Another outcome than granted, such as a fallback or an unmanaged call: it was not in this pool's order.

`Decision.waiting` counts what the order counts: eligible calls of tenants and tiers that are not at their ceiling, and
for an interactive call the interactive ones only, since batch yields to those of any tier. A batch call that goes
while an interactive one waits therefore shows that one, whatever its tier.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.broker.core.effects import Decision
from sluicegate.wire.words import Outcome, Reason

_EXEMPT = frozenset({Reason.GUARANTEE, Reason.BACKFILL})


@dataclass(frozen=True, slots=True)
class Inversion:
    """A decision that broke the order: `passed` lists the higher tiers that waited, with how many calls."""

    decision: Decision
    passed: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        passed = ", ".join(f"{count} of {tier}" for tier, count in self.passed)
        decision = self.decision
        return (
            f"at {decision.at:g} call {decision.call_id} of tier {decision.party.tier} went on pool {decision.pool} "
            f"with reason {decision.reason} while calls of higher tiers waited: {passed}"
        )


def audit(decisions: Iterable[Decision]) -> list[Inversion]:
    """Every decision of the log that put a lower tier before an eligible higher one outside the rules."""
    found: list[Inversion] = []
    for decision in decisions:
        if decision.outcome is not Outcome.GRANTED or decision.reason in _EXEMPT:
            continue
        higher: list[tuple[str, int]] = []
        for tier, count in decision.waiting:
            if tier == decision.party.tier:
                break
            if count:
                higher.append((tier, count))
        if higher:
            found.append(Inversion(decision, tuple(higher)))
    return found
