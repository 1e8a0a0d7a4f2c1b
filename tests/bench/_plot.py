# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/performance.png from what the programs beside it saved: `python tests/bench/_plot.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench._figures import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#0b7a75", "#c1440e"


def dots(axes: Axes, title: str, unit: str, rows: list[tuple[str, float, str]]) -> None:
    """Labelled dots on a logarithmic scale, so that ratios are distances."""
    names = [name for name, _, _ in rows]
    values = [value for _, value, _ in rows]
    axes.scatter(values, names, color=[color for _, _, color in rows], s=60)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.15)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter("")
    axes.invert_yaxis()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(f"{unit}; logarithmic")
    axes.set_xlim(min(values) / 3, max(values) * 4)
    for place, value in enumerate(values):
        text = f"   {value:,.0f}" if value >= 10 else f"   {value:.2g}"
        axes.text(value, place, text, va="center", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    found: list[dict[str, Any]] = [
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("decisions", "sidecar")
    ]
    for known in ("machine", "core", "idle cores", "versions"):
        if found[0][known] != found[1][known]:
            sys.exit(f"decisions and sidecar are no pair, by their {known}: {found[0][known]} and {found[1][known]}")
    decisions, sidecar = (each["medians"] for each in found)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 3.6))
    dots(
        left,
        "Decisions per core-second",
        "a decision: before and after an LLM call; more is better",
        [
            (
                "Sluicegate,\n4 x 128 calls",
                decisions["Sluicegate, batched, 4 sidecars x 128 calls per core-second"],
                OURS,
            ),
            (
                "ratelimit + Redis,\nat its best",
                decisions["ratelimit, per LLM call, at its best per core-second"],
                THEIRS,
            ),
            (
                "ratelimit, one call\nwith one limit",
                decisions["ratelimit, one limit, at its best per core-second"],
                THEIRS,
            ),
            ("Sluicegate,\none at a time", decisions["Sluicegate, one at a time per core-second"], OURS),
            (
                "ratelimit + Redis,\none at a time",
                decisions["ratelimit, per LLM call, one at a time per core-second"],
                THEIRS,
            ),
        ],
    )
    ours, theirs = "Sluicegate's sidecar", "LiteLLM"
    for axes, title, unit, columns in (
        (middle, "CPU of a proxy", "us, less is better", {"a call": "CPU us/call", "a chunk": "CPU us/chunk"}),
        (right, "Added latency of a call", "us, less is better", {"p50": "added p50 us", "p99": "added p99 us"}),
    ):
        rows = [
            (f"{short}, {label}", sidecar[f"{name} {column}"], color)
            for label, column in columns.items()
            for name, short, color in ((ours, "sidecar", OURS), (theirs, "LiteLLM", THEIRS))
        ]
        dots(axes, title, unit, rows)
    figure.tight_layout()
    target = Path(__file__).parents[2] / "docs" / "images" / "performance.png"
    figure.savefig(target, dpi=110)
    print(target)


if __name__ == "__main__":
    main()
