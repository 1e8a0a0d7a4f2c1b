# SPDX-License-Identifier: Apache-2.0
"""A real one-node cluster on this machine: containerd, kubelet, kube-proxy, CoreDNS over a control plane.

Everything listens on loopback or on the node's own bridge, lives below two directories of its own, and is stopped by
its own pid. What an earlier run that was killed left behind is cleared first, so a run can follow at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.control_plane import ControlPlane, ControlPlaneError, Process, control_plane, free_port
from tests.cluster.images import PAUSE
from tests.cluster.machine import CNI, MachineError, run
from tests.cluster.toolchain import tool

_STATE, _ROOT = Path("/run/sluicegate-test-node"), Path("/var/lib/sluicegate-test-node")
_BRIDGE, _ADDRESS, _SUBNET = "sluicegate-test", "10.218.0.1", "10.218.0.0/24"
_CGROUPS = Path("/sys/fs/cgroup")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_READY_WITHIN = 120.0


@dataclass(slots=True)
class Node:
    """A cluster with one node named `node`."""

    plane: ControlPlane
    archives: Sequence[Path]
    processes: list[Process] = field(default_factory=list)

    def load(self) -> None:
        """Imports the images, so that no registry is asked for them."""
        for archive in self.archives:
            run([*_ctr(), "images", "import", archive], f"containerd does not take {archive}", timeout=300)

    def name(self, image: str, other: str) -> None:
        """`other` is from now on a name of `image`, too, as if somebody had pushed it there."""
        run([*_ctr(), "images", "tag", f"docker.io/{image}", other], f"{image} gets no other name")

    def start(self, name: str, *command: str | Path) -> None:
        """Starts a process of the cluster; its output is in a file of its name."""
        self.processes.append(Process.start(name, command, self.plane.directory, start_new_session=True))

    def kill(self, container: str) -> None:
        """SIGKILL to the process of `container`, named as a pod's status does, with nobody asked before."""
        name = container.rpartition("/")[2]
        tasks = run([*_ctr(), "tasks", "list"], "no tasks").splitlines()
        (pid,) = [int(line.split()[1]) for line in tasks if line.startswith(name)]
        os.kill(pid, signal.SIGKILL)

    def check(self) -> None:
        """Raises ControlPlaneError when a process has ended."""
        for process in (*self.plane.processes, *self.processes):
            process.check()

    def words(self) -> str:
        """The last words of all processes, for a failure."""
        return "\n".join(f"== {process.name}\n{process.tail()[-1500:]}" for process in self.processes)


