# SPDX-License-Identifier: Apache-2.0
"""`sluicegate inject`: what is left alone comes out letter by letter, what is injected is what the webhook makes."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.cli.inject import inject, told
from sluicegate.cli.injection import offline
from sluicegate.cli.manifests import ManifestError, objects, pod_of, read, write
from sluicegate.injector.decide import CONTAINER

GOLDEN = Path(__file__).parent / "golden"
INJECTING = offline("sluicegate:1", "broker.sluicegate-system.svc:15051", "PEM\n")
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {"containers": [{"name": "app", "image": "a"}]},
}

MANIFESTS = """\
# The comment of what is left alone stays, and so does its style.
apiVersion: v1
kind: ConfigMap
metadata: {name: words}   # here too
data: {time: 12:30:45, day: 2020-01-01, "on": "yes"}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat
  namespace: acme
  annotations: {sluicegate.dev/inject: "true"}
spec:
  template:
    spec:
      containers:
      - name: app
        image: example/chat:1
        args: [--at, 12:30:45, --since, 2020-01-01]
        env:
        - {name: OPENAI_BASE_URL, value: http://other}
        - name: SCRIPT
          value: |
            first
            second
---
kind: List
apiVersion: v1
items:
- kind: Pod
  metadata: {name: refused, annotations: {sluicegate.dev/inject: "false"}}
  spec: {containers: []}
- {kind: Pod, apiVersion: v1, metadata: {name: of-the-node}, spec: {hostNetwork: true, containers: []}}
- {kind: Service, apiVersion: v1, metadata: {name: chat}}
---
kind: Pod
apiVersion: v1
metadata: {name: excluded, namespace: kube-system}
spec: {containers: []}
"""


def run(text: str) -> tuple[str, str]:
    documents = read(text)
    reports = [report for document in documents for report in inject(document, INJECTING, "default")]
    return write(documents), told(reports)


def test_what_is_left_alone_stays_letter_by_letter_and_each_object_has_its_reason():
    written, report = run(MANIFESTS)
    before, _, _ = MANIFESTS.partition("---\n")
    assert written.startswith(before)
    assert written.endswith(MANIFESTS[MANIFESTS.index("---\nkind: List") :])
    assert report == (GOLDEN / "inject.txt").read_text()
    (_, deployment, *_) = read(written)
    container = deployment.value["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["--at", "12:30:45", "--since", "2020-01-01"]
    assert container["env"][1]["value"] == "first\nsecond\n"
    assert "value: |\n" in written


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"])
def test_every_kind_that_makes_pods_is_injected_once(kind: str):
    template = copy.deepcopy(TEMPLATE)
    specs = {"CronJob": {"jobTemplate": {"spec": {"template": template}}}, "Pod": template["spec"]}
    resource = {
        "apiVersion": "x",
        "kind": kind,
        "metadata": {"name": "a"},
        "spec": specs.get(kind, {"template": template}),
    }
    written, report = run(json.dumps(resource))
    (document,) = read(written)
    pod = pod_of(document.value)
    assert pod is not None
    assert [container["name"] for container in pod["spec"]["initContainers"]] == [CONTAINER]
    assert report == f"\n{kind.lower()}/a injected\n\n"
    again, report = run(written)
    assert again == written
    assert report == f"\n{kind.lower()}/a skipped: it has the sidecar already, and lacks nothing\n\n"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": "x"}, "spec.containers[0] must be a map with a name"),
        ({"containers": [{"image": "a"}]}, "spec.containers[0] must be a map with a name"),
        ({"containers": [{"name": "a", "env": [1]}]}, "spec.containers[0].env must be a list of maps"),
        ({"containers": [], "volumes": {"a": 1}}, "spec.volumes[0] must be a map with a name"),
    ],
)
def test_what_is_no_pod_is_left_alone_and_told_why(spec: Any, words: str):
    text = json.dumps({"kind": "Pod", "metadata": {"name": "odd"}, "spec": spec})
    written, report = run(text)
    assert written.strip() == text
    assert report == f"\npod/odd skipped: it is malformed: {words}\n\n"


WORDS = st.sampled_from(
    [
        "yes",
        "no",
        "on",
        "null",
        "~",
        "1e3",
        "0x1f",
        "012",
        "12:30",
        "1_000",
        "2020-01-01",
        "2001-12-14T21:59:43Z",
        "a: b",
        "#",
        "",
    ]
)
VALUES = st.one_of(WORDS, st.text(max_size=12), st.integers(-(10**6), 10**6), st.booleans(), st.floats(-1e6, 1e6))


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_no_value_changes_its_type_or_its_words(labels: dict[str, Any], args: list[Any]):
    resource = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels}}
    resource["spec"] = {"containers": [{"name": "app", "image": "a", "args": args}]}
    written, _ = run(json.dumps(resource))
    (document,) = read(written)
    assert document.value["metadata"]["labels"] == labels
    assert document.value["spec"]["containers"][0]["args"] == args
    assert [type(arg) for arg in document.value["spec"]["containers"][0]["args"]] == [type(arg) for arg in args]
    assert yaml.safe_load(written)["spec"]["containers"][0]["args"] == args, "other readers agree"


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str):
    try:
        documents = read(text)
    except ManifestError:
        return
    for document in documents:
        inject(document, INJECTING, "default")
        assert all(isinstance(resource, dict) for resource in objects(document.value))
    write(documents).encode()


async def test_as_a_program(tmp_path: Path):
    async def cli(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sluicegate.cli.main", "inject", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    ca = tmp_path / "ca.pem"
    ca.write_text("PEM\n")
    told_offline = ("--image", "sluicegate:1", "--broker", "broker.sluicegate-system.svc:15051", "--broker-ca", str(ca))
    code, out, err = await cli("-f", "-", *told_offline, stdin=MANIFESTS)
    assert (code, out, err) == (0, *run(MANIFESTS))
    code, _, err = await cli("-f", "-", "--image", "a", stdin=MANIFESTS)
    assert code == 2
    assert "--image and --broker go together" in err
    code, _, err = await cli("-f", "-", *told_offline, stdin="a: [")
    assert code == 2
    assert err.startswith("sluicegate inject: -: document 1: ")
    code, _, err = await cli("-f", str(tmp_path / "none.yaml"), *told_offline)
    assert code == 1
    assert "none.yaml" in err
