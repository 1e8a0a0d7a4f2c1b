# SPDX-License-Identifier: Apache-2.0
"""The chart on the test's cluster, the provider behind it, and the apps that call through it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.images import APP
from tests.cluster.node import Node
from tests.cluster.toolchain import tool

CHECKOUT = Path(__file__).parents[2]
VERSION: str = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
NAMESPACE, RELEASE = "sluicegate-system", "sluicegate"
Value = dict[str, Any]


def reason(line: Value) -> str:
    """Why a call went as it did, as its response said."""
    return str(line.get("headers", {}).get("x-sluicegate-reason") or line.get("error", ""))


@dataclass
class Installation:
    """What a user of the cluster does; `took` is from `helm install` to its end, seconds."""

    node: Node
    begun: float = 0.0
    took: dict[str, float] = field(default_factory=dict)

    def helm(self, *arguments: str) -> str:
        """Runs helm; fails with its words and the cluster's."""
        command = [str(tool("helm")), "--kubeconfig", str(self.node.plane.kubeconfig), "--namespace", NAMESPACE]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}\n{done.stdout}\n{self.state()}"
        return done.stdout

    def install(self) -> None:
        """helm install, the emulator, the pool and the tenants."""
        plane = self.node.plane
        self.begun = time.monotonic()
        self.release()
        self.took["helm install"] = time.monotonic() - self.begun
        names = ("provider", "acme", "hobby", "crowd")
        plane.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names))
        plane.apply(
            *emulator(), pool(), policy("acme", "Premium"), policy("hobby", "Free"), policy("crowd", "Standard")
        )
        for name in ("acme", "hobby", "crowd"):
            plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": name}})
        plane.kubectl("rollout", "status", "-n", "provider", "deployment/emulator", "--timeout=120s")

    def release(self) -> None:
        """helm install, with default values."""
        self.helm("install", RELEASE, str(CHECKOUT / "charts" / "sluicegate"), "--create-namespace", "--wait")

    def lines(self, namespace: str, selector: str = "app=app", *, previous: bool = False) -> list[Value]:
        """What the apps' pods have said, oldest first."""
        arguments = ["logs", "-n", namespace, "-l", selector, "-c", "app", "--tail=-1"]
        text = self.node.plane.kubectl(*arguments, *(["--previous"] if previous else []), check=False).stdout
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return sorted(found, key=lambda line: line["at"])

    def since(self, namespace: str, moment: float) -> list[Value]:
        """Of those, the calls that began after `moment` (time.time())."""
        return [line for line in self.lines(namespace) if line["at"] > moment]

    def scheduled(self, namespace: str, moment: float = 0.0) -> bool:
        """Whether the broker decided on the app's last call after `moment`, and it was served."""
        lines = self.since(namespace, moment)
        return bool(lines and lines[-1]["ok"]) and reason(lines[-1]) not in ("safe-share", "fail-open")

    def until(self, condition: Callable[[], Any], what: str, within: float = 120.0) -> float:
        """The seconds until `condition` held. Fails after `within`, with the cluster's words."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < within, f"not within {within:g} s: {what}\n{self.state()}"
            time.sleep(0.2)
        return time.monotonic() - begun

    def until_scheduled(self, names: Iterable[str], moment: float = 0.0) -> None:
        """Waits until a call of each of these apps, begun after `moment`, is scheduled."""
        for name in names:
            self.until(partial(self.scheduled, name, moment), f"a scheduled call of {name}")

    def sidecar(self, namespace: str) -> Value:
        """What the sidecar of the namespace's app says of itself."""
        (pod,) = self.pods(namespace, "app=app")
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:15081/proxy/status"
        status: Value = json.loads(self.node.plane.kubectl("get", "--raw", path).stdout)
        return status

    def metrics(self) -> str:
        """The broker's page, through the API server."""
        path = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}-broker:admin/proxy/metrics"
        return self.node.plane.kubectl("get", "--raw", path, check=False).stdout

    def granted(self, **labels: str) -> float:
        """How many calls with these labels the broker has let go."""
        return self.total("sluicegate_attempts_total", **labels)

    def total(self, metric: str, **labels: str) -> float:
        """The sum of the broker's `metric` over all series with these labels."""
        total = 0.0
        for line in re.findall(rf"^{metric}\{{.*", self.metrics(), re.MULTILINE):
            if all(f'{name}="{value}"' in line for name, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def pods(self, namespace: str, selector: str = "") -> list[Value]:
        """Those that are not on their way out."""
        arguments = ["pods", "-n", namespace, *(["-l", selector] if selector else [])]
        items: list[Value] = self.node.plane.get(*arguments)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def state(self) -> str:
        """For a failure: pods, events, the last words of the parts."""
        kubectl = self.node.plane.kubectl
        parts = [kubectl("get", "pods", "-A", "-o", "wide", check=False).stdout]
        parts.append(kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False).stdout[-2500:])
        for part in ("broker", "operator", "injector"):
            label = f"app.kubernetes.io/component={part}"
            words = kubectl("logs", "-n", NAMESPACE, "-l", label, "--tail=10", check=False).stdout
            parts.append(f"== {part}\n{words[-2500:]}")
        return "\n".join(parts)


def emulator() -> list[Value]:
    """The provider, with its Service."""
    labels = {"app": "emulator"}
    container = {
        "name": "emulator",
        "image": f"sluicegate/sluicegate:{VERSION}",
        "command": ["sluicegate", "emulate", "--host", "0.0.0.0", "--port", "8000"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    meta = {"name": "emulator", "namespace": "provider"}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
    ]


def pool(**spec: Any) -> Value:
    """The emulator's account."""
    return {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": "gpt-4o"},
        "spec": {
            "provider": "OpenAI",
            "endpoint": "http://emulator.provider.svc.cluster.local:8000/v1",
            "allowPlaintext": True,
            "models": ["gpt-4o"],
            "limits": [
                {"resource": "Requests", "limit": 500, "window": "1m"},
                {"resource": "Tokens", "limit": 30000, "window": "1m"},
            ],
            **spec,
        },
    }


def policy(namespace: str, tier: str, **spec: Any) -> Value:
    """Of the tenant that is the namespace."""
    return {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "TenantPolicy",
        "metadata": {"name": namespace, "namespace": namespace},
        "spec": {"tier": tier, **spec},
    }


def template(*, inject: bool = True, **environment: str) -> Value:
    """The pod template of an app; the annotation is all that it knows of Sluicegate."""
    variables = {"OPENAI_API_KEY": "sk-test", **environment}
    container = {
        "name": "app",
        "image": APP,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }
    annotations = {"annotations": {"sluicegate.dev/inject": "true"}} if inject else {}
    return {
        "metadata": {"labels": {"app": "app"}, **annotations},
        "spec": {"serviceAccountName": "app", "containers": [container], "terminationGracePeriodSeconds": 1},
    }


def deployment(namespace: str, name: str = "app", **environment: str) -> Value:
    """An app that calls for ever."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "app"}}, "template": template(inject=True, **environment)},
    }
