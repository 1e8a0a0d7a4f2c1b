# SPDX-License-Identifier: Apache-2.0
"""After `helm uninstall`: what runs goes on by its policy, what is new starts. It ends what test_cluster shares."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.cluster.images import APP
from tests.cluster.installation import CHECKOUT, NAMESPACE, RELEASE, Installation, deployment, policy, reason

pytestmark = pytest.mark.timeout(1_500)

CLUSTER_WIDE = ("mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding", "crd")
KEPT = {
    "crd": [
        f"customresourcedefinition.apiextensions.k8s.io/{name}.sluicegate.dev"
        for name in ("providerpools", "tenantpolicies")
    ],
    "all,secret,configmap,serviceaccount,role,rolebinding": [f"secret/{RELEASE}-broker-tls"],
}


def test_after_an_uninstall_apps_do_what_their_policy_says(installed: Installation) -> None:
    plane = installed.node.plane

    def told(name: str, wanted: str) -> bool:
        return str(installed.sidecar(name)["on_broker_unavailable"]) == wanted

    plane.apply(policy("acme", "Premium", onBrokerUnavailable="FailOpen"))
    plane.apply(policy("hobby", "Free", onBrokerUnavailable="FailClosed"))
    plane.apply(deployment("crowd", CALLERS="4"))  # as whose policy says nothing of it, and more than its share
    installed.until_scheduled(("crowd",))
    for name, wanted in (("acme", "fail_open"), ("hobby", "fail_closed"), ("crowd", "safe_share")):
        installed.until(partial(told, name, wanted), f"the sidecar of {name}: {wanted}")
    installed.helm("uninstall", RELEASE, "--wait", "--timeout=120s")
    gone = time.time() + 5  # sidecars wait for a broker that is away
    installed.until(lambda: len(installed.since("acme", gone)) > 5, "acme's calls go on")
    installed.until(lambda: len(installed.since("hobby", gone)) > 0, "hobby's calls are answered")
    assert all(line["ok"] for line in installed.since("acme", gone))
    assert installed.since("acme", gone)[-1]["headers"]["x-sluicegate-reason"] == "fail-open"
    assert not any(line["ok"] for line in installed.since("hobby", gone))
    installed.until(lambda: {line["ok"] for line in installed.since("crowd", gone)} == {True, False}, "crowd's share")
    for line in installed.since("crowd", gone):
        why = reason(line)
        assert why == "safe-share" if line["ok"] else "the broker is away" in why, why
    plane.kubectl("delete", "deployment", "app", "-n", "crowd", "--cascade=foreground", "--timeout=120s")
    assert plane.get("tenantpolicies", "-A")["items"], "policies outlive the release"
    for kind in (*CLUSTER_WIDE, "all,secret,configmap,serviceaccount,role,rolebinding"):
        left = plane.kubectl("get", kind, "-n", NAMESPACE, "-l", "app.kubernetes.io/part-of=sluicegate", "-o", "name")
        assert left.stdout.split() == KEPT.get(kind, []), "nothing that nobody runs any more"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "later", "namespace": "acme"}}
    plane.apply({**pod, "spec": {"containers": [{"name": "app", "image": APP, "command": ["sleep", "600"]}]}})
    plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/later", "-n", "acme")


def test_pods_that_ran_meanwhile_find_the_next_release_by_themselves(installed: Installation) -> None:
    begun, since = time.monotonic(), time.time()
    installed.release()
    installed.until_scheduled(("acme", "hobby"), since)
    print(f"installed again, calls were scheduled after {time.monotonic() - begun:.1f} s")
    for name in ("acme", "hobby"):
        status = installed.pods(name, "app=app")[0]["status"]
        assert {one["restartCount"] for one in (*status["initContainerStatuses"], *status["containerStatuses"])} == {0}


def test_the_examples_come_into_effect_as_the_readme_says(installed: Installation) -> None:
    plane = installed.node.plane
    plane.kubectl("delete", "ppool,tpol", "--all", "-A")
    plane.kubectl("create", "namespace", "trading")  # acme and hobby are there
    plane.kubectl("apply", "-f", str(CHECKOUT / "examples"))
    plane.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "--all", "-A", "ppool,tpol")
    found = plane.get("ppool,tpol", "-A")["items"]
    accepted = {item["metadata"]["name"]: item["status"]["conditions"][0]["reason"] for item in found}
    assert len(accepted) == sum(path.read_text().count("\nkind: ") for path in (CHECKOUT / "examples").glob("*.yaml"))
    assert set(accepted.values()) == {"Accepted"}
