# SPDX-License-Identifier: Apache-2.0
"""What a run of the load showed: figures by tier, and the bars that they must meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.effects import Decision, Party
from sluicegate.cli.load import Result
from sluicegate.wire.words import Outcome, Reason


@dataclass(frozen=True, slots=True)
class PoolTruth:
    """What the provider itself counted of one pool while the load ran.

    `quota_429s` and `admitted` are the load's own calls, without foreign use. `use`: what the binding limit was charged
    while calls waited, over what it allowed them: its level at the beginning and all that flowed in, less the headroom
    that is reserved for the highest tier. `charged_per_second`: of that meter, as a fraction of its rate;
    `rejected_per_second`: quota 429s; index = second of the load. `tier_share`: what each tier used of what flowed
    in since it had calls waiting, on the meter of which it used most, one call more counted; `largest`: its largest
    call there.
    """

    admitted: int
    quota_429s: int
    binding: str
    use: float
    charged_per_second: Sequence[float]
    rejected_per_second: Sequence[int]
    tier_share: Mapping[str, float] = field(default_factory=dict[str, float])
    largest: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Phase:
    """One run of the load: what the apps saw, and what the provider counted."""

    title: str
    seconds: float
    results: Sequence[Result]
    pools: Mapping[str, PoolTruth]

    @property
    def quota_429s(self) -> int:
        return sum(pool.quota_429s for pool in self.pools.values())

    @property
    def admitted(self) -> int:
        return sum(pool.admitted for pool in self.pools.values())


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier of one phase; times are seconds until the whole answer was there (`wait`: of that, queued)."""

    calls: int
    served: int
    median: float
    p99: float
    wait_p99: float


@dataclass(frozen=True, slots=True)
class Check:
    """One bar: what was measured, what it must be, and whether it is."""

    name: str
    measured: str
    bar: str
    ok: bool


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def tier_figures(results: Sequence[Result], tier: str) -> TierFigures:
    """Figures of one tier over all its calls; times over those that were served."""
    calls = [result for result in results if result.tier == tier]
    served = [result for result in calls if result.ok]
    return TierFigures(
        calls=len(calls),
        served=len(served),
        median=percentile([result.seconds for result in served], 50),
        p99=percentile([result.seconds for result in served], 99),
        wait_p99=percentile([result.wait for result in served if result.wait is not None], 99),
    )


def quota_errors_seen(results: Sequence[Result]) -> int:
    """Provider quota 429s that reached an app: a 429 that no decision of ours stands behind."""
    return sum(result.status == 429 and result.outcome != "rejected" for result in results)


def scheduled_checks(
    phase: Phase, *, top_tier: str, guarantees: Mapping[str, float], violations: Sequence[str]
) -> list[Check]:
    """The bars of a run without foreign use. `guarantees`: tier -> share of the limits that it is guaranteed.

    A tier gets its guarantee on the meter of which its calls take most, but for what may be coming together when the
    run ends: one call's worth, and a second's (broker/core/tiers.py).
    """
    top = tier_figures(phase.results, top_tier)
    checks = [
        Check("quota 429s", str(phase.quota_429s), "0", phase.quota_429s == 0),
        Check(f"{top_tier} calls served", f"{top.served} of {top.calls}", "all", 0 < top.served == top.calls),
        Check(f"{top_tier} p99 wait", f"{top.wait_p99:.2f} s", "< 1 s", top.wait_p99 < 1.0),
        Check(
            "lower tier before an eligible higher one, outside the rules",
            violations[0] if violations else "0",
            "0",
            not violations,
        ),
    ]
    for name, pool in phase.pools.items():
        checks.append(Check(f"use of {name}'s {pool.binding}", f"{pool.use:.1%}", ">= 97 %", pool.use >= 0.97))
        for tier, share in guarantees.items():
            got = pool.tier_share.get(tier, 0.0)
            least = share * (1.0 - 1.0 / phase.seconds) - pool.largest.get(tier, 0.0)
            what = f"{tier} guarantee of {share:.0%} on {name}"
            checks.append(Check(what, f"{got:.1%}", f">= {least:.1%}", 0.0 < least <= got))
    return checks


def foreign_checks(phase: Phase) -> list[Check]:
    """The bars of a run in which others use a part of the same keys' limits."""
    ratio = phase.quota_429s / max(1, phase.admitted + phase.quota_429s)
    seen = quota_errors_seen(phase.results)
    return [
        Check("quota 429s", f"{phase.quota_429s} ({ratio:.2%} of calls)", "<= 1 %", ratio <= 0.01),
        Check("of them seen by an app", str(seen), "0", seen == 0),
    ]


def violations(decisions: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the auditor finds in a decision log as it was written: every inversion outside the rules."""
    return [
        str(inversion)
        for inversion in audit(
            Decision(
                at=datetime.fromisoformat(line["time"]).timestamp(),
                call_id=line["call"],
                party=Party(line["tenant"], line["tier"], line["task_type"]),
                pool=line["pool"],
                model=line["model"],
                outcome=Outcome(line["outcome"]),
                reason=Reason(line["reason"]),
                waited=line["waited"],
                attempt=line["attempt"],
                binding=None,
                waiting=tuple(line["waiting"].items()),
            )
            for line in decisions
        )
    ]
