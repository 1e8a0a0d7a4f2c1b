# SPDX-License-Identifier: Apache-2.0
"""A program under measurement: started on a core of its own, its CPU time read from its own clock,
its memory from /proc (Linux)."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from sluicegate.broker.core import dispatcher
from tests.bench import _peers

_CPUCLOCK_SCHED = 2
_CORES = sorted(os.sched_getaffinity(0))
MEASURED = _CORES[0]
"""The core of what is measured."""
OTHERS = _CORES[-1]
"""The core of everything else."""
SLEEP = bool(os.environ.get("SLUICEGATE_BENCH_SLEEP"))
"""Whether idle cores are to sleep."""
BROKER = "compiled" if str(dispatcher.__file__).endswith(".so") else "not compiled: `make compiled`, PYTHONPATH"


class Program:
    """Use as a context manager; ends with it. `core` None: no core of its own."""

    def __init__(
        self,
        command: Sequence[object],
        core: int | None = MEASURED,
        environment: Mapping[str, str] | None = None,
        *,
        cwd: str | Path | None = None,
        talks: bool = False,
    ) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._name = Path(str(command[0])).name
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else self.log,
            stderr=self.log,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it; kills it where it does not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.log.close()

    @property
    def pid(self) -> int:
        """Its process's id."""
        return self._process.pid

    def ended(self, within: float = 1.0) -> int | None:
        """How it has ended by itself, now or `within` seconds, since its connections close before it is gone; None
        while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.returncode

    @property
    def cpu(self) -> float:
        """Seconds of CPU so far, of all its threads.

        To a nanosecond, from the process's own clock, whose id is made as by clock_getcpuclockid(3) of glibc;
        /proc/PID/stat counts hundredths.
        """
        return time.clock_gettime((~self._process.pid << 3) | _CPUCLOCK_SCHED)

    @property
    def rss(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        return self._memory("status", "VmRSS")

    @property
    def private(self) -> float:
        """The part of it that is no other's, in MB."""
        return self._memory("smaps_rollup", "Private_Dirty")

    def _memory(self, file: str, field: str) -> float:
        lines = Path(f"/proc/{self._process.pid}/{file}").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024 / 1e6

    def until(self, url: str, within: float = 60.0) -> float:
        """Waits until `url` answers 200; the seconds that it took. Raises RuntimeError with the end of its log."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < within and self._process.poll() is None:
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return time.perf_counter() - begun
            time.sleep(0.01)
        raise RuntimeError(f"{self._name} is not ready:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.wrote()[-4000:]

    def wrote(self) -> str:
        """All that it wrote."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def say(self, line: str) -> None:
        """A line to one that talks."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next line of JSON of one that talks."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} went away:\n{self.tail()}")
        return json.loads(line)


def load(*arguments: object, core: int | None = OTHERS) -> Any:
    """Runs the load program to its end, beside what is measured; its one line of figures."""
    with Program([_peers.load(), *arguments], core, talks=True) as program:
        return program.hear()


def awake() -> IO[bytes] | None:
    """Idle cores poll instead of sleeping while the file is open; None where they sleep: where the machine does not
    let us, and where SLUICEGATE_BENCH_SLEEP asks for it.

    To wake a core that sleeps costs up to a millisecond in a virtual machine, by what the host does. Who wakes the
    other core more often for a call gains more by this: the sidecar, which asks its broker first, more than LiteLLM.
    PM QoS (https://docs.kernel.org/power/pm_qos_interface.html): the latency in microseconds that is allowed.
    """
    if SLEEP:
        return None
    try:
        file = Path("/dev/cpu_dma_latency").open("wb", buffering=0)  # noqa: SIM115
        file.write((0).to_bytes(4, sys.byteorder))
    except OSError:
        return None
    return file


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def machine() -> str:
    """What this runs on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{len(_CORES)} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"
