# SPDX-License-Identifier: Apache-2.0
"""The picture of a comparison: waits by tier, 429s, and the use of the limit over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from sluicegate.cli.report import Phase, tier_figures

COLOURS = ("#0b7a75", "#c2410c")  # ours, theirs: told apart in grey and by the colour-blind


def draw(path: Path, phases: Sequence[Phase], tiers: Sequence[str]) -> None:
    """Writes the comparison of two phases as a PNG to `path`."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    figure.suptitle("The same offered load at three times the limit, same seed", fontsize=13)
    _answers(axes[0], phases, tiers)
    _rejections(axes[1], phases)
    _use(axes[2], phases)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _answers(axis: Axes, phases: Sequence[Phase], tiers: Sequence[str]) -> None:
    axis.set_title("Time to an answer: median and p99, share served")
    height = 0.38
    for index, phase in enumerate(phases):
        for row, tier in enumerate(tiers):
            figures = tier_figures(phase.results, tier)
            y = row + (index - 0.5) * height
            axis.barh(
                y, figures.p99, height * 0.9, color=COLOURS[index], alpha=0.35, label=phase.title if row == 0 else None
            )
            axis.barh(y, figures.median, height * 0.9, color=COLOURS[index])
            share = figures.served / max(1, figures.calls)
            axis.text(figures.p99, y, f" {share:.0%} served", va="center", fontsize=8)
    axis.set_yticks(range(len(tiers)), tiers)
    axis.invert_yaxis()
    axis.margins(x=0.22)
    axis.set_xlabel("seconds (dark: median, light: p99)")
    axis.legend(loc="lower right", fontsize=8, frameon=False)


def _rejections(axis: Axes, phases: Sequence[Phase]) -> None:
    axis.set_title("Quota 429s from the provider, running total")
    for index, phase in enumerate(phases):
        length = max((len(pool.rejected_per_second) for pool in phase.pools.values()), default=0)
        total, totals = 0, list[int]()
        for second in range(length):
            total += sum(
                pool.rejected_per_second[second]
                for pool in phase.pools.values()
                if second < len(pool.rejected_per_second)
            )
            totals.append(total)
        axis.plot(totals, color=COLOURS[index], linewidth=2, label=f"{phase.title}: {total}")
    axis.set_xlabel("seconds of the run")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def _use(axis: Axes, phases: Sequence[Phase]) -> None:
    axis.set_title("Use of the binding limit, 5 s mean over the pools")
    for index, phase in enumerate(phases):
        pools = list(phase.pools.values())
        length = min((len(pool.charged_per_second) for pool in pools), default=0)
        mean = [sum(pool.charged_per_second[second] for pool in pools) / len(pools) for second in range(length)]
        smooth = [sum(mean[max(0, at - 4) : at + 1]) / len(mean[max(0, at - 4) : at + 1]) for at in range(length)]
        axis.plot([100 * value for value in smooth], color=COLOURS[index], linewidth=2, label=phase.title)
        axis.axvline(phase.seconds, color="#9ca3af", linewidth=0.8, linestyle=":")
    axis.axhline(100, color="#6b7280", linewidth=1, linestyle="--")
    axis.set_xlabel("seconds of the run (dotted: end of the offered load)")
    axis.set_ylabel("% of the limit's rate")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
