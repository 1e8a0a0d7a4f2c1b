# SPDX-License-Identifier: Apache-2.0
"""Acquire and settle decisions of the broker against envoyproxy/ratelimit and Redis: `python tests/bench/decisions.py`.

Both on one core, the load (one Go program for both) on another, in turns. Batched: sidecars under load, whose calls of
one turn of their event loop travel together. ratelimit has no batches: it gets as many calls at once as serve it best.
One at a time: a single call under way, its settlement with the next one's acquire.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts, _peers
from tests.bench._figures import Figures
from tests.bench._process import MEASURED, Program, free_port, load

_LIMIT = """domain: bench
descriptors:
  - key: tenant
    rate_limit: {unit: minute, requests_per_unit: 4000000000}
"""


@contextlib.contextmanager
def ratelimit(folder: Path) -> Iterator[tuple[Program, Program, int]]:
    """The service, its Redis, and its port, both on the measured core."""
    config = folder / "ratelimit" / "config"
    config.mkdir(parents=True)
    (config / "bench.yaml").write_text(_LIMIT)
    redis_port, port, http_port, debug_port = (free_port() for _ in range(4))
    redis_command = [
        _peers.redis(),
        "--port",
        str(redis_port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    environment = {
        "RUNTIME_ROOT": str(folder),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_WATCH_ROOT": "false",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis_port}",
        "USE_STATSD": "false",
        "DISABLE_STATS": "true",
        "LOG_LEVEL": "error",
        "HOST": "127.0.0.1",
        "PORT": str(http_port),
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": str(port),
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": str(debug_port),
    }
    with (
        Program(redis_command, MEASURED, cwd=folder) as redis,
        Program([_peers.ratelimit()], MEASURED, environment) as service,
    ):
        service.until(f"http://127.0.0.1:{http_port}/healthcheck")
        yield service, redis, port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    figures = Figures("decisions")
    session = ["session", "--hello", _parts.hello(), "--ask", _parts.ask("gpt-4o"), "--settle", _parts.settled()]
    observed = ["--observe", _parts.observed()]
    modes = {
        "batched, 4 sidecars x 128 calls": [*session, "--streams", 4, "--outstanding", 128],
        "batched, with each response's observation": [*session, *observed, "--streams", 4, "--outstanding", 128],
        "batched, 4 sidecars x 16 calls": [*session, "--streams", 4, "--outstanding", 16],
        "one at a time": [*session, "--streams", 1, "--outstanding", 1],
    }
    peers = {
        "32 calls at once": ["--connections", 4, "--outstanding", 8],
        "128 calls at once": ["--connections", 4, "--outstanding", 32],
        "512 calls at once": ["--connections", 4, "--outstanding", 128],
        "one at a time": ["--connections", 1, "--outstanding", 1],
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "broker").mkdir()
        with (
            _parts.broker(folder / "broker", [_parts.pool("gpt-4o", ["gpt-4o"])]) as broker,
            ratelimit(folder) as (service, redis, port),
        ):
            for number in range(options.rounds + 1):
                for mode, arguments in modes.items():
                    before = broker.program.cpu
                    result = load(*arguments, "--address", broker.address, "--seconds", options.seconds)
                    if number:  # the first round warms up
                        _add(figures, f"Sluicegate, {mode}", result, broker.program.cpu - before)
                for mode, arguments in peers.items():
                    before, before_redis = service.cpu, redis.cpu
                    address = f"127.0.0.1:{port}"
                    result = load("ratelimit", *arguments, "--address", address, "--seconds", options.seconds)
                    if number:
                        spent, stored = service.cpu - before, redis.cpu - before_redis
                        _add(figures, f"ratelimit, {mode}", result, spent + stored)
            figures.add("Sluicegate RSS MB", broker.program.rss)
            figures.add("ratelimit RSS MB", service.rss)
    columns = ["decisions/s", "CPU us each", "per core-second", "p50 us", "p99 us", "RSS MB"]
    rows = [*(f"Sluicegate, {mode}" for mode in modes), *(f"ratelimit, {mode}" for mode in peers)]
    figures.table(columns, [*rows, "Sluicegate", "ratelimit"])
    best = max(figures.median(f"ratelimit, {mode} per core-second") for mode in peers)
    print("Against the best of ratelimit's")
    for mode in modes:
        ours = figures.median(f"Sluicegate, {mode} per core-second")
        if mode == "one at a time":
            alone = figures.median(f"ratelimit, {mode} per core-second")
            print(f"  {mode}: {ours / alone:.2f} times the decisions per core-second")
            for quantile in ("p50", "p99"):
                both = [figures.median(f"{side}, {mode} {quantile} us") for side in ("Sluicegate", "ratelimit")]
                print(f"  {mode}: {quantile} {both[0] / both[1]:.2f} times as long")
        elif mode == next(iter(modes)):
            figures.bar(f"{mode}: times the decisions", ours / best, 2.0, 5.0, most=False)
        else:
            print(f"  {mode}: {ours / best:.2f} times the decisions per core-second")
    return figures.save()


def _add(figures: Figures, name: str, result: dict[str, Any], cpu: float) -> None:
    done = result["done"]
    figures.add(f"{name} decisions/s", done / result["seconds"])
    figures.add(f"{name} CPU us each", cpu / done * 1e6)
    figures.add(f"{name} per core-second", done / cpu)
    for quantile, value in result["latency_us"].items():
        figures.add(f"{name} {quantile} us", value)


if __name__ == "__main__":
    sys.exit(main())
