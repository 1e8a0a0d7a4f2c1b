# SPDX-License-Identifier: Apache-2.0
"""What a check is, and how checks are run.

Theory of operation. Checks run in their order. One that needs another which did not pass is skipped, and says so. A
check of something that may still start is run again until it passes or the common deadline is over, so that the whole
takes no longer than the deadline plus one round.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar, assert_never

from sluicegate.cli.cluster import UsageError, problem_of
from sluicegate.cli.views import BrokerError
from sluicegate.kube.client import ApiError, KubeError

HINTS = "docs/troubleshooting.md"
"""The page of which each check's id is an anchor."""
_AGAIN = 1.0


class Severity(StrEnum):
    """What it means when a check finds something: Sluicegate does not work, or it does and something is not right."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Ok:
    """Nothing is wrong. `detail`: what was seen."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong, a line each. `severity` where it is other than the check's own."""

    details: tuple[str, ...]
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """It could not be checked, or there is nothing to check."""

    reason: str


Result = Ok | Found | Skip

W_ = TypeVar("W_")


@dataclass(frozen=True, slots=True)
class Check(Generic[W_]):
    """One check of a world `W_`. `id` is also the anchor of its hint in docs/troubleshooting.md.

    `needs`: ids of checks without which this one says nothing. `starting`: what it looks at may still start.
    """

    id: str
    category: str
    description: str
    severity: Severity
    run: Callable[[W_], Awaitable[Result]]
    needs: tuple[str, ...] = ()
    starting: bool = False

    @property
    def hint(self) -> str:
        return f"{HINTS}#{self.id}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one check. `verdict`: ok, warn, fail or skip."""

    id: str
    category: str
    description: str
    verdict: str
    details: tuple[str, ...]
    hint: str


async def run_checks(
    checks: Sequence[Check[W_]], world: W_, *, wait: float, clock: Callable[[], float]
) -> AsyncIterator[Outcome]:
    """Each outcome as it is known. `wait`: seconds for all that may still start; `clock`: monotonic seconds."""
    deadline = clock() + wait
    passed: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name not in passed]
        result: Result = Skip(f"needs {missing[0]}") if missing else await _result(check, world)
        while isinstance(result, Found) and check.starting and clock() + _AGAIN <= deadline:
            await asyncio.sleep(_AGAIN)
            result = await _result(check, world)
        match result:
            case Ok(detail):
                verdict, details = "ok", (detail,) if detail else ()
            case Skip(reason):
                verdict, details = "skip", (reason,)
            case Found(details, severity):
                verdict = (severity or check.severity).value
            case _:
                assert_never(result)
        if verdict in ("ok", "warn"):
            passed.add(check.id)
        hint = check.hint if verdict in ("fail", "warn") else ""
        yield Outcome(check.id, check.category, check.description, verdict, tuple(details), hint)


async def _result(check: Check[W_], world: W_) -> Result:
    try:
        return await check.run(world)
    except ApiError as error:
        # Nothing is known to be wrong: the person who looks may see less than Sluicegate.
        return Skip(problem_of(error)) if error.status == 403 else Found((str(error),))
    except (KubeError, BrokerError, UsageError, OSError) as error:
        return Found((str(error),))
