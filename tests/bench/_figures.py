# SPDX-License-Identifier: Apache-2.0
"""Figures of interleaved rounds: medians, ratios, what the bars are, and a file of them for the plot."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.bench import _peers, _process

RESULTS = Path(os.environ.get("SLUICEGATE_BENCH_RESULTS", "build/bench"))


class Figures:
    """Of one program. `add` one value of a round, `median` of what was added; `save` at the end."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}-asleep" if _process.SLEEP else name
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._missed: list[str] = []
        self.known = {"Sluicegate": _commit(), **_peers.versions()}
        self._awake = _process.awake()
        self.idle = "sleep" if self._awake is None else "are kept awake"
        print(f"{_process.machine()}; measured on core {_process.MEASURED}, everything else on core {_process.OTHERS}")
        print(f"idle cores {self.idle}; the broker's core is {_process.BROKER}")
        print(", ".join(f"{name} {version}" for name, version in self.known.items()))
        if _process.MEASURED == _process.OTHERS:
            print("ONE CORE: load and what is measured share it; latencies say little")

    def add(self, name: str, value: float) -> None:
        """One round's."""
        self._seen[name].append(value)

    def rounds(self, name: str) -> list[float]:
        """All of them, in order."""
        return self._seen[name]

    def median(self, name: str) -> float:
        """Over the rounds."""
        return statistics.median(self._seen[name])

    def table(self, columns: Sequence[str], rows: Sequence[str]) -> None:
        """Prints medians; a row's figures are those added as `<row> <column>`. The file has every round's."""
        wide = max(map(len, rows)) + 2
        print(" " * wide + "".join(f"{column:>20}" for column in columns))
        for row in rows:
            cells = (f"{row} {column}" for column in columns)
            shown = (f"{_short(self.median(cell)):>20}" if cell in self._seen else " " * 20 for cell in cells)
            print(f"{row:<{wide}}" + "".join(shown))

    def bar(self, what: str, value: float, bar: float, aim: float | None = None, *, most: bool = True) -> None:
        """Prints whether `value` keeps to its bar, and its aim where there is one: at `most`, or at least."""

        def kept(bound: float) -> bool:
            return value <= bound if most else value >= bound

        word = "BAR MISSED" if not kept(bar) else "aim reached" if aim is not None and kept(aim) else "bar kept"
        if not kept(bar):
            self._missed.append(what)
        self.add(what, value)
        bounds = f"{'at most' if most else 'at least'} {bar:g}{'' if aim is None else f', aim {aim:g}'}"
        print(f"  {what:<58} {value:>12,.3g} {bounds}: {word}")

    def save(self) -> int:
        """Writes the file; the exit code: 1 where a bar was missed."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": _process.machine(),
            "core": _process.BROKER,
            "idle cores": self.idle,
            "versions": self.known,
            "rounds": self._seen,
            "medians": {name: self.median(name) for name in self._seen},
        }
        (RESULTS / f"{self._name}.json").write_text(json.dumps(content, indent=1))
        for what in self._missed:
            print(f"FAILED: {what}")
        return 1 if self._missed else 0


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "of no commit"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
