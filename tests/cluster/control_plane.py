# SPDX-License-Identifier: Apache-2.0
"""etcd and kube-apiserver on loopback: a real API server in a few seconds, without a node.

with control_plane(directory) as plane:
    plane.kubectl("get", "namespaces")
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.authority import Authority, KeyPair
from tests.cluster.toolchain import tool

SERVICE_CIDR = "10.217.0.0/24"
_KUBERNETES_SERVICE = "10.217.0.1"
_READY_WITHIN = 60.0
_STOP_WITHIN = 20.0


class ControlPlaneError(RuntimeError):
    """A process of the control plane did not start, or kubectl failed; the message holds its last lines."""


@dataclass(slots=True)
class Process:
    """One started process, its output in `log`."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: Sequence[str | Path], directory: Path, **options: Any) -> Process:
        """Starts `command` with its output in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, cwd=directory, **options
            )
        return cls(name, popen, log)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def check(self) -> None:
        """Raises ControlPlaneError when it has ended."""
        if self.popen.poll() is not None:
            raise ControlPlaneError(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The last of its output."""
        return self.log.read_text(errors="replace")[-3000:]


@dataclass(slots=True)
class ControlPlane:
    """A running API server. `url` on `address`; `kubeconfig` is the administrator's."""

    directory: Path
    url: str
    authority: Authority
    kubeconfig: Path
    admin: KeyPair
    processes: list[Process] = field(default_factory=list)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the administrator. Raises ControlPlaneError with its words unless `check` is False."""
        command = [str(tool("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=200, check=False)
        if check and done.returncode:
            raise ControlPlaneError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def apply(self, *documents: dict[str, Any], dry_run: bool = False) -> None:
        """Applies `documents` by server-side apply. Raises ControlPlaneError with the API server's words."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        options = ["--dry-run=server"] if dry_run else []
        self.kubectl("apply", "--server-side", "--force-conflicts", *options, "-f", "-", stdin=json.dumps(listed))

    def get(self, *arguments: str) -> Any:
        """`kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def write_kubeconfig(self, name: str, *, token: str = "", pair: KeyPair | None = None) -> Path:
        """A kubeconfig for a user that has a token or a certificate."""
        user: dict[str, str] = {"token": token} if token else {}
        if pair is not None:
            user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        path = self.directory / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.authority.pair.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path


@contextlib.contextmanager
def control_plane(directory: Path, *, address: str = "127.0.0.1", flags: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """Runs etcd and kube-apiserver on `address` until the end of the block. Raises ControlPlaneError, ToolError."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = Authority(directory / "pki")
    hosts = [address, "127.0.0.1", _KUBERNETES_SERVICE, "localhost", "kubernetes", "kubernetes.default"]
    hosts += ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    serving = authority.issue("kube-apiserver", hosts=hosts)
    admin = authority.issue("admin", organization="system:masters")
    accounts = authority.issue("service-accounts")
    port = free_port(address)
    plane = ControlPlane(directory, f"https://{address}:{port}", authority, directory, admin)
    plane.kubeconfig = plane.write_kubeconfig("admin", pair=admin)
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    data = directory / "etcd"
    etcd: list[str | Path] = [tool("etcd"), "--data-dir", data, "--unsafe-no-fsync", "--log-level=warn"]
    etcd += ["--listen-client-urls", client, "--advertise-client-urls", client]
    etcd += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    ca = authority.pair.certificate
    apiserver: list[str | Path] = [
        tool("kube-apiserver"),
        f"--etcd-servers={client}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={ca}",
        f"--kubelet-client-certificate={admin.certificate}",
        f"--kubelet-client-key={admin.key}",
        f"--requestheader-client-ca-file={ca}",
        "--requestheader-allowed-names=front-proxy",
        f"--service-account-key-file={accounts.certificate}",
        f"--service-account-signing-key-file={accounts.key}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--v=1",
        *flags,
    ]
    try:
        plane.processes.append(Process.start("etcd", etcd, directory))
        plane.processes.append(Process.start("kube-apiserver", apiserver, directory))
        _await_ready(plane)
        yield plane
    finally:
        for process in reversed(plane.processes):  # the API server before etcd, for which it would wait
            process.stop()
        shutil.rmtree(data, ignore_errors=True)


def _await_ready(plane: ControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(plane.authority.pair.certificate))
    context.load_cert_chain(plane.admin.certificate, plane.admin.key)
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        for process in plane.processes:
            process.check()
        if _answers(f"{plane.url}/readyz", context):
            break
        if time.monotonic() > deadline:
            raise ControlPlaneError(f"the API server was not ready in {_READY_WITHIN} s:\n{plane.processes[-1].tail()}")
        time.sleep(0.1)
    # The default ServiceAccount comes from the controller manager, which is not here; pods need one.
    while plane.kubectl("get", "namespace", "default", check=False).returncode:
        if time.monotonic() > deadline:
            raise ControlPlaneError("the namespace `default` did not appear")
        time.sleep(0.1)


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on, and that no other call gets while this process lives.

    It lies below the range from which the kernel takes the ports of outgoing connections: one of those could sit on it
    before its server does, as another test process could that asked at the same moment.
    """
    claims = Path(tempfile.gettempdir()) / f"sluicegate-test-ports-{os.geteuid()}"
    claims.mkdir(mode=0o700, exist_ok=True)
    for port in random.Random().sample(range(18_000, 32_000), 1_000):
        claim = os.open(claims / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket.create_server((address, port)).close()
        except OSError:
            os.close(claim)
            continue
        return port  # the claim stays open, and so held, until this process ends
    raise ControlPlaneError(f"no free port on {address}")
