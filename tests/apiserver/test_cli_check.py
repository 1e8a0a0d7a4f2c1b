# SPDX-License-Identifier: Apache-2.0
"""`sluicegate check` on a real API server: with all parts running, and with one thing after another broken."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.cli.check import ALL
from sluicegate.kube.certificates import LIFE, renew
from sluicegate.kube.tls_secret import _data
from tests.apiserver.installed import FULL, SYSTEM, Release, available, cli, install, results, uninstall
from tests.apiserver.test_chart import with_account
from tests.apiserver.test_operator import POOL, changed
from tests.cluster.control_plane import ControlPlane, control_plane

APPS = "check-apps"
POLICY = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "TenantPolicy",
    "metadata": {"name": "tenant", "namespace": APPS},
    "spec": {"tier": "Premium"},
}


@pytest.fixture
def release(plane: ControlPlane, tmp_path: Path) -> Iterator[Release]:
    plane.kubectl("delete", "ppool,tpol", "--all", "-A", "--wait=false")
    plane.apply(*with_account(APPS), *with_account("default"))
    yield install(plane, tmp_path)
    uninstall(plane)
    plane.kubectl("delete", "pod,deployment,cronjob", "-n", APPS, "--all", "--force", "--grace-period=0")
    plane.kubectl("label", "namespace", APPS, "sluicegate.dev/injection-")


def pod(name: str, **annotations: str) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": APPS,
        "annotations": {f"sluicegate.dev/{k}": v for k, v in annotations.items()},
    }
    spec = {"containers": [{"name": "app", "image": "app"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def test_an_installation_that_works_passes_and_what_is_wrong_with_workloads_and_policies_is_told(
    plane: ControlPlane, release: Release
):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(release.broker())
        await stack.enter_async_context(release.operator())
        await stack.enter_async_context(release.injector())
        plane.apply(POOL, POLICY)
        code, found = await release.check("--via", release.via, wait="40s")
        assert {name: result for name, (result, _) in found.items() if result != "ok"} == {}, found
        assert code == 0
        assert list(found) == [check.id for check in ALL]

        # What workloads do wrong.
        release.plane.kubectl("label", "namespace", APPS, "sluicegate.dev/injection=true")
        owner = {"name": "misplaced", "namespace": APPS, "annotations": {"sluicegate.dev/inject": "true"}}
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app", "image": "app"}]}}
        spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
        old = pod("old", status=json.dumps({"version": "0.0.1", "warnings": ["OPENAI_BASE_URL was set already"]}))
        plane.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": owner, "spec": spec}, old)
        plane.apply(changed(POOL, limits=[{"resource": "Tokens", "limit": 1000, "window": "1m", "burst": "20m"}]))
        code, found = await checked_until(release, "ready", "warn")
        assert code == 0, "warnings are no failure"
        assert "ProviderPool operated: Invalid: spec.limits[0].burst" in found["ready"][1]
        assert f"Deployment {APPS}/misplaced: sluicegate.dev/inject belongs in spec.template" in found["misplaced"][1]
        assert f"namespace {APPS}: sluicegate.dev/injection=true" in found["namespace-labels"][1]
        assert f"pod {APPS}/old: OPENAI_BASE_URL was set already" in found["reported"][1]
        assert "0.0.1" in found["sidecar-version"][1]
        assert found["uninjected"][0] == "ok"


async def checked_until(release: Release, name: str, wanted: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Checks until check `name` has result `wanted`: statuses follow documents within a moment."""
    for _ in range(10):
        code, found = await release.check("--via", release.via)
        if found[name][0] == wanted:
            return code, found
    pytest.fail(f"{name} did not come to {wanted}")


async def test_a_control_plane_that_is_down_is_told_part_by_part(plane: ControlPlane, release: Release):
    available(plane, "operator", "False", "Deployment does not have minimum availability.")
    plane.apply(pod("asked", inject="true"))
    code, found = await release.check("--via", release.via)
    assert code == 1
    assert found["available"] == (
        "fail",
        f"operator (Deployment {FULL}-operator): Deployment does not have minimum availability.",
    )
    assert found["broker-answers"][0] == "fail"
    assert "has not published its authorities" in found["broker-answers"][1]
    assert found["pushed"] == ("skip", "needs broker-answers")
    assert found["webhook"] == (
        "fail",
        f"MutatingWebhookConfiguration {FULL}-injector has no caBundle: the injector has not published its authority",
    )
    assert found["injector-answers"] == ("skip", "needs webhook")
    assert f"pod {APPS}/asked asks for the sidecar and has none" in found["uninjected"][1]
    assert found["configured"][0] == "warn"

    # A table for people, with hints; what is right is one line.
    code, out, _ = await release.cli("check", "-n", SYSTEM, "--wait", "0", "--via", release.via)
    assert code == 1
    assert "kubernetes\n----------\n√ the API server answers" in out
    assert "\u00d7 the broker answers\n" in out
    assert "see docs/troubleshooting.md#broker-answers" in out
    assert "Status: \u00d7 (" in out