@contextlib.contextmanager
def node(directory: Path, archives: Sequence[Path]) -> Iterator[Node]:
    """Runs a cluster until the end of the block. Raises MachineError, ControlPlaneError, ToolError."""
    with Path("/run/sluicegate-test-node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: the bridge and the subnet are fixed
        _clear()
        forward = _FORWARD.read_text()
        groups = _pod_groups()
        try:
            _STATE.mkdir(parents=True)
            _ROOT.mkdir(parents=True)
            run(["ip", "link", "add", "name", _BRIDGE, "type", "bridge"], "no bridge")
            run(["ip", "address", "add", f"{_ADDRESS}/24", "dev", _BRIDGE], "no address for the bridge")
            run(["ip", "link", "set", _BRIDGE, "up"], "the bridge does not come up")
            _FORWARD.write_text("1")
            with control_plane(directory, address=_ADDRESS) as plane:
                cluster = Node(plane, archives)
                try:
                    _start(cluster)
                    yield cluster
                finally:
                    _stop(cluster)
        finally:
            _clear()
            _FORWARD.write_text(forward)
            _remove_groups(groups)


# ---- start


def _start(cluster: Node) -> None:
    plane = cluster.plane
    cluster.start("containerd", "containerd", "--config", _containerd_config())
    _until(cluster, (_STATE / "containerd.sock").exists, "containerd does not listen")
    pki = plane.directory / "pki"
    admin, authority = plane.kubeconfig, plane.authority.pair.certificate
    local = [f"--kubeconfig={admin}", "--leader-elect=false", "--bind-address=127.0.0.1"]
    cluster.start(
        "kube-controller-manager",
        tool("kube-controller-manager"),
        *local,
        f"--secure-port={free_port()}",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        f"--root-ca-file={authority}",
        f"--authentication-kubeconfig={admin}",
        f"--authorization-kubeconfig={admin}",
    )
    cluster.start("kube-scheduler", tool("kube-scheduler"), *local, f"--secure-port={free_port()}")
    cluster.start(
        "kube-proxy",
        tool("kube-proxy"),
        f"--kubeconfig={admin}",
        "--proxy-mode=nftables",
        "--masquerade-all",  # answers of a pod on the same bridge come back through the node
        f"--cluster-cidr={_SUBNET}",
        "--hostname-override=node",
        "--bind-address-hard-fail=false",
        f"--healthz-bind-address=127.0.0.1:{free_port()}",
        f"--metrics-bind-address=127.0.0.1:{free_port()}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    )
    corefile = plane.directory / "Corefile"
    corefile.write_text(
        f".:53 {{\n  bind {_ADDRESS}\n  errors\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {admin}\n    ttl 2\n  }}\n}}\n"
    )
    cluster.start("coredns", tool("coredns"), "-conf", corefile)
    cluster.load()
    identity = plane.write_kubeconfig(
        "kubelet", pair=plane.authority.issue("system:node:node", organization="system:nodes")
    )
    cluster.start(
        "kubelet",
        tool("kubelet"),
        f"--config={_kubelet_config(plane)}",
        f"--kubeconfig={identity}",
        f"--root-dir={_ROOT / 'kubelet'}",
        f"--cert-dir={_ROOT / 'kubelet-pki'}",
        "--hostname-override=node",
        f"--node-ip={_ADDRESS}",
    )
    ready = ["wait", "--for=condition=Ready", "--timeout=1s", "node/node"]
    _until(cluster, lambda: plane.kubectl(*ready, check=False).returncode == 0, "the node is not ready")


def _until(cluster: Node, true: object, complaint: str) -> None:
    assert callable(true)
    deadline = time.monotonic() + _READY_WITHIN
    while not true():
        cluster.check()
        if time.monotonic() > deadline:
            raise ControlPlaneError(f"{complaint} after {_READY_WITHIN:g} s:\n{cluster.words()}")
        time.sleep(0.2)


def _ctr() -> list[str]:
    return ["ctr", "--address", str(_STATE / "containerd.sock"), "--namespace", "k8s.io"]


def _containerd_config() -> Path:
    networks = _STATE / "cni"
    networks.mkdir()
    host_local = {"type": "host-local", "ranges": [[{"subnet": _SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {
        "type": "bridge",
        "bridge": _BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {**host_local, "dataDir": str(_STATE / "addresses")},
    }
    plugins = [bridge, {"type": "loopback"}]
    network = {"cniVersion": "1.0.0", "name": _BRIDGE, "plugins": plugins[:1]}
    (networks / "10-bridge.conflist").write_text(json.dumps(network))
    path = _STATE / "containerd.toml"
    path.write_text(f"""version = 2
root = "{_ROOT / "containerd"}"
state = "{_STATE / "containerd"}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{_STATE / "containerd.sock"}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{_snapshotter()}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
""")
    return path


def _snapshotter() -> str:
    """overlayfs, unless this file system cannot carry one (an overlay itself, as in many containers)."""
    parts = {name: _ROOT / "overlay" / name for name in ("lower", "upper", "work", "merged")}
    for path in parts.values():
        path.mkdir(parents=True)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    try:
        run(["mount", "-t", "overlay", "overlay", "-o", options, parts["merged"]], "no overlay")
    except MachineError:
        return "native"
    run(["umount", parts["merged"]], "the overlay stays")
    return "overlayfs"


def _kubelet_config(plane: ControlPlane) -> Path:
    resolv = _STATE / "resolv.conf"
    resolv.write_text(f"nameserver {_ADDRESS}\n")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": _ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(plane.authority.pair.certificate)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{_STATE / 'containerd.sock'}",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "healthzPort": 0,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,  # they would outlive the node in the machine's own tables
        "podLogsDir": str(_ROOT / "logs"),
        "readOnlyPort": 0,
        "resolvConf": str(resolv),
        "shutdownGracePeriod": "0s",
        "syncFrequency": "5s",
    }
    path = plane.directory / "kubelet.json"
    path.write_text(json.dumps(config))
    return path


# ---- end


def _stop(cluster: Node) -> None:
    by_name = {process.name: process for process in cluster.processes}
    for name in ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler", "coredns"):
        if name in by_name:
            by_name[name].stop()
    if "containerd" in by_name:
        _stop_tasks()
        by_name["containerd"].stop()


def _stop_tasks() -> None:
    with contextlib.suppress(MachineError):
        for task in run([*_ctr(), "tasks", "list", "--quiet"], "no tasks").split():
            with contextlib.suppress(MachineError):
                run([*_ctr(), "tasks", "delete", "--force", task], "a task stays")


def _clear() -> None:
    """Takes away what this or an earlier run left: processes, mounts, addresses, rules, files. Only what is ours."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        ours = list(_ours())
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + (5.0 if ours else 0.0)
        while any(_ours()) and time.monotonic() < deadline:
            time.sleep(0.05)
    for mount in _mounts():
        with contextlib.suppress(MachineError):
            run(["umount", "--lazy", mount], "a mount stays")
    had_node = _STATE.exists()
    if Path(f"/sys/class/net/{_BRIDGE}").exists():
        run(["ip", "link", "delete", _BRIDGE], "the bridge stays")
    for family in ("ip", "ip6"):
        if had_node:
            with contextlib.suppress(MachineError):
                run(["nft", "delete", "table", family, "kube-proxy"], "no such table")
    results = Path("/var/lib/cni/results")
    for result in results.glob(f"{_BRIDGE}-*") if results.exists() else ():
        result.unlink(missing_ok=True)
    for directory in (_STATE, _ROOT):
        shutil.rmtree(directory, ignore_errors=True)


def _ours() -> Iterator[int]:
    """Processes that were started with one of our directories in their command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(str(root).encode() + b"/" in word for root in (_STATE, _ROOT) for word in words):
                    yield int(entry.name)


def _mounts() -> list[str]:
    """The innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith((f"{_STATE}/", f"{_ROOT}/"))]


def _pod_groups() -> set[Path]:
    return {*_CGROUPS.glob("kubepods"), *_CGROUPS.glob("*/kubepods")}


def _remove_groups(before: set[Path]) -> None:
    for group in _pod_groups() - before:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
