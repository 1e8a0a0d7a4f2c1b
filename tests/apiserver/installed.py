# SPDX-License-Identifier: Apache-2.0
"""The chart's objects on an API server without nodes, its parts as processes of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sluicegate.broker.main import RunningBroker, Settings, start_broker
from sluicegate.cli.cluster import environment_of
from sluicegate.kube.client import ObjectRef
from tests.apiserver.test_chart import CHART, helm, with_account
from tests.cluster.control_plane import ControlPlane, free_port
from tests.cluster.toolchain import tool

SYSTEM = "check-system"
FULL = "cli-sluicegate"
WITHIN = 30.0


@dataclass(slots=True)
class Release:
    """The chart in namespace SYSTEM. `at`: the port where the API server looks for the webhook."""

    plane: ControlPlane
    directory: Path
    at: int
    told: Mapping[str, dict[str, str]]
    broker_port: int = field(default_factory=free_port)

    @property
    def via(self) -> str:
        return f"localhost:{self.broker_port}"

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[RunningBroker]:
        told = self.told["broker"]
        settings = Settings(
            port=self.broker_port,
            admin_port=0,
            drain=0.2,
            kubeconfig=str(self.plane.kubeconfig),
            tls_secret=ObjectRef.parse(told["SLUICEGATE_BROKER_TLS_SECRET"]),
            tls_hosts=tuple(told["SLUICEGATE_BROKER_TLS_HOSTS"].split(",")),
            ca_config_map=ObjectRef.parse(told["SLUICEGATE_BROKER_CA_CONFIG_MAP"]),
            snapshot=ObjectRef.parse(told["SLUICEGATE_BROKER_SNAPSHOT"]),
            audience=told["SLUICEGATE_BROKER_AUDIENCE"],
            operators=(told["SLUICEGATE_BROKER_OPERATORS"],),
            viewers=(told["SLUICEGATE_BROKER_VIEWERS"],),
        )
        running = await start_broker(replace(settings))
        try:
            yield running
        finally:
            await running.stop()

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        audience = self.told["broker"]["SLUICEGATE_BROKER_AUDIENCE"]
        made = self.plane.kubectl("create", "token", f"{FULL}-operator", "-n", SYSTEM, f"--audience={audience}")
        token = self.directory / "token"
        token.write_text(made.stdout)
        changed = {"BROKER": self.via, "TOKEN_FILE": str(token), "ADMIN_PORT": "0", "RESYNC": "1h"}
        async with self._process("operator", changed):
            yield

    @asynccontextmanager
    async def injector(self) -> AsyncIterator[None]:
        changed = {"HOST": "127.0.0.1", "PORT": str(self.at), "HOSTS": "127.0.0.1", "ADMIN_PORT": "0", "DRAIN": "100ms"}
        async with self._process("injector", changed):
            yield

    @asynccontextmanager
    async def _process(self, part: str, changed: Mapping[str, str]) -> AsyncIterator[None]:
        prefix = f"SLUICEGATE_{part.upper()}_"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}
        environment |= self.told[part] | {prefix + name: value for name, value in changed.items()}
        environment |= {f"{prefix}ADMIN_HOST": "127.0.0.1", f"{prefix}KUBECONFIG": str(self.plane.kubeconfig)}
        with (self.directory / f"{part}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"sluicegate.{part}.main", env=environment, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) == 0, (self.directory / f"{part}.log").read_text()[-3000:]

    async def cli(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> tuple[int, str, str]:
        """Exit code, standard output, standard error of `sluicegate ...` in this cluster."""
        return await cli(kubeconfig or self.plane.kubeconfig, *arguments, stdin=stdin)

    async def check(self, *arguments: str, wait: str = "0") -> tuple[int, dict[str, tuple[str, str]]]:
        """Exit code and each check's result and details."""
        code, out, err = await self.cli("check", "-n", SYSTEM, "-o", "json", "--wait", wait, *arguments)
        assert out, err
        return code, results(out)


def results(out: str) -> dict[str, tuple[str, str]]:
    """The result and the details of each check."""
    return {check["id"]: (check["result"], "\n".join(check["details"])) for check in json.loads(out)["checks"]}


async def cli(kubeconfig: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Runs the command line as a process of its own; kubectl is on its PATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}
    environment |= {"KUBECONFIG": str(kubeconfig), "PATH": f"{tool('kubectl').parent}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluicegate.cli.main", *arguments),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 90)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def install(plane: ControlPlane, directory: Path) -> Release:
    """Applies the chart, without its definitions; its Deployments say that they are available."""
    done = helm("template", "cli", str(CHART), "--namespace", SYSTEM, "--set", "crds.enabled=false")
    assert done.returncode == 0, done.stderr
    port = free_port()
    told: dict[str, dict[str, str]] = {}
    objects: list[dict[str, Any]] = []
    for document in yaml.safe_load_all(done.stdout):
        if not document or document["kind"] == "Pod":
            continue
        if document["kind"] == "MutatingWebhookConfiguration":
            for webhook in document["webhooks"]:
                service = webhook["clientConfig"].pop("service")
                webhook["clientConfig"]["url"] = f"https://127.0.0.1:{port}{service['path']}"
        if document["kind"] == "Deployment":
            told[document["metadata"]["labels"]["app.kubernetes.io/component"]] = environment_of(document)
        objects.append(document)
    plane.apply(*with_account(SYSTEM), *objects)
    for part in told:
        available(plane, part, "True")
    return Release(plane, directory, port, told)


def available(plane: ControlPlane, part: str, status: str, message: str = "") -> None:
    """What the controller manager would write."""
    condition = {"type": "Available", "status": status, "reason": "Test", "message": message}
    patch = json.dumps({"status": {"conditions": [condition]}})
    arguments = [
        "patch",
        "deployment",
        f"{FULL}-{part}",
        "-n",
        SYSTEM,
        "--subresource=status",
        "--type=merge",
        "-p",
        patch,
    ]
    plane.kubectl(*arguments)


def uninstall(plane: ControlPlane) -> None:
    """Removes what other tests would meet."""
    selector = "app.kubernetes.io/instance=cli"
    plane.kubectl("delete", "mutatingwebhookconfiguration", "-l", selector)
    plane.kubectl("delete", "deployment", "-n", SYSTEM, "--all")
    plane.kubectl("delete", "secret,configmap", "-n", SYSTEM, "-l", selector)
    plane.kubectl("delete", "ppool,tpol", "--all", "-A", "--wait=false")
