# SPDX-License-Identifier: Apache-2.0
"""The broker with 1,000 connected sidecars, 10,000 tenants and 200 pools: `python tests/bench/fleet.py`.

CPU and memory at rest, under 2,000 calls a second and after them, each call held for 50 ms and ended with its
response's observation and its usage; from start to ready; and, after the broker was killed and at once started again,
until it is ready and until all sidecars, which have no calls then, are back. The sidecars are sessions of one process,
each with a TLS connection of its own; each comes back as a real one does, and pings when it heard nothing for as long
as a real one waits. No limit binds, so that no call waits.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sluicegate.wire.channel import KEEPALIVE
from tests.bench import _parts, _peers
from tests.bench._figures import Figures
from tests.bench._process import OTHERS, Program, free_port

POOLS, TENANTS, SIDECARS, RATE = 200, 10_000, 1_000, 2_000
WITHIN = 60.0
REST = KEEPALIVE.interval
"""Seconds at rest: as long as from ping to ping, so that each connection's is in them."""


@contextlib.contextmanager
def fleet(broker: _parts.Served) -> Iterator[Program]:
    """All the sidecars."""
    asks = [word for n in range(POOLS) for word in ("--ask", _parts.ask(f"model-{n}"))]
    said = ["--hello", _parts.hello(), "--observe", _parts.observed(), "--settle", _parts.settled(), *asks]
    size = ["--sidecars", str(SIDECARS), "--tenants", str(TENANTS)]
    where = ["--address", f"127.0.0.1:{broker.port}", "--ca", broker.ca or ""]
    pings = ["--ping", f"{KEEPALIVE.interval}s", "--ping-timeout", f"{KEEPALIVE.timeout}s"]
    with Program([_peers.load(), "fleet", *where, *pings, *size, *said], OTHERS, talks=True) as program:
        yield program


def state(sidecars: Program) -> Any:
    """Its counts since the last mark."""
    sidecars.say("state")
    return sidecars.hear()


def connected(sidecars: Program) -> float:
    """Waits until all are; the seconds that it took since the last mark."""
    end = time.monotonic() + WITHIN
    while time.monotonic() < end:
        told = state(sidecars)
        if told["connected"] == SIDECARS and told["whole_after"]:
            return float(told["whole_after"])
        time.sleep(0.05)
    raise RuntimeError(f"only {state(sidecars)['connected']} of {SIDECARS} sidecars are connected")


def scrape(broker: _parts.Served) -> float:
    """The seconds until its page of metrics is there."""
    begun = time.monotonic()
    _parts.read(f"{broker.admin}/metrics")
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    figures = Figures("fleet")
    documents = [_parts.pool(f"pool-{n}", [f"model-{n}"]) for n in range(POOLS)] + _parts.tenants(TENANTS)
    rest, busy = "at rest", f"{RATE:,} calls/s"
    for _ in range(options.rounds):
        with contextlib.ExitStack() as stack:
            folder, keys = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
            _parts.write(folder, documents)
            port, tls = free_port(), _parts.keys(keys)
            broker = stack.enter_context(_parts.broker(folder, port=port, tls=tls))
            figures.add("start to ready s", broker.took)
            figures.add("alone RSS MB", broker.program.rss)
            sidecars = stack.enter_context(fleet(broker))
            figures.add("first connection of all s", connected(sidecars))
            time.sleep(3.0)
            for name, rate, seconds in ((rest, 0, REST), (busy, RATE, options.seconds)):
                sidecars.say(f"rate {rate}")
                time.sleep(1.0)
                sidecars.say("mark")
                before, begun = broker.program.cpu, time.monotonic()
                time.sleep(seconds / 2)
                if rate:
                    figures.add("a scrape s", scrape(broker))
                time.sleep(max(0.0, begun + seconds - time.monotonic()))
                took = time.monotonic() - begun
                told = state(sidecars)
                figures.add(f"{name} CPU of a core", (broker.program.cpu - before) / took)
                figures.add(f"{name} RSS MB", broker.program.rss)
                figures.add(f"{name} calls/s", told["done"] / took)
                figures.add(f"{name} refused", told["refused"])
                figures.add(f"{name} told kB/s", told["told_bytes"] / took / 1e3)
                if rate:
                    figures.add(f"{name} p50 us", told["latency_us"]["p50"])
                    figures.add(f"{name} p99 us", told["latency_us"]["p99"])
            sidecars.say("rate 0")
            time.sleep(3.0)
            figures.add("at rest again RSS MB", broker.program.rss)
            _parts.accounted(_parts.consumed(broker), _parts.USED, state(sidecars)["granted"])
            sidecars.say("mark")
            killed = time.monotonic()
            broker.program.stop(signal.SIGKILL)
            again = stack.enter_context(_parts.broker(folder, port=port, tls=tls))
            figures.add("killed to ready s", time.monotonic() - killed)
            figures.add("killed to all back s", connected(sidecars))
            figures.add("all back CPU s", again.program.cpu)
    columns = ["CPU of a core", "RSS MB", "calls/s", "refused", "p50 us", "p99 us", "told kB/s"]
    figures.table(columns, ["alone", rest, busy, "at rest again"])
    figures.table(
        ["s"],
        [
            "start to ready",
            "first connection of all",
            "a scrape",
            "killed to ready",
            "killed to all back",
            "all back CPU",
        ],
    )
    figures.bar(f"calls/s served of {RATE:,}", min(figures.rounds(f"{busy} calls/s")), 0.98 * RATE, most=False)
    figures.bar("calls refused", max(figures.rounds(f"{busy} refused")), 0)
    return figures.save()


if __name__ == "__main__":
    sys.exit(main())
