# SPDX-License-Identifier: Apache-2.0
"""After `helm uninstall`: what runs goes on by its policy, what is new starts. It ends what test_cluster shares."""

from __future__ import annotations

import time

import pytest

from tests.cluster.images import APP
from tests.cluster.installation import NAMESPACE, RELEASE, Installation, policy, until

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
    plane.apply(policy("acme", "Premium", onBrokerUnavailable="FailOpen"))
    plane.apply(policy("hobby", "Free", onBrokerUnavailable="FailClosed"))
    time.sleep(3)
    installed.helm("uninstall", RELEASE, "--wait", "--timeout=120s")
    gone = time.time() + 5  # sidecars wait for a broker that is away
    until(lambda: len(installed.since("acme", gone)) > 5, "acme's calls go on", within=90)
    until(lambda: len(installed.since("hobby", gone)) > 0, "hobby's calls are answered", within=90)
    assert all(line["ok"] for line in installed.since("acme", gone))
    assert installed.since("acme", gone)[-1]["headers"]["x-sluicegate-reason"] == "fail-open"
    assert not any(line["ok"] for line in installed.since("hobby", gone))
    assert plane.get("tenantpolicies", "-A")["items"], "policies outlive the release"
    for kind in (*CLUSTER_WIDE, "all,secret,configmap,serviceaccount,role,rolebinding"):
        left = plane.kubectl("get", kind, "-n", NAMESPACE, "-l", "app.kubernetes.io/part-of=sluicegate", "-o", "name")
        assert left.stdout.split() == KEPT.get(kind, []), "nothing that nobody runs any more"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "later", "namespace": "acme"}}
    plane.apply({**pod, "spec": {"containers": [{"name": "app", "image": APP, "command": ["sleep", "600"]}]}})
    plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/later", "-n", "acme")


def test_pods_that_ran_meanwhile_find_the_next_release_by_themselves(installed: Installation) -> None:
    begun = time.monotonic()
    installed.release()
    until(lambda: all(map(installed.scheduled, ("acme", "hobby"))), f"calls are scheduled again {installed.state()}")
    print(f"installed again, calls were scheduled after {time.monotonic() - begun:.1f} s")
    for name in ("acme", "hobby"):
        status = installed.pods(name, "app=app")[0]["status"]
        assert {one["restartCount"] for one in (*status["initContainerStatuses"], *status["containerStatuses"])} == {0}
