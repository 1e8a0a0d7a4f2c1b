# SPDX-License-Identifier: Apache-2.0
"""`sluicegate check`: what is wrong with an installation, or, with `--pre`, what is in the way of one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console

from sluicegate.cli.checks.before import KUBERNETES, PRE
from sluicegate.cli.checks.control_plane import CONFIGURATION, CONTROL_PLANE
from sluicegate.cli.checks.model import Check, Outcome, run_checks
from sluicegate.cli.checks.webhook import WEBHOOK
from sluicegate.cli.checks.workloads import WORKLOADS
from sluicegate.cli.checks.world import World
from sluicegate.cli.cluster import reached
from sluicegate.cli.flags import add_cluster, add_output, add_system_namespace_as_n
from sluicegate.cli.tables import out, structured
from sluicegate.cli.views import bounded
from sluicegate.wire import durations
from sluicegate.wire.version import VERSION

ALL: tuple[Check[World], ...] = (*KUBERNETES, *CONTROL_PLANE, *WEBHOOK, *CONFIGURATION, *WORKLOADS)
_MARKS = {"ok": "√", "warn": "‼", "fail": "\u00d7", "skip": "-"}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


def _wait(text: str) -> float:
    try:
        return durations.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--pre", action="store_true", help="only what must hold before `helm install`")
    parser.add_argument(
        "--wait", type=_wait, default=30.0, metavar="TIME", help="for what may still start (default 30s); 0 looks once"
    )
    add_system_namespace_as_n(parser)
    add_cluster(parser)
    parser.add_argument(
        "--via", default="", metavar="HOST:PORT", help="reach the broker here instead of by `kubectl port-forward`"
    )
    add_output(parser, ("table", "wide", "short", "json", "yaml"))


def run(options: argparse.Namespace) -> int:
    """Exit code 0, also with warnings; 1 when a check failed; 2 for wrong usage."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    outcomes: list[Outcome] = []
    coloured = Console(highlight=False) if sys.stdout.isatty() else None
    waits = Console(stderr=True)
    drawn = options.output in ("table", "wide")
    async with reached(options) as client:
        world = World(client, options, VERSION, dt.datetime.now(dt.UTC))
        category = ""
        with waits.status("checking") if waits.is_terminal and drawn else contextlib.nullcontext():
            async for outcome in run_checks(
                PRE if options.pre else ALL, world, wait=options.wait, clock=time.monotonic
            ):
                outcomes.append(outcome)
                if drawn:
                    _say(headed(outcome, category, wide=options.output == "wide"), outcome.verdict, coloured)
                    category = outcome.category
                await asyncio.sleep(0)
    failed = any(outcome.verdict == "fail" for outcome in outcomes)
    if options.output in ("json", "yaml"):
        out(structured(as_value(outcomes), options.output))
    elif options.output == "short":
        out(short(outcomes))
    else:
        out(f"\n{verdict_of(outcomes)}\n")
    return 1 if failed else 0


def headed(outcome: Outcome, before: str, *, wide: bool = False) -> str:
    """One outcome in lines, under the heading of its category where that is a new one; `wide`: with its id."""
    heading = ""
    if outcome.category != before:
        blank = "\n" if before else ""
        heading = f"{blank}{outcome.category}\n{'-' * len(outcome.category)}\n"
    lines = [f"{_MARKS[outcome.verdict]} {f'{outcome.id}: ' if wide else ''}{outcome.description}"]
    if outcome.verdict in ("ok", "skip"):
        lines[0] += f" ({'; '.join(outcome.details)})" if outcome.details else ""
    else:
        lines += [f"    {detail}" for detail in outcome.details]
        lines.append(f"    see {outcome.hint}")
    return heading + "\n".join(lines) + "\n"


def short(outcomes: Iterable[Outcome]) -> str:
    """Only what is not right, a line each; empty where all is."""
    return "".join(
        f"{_MARKS[outcome.verdict]} {outcome.id}: {detail}\n"
        for outcome in outcomes
        if outcome.verdict in ("warn", "fail")
        for detail in outcome.details
    )


def verdict_of(outcomes: Sequence[Outcome]) -> str:
    """The last line."""
    counts = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in _MARKS}
    parts = [f"{counts['ok']} ok"]
    parts += [
        f"{counts[name]} {words}"
        for name, words in (("warn", "warn"), ("fail", "failed"), ("skip", "skipped"))
        if counts[name]
    ]
    worst = "fail" if counts["fail"] else "warn" if counts["warn"] else "ok"
    return f"Status: {_MARKS[worst]} ({', '.join(parts)})"


def as_value(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The same for programs."""
    return {
        "success": not any(outcome.verdict == "fail" for outcome in outcomes),
        "checks": [
            {
                "id": outcome.id,
                "category": outcome.category,
                "description": outcome.description,
                "result": outcome.verdict,
                "details": list(outcome.details),
                "hint": outcome.hint,
            }
            for outcome in outcomes
        ],
    }


def _say(text: str, verdict: str, console: Console | None) -> None:
    if console is None:
        out(text)
    else:
        console.print(text, style=_COLOURS[verdict], end="", markup=False, soft_wrap=True)
