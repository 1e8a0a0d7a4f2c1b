# SPDX-License-Identifier: Apache-2.0
"""Where broker and sidecar spend their time: `python tests/bench/_profile.py`; py-spy must be on the PATH.

The broker under the batched load of `decisions.py`; the sidecar under 32 calls at once, and under one at a time. A
sample of the main thread belongs to the innermost frame that names a part. The compiled core has no frames: its time is
that of who calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _parts
from tests.bench._process import BROKER, OTHERS, Program, awake, load, machine

RATE = 500
BROKERS = {
    "metrics, decision log": ("broker/metrics.py", "broker/decisions.py", "broker/failures.py", "core/accounts.py"),
    "the scheduler's core": ("broker/core/", "broker/runtime.py"),
    "reading requests, gRPC": ("broker/requests.py", "broker/service.py", "grpc/"),
    "answers into messages": ("broker/answers.py", "broker/outbox.py", "broker/sessions.py"),
}
SIDECARS = {
    "to and from the broker": (
        "sidecar/broker_client.py",
        "sidecar/held.py",
        "sidecar/link.py",
        "sidecar/messages.py",
        "grpclib/",
        "h2/",
        "hyperframe/",
    ),
    "estimate": ("core/estimate/", "sidecar/tokenizer.py", "tiktoken/"),
    "headers, usage, faults": (
        "core/headers.py",
        "core/dialects/",
        "core/usage/",
        "core/fault.py",
        "wire/durations.py",
    ),
    "to the provider": ("sidecar/upstream.py", "sidecar/way.py", "aiohttp/client", "aiohttp/connector.py"),
    "back to the app": ("sidecar/relay.py", "sidecar/books.py", "aiohttp/web_response.py", "aiohttp/http_writer.py"),
    "reading the request": ("sidecar/inbound.py", "sidecar/proxy.py", "core/criticality.py", "core/routes.py"),
    "the rest of the call": ("/sidecar/",),
    "aiohttp's server": ("aiohttp/",),
}
LOOP = "event loop, kernel"


def shares(samples: str, parts: dict[str, tuple[str, ...]]) -> list[tuple[str, float]]:
    """Parts by their share of the samples, the largest first. `samples`: py-spy's raw format."""
    seen: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        if "main (" not in stack:  # another thread's
            continue
        frames = [frame for frame in stack.split(";") if "main.py" not in frame]
        found = (name for frame in reversed(frames) for name, files in parts.items() if any(f in frame for f in files))
        seen[next(found, LOOP)] += int(count)
    return [(name, count / seen.total()) for name, count in seen.most_common()]


def record(program: Program, seconds: float, *arguments: object) -> str:
    """py-spy's samples of `program` under a load of that length."""
    load(*arguments, "--seconds", 2)
    with tempfile.TemporaryDirectory() as made:
        raw = Path(made) / "raw"
        size = ["--rate", str(RATE), "--duration", str(round(seconds)), "--format", "raw", "--full-filenames"]
        command = ["py-spy", "record", *size, "--output", str(raw), "--pid", str(program.pid)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as spy:
            load(*arguments, "--seconds", seconds + 2)
        if spy.returncode:
            raise RuntimeError(f"{' '.join(command)}: failed")
        return raw.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        idle = "sleep" if (kept := awake()) is None else "are kept awake"
        if kept is not None:
            stack.enter_context(kept)
        print(f"{machine()}; idle cores {idle}; the broker's core is {BROKER}; py-spy at {RATE} samples a second")
        folder, other = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        endpoint = stack.enter_context(_parts.upstream())
        _parts.write(folder, [_parts.pool("gpt-4o", ["gpt-4o"], endpoint), *_parts.tenants(16, bounded="gpt-4o")])
        found = {}
        with _parts.broker(folder) as broker:
            batched = [*_parts.session(), "--streams", 4, "--outstanding", 128, "--address", broker.address]
            found["the broker, batched"] = shares(record(broker.program, options.seconds, *batched), BROKERS)
        _parts.write(other, [_parts.pool("gpt-4o", ["gpt-4o"], endpoint), *_parts.tenants(16)])
        beside = stack.enter_context(_parts.broker(other, OTHERS))
        sidecar = stack.enter_context(_parts.sidecar(beside))
        for name, calls in (("32 calls at once", 32), ("one call at a time", 1)):
            chat = ["http", "--url", sidecar.chat, "--connections", calls]
            found[f"the sidecar, {name}"] = shares(record(sidecar.program, options.seconds, *chat), SIDECARS)
    for name, parts in found.items():
        print(name)
        for part, share in parts:
            print(f"  {part:<28} {share:>5.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
