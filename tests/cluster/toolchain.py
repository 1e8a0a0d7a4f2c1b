# SPDX-License-Identifier: Apache-2.0
"""The programs of a real Kubernetes for the tests, built from source once and kept outside the checkout.

A program is taken from `KUBEBUILDER_ASSETS`, else from the PATH (kubectl only: any version of it will do), else it is
built by the Go modules under `tools/` into `$XDG_CACHE_HOME/sluicegate/tools/<hash of go.mod and go.sum>`. Nothing
but the Go module proxy is asked. The first build of all takes some minutes of two cores; a second process that asks
meanwhile waits for the first.

    python -m tests.cluster.toolchain [NAME ...]      builds and prints the paths

Where one cannot be built, the tests that need it are skipped, and the run's last words say so; with
SLUICEGATE_CLUSTER=required they fail, and so does this.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_TOOLS = Path(__file__).parent / "tools"
_KUBERNETES = "v1.35.4"


class ToolError(RuntimeError):
    """A program that is neither here nor can be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Tool:
    """The Go module under `tools/` that builds a program, and the package to build."""

    module: str
    package: str


_KUBE = "k8s.io/kubernetes/cmd/"
TOOLS = {
    **{
        name: _Tool("kubernetes", _KUBE + name)
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    },
    "etcd": _Tool("kubernetes", "go.etcd.io/etcd/server/v3"),
    "helm": _Tool("helm", "helm.sh/helm/v3/cmd/helm"),
    "coredns": _Tool("coredns", "github.com/coredns/coredns"),
}
NO_API_SERVER = "NO API SERVER HERE"
API_SERVER = ("etcd", "helm", "kube-apiserver", "kubectl")


def required() -> bool:
    """Whether tests that lack a program or a machine must fail."""
    return os.environ.get("SLUICEGATE_CLUSTER") == "required"


def tool(name: str) -> Path:
    """The program `name` of TOOLS, built if need be. Raises ToolError."""
    found = built(name)
    if found is not None:
        return found
    target = _target(name)
    directory = target.parent
    go = shutil.which("go")
    if go is None:
        raise ToolError(
            f"{name} is not here, and Go, which would build it, is not on the PATH; or set KUBEBUILDER_ASSETS"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(go, _module(name), TOOLS[name].package, target)
    return target


def built(name: str) -> Path | None:
    """The program `name` of TOOLS, if it is here."""
    target = _target(name)
    return _present(name) or (target if target.exists() else None)


def _module(name: str) -> Path:
    return _TOOLS / TOOLS[name].module


def _target(name: str) -> Path:
    return _cache() / _digest(_module(name)) / name


def _present(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    if name == "kubectl":
        found = shutil.which(name)
        return Path(found) if found else None
    return None


def _build(go: str, module: Path, package: str, target: Path) -> None:
    print(f"building {target.name} from source; this is done once, into {target.parent}", file=sys.stderr, flush=True)
    flags = f"-s -w {_stamp(package)}"
    partial = target.with_suffix(".partial")
    command = [
        go,
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        flags,
        "-o",
        str(partial),
        package,
    ]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(command, cwd=module, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{' '.join(command)} in {module} failed:\n{done.stderr[-4000:]}")
    partial.rename(target)


def _stamp(package: str) -> str:
    """Without these, Kubernetes says that it is v0.0.0, and helm renders for v1.20."""
    major, minor, _ = _KUBERNETES.removeprefix("v").split(".")
    if package.startswith(_KUBE):
        variable = "k8s.io/component-base/version.git"
        return f"-X {variable}Version={_KUBERNETES} -X {variable}Major={major} -X {variable}Minor={minor}"
    if package.startswith("helm.sh/"):
        variable = "helm.sh/helm/v3/pkg/chartutil.k8sVersion"
        return f"-X {variable}Major={major} -X {variable}Minor={minor}"
    return ""


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "sluicegate" / "tools"


def _digest(module: Path) -> str:
    content = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    return f"{module.name}-{hashlib.sha256(content).hexdigest()[:12]}"


if __name__ == "__main__":
    try:
        for wanted in sys.argv[1:] or sorted(TOOLS):
            print(tool(wanted))
    except ToolError as problem:
        fate = "FAIL" if required() else "be SKIPPED"
        print(f"*** {problem}\n*** The tests that need it will {fate}.", file=sys.stderr)
        sys.exit(int(required()))
