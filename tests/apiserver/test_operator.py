# SPDX-License-Identifier: Apache-2.0
"""The operator as a process of its own, between a real API server and a real broker."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sluicegate.broker.main import RunningBroker, Settings, start_broker
from tests.cluster.control_plane import ControlPlane, free_port

WITHIN = 20.0
NAMESPACE = "operator-test"

POOL: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "ProviderPool",
    "metadata": {"name": "operated"},
    "spec": {
        "provider": "OpenAI",
        "endpoint": "https://api.openai.com/v1",
        "models": ["operated-*"],
        "limits": [{"resource": "Tokens", "limit": 1000, "window": "1m"}],
    },
}
POLICY: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "TenantPolicy",
    "metadata": {"name": "tenant", "namespace": NAMESPACE},
    "spec": {"tier": "Premium", "weight": 3},
}


def changed(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    out = copy.deepcopy(document)
    out["spec"].update(fields)
    return out


def conditions(plane: ControlPlane, *what: str) -> dict[str, tuple[str, str, int]]:
    found = plane.get(*what)
    return {
        c["type"]: (c["status"], c["reason"], c.get("observedGeneration", 0)) for c in found["status"]["conditions"]
    }


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {WITHIN} s: {what}"
        await asyncio.sleep(0.1)


@contextmanager
def operator(plane: ControlPlane, broker_port: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")},
        "SLUICEGATE_OPERATOR_BROKER": f"127.0.0.1:{broker_port}",
        "SLUICEGATE_OPERATOR_KUBECONFIG": str(plane.kubeconfig),
        "SLUICEGATE_OPERATOR_SNAPSHOT": f"{NAMESPACE}/snapshot",
        "SLUICEGATE_OPERATOR_ADMIN_HOST": "127.0.0.1",
        "SLUICEGATE_OPERATOR_ADMIN_PORT": "0",
        "SLUICEGATE_OPERATOR_RESYNC": "1s",
    }
    with (directory / "operator.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sluicegate.operator.main"], env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0, (directory / "operator.log").read_text()[-3000:]


@asynccontextmanager
async def broker(port: int) -> AsyncIterator[RunningBroker]:
    running = await start_broker(Settings(port=port, admin_port=0, drain=0.2))
    try:
        yield running
    finally:
        await running.stop()


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[None]:
    plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {"plan": "paid"}}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "snapshot", "namespace": NAMESPACE}},
    )
    plane.kubectl("delete", "ppool,tpol", "--all", "-A", "--wait=false")
    yield
    plane.kubectl("delete", "ppool,tpol", "--all", "-A", "--wait=false")


async def test_what_is_applied_changed_and_deleted_reaches_the_broker(
    plane: ControlPlane, namespace: None, tmp_path: Path
):
    port = free_port()
    ready = {"Accepted": "Accepted", "Programmed": "Programmed", "Ready": "Ready"}

    def reasons(*what: str) -> dict[str, str]:
        return {name: reason for name, (_, reason, _) in conditions(plane, *what).items()}

    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            access = [{"namespaceSelector": {"matchLabels": {"plan": "paid"}}, "maxTier": "Premium"}]
            plane.apply(changed(POOL, access=access), POLICY)
            await until(lambda: reasons("ppool", "operated") == ready, "the pool is programmed")
            await until(lambda: reasons("tpol", "tenant", "-n", NAMESPACE) == ready, "the policy is programmed")
            snapshot = running.configuration.compiled.snapshot
            assert snapshot.pools["operated"].access is not None
            assert snapshot.pools["operated"].access[0].namespaces == (NAMESPACE,)
            assert snapshot.tenants[f"{NAMESPACE}/tenant"].weight == 3

            # Nothing is written while nothing changes, through several rounds.
            before = plane.get("tpol", "tenant", "-n", NAMESPACE)["metadata"]["resourceVersion"]
            await asyncio.sleep(2.5)
            assert plane.get("tpol", "tenant", "-n", NAMESPACE)["metadata"]["resourceVersion"] == before

            plane.apply(changed(POLICY, weight=7))
            await until(
                lambda: running.configuration.compiled.snapshot.tenants[f"{NAMESPACE}/tenant"].weight == 7, "the change"
            )
            plane.kubectl("label", "namespace", NAMESPACE, "plan-")
            await until(
                lambda: running.configuration.compiled.snapshot.pools["operated"].access == (), "no namespace matches"
            )
            plane.kubectl("delete", "tpol", "tenant", "-n", NAMESPACE)
            await until(lambda: not running.configuration.compiled.snapshot.tenants, "the deletion")


async def test_a_resource_that_turns_bad_keeps_its_last_good_version_and_says_so_even_after_a_restart(
    plane: ControlPlane, namespace: None, tmp_path: Path
):
    port = free_port()
    bad = changed(POOL, limits=[{"resource": "Tokens", "limit": 1000, "window": "1m", "burst": "20m"}])

    def state() -> tuple[str, str]:
        found = conditions(plane, "ppool", "operated")
        return found["Accepted"][1], found["Programmed"][1]

    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            plane.apply(POOL)
            await until(lambda: state() == ("Accepted", "Programmed"), "the good version")
            plane.apply(bad)
            await until(lambda: state() == ("Invalid", "LastGoodInEffect"), "the bad version")
            accepted = plane.get("ppool", "operated")["status"]["conditions"][0]
            assert "spec.limits[0].burst" in accepted["message"]
            assert "at most" in accepted["message"]
            assert "operated" in running.configuration.compiled.snapshot.pools
    # A broker that lost everything, and an operator that starts anew.
    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            await until(lambda: "operated" in running.configuration.compiled.snapshot.pools, "the last good version")
            plane.apply(POOL)
            await until(lambda: state() == ("Accepted", "Programmed"), "good again")


async def test_while_the_broker_is_away_conditions_say_so_and_its_return_is_noticed(
    plane: ControlPlane, namespace: None, tmp_path: Path
):
    port = free_port()

    def programmed() -> tuple[str, str]:
        found = conditions(plane, "ppool", "operated")
        return found["Programmed"][0], found["Programmed"][1]

    with operator(plane, port, tmp_path):
        plane.apply(POOL)
        await until(lambda: programmed() == ("False", "BrokerUnavailable"), "the broker is away")
        assert conditions(plane, "ppool", "operated")["Ready"][:2] == ("False", "BrokerUnavailable")
        assert conditions(plane, "ppool", "operated")["Accepted"][:2] == ("True", "Accepted")
        async with broker(port) as running:
            await until(lambda: programmed() == ("True", "Programmed"), "the broker came")
            assert "operated" in running.configuration.compiled.snapshot.pools
        async with broker(port) as running:
            await until(lambda: "operated" in running.configuration.compiled.snapshot.pools, "it was restarted")
    log = (tmp_path / "operator.log").read_text()
    assert all(json.loads(line)["level"] != "error" for line in log.splitlines() if line.startswith("{")), log[-3000:]
