# SPDX-License-Identifier: Apache-2.0
"""A call belongs to who asked for it: no other session or proven workload gets its grant or ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from sluicegate.broker.core.config import LimitConfig, PoolConfig, Snapshot
from sluicegate.broker.identity import CALLER, Principal
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.server import RunningBroker
from sluicegate.broker.service import BudgetService
from sluicegate.broker.sessions import Sessions
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc, types_pb2
from sluicegate.wire import errors
from sluicegate.wire.words import Provider, Reason, Resource
from tests.broker.client import SessionClient, call, settled
from tests.broker.test_session import eventually, in_flight


async def test_another_sessions_call_id_is_refused_by_name(broker: RunningBroker) -> None:
    async with SessionClient(broker.port, "s1") as first, SessionClient(broker.port, "s2") as second:
        await first.send(acquires=[call("c1")])
        await first.grant("c1")
        await second.send(acquires=[call("c1")])
        reject = await second.rejection("c1")
        assert reject.reason == Reason.INVALID_REQUEST
        assert "call_id: 'c1' is another session's call" in reject.message
        await second.send(settlements=[settled("c1")], acquires=[call("c2")])
        await second.grant("c2")
        assert in_flight(broker) == 2
        await first.send(settlements=[settled("c1")])
        await eventually(lambda: in_flight(broker) == 1)


async def test_a_unary_caller_does_not_get_a_sessions_call(broker: RunningBroker, channel: grpc.aio.Channel) -> None:
    stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        await client.grant("c1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Acquire(pb.AcquireRequest(call=call("c1")), timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        refusal = errors.from_rpc_error(caught.value)
        assert refusal is not None
        assert "call_id" in refusal.message
        answer = await stub.Settle(pb.SettleRequest(settlement=settled("c1")), timeout=5)
        assert not answer.settled
        assert in_flight(broker) == 1


class Proven(grpc.aio.ServerInterceptor):
    """Believes the metadata about who calls, in the place of the gate that asks the API server."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        metadata = dict(handler_call_details.invocation_metadata)
        CALLER.set(Principal(*str(metadata["caller"]).split("/")))
        return await continuation(handler_call_details)


@pytest.fixture
async def proven() -> AsyncIterator[tuple[Runtime, Any]]:
    limits = (LimitConfig(Resource.REQUESTS, 60.0, 60.0),)
    pool = PoolConfig("gpt", Provider.OPENAI, "https://x", ("gpt-4o",), limits)
    runtime = Runtime(Snapshot("v", {"gpt": pool}, {}))
    server = grpc.aio.server(interceptors=[Proven()])
    service = BudgetService(runtime, Sessions(runtime, 30.0), lambda _: None)
    budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield runtime, budget_service_pb2_grpc.BudgetServiceStub(channel)
    runtime.stop()
    await server.stop(0)


ALICE, BOB = (("caller", "acme/alice"),), (("caller", "acme/bob"),)


async def test_a_proven_workload_cannot_touch_anothers_unary_calls(
    proven: tuple[Runtime, Any],
) -> None:
    runtime, stub = proven

    def held() -> tuple[int, int]:
        status = runtime.dispatcher.pool_status(runtime.clock())[0]
        return status.in_flight, sum(tier.waiting for tier in status.tiers)

    async def acquire(name: str, who: tuple[tuple[str, str], ...]) -> Any:
        return await stub.Acquire(pb.AcquireRequest(call=call(name)), metadata=who, timeout=5)

    granted = await acquire("u1", ALICE)
    assert (await acquire("u1", ALICE)).grant == granted.grant
    waits = asyncio.ensure_future(acquire("u2", ALICE))
    await eventually(lambda: held() == (1, 1))
    for name in ("u1", "u2"):
        with pytest.raises(grpc.aio.AioRpcError, match="call_id"):
            await acquire(name, BOB)
    readings = [types_pb2.MeterReading(resource=types_pb2.RESOURCE_REQUESTS, limit=60, remaining_low=60)]
    stolen = pb.SettleRequest(settlement=settled("u1"), observation=pb.Observation(call_id="u1", readings=readings))
    assert not (await stub.Settle(stolen, metadata=BOB, timeout=5)).settled
    assert held() == (1, 1)
    assert not waits.done()
    assert (await stub.Settle(stolen, metadata=ALICE, timeout=5)).settled
    assert (await waits).grant.call_id == "u2"


async def test_a_session_id_is_its_workloads_own(
    proven: tuple[Runtime, Any],
) -> None:
    runtime, stub = proven
    streams = []
    for who in (ALICE, BOB):
        stream = stub.Session(metadata=who)
        await stream.write(pb.SessionRequest(hello=pb.Hello(session_id="same", namespace="acme", pod="p", version="1")))
        await asyncio.wait_for(stream.read(), 5)
        streams.append(stream)
    alice, bob = streams
    await alice.write(pb.SessionRequest(acquires=[call("c1")]))
    while not (await asyncio.wait_for(alice.read(), 5)).grants:
        pass
    await bob.write(pb.SessionRequest(settlements=[settled("c1")]))
    await eventually(lambda: runtime.dispatcher.strays == 1)
    assert runtime.dispatcher.pool_status(runtime.clock())[0].in_flight == 1
    for stream in streams:
        stream.cancel()
