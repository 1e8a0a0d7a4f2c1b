# SPDX-License-Identifier: Apache-2.0
"""A broker of a cluster: TLS that it keeps itself, tokens that the API server reviews, tenants that follow."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime as dt
import functools
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from cryptography import x509

from sluicegate.broker import identity, tls
from sluicegate.broker.core import saved
from sluicegate.broker.main import RunningBroker, Settings, start_broker
from sluicegate.kube.certificates import AUTHORITY_LIFE, LIFE, OVERLAP, Keyring, issue, renew
from sluicegate.kube.client import Client, KubeError, ObjectRef, connect, from_kubeconfig
from sluicegate.kube.tls_secret import _data, follow
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import (
    budget_service_pb2_grpc,
    config_service_pb2,
    config_service_pb2_grpc,
    introspection_service_pb2,
    introspection_service_pb2_grpc,
    types_pb2,
)
from sluicegate.wire.errors import from_rpc_error
from sluicegate.wire.words import Reason
from tests.apiserver.test_operator import until
from tests.cluster.control_plane import ControlPlane

SYSTEM = "identity-test"
AUDIENCE = "sluicegate-broker"
POOL: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "ProviderPool",
    "metadata": {"name": "p"},
    "spec": {
        "provider": "OpenAI",
        "endpoint": "https://api.openai.com/v1",
        "models": ["m"],
        "limits": [{"resource": "Requests", "limit": 60000, "window": "1m"}],
    },
}


def policy(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "sluicegate.dev/v1alpha1", "kind": "TenantPolicy", "metadata": metadata, "spec": spec}


@pytest.fixture
def settings(plane: ControlPlane) -> Iterator[Settings]:
    def made(kind: str, name: str, namespace: str = SYSTEM) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}

    plane.apply(
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SYSTEM, "acme", "other")),
        *(made("ConfigMap", name) for name in ("ca", "snapshot")),
        made("Secret", "tls"),
        *(made("ServiceAccount", name) for name in ("operator", "viewer", "nobody")),
        made("ServiceAccount", "chat", "acme"),
        made("ServiceAccount", "chat", "other"),
    )
    yield Settings(
        port=0,
        admin_port=0,
        drain=0.2,
        kubeconfig=str(plane.kubeconfig),
        tls_secret=ObjectRef(SYSTEM, "tls"),
        tls_hosts=("localhost", "broker.identity-test.svc"),
        ca_config_map=ObjectRef(SYSTEM, "ca"),
        snapshot=ObjectRef(SYSTEM, "snapshot"),
        audience=AUDIENCE,
        operators=(f"{SYSTEM}/operator",),
        viewers=(f"{SYSTEM}/viewer",),
    )
    plane.kubectl("delete", "secret,configmap", "-n", SYSTEM, "tls", "ca", "snapshot", "--ignore-not-found", "--wait")


def token(plane: ControlPlane, account: str, namespace: str = SYSTEM, audience: str = AUDIENCE) -> str:
    return plane.kubectl("create", "token", account, "-n", namespace, f"--audience={audience}").stdout.strip()


def authorities(plane: ControlPlane) -> bytes:
    return str(plane.get("configmap", "ca", "-n", SYSTEM)["data"]["ca.crt"]).encode()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningBroker]:
    broker = await start_broker(settings)
    try:
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def connected(plane: ControlPlane, broker: RunningBroker) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(authorities(plane))
    async with grpc.aio.secure_channel(f"localhost:{broker.port}", credentials) as channel:
        yield channel


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


def call(call_id: str, **fields: Any) -> pb.CallRequest:
    estimate = types_pb2.Estimate(input_tokens=1)
    return pb.CallRequest(call_id=call_id, provider=types_pb2.PROVIDER_OPENAI, model="m", estimate=estimate, **fields)


async def refusal(attempt: Any) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await attempt
    found = from_rpc_error(failed.value)
    assert found is not None, failed.value
    return found.reason


async def configure(channel: grpc.aio.Channel, who: str, *documents: dict[str, Any]) -> None:
    request = config_service_pb2.ApplyConfigRequest(
        documents=[config_service_pb2.Document(source=str(i), json=json.dumps(d)) for i, d in enumerate(documents)]
    )
    await config_service_pb2_grpc.ConfigServiceStub(channel).ApplyConfig(request, metadata=bearer(who), timeout=10)


async def test_a_tenant_follows_from_the_token_and_never_from_what_a_caller_says(
    plane: ControlPlane, settings: Settings
):
    async with running(settings) as broker, connected(plane, broker) as channel:
        operator = token(plane, "operator")
        documents = [
            POOL,
            policy("acme", "acme", tier="Premium", onBehalfOf=["other/other"]),
            policy("other", "other", tier="Free"),
        ]
        await configure(channel, operator, *documents)
        stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
        chat = token(plane, "chat", "acme")
        claimed = pb.AcquireRequest(call=call("a"), namespace="other", service_account="chat")
        granted = (await stub.Acquire(claimed, metadata=bearer(chat), timeout=10)).grant
        assert (granted.tenant, granted.tier) == ("acme/acme", "Premium")

        # To speak for another tenant both policies must say so.
        for_other = pb.AcquireRequest(call=call("b", tenant="other/other"))
        only_other = [POOL, policy("acme", "acme"), policy("other", "other", allowActors=["acme/acme"])]
        for one_sided in (documents, only_other):
            await configure(channel, operator, *one_sided)
            attempt = stub.Acquire(for_other, metadata=bearer(chat), timeout=10)
            assert await refusal(attempt) is Reason.TENANT_NOT_ALLOWED
        documents[2]["spec"]["allowActors"] = ["acme/acme"]
        await configure(channel, operator, *documents)
        for_other = pb.AcquireRequest(call=call("c", tenant="other/other"))
        granted = (await stub.Acquire(for_other, metadata=bearer(chat), timeout=10)).grant
        assert granted.tenant == "other/other"

        async def hello() -> Any:
            yield pb.SessionRequest(
                hello=pb.Hello(session_id="s", namespace="other", service_account="chat"), acquires=[call("d")]
            )
            await asyncio.sleep(10)

        async for message in stub.Session(hello(), metadata=bearer(chat)):
            if message.grants:
                assert message.grants[0].tenant == "acme/acme"
                break


async def test_who_proves_nothing_gets_nothing_and_only_the_operator_configures(
    plane: ControlPlane, settings: Settings
):
    async with running(settings) as broker, connected(plane, broker) as channel:
        budget = budget_service_pb2_grpc.BudgetServiceStub(channel)
        config = config_service_pb2_grpc.ConfigServiceStub(channel)
        views = introspection_service_pb2_grpc.IntrospectionServiceStub(channel)
        acquire = pb.AcquireRequest(call=call("a"))
        nothing = config_service_pb2.ApplyConfigRequest()
        pools = introspection_service_pb2.ListPoolsRequest()
        chat, viewer, operator = token(plane, "chat", "acme"), token(plane, "viewer"), token(plane, "operator")
        elsewhere = token(plane, "chat", "acme", audience="somebody-else")
        assert await refusal(budget.Acquire(acquire, timeout=10)) is Reason.UNAUTHENTICATED
        for bad in ("x", elsewhere, chat + "x"):
            assert await refusal(budget.Acquire(acquire, metadata=bearer(bad), timeout=10)) is Reason.UNAUTHENTICATED
        for who in (chat, viewer):
            assert await refusal(config.ApplyConfig(nothing, metadata=bearer(who), timeout=10)) is Reason.ACCESS_DENIED
        assert await refusal(views.ListPools(pools, metadata=bearer(chat), timeout=10)) is Reason.ACCESS_DENIED
        await views.ListPools(pools, metadata=bearer(viewer), timeout=10)
        await config.ApplyConfig(nothing, metadata=bearer(operator), timeout=10)

        async def session() -> Any:
            yield pb.SessionRequest(hello=pb.Hello(session_id="s"))

        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for _ in budget.Session(session(), metadata=bearer("x")):
                pass
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_of_absurd_length_is_refused_and_no_more_than_so_many_are_reviewed_at_once(
    plane: ControlPlane, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    chat = token(plane, "chat", "acme")
    async with running(settings) as broker, connected(plane, broker) as channel:
        await configure(channel, token(plane, "operator"), POOL)
        budget = budget_service_pb2_grpc.BudgetServiceStub(channel)
        for longest in (len(chat) - 1, len(chat)):
            monkeypatch.setattr(identity, "_MAX_TOKEN", longest)
            attempt = budget.Acquire(pb.AcquireRequest(call=call("a")), metadata=bearer(chat), timeout=10)
            if longest < len(chat):
                assert await refusal(attempt) is Reason.UNAUTHENTICATED
            else:
                assert (await attempt).grant.call_id == "a"

    asking: list[int] = [0]

    class Counting(Client):
        async def create(self, path: str, body: Any, **query: str) -> Any:
            asking.append(asking[-1] + 1)
            try:
                return await super().create(path, body, **query)
            finally:
                asking.append(asking[-1] - 1)

    monkeypatch.setattr(identity, "_MAX_REVIEWS", 3)
    access = from_kubeconfig(plane.kubeconfig)
    async with connect(access) as client:
        reviews = identity.TokenReviews(Counting(access, client._session), AUDIENCE, time.monotonic, time.time)
        found = await asyncio.gather(*(reviews.principal(f"flood {number}") for number in range(12)))
    assert found == [None] * 12
    assert reviews.asked == 12
    assert max(asking) == 3


async def test_reviews_are_remembered_for_a_while_shared_and_bounded(
    plane: ControlPlane, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    now = 1000.0
    access = from_kubeconfig(plane.kubeconfig)
    async with connect(access) as client:
        reviews = identity.TokenReviews(client, AUDIENCE, lambda: now, time.time)
        chat = token(plane, "chat", "acme")
        found = await asyncio.gather(*(reviews.principal(chat) for _ in range(20)))
        assert {str(principal) for principal in found} == {"acme/chat"}
        assert reviews.asked == 1, "twenty callers with one token wait for one review"
        now += identity._GOOD - 1
        await reviews.principal(chat)
        assert reviews.asked == 1
        now += 2
        await reviews.principal(chat)
        assert reviews.asked == 2
        for _ in range(3):
            assert await reviews.principal("nonsense") is None
        assert reviews.asked == 3
        now += identity._BAD + 1
        assert await reviews.principal("nonsense") is None
        assert reviews.asked == 4

        # While the API server is away what is known holds, and who is not known is nobody yet rather than refused.
        monkeypatch.setattr(
            reviews, "_client", Client(dataclasses.replace(access, url="https://127.0.0.1:9"), client._session)
        )
        assert str(await reviews.principal(chat)) == "acme/chat"
        with pytest.raises(KubeError):
            await reviews.principal("never seen")
        monkeypatch.undo()

        # A flood of tokens takes no more memory than so much, and drives nobody out who is proven.
        monkeypatch.setattr(identity, "_MAX_KEPT", 5)
        proven = await reviews.principal(chat)
        for number in range(12):
            await reviews.principal(f"flood {number}")
        assert len(reviews._refused) == 5
        asked = reviews.asked
        assert await reviews.principal(chat) == proven is not None
        assert reviews.asked == asked
        assert not reviews._asking

        # Nothing is believed past a token's own end.
        ended = identity.TokenReviews(client, AUDIENCE, lambda: now, lambda: time.time() + 100_000)
        await ended.principal(chat)
        await ended.principal(chat)
        assert ended.asked == 2


async def test_an_aged_certificate_is_renewed_and_plain_text_is_refused(plane: ControlPlane, settings: Settings):
    def serial(port: int) -> int:
        pem = ssl.get_server_certificate(("localhost", port), timeout=5)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    async with running(settings) as broker, connected(plane, broker) as channel:
        first = await asyncio.to_thread(serial, broker.port)
        await configure(channel, token(plane, "operator"), POOL)
        async with grpc.aio.insecure_channel(f"localhost:{broker.port}") as plain:
            with pytest.raises(grpc.aio.AioRpcError):
                await budget_service_pb2_grpc.BudgetServiceStub(plain).Acquire(pb.AcquireRequest(), timeout=3)
        bundle = authorities(plane)
    # Two thirds of its life are over when the broker starts again; who trusted it still does.
    aged = renew(None, "localhost", settings.tls_hosts, dt.datetime.now(dt.UTC) - LIFE * 0.8)
    data = {key: base64.b64encode(value).decode() for key, value in _data(aged).items()}
    plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": SYSTEM}, "data": data})
    async with running(settings) as broker:
        renewed = await asyncio.to_thread(serial, broker.port)
        assert renewed not in (first, x509.load_pem_x509_certificate(aged.served.certificate).serial_number)
        assert authorities(plane) == aged.bundle != bundle


async def test_what_tenants_have_waiting_is_told_on_loopback_only(plane: ControlPlane, settings: Settings):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        elsewhere = probe.getsockname()[0]
    told: dict[tuple[str, str], int] = {}
    async with running(replace(settings, admin_host="0.0.0.0")) as broker, aiohttp.ClientSession() as http:
        for host in ("127.0.0.1", elsewhere):
            for page in ("livez", "metrics", "debug/queues"):
                async with http.get(f"http://{host}:{broker.admin_port}/{page}") as response:
                    told[host, page] = response.status
    assert told.pop((elsewhere, "debug/queues")) == 403
    assert set(told.values()) == {200}


async def test_of_a_certificate_of_the_users_own_the_authority_is_published(
    plane: ControlPlane, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tls, "_PUBLISH_EVERY", 0.1)
    ring, other = (renew(None, "localhost", settings.tls_hosts, dt.datetime.now(dt.UTC)) for _ in range(2))
    certificate, key, bundle = (tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt"))
    certificate.write_bytes(ring.served.certificate)
    key.write_bytes(ring.served.key)
    bundle.write_bytes(ring.bundle)
    own = replace(settings, tls_secret=None, tls_cert=certificate, tls_key=key, tls_ca=bundle)
    async with running(own) as broker, connected(plane, broker) as channel:
        assert authorities(plane) == ring.bundle
        await configure(channel, token(plane, "operator"), POOL)
        bundle.write_bytes(ring.bundle + other.bundle)
        await until(lambda: authorities(plane) == ring.bundle + other.bundle, "what the user added")


async def test_another_authority_is_taken_over_without_a_restart_and_breaks_nobody(
    plane: ControlPlane, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tls, "follow", functools.partial(follow, every=0.1))
    now = dt.datetime.now(dt.UTC)
    # Two thirds of the first authority's ten years are over; its successor is published, and may issue from today.
    begun = now - AUTHORITY_LIFE * 2 / 3 - OVERLAP
    first = renew(
        renew(None, "localhost", settings.tls_hosts, begun), "localhost", settings.tls_hosts, now - OVERLAP / 2
    )
    assert first.next_authority is not None
    second = renew(first, "localhost", settings.tls_hosts, now + OVERLAP)
    assert second.authority == first.next_authority
    second = Keyring(second.authority, issue(second.authority, "localhost", settings.tls_hosts, now), second.bundle)
    first = dataclasses.replace(first, served=issue(first.authority, "localhost", settings.tls_hosts, now))

    def kept(ring: Keyring) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in _data(ring).items()}
        metadata = {"name": "tls", "namespace": SYSTEM}
        plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    def served(port: int) -> str:
        return ssl.get_server_certificate(("localhost", port), timeout=5).strip()

    kept(first)
    async with running(settings) as broker, connected(plane, broker) as before:
        assert await asyncio.to_thread(served, broker.port) == first.served.certificate.decode().strip()
        await configure(before, token(plane, "operator"), POOL)
        injected = authorities(plane)  # what a pod is given now, it has for as long as it lives
        await asyncio.to_thread(kept, second)
        await until(lambda: served(broker.port) == second.served.certificate.decode().strip(), "the new certificate")
        await configure(before, token(plane, "operator"), POOL)
        credentials = grpc.ssl_channel_credentials(injected)
        async with grpc.aio.secure_channel(f"localhost:{broker.port}", credentials) as after:
            await configure(after, token(plane, "operator"), POOL)


async def test_a_broker_starts_from_what_the_operator_kept(plane: ControlPlane, settings: Settings):
    kept = {saved.KEY: saved.pack([POOL, policy("acme", "acme", tier="Premium")])}
    metadata = {"name": "snapshot", "namespace": SYSTEM}
    plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": kept})
    async with running(settings) as broker:
        assert set(broker.configuration.compiled.snapshot.pools) == {"p"}
        assert set(broker.configuration.compiled.snapshot.tenants) == {"acme/acme"}
    metadata["name"] = "nonsense"
    plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": {saved.KEY: "AAAA"}})
    async with running(replace(settings, snapshot=ObjectRef(SYSTEM, "nonsense"))) as broker:
        assert not broker.configuration.applications
