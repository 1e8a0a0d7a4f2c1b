# SPDX-License-Identifier: Apache-2.0
"""The injector as a process of its own, called by a real API server through the chart's own webhook configuration."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import datetime as dt
import functools
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sluicegate.injector import main as injector_main
from sluicegate.injector.decide import CONTAINER
from sluicegate.injector.main import Injector
from sluicegate.injector.patch import BASE_URLS
from sluicegate.injector.settings import Settings
from sluicegate.kube.certificates import Keyring, Pair, renew
from sluicegate.kube.client import ObjectRef, connect, from_kubeconfig
from sluicegate.kube.tls_secret import _data, follow
from tests.apiserver.test_chart import rendered, with_account
from tests.apiserver.test_operator import until
from tests.cluster.control_plane import ControlPlane, free_port

SYSTEM = "injector-test"
NAME = "release-sluicegate-injector"
WITHIN = 30.0


def webhook_at(port: int, **values: str) -> list[dict[str, Any]]:
    """The chart's configuration and policy, with the Service replaced by an address of this machine."""
    settings = [part for name, value in values.items() for part in ("--set", f"{name.replace('_', '.')}={value}")]
    found = []
    for document in rendered(*settings):
        if document["kind"].startswith("ValidatingAdmission"):
            found.append(document)
        if document["kind"] == "MutatingWebhookConfiguration":
            for webhook in document["webhooks"]:
                service = webhook["clientConfig"].pop("service")
                webhook["clientConfig"]["url"] = f"https://127.0.0.1:{port}{service['path']}"
            found.append(document)
    return found


