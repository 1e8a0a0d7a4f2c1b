# SPDX-License-Identifier: Apache-2.0
"""Resident memory of the sidecar: at start, with o200k loaded, and over many calls: `python tests/bench/memory.py`.

Its broker has TLS, as in a cluster. One in four calls is a stream. 200,000 calls take some minutes; `--calls` makes it
shorter, and says so. `--root DIR` measures the sidecar of the image, with its Python: unpacked there, such as by
`podman export`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts
from tests.bench._figures import Figures
from tests.bench._process import OTHERS, load

STEP, WHOLE = 10_000, 200_000
LEAST = 20.0
"""MB that o200k takes at least: less, and it was not loaded."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=WHOLE)
    parser.add_argument("--root", default="", help="a directory with the unpacked image")
    options = parser.parse_args()
    figures = Figures("memory-image" if options.root else "memory")
    if options.root:
        print(f"the sidecar of the image in {options.root}, with its Python")
    with contextlib.ExitStack() as stack:
        folder, keys = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        endpoint = stack.enter_context(_parts.upstream("--pace", "0"))
        _parts.write(folder, [_parts.pool("p", ["gpt-4o"], endpoint), *_parts.tenants(16)])
        broker = stack.enter_context(_parts.broker(folder, OTHERS, tls=_parts.keys(keys)))
        sidecar = stack.enter_context(_parts.sidecar(broker, root=options.root))

        def note(name: str) -> float:
            figures.add(f"{name} RSS MB", sidecar.program.rss)
            figures.add(f"{name} private MB", sidecar.program.private)
            return sidecar.program.rss

        time.sleep(2.0)  # until its session has settled
        started = note("at start")
        load("http", "--url", sidecar.chat, "--calls", 1, "--model", "gpt-4o")
        counted = note("o200k loaded")
        if counted - started < LEAST:
            raise RuntimeError(f"o200k was not loaded: {started:.1f} MB before, {counted:.1f} MB after a call")
        after: list[float] = []
        rows = ["at start", "o200k loaded"]
        for calls in range(STEP, options.calls + 1, STEP):
            load("http", "--url", sidecar.chat, "--connections", 16, "--calls", STEP * 3 // 4)
            load(
                "http", "--url", sidecar.chat, "--connections", 16, "--calls", STEP // 4, "--stream", "--max-tokens", 10
            )
            rows.append(f"{calls:,} calls")
            after.append(note(rows[-1]))
    figures.table(["RSS MB", "private MB"], rows)
    figures.bar("MB at start", started, 60, 45)
    figures.bar("MB with o200k", counted, 120, 90)
    if options.calls < WHOLE:
        print(f"  ONLY {options.calls:,} calls: the bar of being flat is to {WHOLE:,}")
    else:
        figures.bar(f"most after call {STEP:,}, part of what it was there", max(after) / after[0], 1.05)
        # Less than at first: the first was too much, and would hide what grows after it.
        figures.bar(f"least after call {STEP:,}, part of what it was there", min(after) / after[0], 0.95, most=False)
    return figures.save()


if __name__ == "__main__":
    sys.exit(main())
