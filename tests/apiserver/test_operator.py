# SPDX-License-Identifier: Apache-2.0
"""The operator as a process of its own, between a real API server and a real broker."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.broker.core.units import Workload
from sluicegate.broker.main import RunningBroker, Settings, start_broker
from sluicegate.cli.programme import tenant_of
from sluicegate.kube.client import connect, from_kubeconfig
from sluicegate.operator.core.compile import Programme, canonical, compile_programme, listed
from sluicegate.operator.core.conditions import Delivery
from sluicegate.operator.delivery import Broker
from sluicegate.operator.reconcile import Metrics, Reconciler
from sluicegate.operator.settings import Settings as OperatorSettings
from tests.cluster.control_plane import ControlPlane, free_port

WITHIN = 30.0
NAMESPACE = "operator-test"
EXAMPLES, README = (Path(__file__).parents[2] / name for name in ("examples", "README.md"))
EVERY_FIELD = Path(__file__).parents[1] / "data" / "every-field.yaml"

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


def generations(plane: ControlPlane, *what: str) -> list[int]:
    """Of which generation the status and each of its three conditions speak."""
    status = plane.get(*what)["status"]
    found = [status.get("observedGeneration", 0), *(c.get("observedGeneration", 0) for c in status["conditions"])]
    assert len(found) == 4
    return found


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {WITHIN} s: {what}"
        await asyncio.sleep(0.1)


async def quiet() -> None:
    """Lets the rounds pass that the operator's own writes cause: what comes next is noticed by its own event."""
    await asyncio.sleep(2)


