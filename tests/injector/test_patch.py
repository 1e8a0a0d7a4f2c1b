# SPDX-License-Identifier: Apache-2.0
"""What injection adds to a pod: nothing twice, nothing replaced, and the same whatever the pod is made of."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.injector.annotations import PREFIX, STATUS, read
from sluicegate.injector.decide import CONTAINER
from sluicegate.injector.patch import BASE_URLS, Credential, Injection, Patch, patch
from sluicegate.injector.quantities import quantity
from sluicegate.injector.settings import read_settings
from sluicegate.wire.environment import SettingsError

INJECTION = Injection(
    image="registry.example/sluicegate:1",
    broker="broker.sluicegate-system.svc:15051",
    broker_ca="PEM",
    environment={"HTTPS_PROXY": "http://proxy:3128"},
    credentials=(Credential("claude", "anthropic-key", "token"),),
    pull_secrets=("registry", "mirror"),
    version="1",
)


def made(pod: dict[str, Any], injection: Injection = INJECTION) -> Patch:
    return patch(pod, injection, read(pod.get("metadata", {}).get("annotations") or {}))


def applied(pod: dict[str, Any], operations: Any) -> dict[str, Any]:
    """RFC 6902 for `add`, which is all that a patch may hold."""
    out = copy.deepcopy(pod)
    for operation in operations:
        assert operation["op"] == "add"
        *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        here: Any = out
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        if isinstance(here, list):
            here.insert(len(here) if last == "-" else int(last), operation["value"])
        else:
            here[last] = operation["value"]
    return out


def pod(**spec: Any) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "app", "image": "app"}])
    return {"metadata": {"annotations": {f"{PREFIX}inject": "true"}}, "spec": spec}


names = st.sampled_from(["a", "b", "c", "d"])
variables = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from([*BASE_URLS, "HTTP_PROXY", "NO_PROXY", "OTHER"])},
        optional={"value": st.sampled_from(["", "127.0.0.1", "http://elsewhere", *BASE_URLS.values()])},
    ),
    max_size=4,
)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "env": variables,
            "envFrom": st.just([{"secretRef": {"name": "s"}}]),
            "ports": st.just([{"containerPort": 15080}]),
            "restartPolicy": st.just("Always"),
            "fieldOfTheFuture": st.just({"x": 1}),
        },
    ),
    max_size=3,
    unique_by=lambda container: container["name"],
)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "annotations": st.dictionaries(
                    st.sampled_from(
                        [f"{PREFIX}{name}" for name in ("inject", "max-wait", "containers", "cpu-request", "cpu-limit")]
                        + ["other"]
                    ),
                    st.sampled_from(["true", "2s", "a,b", "?", "1", "50m"]),
                    max_size=3,
                )
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": containers},
            optional={
                "initContainers": containers,
                "volumes": st.just([{"name": "data"}]),
                "imagePullSecrets": st.sampled_from([[], [{"name": "own"}], [{"name": "registry"}, {"name": "own"}]]),
                "fieldOfTheFuture": st.just([1]),
            },
        ),
    }
)


@given(pods)
def test_a_patched_pod_lacks_nothing_and_has_lost_nothing(before: dict[str, Any]):
    first = made(before)
    after = applied(before, first.operations)
    assert made(after).operations == ()
    assert made(after).warnings == first.warnings
    inits = after["spec"]["initContainers"]
    assert inits[0]["name"] == CONTAINER
    assert [c["name"] for c in inits[1:]] == [c["name"] for c in before["spec"].get("initContainers", [])]
    for kind in ("initContainers", "containers"):
        for old in before["spec"].get(kind, []):
            (new,) = [c for c in after["spec"][kind] if c["name"] == old["name"]]
            assert {k: v for k, v in new.items() if k != "env"} == {k: v for k, v in old.items() if k != "env"}
            assert new.get("env", [])[: len(old.get("env", []))] == old.get("env", [])
    pulls = [entry["name"] for entry in after["spec"]["imagePullSecrets"]]
    own = [entry["name"] for entry in before["spec"].get("imagePullSecrets", [])]
    assert pulls == own + [name for name in INJECTION.pull_secrets if name not in own]
    assert after["spec"].get("fieldOfTheFuture") == before["spec"].get("fieldOfTheFuture")
    assert before["metadata"].get("annotations", {}).items() <= after["metadata"]["annotations"].items()


@given(pods, containers)
def test_what_another_webhook_adds_afterwards_gets_its_base_urls_too(before: dict[str, Any], late: list[Any]):
    after = applied(before, made(before).operations)
    there = {c["name"] for kind in ("initContainers", "containers") for c in after["spec"][kind]}
    after["spec"]["containers"] += [c for c in late if c["name"] not in there]
    again = applied(after, made(after).operations)
    assert made(again).operations == ()
    assert [c["name"] for c in again["spec"]["initContainers"]].count(CONTAINER) == 1
    chosen = read(before["metadata"].get("annotations") or {}).values.get("containers")
    for container in again["spec"]["containers"]:
        if not chosen or container["name"] in chosen.split(","):
            assert set(BASE_URLS) <= {entry["name"] for entry in container["env"]}


def test_the_sidecar_meets_the_restricted_pod_security_standard_and_waits_for_nobody():
    sidecar = applied(pod(), made(pod()).operations)["spec"]["initContainers"][0]
    assert sidecar["restartPolicy"] == "Always"
    security = sidecar["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["readOnlyRootFilesystem"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/livez"
    assert "cpu" not in sidecar["resources"]["limits"]


def test_the_token_has_our_audience_and_only_the_sidecar_sees_keys():
    after = applied(pod(), made(pod()).operations)["spec"]
    token, keys = after["volumes"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "sluicegate-broker"
    assert keys["projected"]["sources"] == [
        {"secret": {"name": "anthropic-key", "optional": True, "items": [{"key": "token", "path": "claude"}]}}
    ]
    assert "volumeMounts" not in after["containers"][0]


def test_a_base_url_that_is_set_stays_and_is_reported():
    own = pod(containers=[{"name": "app", "env": [{"name": "OPENAI_BASE_URL", "value": "http://mine"}]}])
    result = made(own)
    after = applied(own, result.operations)
    held = {entry["name"]: entry["value"] for entry in after["spec"]["containers"][0]["env"]}
    assert held["OPENAI_BASE_URL"] == "http://mine"
    assert held["ANTHROPIC_BASE_URL"] == BASE_URLS["ANTHROPIC_BASE_URL"]
    status = json.loads(after["metadata"]["annotations"][STATUS])
    assert status["skippedEnv"] == {"app": ["OPENAI_BASE_URL"]}
    assert any("OPENAI_BASE_URL was set already" in text for text in result.warnings)


def test_a_variable_that_some_read_before_ours_is_reported():
    def warned(name: str, value: str) -> bool:
        own = pod(containers=[{"name": "app", "env": [{"name": name, "value": value}]}])
        return any(f"{name} was set already" in text for text in made(own).warnings)

    for name, ours in (
        ("OPENAI_API_BASE", BASE_URLS["OPENAI_BASE_URL"]),
        ("ANTHROPIC_API_URL", BASE_URLS["ANTHROPIC_BASE_URL"]),
    ):
        assert warned(name, "http://mine")
        assert not warned(name, ours)


def test_an_environment_that_nobody_can_see_is_reported():
    def warnings(**more: Any) -> list[str]:
        container = {"name": "app", "image": "x", **more}
        return [text for text in made(pod(containers=[container])).warnings if "envFrom" in text]

    (text,) = warnings(envFrom=[{"secretRef": {"name": "s"}}])
    assert text == "container app: base URLs that its envFrom may hold give way to the sidecar's"
    assert warnings(env=[]) == []


def test_a_proxy_that_would_take_our_calls_is_reported():
    def warned(*env: tuple[str, str]) -> bool:
        container = {"name": "app", "env": [{"name": name, "value": value} for name, value in env]}
        return any("NO_PROXY lacks 127.0.0.1" in text for text in made(pod(containers=[container])).warnings)

    assert warned(("HTTP_PROXY", "http://proxy:3128"))
    assert warned(("http_proxy", "http://proxy:3128"), ("NO_PROXY", ".svc,10.0.0.0/8"))
    assert not warned(("HTTP_PROXY", "http://proxy:3128"), ("no_proxy", "127.0.0.1,.svc"))
    assert not warned(("NO_PROXY", ".svc"))


def test_annotations_set_the_defaults_of_calls_and_the_size_of_the_sidecar():
    asked = pod()
    asked["metadata"]["annotations"] |= {
        f"{PREFIX}task-type": "chat",
        f"{PREFIX}max-wait": "2s",
        f"{PREFIX}pool": "gpt-4o",
        f"{PREFIX}memory-limit": "512Mi",
        f"{PREFIX}latency": "fast",
        f"{PREFIX}tier": "Critical",
    }
    result = made(asked)
    sidecar = applied(asked, result.operations)["spec"]["initContainers"][0]
    environment = {entry["name"]: entry.get("value") for entry in sidecar["env"]}
    assert environment["SLUICEGATE_SIDECAR_DEFAULT_TASK_TYPE"] == "chat"
    assert environment["SLUICEGATE_SIDECAR_DEFAULT_MAX_WAIT"] == "2s"
    assert environment["SLUICEGATE_SIDECAR_POOL"] == "gpt-4o"
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert "SLUICEGATE_SIDECAR_DEFAULT_LATENCY" not in environment
    assert sidecar["resources"]["limits"]["memory"] == "512Mi"
    assert [text for text in result.warnings if "latency" in text and "real-time" in text]
    assert [text for text in result.warnings if "tier is unknown" in text]


def test_no_request_is_above_its_limit_since_the_pod_would_not_start():
    def resources(spec: dict[str, Any] | None = None, **wishes: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        asked = pod(**(spec or {}))
        asked["metadata"]["annotations"] |= {PREFIX + key.replace("_", "-"): value for key, value in wishes.items()}
        result = made(asked)
        return applied(asked, result.operations)["spec"]["initContainers"][0]["resources"], result.warnings

    assert resources() == ({"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}, ())
    larger, warnings = resources(memory_request="0.5Gi")
    assert larger == {"requests": {"cpu": "20m", "memory": "0.5Gi"}, "limits": {"memory": "0.5Gi"}}
    assert not warnings
    smaller, warnings = resources(memory_limit="64Mi", cpu_limit="10m")
    assert smaller == {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "10m", "memory": "64Mi"}}
    assert not warnings
    both, (warning,) = resources(memory_request="128Mi", memory_limit="100M")
    assert both["requests"]["memory"] == both["limits"]["memory"] == "100M"
    assert f"{PREFIX}memory-request: 128Mi is above the limit" in warning
    other, (warning,) = resources(cpu_request="128Mi")
    assert other["requests"]["cpu"] == "20m"
    assert "allowed: CPUs such as 100m or 0.5" in warning
    # Containers share what a pod has for itself; more than that would be refused.
    shared, _ = resources({"resources": {"limits": {"memory": "64Mi"}}}, cpu_request="30m")
    assert shared == {"requests": {"cpu": "30m"}, "limits": {}}


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("1", 1),
        ("100m", "0.1"),
        (".5", "0.5"),
        ("2.68435456e+08", 2**28),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1.5Ki", 1536),
    ],
)
def test_quantities_are_worth_what_kubernetes_says(text: str, worth: int | str):
    assert quantity(text) == Decimal(worth)


def test_what_is_no_quantity_is_named_with_its_setting():
    told = {"IMAGE": "i", "BROKER": "b:1", "TLS_SECRET": "a/b", "HOSTS": "h", "MEMORY_LIMIT": "1GB"}
    with pytest.raises(SettingsError, match="MEMORY_LIMIT: '1GB' is not allowed; allowed: a Kubernetes quantity"):
        read_settings({f"SLUICEGATE_INJECTOR_{name}": value for name, value in told.items()})
