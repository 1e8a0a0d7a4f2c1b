# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables as kubectl aligns them, JSON, YAML."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str]

_LONGEST = 30 * 86_400.0
_BAR = 10
_PARTS = " ▏▎▍▌▋▊▉█"


def table(headings: Row, rows: Sequence[Row], *, right: frozenset[str] = frozenset()) -> str:
    """Rows under headings, two blanks between columns; `right` names the columns of figures."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="")
    for heading in headings:
        drawn.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    # Never cut: a terminal wraps, a pipe takes it all.
    columns = [max(cell_len(row[i]) for row in [headings, *rows]) + 2 for i in range(len(headings))]
    out = io.StringIO()
    Console(file=out, width=sum(columns) + 2, color_system=None, legacy_windows=False).print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def structured(value: Any, form: str) -> str:
    """`value` as `json` or `yaml`."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def bar(share: float) -> str:
    """`share` of 1 as ten cells, in eighths of a cell."""
    eighths = round(min(1.0, max(0.0, share)) * _BAR * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_PARTS[rest] if rest else "")).ljust(_BAR, "░")


def amount(value: float) -> str:
    """A figure in at most four digits: 950, 18.6k, 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A wait as people say it: 850ms, 2.4s, 3m10s."""
    if value is None or value > _LONGEST:
        return "no end"
    if value < 1:
        return f"{value * 1_000:.0f}ms"
    if value < 60:
        return f"{value:.1f}s"
    if value < 3_600:
        return f"{int(value // 60)}m{int(value % 60)}s"
    return f"{int(value // 3_600)}h{int(value % 3_600 // 60)}m"


def out(text: str) -> None:
    """To standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()
