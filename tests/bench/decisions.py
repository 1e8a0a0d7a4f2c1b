# SPDX-License-Identifier: Apache-2.0
"""Acquire and settle decisions of the broker against envoyproxy/ratelimit and Redis: `python tests/bench/decisions.py`.

Both on one core, the load (one Go program for both) on another, in turns. A decision of Sluicegate is an acquire and
its settlement, with limits of requests and tokens on the pool and on the tenant. ratelimit stands against it twice:

- Per LLM call: what Envoy Gateway makes of a rule whose cost is checked with the request and charged with the response
  (request cost 0, the tokens' as `hits_addend` at the end of the stream; https://gateway.envoyproxy.io, global rate
  limits), as Envoy AI Gateway budgets tokens. Two ShouldRateLimit calls: a check of requests and tokens of the tenant
  and of the pool, and a charge of the used tokens to both. The same job as an acquire and a settlement: the bar goes by
  this one. The load program fails at its start where charges do not count.
- One call with one limit: the least that ratelimit does, a quarter of the limits, and no usage. No bar: it is less.

Batched: sidecars under load, whose calls of one turn of their event loop travel together. ratelimit has no batches: it
gets as many calls at once as serve it best. One at a time: a single call under way. Latency is what an application
waits before its call goes out: of Sluicegate from the acquire to the grant (the last call's settlement travels with
it), of ratelimit the first of its calls; the charge's is a column of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts, _peers
from tests.bench._figures import Figures
from tests.bench._process import MEASURED, Program, free_port, load

_ENDLESS = {"unit": "minute", "requests_per_unit": 4_000_000_000}
_COUNTS = [{"key": "counts", "value": value, "rate_limit": _ENDLESS} for value in ("requests", "tokens")]
_LIMITS = {
    "domain": "bench",
    "descriptors": [
        {"key": "tenant", "rate_limit": _ENDLESS, "descriptors": _COUNTS},
        {"key": "pool", "descriptors": _COUNTS},
    ],
}
PAIR, STRICT = "ratelimit, per LLM call", "ratelimit, one limit"
MORE = """What each side does more
  Sluicegate: queues by tier and fair shares where a limit is full, reserves the estimate, refunds what was not used,
    answers with the predicted wait; learns from responses' headers in the row that says so. Its calls come in batches.
  ratelimit: its counts are in Redis, where replicas share them and a restart leaves them; Sluicegate's are in the
    memory of one broker. It answers each call by itself. It has no queue, reservation, refund or prediction."""


@contextlib.contextmanager
def ratelimit(folder: Path) -> Iterator[tuple[Program, Program, int]]:
    """The service, its Redis, and its port, both on the measured core."""
    config = folder / "ratelimit" / "config"
    config.mkdir(parents=True)
    (config / "bench.yaml").write_text(json.dumps(_LIMITS))  # which is YAML
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
    parser.add_argument("--rounds", type=int, default=6, help="an even number: their order turns")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    _peers.redis()  # is installed before figures name its version
    figures = Figures("decisions")
    session = _parts.session()
    observed = ["--observe", _parts.observed()]
    pair = ["--pairs", "--tokens", _parts.USED]
    batched, alone = "Sluicegate, batched, 4 sidecars x 128 calls", "Sluicegate, one at a time"
    ours: dict[str, list[object]] = {
        batched: [*session, "--streams", 4, "--outstanding", 128],
        "Sluicegate, batched, with each response's observation": [
            *session,
            *observed,
            "--streams",
            4,
            "--outstanding",
            128,
        ],
        "Sluicegate, batched, 4 sidecars x 16 calls": [*session, "--streams", 4, "--outstanding", 16],
        alone: [*session, "--streams", 1, "--outstanding", 1],
    }
    many = {f"{calls} at once": ["--connections", 4, "--outstanding", calls // 4] for calls in (8, 32, 128)}
    sizes = {**many, "one at a time": ["--connections", 1, "--outstanding", 1]}
    theirs: dict[str, list[object]] = {
        f"{kind}, {size}": ["ratelimit", *arguments, *more]
        for kind, more in ((PAIR, pair), (STRICT, []))
        for size, arguments in sizes.items()
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "broker").mkdir()
        _parts.write(folder / "broker", [_parts.pool("gpt-4o", ["gpt-4o"]), *_parts.tenants(16, bounded="gpt-4o")])
        with (
            _parts.broker(folder / "broker") as broker,
            ratelimit(folder) as (service, redis, port),
        ):
            runs = [
                *((name, command, broker.address, [broker.program]) for name, command in ours.items()),
                *((name, command, f"127.0.0.1:{port}", [service, redis]) for name, command in theirs.items()),
            ]
            done = 0
            for number in range(options.rounds + 1):
                for name, command, address, programs in runs if number % 2 else reversed(runs):
                    before = sum(program.cpu for program in programs)
                    result = load(*command, "--address", address, "--seconds", options.seconds)
                    if name in ours:
                        done += result["done"]
                    if number:  # the first round warms up
                        _add(figures, name, result, sum(program.cpu for program in programs) - before)
            _parts.accounted(_parts.consumed(broker), _parts.USED, done)
            for name, program in (("Sluicegate", broker.program), ("ratelimit", service), ("Redis", redis)):
                figures.add(f"{name} RSS MB", program.rss)
    columns = ["decisions/s", "CPU us each", "per core-second", "p50 us", "p99 us", "charge p50 us", "RSS MB"]
    figures.table(columns, [*ours, *theirs, "Sluicegate", "ratelimit", "Redis"])
    print(MORE)

    for kind in (PAIR, STRICT):
        best = max(figures.median(f"{kind}, {size} per core-second") for size in many)
        figures.add(f"{kind}, at its best per core-second", best)

    def times(name: str, kind: str) -> float:
        """As many decisions per core-second as ratelimit, batched against the best of its."""
        size = "one at a time" if name == alone else "at its best"
        return figures.median(f"{name} per core-second") / figures.median(f"{kind}, {size} per core-second")

    print("Decisions per core-second, times ratelimit's: per LLM call (same job); one call with one limit (less work)")
    for name in ours:
        print(f"  {name:<58} {times(name, PAIR):>8.2f} {times(name, STRICT):>8.2f}")
    print("Latency one at a time, times ratelimit's: check before an LLM call; one call with one limit")
    for quantile in ("p50", "p99"):
        lasts = [figures.median(f"{kind}, one at a time {quantile} us") for kind in (PAIR, STRICT)]
        mine = figures.median(f"{alone} {quantile} us")
        aim = "" if quantile == "p99" else f"  aim 1: {'reached' if mine <= lasts[0] else 'missed'}"
        print(f"  {quantile:<58} {mine / lasts[0]:>8.2f} {mine / lasts[1]:>8.2f}{aim}")
    figures.bar("batched, per LLM call: times the decisions", times(batched, PAIR), 2.0, 5.0, most=False)
    return figures.save()


def _add(figures: Figures, name: str, result: dict[str, Any], cpu: float) -> None:
    done = result["done"]
    figures.add(f"{name} decisions/s", done / result["seconds"])
    figures.add(f"{name} CPU us each", cpu / done * 1e6)
    figures.add(f"{name} per core-second", done / cpu)
    for quantile, value in result["latency_us"].items():
        figures.add(f"{name} {quantile} us", value)
    if "after_us" in result:
        figures.add(f"{name} charge p50 us", result["after_us"]["p50"])


if __name__ == "__main__":
    sys.exit(main())
