# SPDX-License-Identifier: Apache-2.0
"""`status`, `queue`, `explain` and `inject` in a cluster: over TLS with a token, and by what its injector is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.installed import FULL, SYSTEM, Release, cli, install, uninstall
from tests.apiserver.test_chart import with_account
from tests.apiserver.test_operator import POOL, changed, until
from tests.cluster.control_plane import ControlPlane

ACME = "cli-acme"
POLICY: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "TenantPolicy",
    "metadata": {"name": "acme", "namespace": ACME},
    "spec": {
        "tier": "Premium",
        "weight": 10,
        "workloads": [{"serviceAccount": "chat"}],
        "pools": [{"name": "operated", "ceilings": [{"resource": "Tokens", "limit": 500, "window": "1m"}]}],
        "queue": {"maxWait": "30s"},
        "tasks": [
            {"taskType": "chat", "latency": "RealTime", "maxWait": "800ms", "fallback": [{"cached": {"maxAge": "10m"}}]}
        ],
    },
}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "chat",
        "namespace": ACME,
        "annotations": {
            "sluicegate.dev/inject": "true",
            "sluicegate.dev/task-type": "chat",
            "sluicegate.dev/max-wait": "2s",
        },
    },
    "spec": {
        "serviceAccountName": "chat",
        "containers": [{"name": "app", "image": "app", "env": [{"name": "OPENAI_BASE_URL", "value": "http://other"}]}],
    },
}


@pytest.fixture
def release(plane: ControlPlane, tmp_path: Path) -> Iterator[Release]:
    plane.kubectl("delete", "ppool,tpol", "--all", "-A", "--wait=false")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "chat", "namespace": ACME}}
    plane.apply(*with_account(ACME), account)
    yield install(plane, tmp_path)
    uninstall(plane)
    plane.kubectl("delete", "pod", "-n", ACME, "--all", "--force", "--grace-period=0")


async def test_views_explanations_and_injection_of_an_installation(plane: ControlPlane, release: Release):
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(release.broker())
        await stack.enter_async_context(release.operator())
        rule = {"namespaces": [ACME], "maxTier": "Standard", "maxWeight": 4}
        closed = changed(POOL, models=["closed"], access=[{"namespaces": ["elsewhere"]}])
        closed["metadata"]["name"] = "closed"
        plane.apply(changed(POOL, access=[rule]), closed, POLICY)
        await until(lambda: len(broker.configuration.compiled.snapshot.pools) == 2, "the pools")

        there = ("-n", SYSTEM, "--via", release.via)
        code, out, err = await release.cli("status", *there, "-o", "json")
        assert code == 0, err
        status = json.loads(out)
        assert [pool["name"] for pool in status["pools"]] == ["closed", "operated"]
        assert status["configVersion"] == broker.configuration.compiled.snapshot.version
        code, out, _ = await release.cli("queue", "operated", *there)
        assert (code, out) == (0, "Nothing waits for operated.\n")
        code, _, err = await release.cli("queue", "nothing", *there)
        assert code == 1
        assert "known" in err or "pools are closed, operated" in err
        code, out, _ = await release.cli("tenants", "--system-namespace", SYSTEM, "--via", release.via)
        assert (code, out) == (0, "No tenant has called since the broker started.\n")

        # The chart's role is all the right that it takes.
        token = plane.kubectl("create", "token", "default", "-n", ACME).stdout.strip()
        looker = plane.write_kubeconfig("looker", token=token)
        code, _, err = await release.cli("status", *there, kubeconfig=looker)
        assert code == 1
        assert "403 Forbidden" in err
        subject = f"--serviceaccount={ACME}:default"
        plane.kubectl("create", "rolebinding", "looker", f"--role={FULL}-cli", subject, "-n", SYSTEM)
        try:
            code, out, err = await release.cli("status", *there, kubeconfig=looker)
            assert code == 0, err
            assert "operated" in out
        finally:
            plane.kubectl("delete", "rolebinding", "looker", "-n", SYSTEM)

        # There is no node, so no pod, and kubectl cannot carry the connection.
        code, _, err = await release.cli("status", "-n", SYSTEM)
        assert code == 1
        assert err.startswith("sluicegate status: kubectl port-forward: ")

        async with release.injector():
            await until(
                lambda: (
                    "caBundle"
                    in plane.get("mutatingwebhookconfiguration", f"{FULL}-injector")["webhooks"][0]["clientConfig"]
                ),
                "the webhook",
            )
            plane.kubectl("create", "-f", "-", stdin=json.dumps(POD))
            injected = plane.get("pod", "chat", "-n", ACME)
        code, out, err = await release.cli("explain", "chat", "-n", ACME, "-o", "json")
        assert code == 0, err
        told = json.loads(out)
        assert told["injection"]["injected"]
        assert told["injection"]["verdict"] == "asked_by_pod"
        assert any("OPENAI_BASE_URL was set already" in warning for warning in told["injection"]["warnings"])
        policy = f"TenantPolicy {ACME}/acme"
        assert told["tenant"] == {"name": f"{ACME}/acme", "why": f"{policy} selects ServiceAccount chat"}
        assert {v["name"]: (v["value"], v["from"]) for v in told["values"]} == {
            "tier": ("Premium", f"{policy}, spec.tier"),
            "weight": ("10", f"{policy}, spec.weight"),
            "pool": ("by model", "default"),
            "task-type": ("chat", "annotation sluicegate.dev/task-type"),
            "latency": ("real-time", f"{policy}, task type chat"),
            "max-wait": ("2s", "annotation sluicegate.dev/max-wait"),
            "deadline": ("none", "default"),
            "fallback": ("cached:10m", f"{policy}, task type chat"),
            "max-queue-depth": ("1000", "default"),
            "on-broker-unavailable": ("safe-share", "default"),
        }
        allowed = {
            pool["name"]: (pool["allowed"], pool["tier"], pool["weight"], pool["ceilings"]) for pool in told["pools"]
        }
        assert allowed == {"operated": (True, "Standard", 4, ["tokens 500/1m"]), "closed": (False, "", 0, [])}
        environment = {(e["container"], e["name"]): e["value"] for e in told["injection"]["environment"]}
        assert environment["sluicegate-proxy", "SLUICEGATE_SIDECAR_BROKER_CA_PEM"] == "(PEM)"
        assert environment["app", "OPENAI_BASE_URL"] == "http://other"
        code, out, _ = await release.cli("explain", "pod/chat", "-n", ACME)
        assert "Tenant: cli-acme/acme\n" in out
        assert "its calls pass by" in out

        # The manifest by hand comes out as the webhook makes it.
        code, out, err = await release.cli("inject", "-f", "-", "--system-namespace", SYSTEM, stdin=json.dumps(POD))
        assert code == 0
        assert "pod/chat injected" in err
        by_hand = yaml.safe_load(out)
        assert by_hand["metadata"]["annotations"] == injected["metadata"]["annotations"]
        names = [entry["name"] for entry in by_hand["spec"]["initContainers"][0]["env"]]
        assert names == [entry["name"] for entry in injected["spec"]["initContainers"][0]["env"]]
        values = {entry["name"]: entry.get("value") for entry in by_hand["spec"]["initContainers"][0]["env"]}
        assert "BEGIN CERTIFICATE" in values["SLUICEGATE_SIDECAR_BROKER_CA_PEM"]


async def test_a_workload_that_nobody_governs_is_explained_without_an_installation(plane: ControlPlane):
    plane.apply(*with_account(ACME))
    pod = {
        **POD,
        "metadata": {"name": "plain", "namespace": ACME},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:
        code, out, err = await cli(plane.kubeconfig, "explain", "plain", "-n", ACME, "-o", "yaml")
    finally:
        plane.kubectl("delete", "pod", "plain", "-n", ACME, "--force", "--grace-period=0")
    assert code == 0, err
    told = yaml.safe_load(out)
    assert told["injection"]["verdict"] == "not_asked"
    assert told["injection"]["warnings"] == ["no injector is installed"]
    assert told["tenant"]["name"] == f"{ACME}/unassigned"
    assert told["values"][0] == {"name": "tier", "value": "the pool's lowest", "from": "default: no policy selects it"}