async def test_certificates_that_end_soon_have_ended_or_are_of_nobody_are_told(plane: ControlPlane, release: Release):
    now = dt.datetime.now(dt.UTC)

    def served(age: dt.timedelta, *, trusted: bool = True) -> None:
        ring = renew(None, "127.0.0.1", ("127.0.0.1",), now - age)
        data = {key: base64.b64encode(value).decode() for key, value in _data(ring).items()}
        metadata = {"name": f"{FULL}-injector-tls", "namespace": SYSTEM}
        plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        bundle = ring.bundle if trusted else renew(None, "127.0.0.1", ("127.0.0.1",), now).bundle
        encoded = base64.b64encode(bundle).decode()
        patch = [{"op": "add", "path": f"/webhooks/{i}/clientConfig/caBundle", "value": encoded} for i in (0, 1)]
        plane.kubectl(
            "patch", "mutatingwebhookconfiguration", f"{FULL}-injector", "--type=json", "-p", json.dumps(patch)
        )

    served(dt.timedelta(days=1))
    _, found = await release.check()
    assert found["webhook-certificate"][0] == "ok"
    assert found["injector-answers"][0] == "fail", "nobody serves it"
    assert "came back without the sidecar" in found["injector-answers"][1]
    served(LIFE - dt.timedelta(days=5))
    _, found = await release.check()
    assert found["webhook-certificate"][0] == "warn"
    assert "in 4 days" in found["webhook-certificate"][1]
    served(LIFE + dt.timedelta(days=1))
    _, found = await release.check()
    assert found["webhook-certificate"][0] == "fail"
    assert "ended on" in found["webhook-certificate"][1]
    served(dt.timedelta(days=1), trusted=False)
    code, found = await release.check()
    assert found["webhook-certificate"][0] == "fail"
    assert "of no authority in the caBundle" in found["webhook-certificate"][1]
    assert code == 1


async def test_who_may_see_less_is_told_what_could_not_be_checked(plane: ControlPlane, release: Release):
    token = plane.kubectl("create", "token", "default", "-n", APPS).stdout.strip()
    kubeconfig = plane.write_kubeconfig("nobody", token=token)
    code, out, _ = await release.cli("check", "-o", "json", "--wait", "0", kubeconfig=kubeconfig)
    found = results(out)
    assert code == 0
    assert found["installed"][0] == "skip"
    assert "the right is missing" in found["installed"][1]
    assert found["broker-answers"] == ("skip", "needs installed")
    code, out, _ = await release.cli("check", "--pre", "-o", "short", kubeconfig=kubeconfig)
    assert code == 1
    assert "\u00d7 pre-rights: you may not create customresourcedefinitions.apiextensions.k8s.io\n" in out


async def test_an_empty_cluster_may_be_installed_to_and_has_nothing(plane: ControlPlane, tmp_path: Path):
    with control_plane(tmp_path) as empty:
        code, out, _ = await cli(empty.kubeconfig, "check", "--pre", "-o", "wide")
        assert code == 0
        assert "√ pre-rights: you may install the chart" in out
        code, out, _ = await cli(empty.kubeconfig, "check", "--pre", "-o", "yaml")
        assert (code, yaml.safe_load(out)["success"]) == (0, True)
        code, out, _ = await cli(empty.kubeconfig, "check", "--wait", "0", "-o", "json")
        assert code == 1
        found = results(out)
        assert "providerpools.sluicegate.dev is not there" in found["crds"][1]
        assert found["crds-schema"] == ("skip", "needs crds")
        assert found["installed"] == ("fail", "no Deployment of Sluicegate in any namespace")
        code, _, err = await cli(empty.kubeconfig, "status")
        assert code == 2
        assert err.startswith("sluicegate status: no Sluicegate in this cluster")
    code, _, err = await cli(tmp_path / "none", "check")
    assert (code, err) == (1, f"sluicegate check: {tmp_path / 'none'}: No such file or directory\n")
