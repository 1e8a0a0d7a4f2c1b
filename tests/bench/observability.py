# SPDX-License-Identifier: Apache-2.0
"""What metrics and traces cost: `python tests/bench/observability.py`.

The broker with and without its metrics; the sidecar without metrics, with them, and with traces of one call in a
hundred as well, sent to a collector: where traces begin in it, and where they are the app's, which says in each call's
`traceparent` whether it is sampled. All stand at once on one core and get the same load in turns, of a quarter of a
second and in turned order, since a shared machine is slower for a second or two now and then; each page of metrics is
read once, after two seconds of load (Prometheus reads it each 15 to 60). What counts is all CPU that a program takes,
until its last spans are sent, by its calls; what is saturated serves that much less. All are started anew again and
again, since one process is some per cent faster than its twin: a cost is the median of what each start says.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts
from tests.bench._figures import Figures
from tests.bench._process import OTHERS, load

BAR = 0.05
PLAIN, COUNTED, TRACED, THEIRS = "without metrics", "with metrics", "with metrics and traces", "with the app's traces"
SAMPLED = 0.01
TRACES = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(SAMPLED)}
SENT_WITHIN = 6.0
"""Seconds; OTEL_BSP_SCHEDULE_DELAY is 5 by default."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=12, help="of all programs: one is some per cent off another")
    parser.add_argument("--rounds", type=int, default=8, help="of each start")
    parser.add_argument("--seconds", type=float, default=0.25)
    options = parser.parse_args()
    figures = Figures("observability")
    names: list[str] = []
    for _ in range(options.starts):
        names = _start(figures, options.rounds, options.seconds)
    figures.table(["CPU us/call", "calls/s", "RSS MB"], names)
    for dear, cheap in (
        (f"broker {COUNTED}", f"broker {PLAIN}"),
        (f"sidecar {COUNTED}", f"sidecar {PLAIN}"),
        (f"sidecar {TRACED}", f"sidecar {COUNTED}"),
        (f"sidecar {THEIRS}", f"sidecar {COUNTED}"),
    ):
        starts = zip(figures.rounds(f"{dear} CPU us/call"), figures.rounds(f"{cheap} CPU us/call"), strict=True)
        costs = [1 - less / more for more, less in starts]
        print(f"  of single starts: {min(costs):.1%} to {max(costs):.1%}")
        cost = statistics.median(costs)
        figures.bar(f"{dear}: part of the throughput", cost, BAR)
    return figures.save()


def _start(figures: Figures, rounds: int, seconds: float) -> list[str]:
    """Starts every program, and measures them in turns; their names."""
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(_parts.upstream())
        collectors = {name: stack.enter_context(_parts.upstream()).removesuffix("/v1") for name in (TRACED, THEIRS)}
        _parts.write(made, [_parts.pool("gpt-4o", ["gpt-4o"], endpoint), *_parts.tenants(16)])

        brokers = {
            PLAIN: stack.enter_context(_parts.broker(made, variant="broker-without-metrics")),
            COUNTED: stack.enter_context(_parts.broker(made)),
        }
        beside = stack.enter_context(_parts.broker(made, OTHERS))
        sidecars = {
            PLAIN: stack.enter_context(_parts.sidecar(beside, variant="sidecar-without-metrics")),
            COUNTED: stack.enter_context(_parts.sidecar(beside)),
        }
        for name, collector in collectors.items():
            to = {**TRACES, "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
            sidecars[name] = stack.enter_context(_parts.sidecar(beside, more=to))
        runs: list[tuple[str, _parts.Served, Sequence[object]]] = []
        for name, it in brokers.items():
            ask = [*_parts.session(), "--streams", 4, "--outstanding", 128, "--address", it.address]
            runs.append((f"broker {name}", it, ask))
        for name, it in sidecars.items():
            call = ["http", "--connections", 32, "--url", it.chat, *(["--traced"] if name == THEIRS else [])]
            runs.append((f"sidecar {name}", it, call))
        # warms up
        warm = {name: _turn(it, command, seconds, scrape=PLAIN not in name)["done"] for name, it, command in runs}
        before = {name: it.program.cpu for name, it, _ in runs}
        calls = dict.fromkeys(before, 0)
        for number in range(rounds):
            for name, it, command in runs if number % 2 else reversed(runs):
                result = _turn(it, command, seconds, scrape=number == rounds - 1 and PLAIN not in name)
                calls[name] += result["done"]
                figures.add(f"{name} calls/s", result["done"] / result["seconds"])
        time.sleep(SENT_WITHIN)
        for name, it, _ in runs:
            figures.add(f"{name} CPU us/call", (it.program.cpu - before[name]) / calls[name] * 1e6)
        for name, it in sidecars.items():
            figures.add(f"sidecar {name} RSS MB", it.program.rss)
        for name, it, _ in runs:
            counter = "sluicegate_requests" if name.startswith("broker") else "sluicegate_sidecar_calls"
            counted, served = _parts.counters(it).get(counter, 0.0), warm[name] + calls[name]
            if abs(counted - (0 if PLAIN in name else served)) > served / 50:
                raise RuntimeError(f"{name}: {served:,} calls, {counted:,.0f} of them counted")
        for name, collector in collectors.items():
            part = int(_parts.read(f"{collector}/spans")) / calls[f"sidecar {name}"]
            if not SAMPLED / 3 < part < SAMPLED * 3:
                raise RuntimeError(f"sidecar {name}: {part:.2%} of its calls have a span")
    return [name for name, _, _ in runs]


def _turn(it: _parts.Served, command: Sequence[object], seconds: float, *, scrape: bool) -> Any:
    result = load(*command, "--seconds", seconds)
    if scrape:
        _parts.read(f"{it.admin}/metrics")
    return result


if __name__ == "__main__":
    sys.exit(main())