@contextmanager
def operator(
    plane: ControlPlane, broker_port: int, directory: Path, resync: str = "1h"
) -> Iterator[subprocess.Popen[bytes]]:
    """Rounds come of events alone, unless a test wants them more often."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")},
        "SLUICEGATE_OPERATOR_BROKER": f"127.0.0.1:{broker_port}",
        "SLUICEGATE_OPERATOR_KUBECONFIG": str(plane.kubeconfig),
        "SLUICEGATE_OPERATOR_SNAPSHOT": f"{NAMESPACE}/snapshot",
        "SLUICEGATE_OPERATOR_ADMIN_HOST": "127.0.0.1",
        "SLUICEGATE_OPERATOR_ADMIN_PORT": "0",
        "SLUICEGATE_OPERATOR_RESYNC": resync,
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

    def transitions(*what: str) -> set[str]:
        return {condition["lastTransitionTime"] for condition in plane.get(*what)["status"]["conditions"]}

    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            access = [{"namespaceSelector": {"matchLabels": {"plan": "paid"}}, "maxTier": "Premium"}]
            plane.apply(changed(POOL, access=access), POLICY)
            await until(lambda: reasons("ppool", "operated") == ready, "the pool is programmed")
            await until(lambda: reasons("tpol", "tenant", "-n", NAMESPACE) == ready, "the policy is programmed")
            assert set(generations(plane, "ppool", "operated")) == {1}
            snapshot = running.configuration.compiled.snapshot
            assert snapshot.pools["operated"].access is not None
            assert snapshot.pools["operated"].access[0].namespaces == (NAMESPACE,)
            assert snapshot.tenants[f"{NAMESPACE}/tenant"].weight == 3

            since = transitions("tpol", "tenant", "-n", NAMESPACE)
            await asyncio.sleep(1.1)  # such times count seconds
            plane.apply(changed(POLICY, weight=7))
            await until(
                lambda: running.configuration.compiled.snapshot.tenants[f"{NAMESPACE}/tenant"].weight == 7, "the change"
            )
            await until(
                lambda: set(generations(plane, "tpol", "tenant", "-n", NAMESPACE)) == {2}, "each condition is of it"
            )
            assert transitions("tpol", "tenant", "-n", NAMESPACE) == since, "no condition has flipped"
            await quiet()
            plane.apply(changed(POOL, access=access, maxAttempts=2))
            await until(
                lambda: running.configuration.compiled.snapshot.pools["operated"].max_attempts == 2, "the pool's change"
            )
            await quiet()
            plane.kubectl("label", "namespace", NAMESPACE, "plan-")
            await until(
                lambda: running.configuration.compiled.snapshot.pools["operated"].access == (), "no namespace matches"
            )
            await quiet()
            plane.kubectl("delete", "tpol", "tenant", "-n", NAMESPACE)
            await until(lambda: not running.configuration.compiled.snapshot.tenants, "the deletion")


async def test_rounds_that_find_nothing_new_write_nothing(plane: ControlPlane, namespace: None, tmp_path: Path):
    port = free_port()

    def version() -> str:
        return str(plane.get("tpol", "tenant", "-n", NAMESPACE)["metadata"]["resourceVersion"])

    async with broker(port):
        with operator(plane, port, tmp_path, resync="1s"):
            plane.apply(POOL, POLICY)
            await until(lambda: conditions(plane, "tpol", "tenant", "-n", NAMESPACE)["Ready"][0] == "True", "ready")
            before = version()
            await asyncio.sleep(2.5)
            assert version() == before


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


async def test_a_configuration_that_cannot_be_kept_comes_into_effect_all_the_same(
    plane: ControlPlane, namespace: None, tmp_path: Path
):
    port = free_port()
    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            plane.kubectl("delete", "configmap", "snapshot", "-n", NAMESPACE)
            plane.apply(POOL)
            await until(lambda: "operated" in running.configuration.compiled.snapshot.pools, "the pool")
            await until(lambda: conditions(plane, "ppool", "operated")["Ready"][0] == "True", "its conditions")
        with operator(plane, port, tmp_path, resync="1s"):  # nor does one that starts without it wait for it
            plane.apply(POLICY)
            await until(lambda: bool(running.configuration.compiled.snapshot.tenants), "the policy")
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "snapshot", "namespace": NAMESPACE}}
            plane.apply(made)
            await until(lambda: "binaryData" in plane.get("configmap", "snapshot", "-n", NAMESPACE), "it is kept again")
    assert f"ConfigMap {NAMESPACE}/snapshot" in (tmp_path / "operator.log").read_text()


async def test_a_round_that_fails_as_nobody_foresaw_is_not_the_last(plane: ControlPlane, namespace: None):
    rounds: list[Programme] = []

    async def apply(programme: Programme) -> Delivery:
        rounds.append(programme)
        if len(rounds) == 1:
            raise RuntimeError("a bug")
        return Delivery(version=programme.version)

    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        reconciler = Reconciler(client, apply, None, Metrics())
        task = asyncio.create_task(reconciler.run(0.0, 60.0))
        try:
            await until(lambda: reconciler.ready, "the second round")
        finally:
            task.cancel()
    assert len(rounds) == 2


async def test_a_configuration_of_many_namespaces_fits_into_one_push(plane: ControlPlane):
    names = [f"{number:04}-{'n' * 55}" for number in range(1_000)]
    rules = [{"namespaces": names, "maxTier": "Standard"}] * 20
    documents = [changed({**POOL, "metadata": {"name": f"pool-{n}"}}, access=rules, models=[f"m{n}"]) for n in range(5)]
    programme = compile_programme(documents, {}, {})
    assert not programme.findings
    assert len(canonical(listed(programme.documents))) > 5 * 1024 * 1024
    async with broker(0) as running, connect(from_kubeconfig(plane.kubeconfig)) as client:
        settings = OperatorSettings(broker=f"127.0.0.1:{running.port}")
        delivering = Broker(settings, client, lambda: asyncio.sleep(0))
        try:
            delivery = await delivering.apply(programme)
        finally:
            await delivering.close()
        assert not delivery.failure
        assert len(running.configuration.compiled.snapshot.pools) == 5


async def test_of_two_policies_for_one_workload_the_older_holds_and_the_other_is_told(
    plane: ControlPlane, namespace: None, tmp_path: Path
):
    def named(name: str, **spec: Any) -> dict[str, Any]:
        return {**POLICY, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}

    def told(name: str) -> tuple[str, str]:
        accepted, *_ = plane.get("tpol", name, "-n", NAMESPACE)["status"]["conditions"]
        return accepted["reason"], accepted["message"]

    def tenant(account: str) -> str:
        return tenant_of(running.configuration.compiled.snapshot, Workload(NAMESPACE, account)).name

    port = free_port()
    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            plane.apply(POOL, named("z-older", workloads=[{"serviceAccount": "chat"}]), named("everyone"))
            await until(lambda: told("z-older")[0] == told("everyone")[0] == "Accepted", "both are taken")
            await asyncio.sleep(1.1)  # creationTimestamp counts seconds
            accounts = [{"serviceAccount": "chat"}, {"serviceAccount": "ingest"}]
            plane.apply(named("a-younger", workloads=accounts))
            await until(lambda: told("a-younger")[0] == "AcceptedWithWarnings", "the younger is told")
            message = told("a-younger")[1]
            assert "ServiceAccount chat" in message
            assert f"{NAMESPACE}/z-older" in message
            assert "ingest" not in message
            assert told("z-older")[0] == told("everyone")[0] == "Accepted"
            assert tenant("chat") == f"{NAMESPACE}/z-older"
            assert tenant("ingest") == f"{NAMESPACE}/a-younger"
            assert tenant("other") == f"{NAMESPACE}/everyone"
        # What happens while the operator is away is missed for good, and made good by the next list.
        plane.kubectl("delete", "tpol", "z-older", "-n", NAMESPACE)
        plane.apply(named("everyone", weight=9))
        with operator(plane, port, tmp_path):
            await until(lambda: tenant("chat") == f"{NAMESPACE}/a-younger", "the older one is gone")
            assert running.configuration.compiled.snapshot.tenants[f"{NAMESPACE}/everyone"].weight == 9
            await until(lambda: told("a-younger")[0] == "Accepted", "nothing is in its way")


async def all_ready(plane: ControlPlane) -> None:
    """Waits until every pool and policy is."""
    wait = ("wait", "--for=condition=Ready", f"--timeout={WITHIN:g}s", "--all", "-A", "ppool,tpol")
    await asyncio.to_thread(plane.kubectl, *wait)


async def test_the_examples_come_into_effect_as_the_readme_says(plane: ControlPlane, namespace: None, tmp_path: Path):
    documents = [d for path in sorted(EXAMPLES.glob("*.yaml")) for d in yaml.safe_load_all(path.read_text())]
    told = re.search(r"for name in ([a-z ]+); do kubectl create namespace", README.read_text())
    assert told is not None
    for name in told[1].split():
        plane.kubectl("create", "namespace", name, check=False)
    plane.kubectl("apply", "-f", str(EXAMPLES))
    port = free_port()
    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            await all_ready(plane)
            for document in documents:
                where = ("-n", document["metadata"]["namespace"]) if "namespace" in document["metadata"] else ()
                found = conditions(plane, document["kind"], document["metadata"]["name"], *where)
                assert found["Accepted"][1] == "Accepted", document["metadata"]
            snapshot = running.configuration.compiled.snapshot
            assert len(snapshot.pools) + len(snapshot.tenants) == len(documents) > 0


async def test_a_text_with_every_field_comes_into_effect(plane: ControlPlane, namespace: None, tmp_path: Path):
    text = EVERY_FIELD.read_text()
    for name in ("every-field", "elsewhere"):
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    plane.kubectl("apply", "-f", str(EVERY_FIELD))
    port = free_port()
    async with broker(port) as running:
        with operator(plane, port, tmp_path):
            await all_ready(plane)
            found = plane.get("ppool,tpol", "-A")["items"]
            assert len(found) == len(list(yaml.safe_load_all(text)))
            for item in found:
                reasons = [condition["reason"] for condition in item["status"]["conditions"]]
                assert reasons == ["Accepted", "Programmed", "Ready"], item
            access = running.configuration.compiled.snapshot.pools["every-field"].access
            assert access is not None
            assert [rule.namespaces for rule in access] == [("every-field",), ("elsewhere",)]


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
        before = plane.get("ppool", "operated")["metadata"]["resourceVersion"]
        await asyncio.sleep(3.5)
        assert plane.get("ppool", "operated")["metadata"]["resourceVersion"] == before, "each attempt says the same"
        async with broker(port) as running:
            await until(lambda: programmed() == ("True", "Programmed"), "the broker came")
            assert "operated" in running.configuration.compiled.snapshot.pools
            await quiet()
        async with broker(port) as running:
            await until(lambda: "operated" in running.configuration.compiled.snapshot.pools, "it was restarted")
    log = (tmp_path / "operator.log").read_text()
    assert '"logger": "kopf.objects"' not in log, "a line an event"
    assert all(json.loads(line)["level"] != "error" for line in log.splitlines() if line.startswith("{")), log[-3000:]
