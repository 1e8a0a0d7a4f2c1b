# SPDX-License-Identifier: Apache-2.0
"""The peers and the load program, installed once outside the checkout: `$XDG_CACHE_HOME/sluicegate/bench`.

LiteLLM comes from `peers/litellm.txt` (pinned and hashed) into a virtual environment of its own, its bytecode compiled;
envoyproxy/ratelimit and the load program are built from the Go module `peers/`; Redis is Debian's package.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PEERS = Path(__file__).parent / "peers"
_RATELIMIT = "github.com/envoyproxy/ratelimit"


class PeerError(RuntimeError):
    """A peer that is neither here nor can be installed; the message says why."""


def litellm() -> Path:
    """The proxy's program."""
    lock = _PEERS / "litellm.txt"
    folder = _cache("litellm", lock.read_bytes() + sys.version.encode())

    def install() -> None:
        python = folder / "venv" / "bin" / "python"
        _run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        _run([*pip, "--no-deps", "--require-hashes", "--requirement", str(lock)])
        # Twice as slow without; some of its files are templates that do not compile.
        _run([str(python), "-m", "compileall", "-q", "-j", "0", str(folder / "venv" / "lib")], fails=True)
        if not any((folder / "venv" / "lib").glob("*/site-packages/litellm/__pycache__/*.pyc")):
            raise PeerError("LiteLLM's bytecode could not be compiled, which would make it twice as slow")

    _once(folder, install)
    return folder / "venv" / "bin" / "litellm"


def ratelimit() -> Path:
    """envoyproxy/ratelimit."""
    return _built("ratelimit", f"{_RATELIMIT}/src/service_cmd")


def load() -> Path:
    """The load program."""
    return _built("load", "./load")


def redis() -> Path:
    """redis-server, installed where that can be done. Raises PeerError."""
    if shutil.which("redis-server") is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", *command], env=environment, capture_output=True, check=False)
    found = shutil.which("redis-server")
    if found is None:
        raise PeerError("redis-server is not on the PATH. As root: apt-get install redis-server")
    return Path(found)


def versions() -> dict[str, str]:
    """What the peers are, as they are pinned."""
    pinned = [line.split(" ")[1] for line in (_PEERS / "go.mod").read_text().splitlines() if f"\t{_RATELIMIT} " in line]
    proxy = next(line for line in (_PEERS / "litellm.txt").read_text().splitlines() if line.startswith("litellm=="))
    known = {"LiteLLM": proxy.partition("==")[2].split()[0], "envoyproxy/ratelimit": pinned[0]}
    for name, command in (("Redis", ["redis-server", "--version"]), ("Go", ["go", "version"])):
        if shutil.which(command[0]) is not None:
            words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            known[name] = words[2].removeprefix("v=").removeprefix("go")
    return known


def _built(name: str, package: str) -> Path:
    go = shutil.which("go")
    if go is None:
        raise PeerError(f"Go, which builds {name}, is not on the PATH")
    sources = sorted((_PEERS / "load").glob("*.go")) if package.startswith(".") else []
    files = [_PEERS / "go.mod", _PEERS / "go.sum", *sources]
    folder = _cache(name, b"".join(file.read_bytes() for file in files))
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    build = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", str(folder / name), package]
    _once(folder, lambda: _run(build, cwd=_PEERS, environment=environment))
    return folder / name


def _cache(name: str, content: bytes) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "sluicegate" / "bench" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"


def _once(folder: Path, install: Callable[[], None]) -> None:
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            print(f"installing {folder.name}; this is done once, into {folder.parent}", file=sys.stderr, flush=True)
            install()
            done.touch()


def _run(
    command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None, fails: bool = False
) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and not fails:
        raise PeerError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
