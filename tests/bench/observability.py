# SPDX-License-Identifier: Apache-2.0
"""What metrics cost broker and sidecar: `python tests/bench/observability.py`.

Each with its metrics and without, on one core, in turns: decisions per core-second of the broker, calls per core-second
of the sidecar. Where they are on their page is read once in each turn of some seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts
from tests.bench._figures import Figures
from tests.bench._process import OTHERS, load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    figures = Figures("observability")
    session = ["session", "--hello", _parts.hello(), "--ask", _parts.ask("gpt-4o"), "--settle", _parts.settled()]
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        endpoint = stack.enter_context(_parts.upstream())
        documents = [_parts.pool("gpt-4o", ["gpt-4o"], endpoint), *_parts.tenants(16)]
        behind = stack.enter_context(_parts.broker(folders[0], documents, OTHERS))
        rows: dict[str, tuple[_parts.Served, list[object]]] = {}
        for name, folder, suffix in (("", folders[1], ""), (" without metrics", folders[2], "-without-metrics")):
            broker = stack.enter_context(_parts.broker(folder, documents, variant=suffix and f"broker{suffix}"))
            sidecar = stack.enter_context(_parts.sidecar(behind.address, variant=suffix and f"sidecar{suffix}"))
            url = f"http://{sidecar.address}/openai/v1/chat/completions"
            rows[f"broker{name}"] = (
                broker,
                [*session, "--streams", 4, "--outstanding", 128, "--address", broker.address],
            )
            rows[f"sidecar{name}"] = sidecar, ["http", "--url", url, "--connections", 32]
        for number in range(options.rounds + 1):
            for name, (served, arguments) in rows.items():
                before = served.program.cpu
                done = load(*arguments, "--seconds", options.seconds)["done"]
                if "without" not in name:
                    urllib.request.urlopen(f"{served.admin}/metrics", timeout=5).read()
                if number:
                    figures.add(f"{name} per core-second", done / (served.program.cpu - before))
    figures.table(["per core-second"], list(rows))
    for name in ("broker", "sidecar"):
        with_, without = (figures.median(f"{row} per core-second") for row in (name, f"{name} without metrics"))
        figures.bar(f"{name}: throughput that metrics cost", 1 - with_ / without, 0.05, 0.05)
    return figures.save()


if __name__ == "__main__":
    sys.exit(main())
