# SPDX-License-Identifier: Apache-2.0
"""Acquire and Settle one call at a time, configuration and introspection, over loopback."""

from __future__ import annotations

import asyncio
import json

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluicegate.broker.server import RunningBroker
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import (
    budget_service_pb2_grpc,
    config_service_pb2,
    config_service_pb2_grpc,
    introspection_service_pb2,
    introspection_service_pb2_grpc,
    types_pb2,
)
from sluicegate.wire import errors
from sluicegate.wire.words import Reason
from tests.broker.client import SessionClient, call, settled
from tests.broker.test_session import eventually, in_flight, waiting


def acquire(request: pb.CallRequest) -> pb.AcquireRequest:
    return pb.AcquireRequest(call=request, namespace="acme", service_account="chat")


async def test_acquire_and_settle(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    answer = await stub.Acquire(acquire(call("u1")), timeout=5)
    assert answer.grant.tenant == "acme/acme"
    again = await stub.Acquire(acquire(call("u1")), timeout=5)
    assert again.grant == answer.grant
    first = await stub.Settle(pb.SettleRequest(settlement=settled("u1")), timeout=5)
    second = await stub.Settle(pb.SettleRequest(settlement=settled("u1")), timeout=5)
    assert (first.settled, second.settled) == (True, False)
    assert in_flight(broker) == 0


async def test_a_retriable_settlement_says_when_it_goes_on(channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    await stub.Acquire(acquire(call("u1")), timeout=5)
    failed = pb.Settlement(call_id="u1", error_class=types_pb2.ERROR_CLASS_SERVER, dispatched=True, retriable=True)
    answer = await stub.Settle(pb.SettleRequest(settlement=failed), timeout=5)
    assert answer.settled
    assert answer.retry.attempt == 2
    again = await stub.Acquire(acquire(call("u1")), timeout=10)
    assert again.grant.attempt == 2


async def test_an_impatient_call_is_refused_at_once_with_the_wait(channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    await stub.Acquire(acquire(call("u1", "slow-model")), timeout=5)
    hasty = call("u2", "slow-model")
    hasty.criticality.max_wait.FromMilliseconds(500)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Acquire(acquire(hasty), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    refusal = errors.from_rpc_error(caught.value)
    assert refusal is not None
    assert refusal.reason is Reason.PREDICTED_WAIT
    assert refusal.metadata["pool"] == "slow"
    assert refusal.retry_after is not None
    assert refusal.retry_after > 0.5


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (call("x", model=""), grpc.StatusCode.INVALID_ARGUMENT, "call.model: is required"),
        (call("x" * 200), grpc.StatusCode.INVALID_ARGUMENT, "call.call_id"),
        (call("x", pool="nowhere"), grpc.StatusCode.NOT_FOUND, "nowhere"),
        (call("x", tenant="no/body"), grpc.StatusCode.NOT_FOUND, "no/body"),
    ],
)
async def test_bad_input_has_a_status_that_names_it(
    channel: grpc.aio.Channel, request_: pb.CallRequest, code: grpc.StatusCode, named: str
) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Acquire(acquire(request_), timeout=5)
    assert caught.value.code() is code
    refusal = errors.from_rpc_error(caught.value)
    assert refusal is not None
    assert named in refusal.message


async def test_a_client_that_goes_away_frees_its_place(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    await stub.Acquire(acquire(call("u1", "slow-model")), timeout=5)
    waits = stub.Acquire(acquire(call("u2", "slow-model")))
    waits_task = asyncio.ensure_future(waits)
    await eventually(lambda: waiting(broker) == 1)
    waits.cancel()
    await asyncio.gather(waits_task, return_exceptions=True)
    await eventually(lambda: waiting(broker) == 0)


async def test_a_stopping_broker_turns_unary_waiters_away(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    await stub.Acquire(acquire(call("u1", "slow-model")), timeout=5)
    # Without the wire's own repeat on UNAVAILABLE, which would find nobody.
    raw = grpc.aio.insecure_channel(f"127.0.0.1:{broker.port}", options=[("grpc.enable_retries", 0)])
    async with raw:
        waits = asyncio.ensure_future(
            budget_service_pb2_grpc.BudgetServiceStub(raw).Acquire(acquire(call("u2", "slow-model")))
        )
        await eventually(lambda: waiting(broker) == 1)
        await broker.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waits
    refusal = errors.from_rpc_error(caught.value)
    assert refusal is not None
    assert refusal.reason is Reason.SHUTTING_DOWN
    assert refusal.retry_after is not None


async def test_apply_config_replaces_everything_and_reports_findings(
    broker: RunningBroker, channel: grpc.aio.Channel
) -> None:
    good = {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": "pushed"},
        "spec": {
            "provider": "OpenAI",
            "endpoint": "https://api.openai.com/v1",
            "models": ["pushed-model"],
            "limits": [{"resource": "Requests", "limit": 5, "window": "1m"}],
        },
    }
    bad = {**good, "metadata": {"name": "bad"}, "spec": {**good["spec"], "modelz": []}}  # type: ignore[dict-item]
    async with SessionClient(broker.port) as client:
        response = await config_service_pb2_grpc.ConfigServiceStub(channel).ApplyConfig(
            config_service_pb2.ApplyConfigRequest(
                documents=[
                    config_service_pb2.Document(source="good", json=json.dumps(good)),
                    config_service_pb2.Document(source="bad", json=json.dumps(bad)),
                    config_service_pb2.Document(source="broken", json="{"),
                ]
            )
        )
        assert set(broker.runtime.snapshot.pools) == {"pushed"}
        assert response.config_version == broker.runtime.snapshot.version
        found = {(f.source, f.field): f.message for f in response.findings}
        assert "did you mean models?" in found["bad", "spec.modelz"]
        assert "not valid JSON" in found["broken", ""]
        await client.until(lambda: client.version == response.config_version)
        await client.send(acquires=[call("c1", "pushed-model")])
        assert (await client.grant("c1")).pool == "pushed"


async def test_introspection_sees_pools_tenants_and_the_queue(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = introspection_service_pb2_grpc.IntrospectionServiceStub(channel)
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call(f"c{i}", "slow-model") for i in range(6)])
        await client.grant("c0")
        await eventually(lambda: waiting(broker) == 5)
        pools = await stub.ListPools(introspection_service_pb2.ListPoolsRequest(pool="slow"))
        assert [pool.name for pool in pools.pools] == ["slow"]
        assert {tier.name: tier.waiting for tier in pools.pools[0].tiers}["Premium"] == 5
        assert pools.pools[0].in_flight == 1
        tenants = await stub.ListTenants(introspection_service_pb2.ListTenantsRequest(tenant="acme/acme"))
        assert [(t.name, t.waiting, t.in_flight) for t in tenants.tenants] == [("acme/acme", 5, 1)]
        first = await stub.ListQueue(introspection_service_pb2.ListQueueRequest(pool="slow", page_size=3))
        rest = await stub.ListQueue(
            introspection_service_pb2.ListQueueRequest(pool="slow", page_size=3, page_token=first.next_page_token)
        )
        ids = [c.call_id for c in [*first.calls, *rest.calls]]
        assert sorted(ids) == ["c1", "c2", "c3", "c4", "c5"]
        assert rest.next_page_token == ""


async def test_introspection_names_what_is_wrong(channel: grpc.aio.Channel) -> None:
    stub = introspection_service_pb2_grpc.IntrospectionServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError, match="'nope' is no pool; pools are gpt-4o, slow"):
        await stub.ListQueue(introspection_service_pb2.ListQueueRequest(pool="nope"))
    with pytest.raises(grpc.aio.AioRpcError, match="page_size: -1 is negative"):
        await stub.ListTenants(introspection_service_pb2.ListTenantsRequest(page_size=-1))
    with pytest.raises(grpc.aio.AioRpcError, match="page_token: is none"):
        await stub.ListTenants(introspection_service_pb2.ListTenantsRequest(page_token="xyz"))


async def test_decisions_can_be_watched(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = introspection_service_pb2_grpc.IntrospectionServiceStub(channel)
    watch = stub.WatchDecisions(introspection_service_pb2.WatchDecisionsRequest(pool="gpt-4o"))
    await watch.initial_metadata()
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("elsewhere", "slow-model"), call("c1")])
        response = await asyncio.wait_for(anext(aiter(watch)), 5)
    assert [(d.call_id, d.reason, d.tenant) for d in response.decisions] == [("c1", "room", "acme/acme")]
    assert response.missed == 0
    watch.cancel()


async def test_health_is_served(channel: grpc.aio.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="sluicegate.v1.BudgetService")
    response = await health_pb2_grpc.HealthStub(channel).Check(request)  # type: ignore[attr-defined]
    assert response.status == health_pb2.HealthCheckResponse.SERVING
