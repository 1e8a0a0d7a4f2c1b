# SPDX-License-Identifier: Apache-2.0
"""After `helm uninstall`: what runs goes on by its policy, what is new starts. It ends what test_cluster shares."""

from __future__ import annotations

import time

import pytest

from tests.cluster.images import APP
from tests.cluster.installation import RELEASE, Installation, policy, until

pytestmark = pytest.mark.timeout(1_500)


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
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "later", "namespace": "acme"}}
    plane.apply({**pod, "spec": {"containers": [{"name": "app", "image": APP, "command": ["sleep", "600"]}]}})
    plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/later", "-n", "acme")
