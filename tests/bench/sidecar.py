# SPDX-License-Identifier: Apache-2.0
"""The sidecar, with its acquire and settle, against LiteLLM's proxy: `python tests/bench/sidecar.py`.

Both before the same fast provider, each alone on its core, in turns; the load, the provider and the sidecar's broker
share another. Calls: 32 at once for the CPU per call, one at a time for the latency. Streams, a chunk each 4 ms: 8 at
once, of 50 chunks and of 250, whose difference is the CPU of a chunk without that of its call; short ones, one at a
time, for the latency, which is that of the first chunk. What a proxy adds is its latency less that of the provider
called directly in the same round; a share is the median of the rounds' shares. The first round, and that after a crash
of LiteLLM, warm up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts, _peers
from tests.bench._figures import Figures
from tests.bench._process import MEASURED, OTHERS, Program, free_port, load

OURS, THEIRS, DIRECT = "Sluicegate's sidecar", "LiteLLM", "direct"
BRIEF, SHORT, LONG = 10, 50, 250
CRASHES = 3
"""Of LiteLLM's process, that are let pass: before 3.12 Python may collect garbage while it sets a context variable, and
so free what it reads (https://github.com/python/cpython/issues/148891)."""
ANSWER_TOKENS = 40
"""Of the provider's usage."""
AFTER = 0.5
"""Seconds after each load, in which what it left to be done is done and counted."""
STREAMS, UNITS = ("short", "long"), ("CPU s", "calls", "chunks")
ADDED = ("p50 us", "p99 us", "first p50 us", "first p99 us")
MORE = """What each side does more
  The sidecar: asks its broker for a slot by tokens, requests and tenant before each call, counts the prompt's tokens,
    reports headers and usage. The broker is a program of its own, for many sidecars: its CPU stands in its own row.
  LiteLLM: translates between providers, computes the cost, has callbacks, keys and budgets, of which nothing is set up
    here: one model, no keys, no database, errors logged only."""


@contextlib.contextmanager
def litellm(endpoint: str) -> Iterator[tuple[Program, str]]:
    """LiteLLM's proxy with its defaults and one worker, logging errors only; its URL."""
    model = {
        "model_name": "gpt-4o",
        "litellm_params": {"model": "openai/gpt-4o", "api_base": endpoint, "api_key": "sk-x"},
    }
    port = free_port()
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # no keys of its own: best for it
    command = [_peers.litellm(), "--host", "127.0.0.1", "--port", port, "--num_workers", 1, "--telemetry", "False"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        json.dump({"model_list": [model]}, config)
        config.flush()
        with Program([*command, "--config", config.name], MEASURED, environment) as program:
            url = f"http://127.0.0.1:{port}"
            program.until(f"{url}/health/liveliness", 120)
            yield program, f"{url}/v1/chat/completions"
            if "Traceback" in program.wrote():
                raise RuntimeError(f"LiteLLM had errors:\n{program.tail()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="an even number: their order turns")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tls", action="store_true", help="between sidecar and broker, as in a cluster")
    options = parser.parse_args()
    figures = Figures("sidecar-tls" if options.tls else "sidecar")
    with contextlib.ExitStack() as stack:
        folder, keys = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        endpoint = stack.enter_context(_parts.upstream("--pace", "4ms"))
        _parts.write(folder, [_parts.pool("gpt-4o", ["gpt-4o"], endpoint), *_parts.tenants(16)])
        broker = stack.enter_context(_parts.broker(folder, OTHERS, tls=_parts.keys(keys) if options.tls else None))
        ours = stack.enter_context(_parts.sidecar(broker))
        _rounds(figures, ours, broker, endpoint, options)
    figures.add("its broker CPU us/call", figures.median(f"{OURS} broker us/call"))
    for name in (OURS, THEIRS):
        figures.add(f"{name} CPU us/chunk", _chunk(figures, name))
    rows = [DIRECT, OURS, THEIRS]
    json_columns = ["calls/s", "CPU us/call", "calls alone", "p50 us", "p99 us", "added p50 us", "added p99 us"]
    figures.table([*json_columns, "RSS MB"], [*rows, "its broker"])
    print("streams")
    streamed = ["CPU us/chunk", "CPU us/chunk+call", "first p50 us", "first p99 us", "first chunks"]
    figures.table([*streamed, "added first p50 us", "added first p99 us"], rows)
    print(MORE)
    figures.bar("CPU us/call, part of LiteLLM's", figures.median("share CPU us/call"), 1 / 10, 1 / 50)
    chunk = figures.median(f"{OURS} CPU us/chunk") / figures.median(f"{THEIRS} CPU us/chunk")
    figures.bar("CPU us/chunk, part of LiteLLM's", chunk, 1 / 10, 1 / 20)
    whole = figures.median("share CPU us/chunk+call")
    figures.bar(f"CPU us/chunk with its call's, {SHORT} chunks", whole, 1 / 10, 1 / 20)
    for what in ADDED:
        figures.bar(f"added {what}, part of LiteLLM's", figures.median(f"share added {what}"), 1 / 5, 1 / 20)
    both = figures.median(f"{OURS} CPU us/call") + figures.median("its broker CPU us/call")
    share = both / figures.median(f"{THEIRS} CPU us/call")
    print(f"  CPU us/call with its broker's, part of LiteLLM's: {share:.3g}")
    return figures.save()


def _rounds(
    figures: Figures, ours: _parts.Served, broker: _parts.Served, endpoint: str, options: argparse.Namespace
) -> None:
    """Measures all rounds; one in which LiteLLM's process crashes, again with a new process."""
    done = 0
    for crashes in range(CRASHES + 1):
        with litellm(endpoint) as (theirs, url):
            ways = {
                DIRECT: (f"{endpoint}/chat/completions", None),
                OURS: (ours.chat, ours.program),
                THEIRS: (url, theirs),
            }
            programs = {OURS: ours.program, THEIRS: theirs, "its broker": broker.program}
            try:
                _in_turn(ways, done, broker, options.seconds)  # warms up
                while done < options.rounds:
                    _add(figures, _in_turn(ways, done, broker, options.seconds))
                    done += 1
            except RuntimeError as error:
                if theirs.ended() != -signal.SIGSEGV or crashes == CRASHES:
                    for program in programs.values():
                        error.add_note(program.tail())
                    raise
                print(f"LiteLLM's process crashed; round {done + 1} is measured again with a new one")
            else:
                for name, program in programs.items():
                    figures.add(f"{name} RSS MB", program.rss)
                figures.add("LiteLLM crashes", crashes)
                return


def _in_turn(
    ways: dict[str, tuple[str, Program | None]], number: int, broker: _parts.Served, seconds: float
) -> dict[str, dict[str, float]]:
    """One round's figures of each way; their order turns with its number. Fails unless the sidecar's calls settled."""
    order = ways.items() if number % 2 else reversed(ways.items())
    before = _parts.consumed(broker)
    kept = {name: _round(url, program, broker.program, seconds) for name, (url, program) in order}
    _parts.accounted(_parts.consumed(broker) - before, ANSWER_TOKENS, int(kept[OURS]["calls"]))
    return kept


def _add(figures: Figures, kept: dict[str, dict[str, float]]) -> None:
    """One round's figures, and the shares of this round, in which the machine was equally fast for both."""
    for name in (OURS, THEIRS):
        for what in ADDED:
            kept[name][f"added {what}"] = kept[name][what] - kept[DIRECT][what]
    for name, figure in kept.items():
        for what, value in figure.items():
            figures.add(f"{name} {what}", value)
    for what in ("CPU us/call", "CPU us/chunk+call", *(f"added {what}" for what in ADDED)):
        figures.add(f"share {what}", kept[OURS][what] / kept[THEIRS][what])


def _chunk(figures: Figures, name: str) -> float:
    """CPU of a chunk without its call's, of all rounds together: what is left when as many calls are taken away."""
    cpu, calls, chunks = ({of: sum(figures.rounds(f"{name} {of} {unit}")) for of in STREAMS} for unit in UNITS)
    times = calls["short"] / calls["long"]
    return (cpu["short"] - cpu["long"] * times) / (chunks["short"] - chunks["long"] * times) * 1e6


def _round(url: str, program: Program | None, broker: Program, seconds: float) -> dict[str, float]:
    def under(*arguments: object) -> tuple[dict[str, Any], float]:
        before = program.cpu if program is not None else 0.0
        result = load("http", "--url", url, "--seconds", seconds, *arguments)
        time.sleep(AFTER)
        return result, (program.cpu - before if program is not None else 0.0)

    beside = broker.cpu
    many, cpu = under("--connections", 32)
    beside = broker.cpu - beside
    alone, _ = under("--connections", 1)
    short, shorter = under("--connections", 8, "--stream", "--max-tokens", SHORT)
    long, longer = under("--connections", 8, "--stream", "--max-tokens", LONG)
    begun, _ = under("--connections", 1, "--stream", "--max-tokens", BRIEF, "--seconds", 3 * seconds)
    kept = {
        "calls/s": many["done"] / many["seconds"],
        "p50 us": alone["latency_us"]["p50"],
        "p99 us": alone["latency_us"]["p99"],
        "first p50 us": begun["first_us"]["p50"],
        "first p99 us": begun["first_us"]["p99"],
        "calls alone": alone["done"],
        "first chunks": begun["done"],
        "calls": sum(result["done"] for result in (many, alone, short, long, begun)),
    }
    if program is not None:
        kept["CPU us/call"] = cpu / many["done"] * 1e6
        kept["CPU us/chunk+call"] = shorter / short["chunks"] * 1e6
        kept["broker us/call"] = beside / many["done"] * 1e6
        for of, result, spent in (("short", short, shorter), ("long", long, longer)):
            kept |= {f"{of} CPU s": spent, f"{of} calls": result["done"], f"{of} chunks": result["chunks"]}
    return kept


if __name__ == "__main__":
    sys.exit(main())
