# SPDX-License-Identifier: Apache-2.0
"""Naive SDK retries against Sluicegate, on the same offered load and seed: `python tests/bench/head_to_head.py`.

Prints, side by side for each seed, what the provider refused, what each tier got, and how long answers took.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tempfile
from pathlib import Path

from sluicegate.cli import comparison, scene
from sluicegate.cli.load import Progress, plan
from sluicegate.cli.report import Phase, tier_figures


async def one_seed(seed: int, seconds: float, folder: Path) -> tuple[Phase, Phase]:
    calls = plan(scene.CALLERS, scene.TARGETS, seconds, seed)
    scheduled = await comparison.run_scheduled(
        "Sluicegate", calls, scene.provider(seed), folder, seconds=seconds, progress=Progress()
    )
    straight = await comparison.run_straight(
        "SDK retries", calls, scene.provider(seed), seconds=seconds, progress=Progress()
    )
    return scheduled.phase, straight.phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {options.seconds:g} s of load at three times the limit")
    print(f"{'seed':>4} {'':12} {'429s':>5} {'per call':>8}", end="")
    for tier in scene.TIERS:
        print(f" | {tier + ' served':>15} {'p50 s':>6} {'p99 s':>6}", end="")
    print()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            phases = asyncio.run(one_seed(seed, options.seconds, Path(folder)))
        for phase in phases:
            ratio = phase.quota_429s / max(1, len(phase.results))
            print(f"{seed:>4} {phase.title:12} {phase.quota_429s:>5} {ratio:>8.2f}", end="")
            for tier in scene.TIERS:
                figures = tier_figures(phase.results, tier)
                share = figures.served / max(1, figures.calls)
                print(f" | {share:>15.0%} {figures.median:>6.2f} {figures.p99:>6.2f}", end="")
            print()


if __name__ == "__main__":
    main()
