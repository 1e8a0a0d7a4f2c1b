# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can be a node, and what Debian has for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "cc": "gcc libc6-dev",
}
CNI = Path("/usr/lib/cni")


class MachineError(RuntimeError):
    """Why this machine cannot be a node, in words."""


def prepare() -> None:
    """Installs what is missing. Raises MachineError where this machine cannot be a node."""
    if sys.platform != "linux":
        raise MachineError(f"a node needs Linux, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise MachineError("a node needs root: containers, network namespaces and a bridge are made for it")
    missing = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if not (CNI / "bridge").exists():
        missing.add("containernetworking-plugins")
    if missing:
        _install(sorted(word for names in missing for word in names.split()))
    _may_make_namespaces()


def _install(packages: Sequence[str]) -> None:
    if shutil.which("apt-get") is None:
        raise MachineError(f"{', '.join(packages)} are missing, and there is no apt-get to install them")
    print(f"installing {' '.join(packages)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qqy", "--no-install-recommends", *packages]
    # Debian's packages would start services; a file that forbids it is taken away again.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["apt-get", "update", "-qq"], install):
            run(command, "apt-get cannot install what a node needs", environment=environment, timeout=600)
    finally:
        if ours:
            policy.unlink()


def _may_make_namespaces() -> None:
    run(["ip", "netns", "add", "sluicegate-may-i"], "this machine lets nobody make network namespaces")
    run(["ip", "netns", "delete", "sluicegate-may-i"], "a network namespace cannot be deleted")


def run(
    command: Sequence[str | Path],
    complaint: str,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> str:
    """The output of `command`. Raises MachineError with `complaint` and its last words when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise MachineError(f"{complaint}: {problem}") from problem
    if done.returncode:
        raise MachineError(f"{complaint}: {' '.join(words)}:\n{(done.stderr or done.stdout)[-3000:]}")
    return done.stdout
