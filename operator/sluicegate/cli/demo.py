# SPDX-License-Identifier: Apache-2.0
"""`sluicegate demo`: four tenants of four tiers at three times the limit, through the real SDKs.

Three runs: scheduled by Sluicegate; the same load with the SDKs' own retries; scheduled again while others use a part
of the same keys. It prints the comparison, writes a picture, and fails when a figure misses its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sluicegate.cli import comparison, figure, report, scene
from sluicegate.cli.load import Planned, Progress, plan
from sluicegate.cli.report import Check, Phase, tier_figures

SCHEDULED, RETRIES = "Sluicegate", "SDK retries"
FOREIGN_SECONDS = 40.0

T_ = TypeVar("T_")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sluicegate demo`."""
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of offered load (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of load and provider (default %(default)s)")
    parser.add_argument(
        "--foreign-percent",
        type=float,
        default=30.0,
        help="in the last run, what others draw of the limits; 0 leaves it out (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for picture and logs")


def run(options: argparse.Namespace) -> int:
    """Runs the demo; 0 when every figure meets its bar."""
    return asyncio.run(_demo(options, Console()))


async def _demo(options: argparse.Namespace, console: Console) -> int:
    calls = plan(scene.CALLERS, scene.TARGETS, options.seconds, options.seed)
    console.print(
        f"{len(calls)} calls of four tenants in {options.seconds:g} s, three times what the provider's limits allow.\n"
    )
    progress = Progress()
    scheduled = await _watched(
        console,
        f"1. {SCHEDULED}: unmodified SDKs through a sidecar, scheduled by the broker",
        progress,
        comparison.run_scheduled(
            SCHEDULED,
            calls,
            scene.provider(options.seed),
            options.out / "scheduled",
            seconds=options.seconds,
            progress=progress,
        ),
    )
    progress = Progress()
    straight = await _watched(
        console,
        f"2. {RETRIES}: the same load straight at the provider",
        progress,
        comparison.run_straight(
            RETRIES, calls, scene.provider(options.seed), seconds=options.seconds, progress=progress
        ),
    )
    checks = report.scheduled_checks(
        scheduled.phase,
        top_tier=scene.TIERS[0],
        guarantees={scene.TIERS[-1]: scene.GUARANTEES[scene.TIERS[-1]] / 100},
        violations=report.violations(scheduled.decisions),
    )
    foreign_checks: list[Check] = []
    if options.foreign_percent > 0:
        foreign_checks = await _foreign(options, console)

    picture = options.out / "demo.png"
    figure.draw(picture, [scheduled.phase, straight.phase], scene.TIERS)
    console.print(_comparison([scheduled.phase, straight.phase]))
    console.print(_checks(f"{SCHEDULED}, nobody else on the keys", checks))
    if foreign_checks:
        console.print(_checks(f"{SCHEDULED}, others use {options.foreign_percent:g} % of the limits", foreign_checks))
    console.print(f"Picture: {picture}   decisions: {options.out / 'scheduled' / 'decisions.jsonl'}")
    missed = [check for check in [*checks, *foreign_checks] if not check.ok]
    if missed:
        console.print(f"[red]{len(missed)} figure(s) missed: {', '.join(check.name for check in missed)}[/red]")
    return 1 if missed else 0


async def _foreign(options: argparse.Namespace, console: Console) -> list[Check]:
    seconds = min(options.seconds, FOREIGN_SECONDS)
    calls: list[Planned] = plan(scene.CALLERS, scene.TARGETS, seconds, options.seed + 1)
    progress = Progress()
    ran = await _watched(
        console,
        f"3. {SCHEDULED} while others use {options.foreign_percent:g} % of the same limits",
        progress,
        comparison.run_scheduled(
            "foreign use",
            calls,
            scene.provider(options.seed, options.foreign_percent),
            options.out / "foreign",
            seconds=seconds,
            progress=progress,
        ),
    )
    return report.foreign_checks(ran.phase)


async def _watched(console: Console, title: str, progress: Progress, work: Coroutine[Any, Any, T_]) -> T_:
    """Awaits `work` under a live view on a terminal; elsewhere a line now and then."""
    task = asyncio.ensure_future(work)
    began = time.monotonic()
    console.print(title)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while not task.done():
                live.update(_live(progress, time.monotonic() - began))
                await asyncio.wait({task}, timeout=0.25)
    else:
        while not task.done():
            await asyncio.wait({task}, timeout=10.0)
            console.print(_line(progress, time.monotonic() - began))
    return await task


def _line(progress: Progress, elapsed: float) -> str:
    served = sum(result.ok for result in progress.results)
    waiting = progress.started - len(progress.results)
    return (
        f"  {elapsed:4.0f} s: {progress.started} of {progress.planned} sent, {served} served, "
        f"{len(progress.results) - served} refused, {waiting} under way"
    )


def _live(progress: Progress, elapsed: float) -> Group:
    table = Table()
    for heading in ("tier", "answered", "served", "median", "p99", "p99 of the wait"):
        table.add_column(heading, justify="left" if heading == "tier" else "right")
    for tier in scene.TIERS:
        figures = tier_figures(progress.results, tier)
        table.add_row(
            tier,
            str(figures.calls),
            str(figures.served),
            _seconds(figures.median),
            _seconds(figures.p99),
            _seconds(figures.wait_p99),
        )
    return Group(Text(_line(progress, elapsed)), table)


def _seconds(value: float) -> str:
    return "-" if value != value else f"{value:.2f} s"


def _comparison(phases: Sequence[Phase]) -> Table:
    table = Table(title="The same load, the same seed")
    table.add_column("")
    for phase in phases:
        table.add_column(phase.title, justify="right")
    table.add_row("quota 429s from the provider", *(str(phase.quota_429s) for phase in phases))
    table.add_row("calls served", *(f"{sum(r.ok for r in phase.results)} of {len(phase.results)}" for phase in phases))
    for tier in scene.TIERS:
        figures = [tier_figures(phase.results, tier) for phase in phases]
        table.add_row(f"{tier}: served", *(f"{f.served / max(1, f.calls):.0%} of {f.calls}" for f in figures))
        table.add_row(
            f"{tier}: time to an answer, median / p99",
            *(f"{_seconds(f.median)} / {_seconds(f.p99)}" for f in figures),
        )
    for name in phases[0].pools:
        table.add_row(f"use of {name}'s limit", *(f"{phase.pools[name].use:.1%}" for phase in phases))
    return table


def _checks(title: str, checks: Sequence[Check]) -> Table:
    table = Table(title=title)
    for heading in ("figure", "measured", "must be", ""):
        table.add_column(heading)
    for check in checks:
        table.add_row(check.name, check.measured, check.bar, "[green]ok[/green]" if check.ok else "[red]missed[/red]")
    return table