@contextmanager
def injector(plane: ControlPlane, port: int, directory: Path, own: Mapping[str, str] | None = None) -> Iterator[int]:
    """`own`: settings for a certificate of the user's, instead of one that the injector keeps itself."""
    admin = free_port()
    kept = {"TLS_SECRET": f"{SYSTEM}/tls", "HOSTS": "127.0.0.1", "WEBHOOK": NAME}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")},
        "SLUICEGATE_INJECTOR_IMAGE": "sluicegate:test",
        "SLUICEGATE_INJECTOR_BROKER": "broker.sluicegate-system.svc:15051",
        "SLUICEGATE_INJECTOR_HOST": "127.0.0.1",
        "SLUICEGATE_INJECTOR_PORT": str(port),
        "SLUICEGATE_INJECTOR_ADMIN_HOST": "127.0.0.1",
        "SLUICEGATE_INJECTOR_ADMIN_PORT": str(admin),
        "SLUICEGATE_INJECTOR_DRAIN": "100ms",
        **{f"SLUICEGATE_INJECTOR_{name}": value for name, value in (own or kept).items()},
        "SLUICEGATE_INJECTOR_BROKER_CA_CONFIG_MAP": f"{SYSTEM}/ca",
        "SLUICEGATE_INJECTOR_KUBECONFIG": str(plane.kubeconfig),
    }
    with (directory / "injector.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sluicegate.injector.main"], env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + WITHIN
        while not _ready(admin):
            log = (directory / "injector.log").read_text()[-3000:]
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)
        yield admin
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def pod(namespace: str, **annotations: str) -> dict[str, Any]:
    keys = {f"sluicegate.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    metadata = {"name": "pod", "namespace": namespace, "annotations": keys}
    spec = {"containers": [{"name": "app", "image": "app"}], "initContainers": [{"name": "before", "image": "app"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def mirror(what: dict[str, Any]) -> dict[str, Any]:
    """`what` as a kubelet shows a pod of its own."""
    what["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
    what["spec"] |= {"nodeName": "node", "automountServiceAccountToken": False}
    return what


def created(plane: ControlPlane, what: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The pod as the API server would keep it, and what it said."""
    done = plane.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(what), check=False)
    return (json.loads(done.stdout) if done.returncode == 0 else None), done.stderr


def injected(what: dict[str, Any] | None) -> bool:
    assert what is not None
    return bool(what["spec"]["initContainers"][0]["name"] == CONTAINER)


@pytest.fixture(scope="module", autouse=True)
def namespaces(plane: ControlPlane) -> None:
    plane.apply(
        *with_account(SYSTEM),
        *with_account("plain"),
        *with_account("opted-in", **{"sluicegate.dev/injection": "enabled"}),
        *with_account("opted-out", **{"sluicegate.dev/injection": "disabled"}),
        *with_account("restricted-apps", **{"pod-security.kubernetes.io/enforce": "restricted"}),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": SYSTEM}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": SYSTEM},
            "data": {"ca.crt": "PEM"},
        },
    )


@pytest.fixture
def no_webhook(plane: ControlPlane) -> Iterator[None]:
    yield
    kinds = "mutatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding"
    plane.kubectl("delete", kinds, "--all")


def test_who_asked_is_injected_and_nobody_else(plane: ControlPlane, no_webhook: None, tmp_path: Path):
    port = free_port()
    plane.apply(*webhook_at(port))
    pool = {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": "with-key"},
        "spec": {
            "provider": "Anthropic",
            "endpoint": "https://api.anthropic.com",
            "models": ["claude-*"],
            "limits": [{"resource": "Requests", "limit": 50, "window": "1m"}],
            "credentials": {"secretName": "anthropic-key", "key": "token"},
        },
    }
    with injector(plane, port, tmp_path) as admin:
        asked, words = created(plane, pod("plain", inject="true", max_wait="2s", task_type="chat"))
        assert injected(asked), words
        assert asked is not None
        sidecar = asked["spec"]["initContainers"][0]
        assert sidecar["restartPolicy"] == "Always"
        environment = {entry["name"]: entry.get("value") for entry in sidecar["env"]}
        assert environment["SLUICEGATE_SIDECAR_BROKER_CA_PEM"] == "PEM"
        assert environment["SLUICEGATE_SIDECAR_DEFAULT_MAX_WAIT"] == "2s"
        for container in (*asked["spec"]["containers"], asked["spec"]["initContainers"][1]):
            assert BASE_URLS.items() <= {e["name"]: e.get("value") for e in container["env"]}.items()

        assert not injected(created(plane, pod("plain"))[0])
        assert not injected(created(plane, pod("plain", inject="false"))[0])
        assert injected(created(plane, pod("opted-in"))[0])
        assert not injected(created(plane, pod("opted-in", inject="false"))[0])
        assert not injected(created(plane, pod("opted-out", inject="true"))[0])
        for asked in (pod("plain", inject="true"), pod("opted-in")):
            assert not injected(created(plane, mirror(asked))[0])

        other, words = created(plane, pod("plain", inject="yes"))
        assert not injected(other)
        assert 'neither "true" nor "false"' in words
        other, words = created(plane, pod("plain", inject="true", latency="fast"))
        assert injected(other)
        assert "real-time, near-real-time, batch" in words

        # The sidecar itself never breaks the restricted standard.
        strict = pod("restricted-apps", inject="true")
        strict["spec"] |= {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
        for container in (*strict["spec"]["containers"], *strict["spec"]["initContainers"]):
            container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert injected(created(plane, strict)[0])

        # A pool that names a Secret reaches pods made afterwards.
        plane.apply(pool)
        try:
            deadline = time.monotonic() + WITHIN
            while True:
                asked, _ = created(plane, pod("plain", inject="true"))
                assert asked is not None
                keys = [v for v in asked["spec"]["volumes"] if v["name"] == "sluicegate-credentials"]
                if keys:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert keys[0]["projected"]["sources"][0]["secret"]["name"] == "anthropic-key"
        finally:
            plane.kubectl("delete", "ppool", "with-key")
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as page:
            metrics = page.read().decode()
        assert 'sluicegate_injector_reviews_total{verdict="asked_by_namespace"}' in metrics
        for verdict in ("not_asked", "mirror_pod"):
            assert f'sluicegate_injector_reviews_total{{verdict="{verdict}"}}' not in metrics, "they reach nobody"


def test_a_pod_that_asks_is_taken_whatever_it_asks_for_and_wherever_it_runs(
    plane: ControlPlane, no_webhook: None, tmp_path: Path
):
    port = free_port()
    plane.apply(*webhook_at(port, injector_failurePolicy="Fail"))
    resources = {"CPU_REQUEST": "20m", "MEMORY_REQUEST": "96Mi", "MEMORY_LIMIT": "256Mi"}
    kept = {"TLS_SECRET": f"{SYSTEM}/tls", "HOSTS": "127.0.0.1", "WEBHOOK": NAME}
    sized = pod("plain", inject="true")
    sized["spec"]["resources"] = {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    windows = pod("plain", inject="true")
    windows["spec"]["os"] = {"name": "windows"}
    with injector(plane, port, tmp_path, kept | resources):
        for asked, gets in (
            (pod("plain", inject="true", memory_request="512Mi"), True),
            (pod("plain", inject="true", memory_limit="64Mi", cpu_limit="10m"), True),
            (pod("plain", inject="true", memory_limit="64Mi", memory_request="65Mi"), True),
            (sized, True),
            (windows, False),
        ):
            made, words = created(plane, asked)
            assert injected(made) == gets, words


def test_without_an_injector_other_pods_start_and_asked_ones_do_what_the_values_say(
    plane: ControlPlane, no_webhook: None
):
    nobody = free_port()
    plane.apply(*webhook_at(nobody))
    assert not injected(created(plane, pod("plain"))[0])
    assert not injected(created(plane, pod("plain", inject="true"))[0])
    plane.apply(*webhook_at(nobody, injector_failurePolicy="Fail"))
    _until_refused(plane, pod("plain", inject="true"), "failed calling webhook")
    assert not injected(created(plane, pod("plain"))[0])
    assert not injected(created(plane, pod("opted-out", inject="true"))[0])


def test_the_final_check_refuses_pods_that_asked_and_got_nothing(plane: ControlPlane, no_webhook: None, tmp_path: Path):
    port = free_port()
    plane.apply(*webhook_at(port, requireInjection_enabled="true"))
    _until_refused(plane, pod("plain", inject="true"), "the pod asks for the Sluicegate sidecar")
    _until_refused(plane, pod("opted-in"), "the namespace asks for the Sluicegate sidecar")
    _until_refused(plane, pod("opted-in", inject="true"), "the pod asks for the Sluicegate sidecar")
    on_the_nodes_network = pod("opted-in")
    on_the_nodes_network["spec"]["hostNetwork"] = True
    windows = pod("opted-in")
    windows["spec"]["os"] = {"name": "windows"}
    for other in (
        pod("plain"),
        pod("opted-out"),
        pod("opted-out", inject="true"),
        pod("opted-in", inject="false"),
        mirror(pod("opted-in")),
        mirror(pod("opted-in", inject="true")),
        on_the_nodes_network,
        windows,
    ):
        assert not injected(created(plane, other)[0])
    with injector(plane, port, tmp_path):
        assert injected(created(plane, pod("plain", inject="true"))[0])
        assert injected(created(plane, pod("opted-in"))[0])


def test_a_certificate_of_the_users_own_serves_as_well(plane: ControlPlane, no_webhook: None, tmp_path: Path):
    port = free_port()
    pair = plane.authority.issue("webhook", hosts=["127.0.0.1"])
    bundle = base64.b64encode(plane.authority.pair.certificate.read_bytes()).decode()
    plane.apply(*webhook_at(port, injector_existingSecret="mine", injector_caBundle=bundle))
    with injector(plane, port, tmp_path, {"TLS_CERT": str(pair.certificate), "TLS_KEY": str(pair.key)}):
        assert injected(created(plane, pod("plain", inject="true"))[0])


async def test_a_certificate_of_the_users_own_is_read_again_and_a_pair_that_does_not_match_changes_nothing(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(injector_main, "_FILES_EVERY", 0.1)
    port = free_port()
    first, second = (renew(None, "127.0.0.1", ("127.0.0.1",), dt.datetime.now(dt.UTC)).served for _ in range(2))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(first.certificate)
    key.write_bytes(first.key)

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=5).strip()

    settings = dataclasses.replace(on_port(port, ""), tls_secret=None, tls_cert=certificate, tls_key=key)
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        running = Injector(settings, client)
        await running.start()
        try:
            await until(lambda: running.port == port, "it serves")
            assert await asyncio.to_thread(served) == first.certificate.decode().strip()
            with pytest.raises(ssl.SSLError):
                await running._serve(Pair(second.certificate, first.key))
            assert await asyncio.to_thread(served) == first.certificate.decode().strip()
            certificate.write_bytes(second.certificate)
            key.write_bytes(second.key)
            await until(lambda: served() == second.certificate.decode().strip(), "the new one")
        finally:
            await running.stop()


async def test_containers_that_a_later_webhook_adds_get_their_base_urls_in_a_second_round(
    plane: ControlPlane, no_webhook: None, tmp_path: Path
):
    port, other = free_port(), free_port()
    pair = plane.authority.issue("later", hosts=["127.0.0.1"])

    async def add(request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        there = [container["name"] for container in asked["object"]["spec"]["containers"]]
        operations = [{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "late"}}]
        patch = base64.b64encode(json.dumps([] if "late" in there else operations).encode()).decode()
        response = {"uid": asked["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

    (ours,) = [d for d in webhook_at(port) if d["kind"] == "MutatingWebhookConfiguration"]
    later = copy.deepcopy(ours)  # they run in the order of their names
    later["metadata"] = {"name": f"{NAME}-later"}
    later["webhooks"] = later["webhooks"][:1]
    bundle = base64.b64encode(plane.authority.pair.certificate.read_bytes()).decode()
    later["webhooks"][0] |= {
        "name": "later.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{other}/", "caBundle": bundle},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
    }
    app = web.Application()
    app.add_routes([web.post("/", add)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    await web.TCPSite(runner, "127.0.0.1", other, ssl_context=context).start()
    try:
        await asyncio.to_thread(plane.apply, ours, later)
        with injector(plane, port, tmp_path):

            def both() -> bool:
                made, _ = created(plane, pod("plain", inject="true"))
                return made is not None and len(made["spec"]["containers"]) == 2 and injected(made)

            await until(both, "both webhooks are called")
            made, words = await asyncio.to_thread(created, plane, pod("plain", inject="true"))
    finally:
        await runner.cleanup()
    assert made is not None, words
    assert [container["name"] for container in made["spec"]["initContainers"]] == [CONTAINER, "before"]
    for container in made["spec"]["containers"]:
        names = [entry["name"] for entry in container["env"]]
        assert set(BASE_URLS) <= set(names), container["name"]
        assert len(set(names)) == len(names)


def on_port(port: int, secret: str) -> Settings:
    """An injector at `port` of loopback, its certificates in Secret `secret`."""
    return Settings(
        image="sluicegate:test",
        broker="broker:1",
        host="127.0.0.1",
        port=port,
        admin_host="127.0.0.1",
        admin_port=0,
        hosts=("127.0.0.1",),
        tls_secret=ObjectRef(SYSTEM, secret),
        webhook=NAME,
    )


async def test_who_is_asked_to_stop_serves_until_the_api_server_calls_no_more(plane: ControlPlane, no_webhook: None):
    port = free_port()
    plane.apply(*webhook_at(port))
    plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "leaving", "namespace": SYSTEM}})
    settings = dataclasses.replace(on_port(port, "leaving"), drain=5.0)
    asked = pod("plain", inject="true")
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        running = Injector(settings, client)
        await running.start()
        try:
            await until(lambda: injected(created(plane, asked)[0]), "injection")
            assert await asyncio.to_thread(_ready, running.admin_port)
            leaving = asyncio.create_task(running.leave())
            await asyncio.sleep(0)
            assert not await asyncio.to_thread(_ready, running.admin_port), "it leaves its Service's endpoints"
            assert injected((await asyncio.to_thread(created, plane, asked))[0])
            assert not leaving.done()
            leaving.cancel()
        finally:
            await running.stop()


async def test_another_authority_is_taken_over_without_a_restart_and_what_is_undone_is_set_right(
    plane: ControlPlane, no_webhook: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(injector_main, "follow", functools.partial(follow, every=0.2))
    port = free_port()
    plane.apply(*webhook_at(port))
    settings = on_port(port, "rotated")

    def bundles() -> set[str]:
        hooks = plane.get("mutatingwebhookconfiguration", NAME)["webhooks"]
        return {base64.b64decode(hook["clientConfig"].get("caBundle", "")).decode() for hook in hooks}

    def kept(ring: Keyring) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in _data(ring).items()}
        metadata = {"name": "rotated", "namespace": SYSTEM}
        plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    now = dt.datetime.now(dt.UTC)
    first, other = (renew(None, "127.0.0.1", ("127.0.0.1",), now) for _ in range(2))
    both = first.bundle + other.bundle
    kept(dataclasses.replace(first, next_authority=other.authority, bundle=both))
    asked = pod("plain", inject="true")
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        running = Injector(settings, client)
        await running.start()
        try:
            await until(lambda: bundles() == {both.decode()}, "both authorities in the bundle")
            await until(lambda: injected(created(plane, asked)[0]), "injection")
            await asyncio.to_thread(kept, dataclasses.replace(other, bundle=both))
            served = other.served.certificate.decode().strip()
            await until(
                lambda: ssl.get_server_certificate(("127.0.0.1", port), timeout=5).strip() == served, "the new one"
            )
            assert injected((await asyncio.to_thread(created, plane, asked))[0])
            # Somebody applies a configuration without the bundle, as an older chart or a tool would.
            nothing = [{"op": "remove", "path": f"/webhooks/{i}/clientConfig/caBundle"} for i in (0, 1)]
            patch = ("patch", "mutatingwebhookconfiguration", NAME, "--type=json", "-p", json.dumps(nothing))
            await asyncio.to_thread(plane.kubectl, *patch)
            await until(lambda: bundles() == {both.decode()}, "both authorities in the bundle")
        finally:
            await running.stop()


def _until_refused(plane: ControlPlane, what: dict[str, Any], words: str) -> None:
    deadline = time.monotonic() + WITHIN
    while True:
        made, said = created(plane, what)
        if made is None:
            assert words in said
            return
        assert time.monotonic() < deadline, "it is still admitted"
        time.sleep(0.2)


def test_each_part_can_do_its_work_with_the_rights_of_the_chart_and_no_more(plane: ControlPlane):
    plane.apply(*with_account("sluicegate-system"), *with_account("acme"))
    plane.apply(
        *(
            d
            for d in rendered()
            if d["kind"] in ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        )
    )

    full = "release-sluicegate"
    looker = "--serviceaccount=acme:default"
    plane.kubectl("create", "rolebinding", "looker", f"--role={full}-cli", looker, "-n", "sluicegate-system")

    def may(who: str, verb: str, what: str, namespace: str = "sluicegate-system", name: str = "") -> bool:
        account = "acme:default" if who == "cli" else f"sluicegate-system:{full}-{who}"
        resource, _, part = what.partition("/")
        target = [f"{resource}/{name}" if name else resource, *([f"--subresource={part}"] if part else [])]
        subject = f"--as=system:serviceaccount:{account}"
        done = plane.kubectl("auth", "can-i", verb, *target, subject, "-n", namespace, check=False)
        return done.stdout.strip() == "yes"

    for who, verb, what, name in [
        ("broker", "create", "tokenreviews.authentication.k8s.io", ""),
        ("broker", "update", "secrets", f"{full}-broker-tls"),
        ("broker", "patch", "configmaps", f"{full}-broker-ca"),
        ("broker", "get", "secrets", f"{full}-broker-tls"),
        ("broker", "get", "configmaps", f"{full}-broker-ca"),
        ("broker", "get", "configmaps", f"{full}-snapshot"),
        *(
            ("operator", verb, what, "")
            for verb in ("list", "watch")
            for what in (
                "tenantpolicies.sluicegate.dev",
                "providerpools.sluicegate.dev",
                "namespaces",
                "customresourcedefinitions.apiextensions.k8s.io",
            )
        ),
        ("operator", "patch", "tenantpolicies.sluicegate.dev/status", ""),
        ("operator", "patch", "providerpools.sluicegate.dev/status", ""),
        ("operator", "get", "configmaps", f"{full}-snapshot"),
        ("operator", "patch", "configmaps", f"{full}-snapshot"),
        ("operator", "get", "configmaps", f"{full}-broker-ca"),
        ("injector", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", f"{full}-injector"),
        ("injector", "get", "mutatingwebhookconfigurations.admissionregistration.k8s.io", f"{full}-injector"),
        ("injector", "get", "secrets", f"{full}-injector-tls"),
        ("injector", "update", "secrets", f"{full}-injector-tls"),
        ("injector", "get", "configmaps", f"{full}-broker-ca"),
        ("injector", "list", "providerpools.sluicegate.dev", ""),
        ("injector", "watch", "providerpools.sluicegate.dev", ""),
        ("cli", "list", "deployments.apps", ""),
        ("cli", "list", "pods", ""),
        ("cli", "create", "pods/portforward", ""),
        ("cli", "get", "configmaps", f"{full}-broker-ca"),
        ("cli", "get", "configmaps", f"{full}-snapshot"),
        ("cli", "create", "serviceaccounts/token", f"{full}-viewer"),
    ]:
        assert may(who, verb, what, name=name), (who, verb, what, name)
    for who, verb, what, namespace, name in [
        ("broker", "get", "secrets", "sluicegate-system", f"{full}-injector-tls"),
        ("broker", "list", "secrets", "sluicegate-system", ""),
        ("broker", "patch", "configmaps", "sluicegate-system", f"{full}-snapshot"),
        ("operator", "get", "secrets", "sluicegate-system", f"{full}-broker-tls"),
        ("operator", "update", "tenantpolicies.sluicegate.dev", "acme", ""),
        ("operator", "patch", "tenantpolicies.sluicegate.dev", "acme", ""),
        ("operator", "create", "pods", "sluicegate-system", ""),
        ("injector", "get", "secrets", "sluicegate-system", f"{full}-broker-tls"),
        ("injector", "get", "secrets", "acme", ""),
        ("injector", "list", "pods", "acme", ""),
        ("injector", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", "", "another"),
        ("viewer", "get", "secrets", "sluicegate-system", ""),
        ("cli", "create", "serviceaccounts/token", "sluicegate-system", f"{full}-broker"),
        ("cli", "get", "secrets", "sluicegate-system", f"{full}-broker-tls"),
        ("cli", "create", "pods/exec", "sluicegate-system", ""),
        ("cli", "list", "pods", "acme", ""),
    ]:
        assert not may(who, verb, what, namespace, name), (who, verb, what, name)

    # Whether `edit` and `admin` may write policies is seen where a controller aggregates roles: tests/cluster.
    editor = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding"} | {
        "metadata": {"name": "editor", "namespace": "acme"},
        "roleRef": {"kind": "ClusterRole", "name": f"{full}-policy-editor", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": "editor", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    plane.apply(editor)

    def editor_may(verb: str, what: str, namespace: str, *flags: str) -> bool:
        done = plane.kubectl("auth", "can-i", verb, what, "--as=editor", "-n", namespace, *flags, check=False)
        return done.stdout.strip() == "yes"

    assert editor_may("create", "tenantpolicies.sluicegate.dev", "acme")
    assert not editor_may("create", "tenantpolicies.sluicegate.dev", "default")
    assert not editor_may("patch", "tenantpolicies.sluicegate.dev", "acme", "--subresource=status")
