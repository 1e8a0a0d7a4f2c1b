# SPDX-License-Identifier: Apache-2.0
"""The keepalive pair, on a real connection with shortened numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluicegate.wire.channel import SERVER_MINIMUM, Keepalive, Options, client_options, server_options

SHORT = Keepalive(interval=0.2, timeout=1.0, minimum=0.1)
IDLE = 4.0  # seconds: gRPC sends at most one ping a second, and a server with its defaults hangs up after three


async def _idle_stream(options: Options) -> health_pb2.HealthCheckResponse:
    """What arrives on a stream that was idle for several keepalive intervals."""
    server = grpc.aio.server(options=options)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=client_options(SHORT)) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(service="x")
            )
            responses: AsyncIterator[health_pb2.HealthCheckResponse] = aiter(call)
            await anext(responses)
            await asyncio.sleep(IDLE)
            await servicer.set("x", health_pb2.HealthCheckResponse.SERVING)
            return await asyncio.wait_for(anext(responses), 5)
    finally:
        await server.stop(0)


async def test_an_idle_stream_survives_several_keepalive_periods() -> None:
    response = await _idle_stream(server_options(SHORT))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_name_in_the_guide_would_kill_it() -> None:
    wrong: Options = [
        ("grpc.http2.min_recv_ping_interval_without_data_ms" if name == SERVER_MINIMUM else name, value)
        for name, value in server_options(SHORT)
    ]
    with pytest.raises(grpc.aio.AioRpcError, match="Too many pings"):
        await _idle_stream(wrong)


async def test_a_handshake_may_take_its_time() -> None:
    server = grpc.aio.server(options=server_options())
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.0)  # as a busy machine, or a tunnel through an API server
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
            target.close()

        await asyncio.gather(carry(reader, back), carry(there, writer), return_exceptions=True)

    await server.start()
    tunnel = await asyncio.start_server(slowly, "127.0.0.1", 0)
    address = "127.0.0.1:{1}".format(*tunnel.sockets[0].getsockname())
    try:
        async with grpc.aio.insecure_channel(address, options=client_options()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)  # type: ignore[attr-defined]
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        tunnel.close()
        await server.stop(0)


def test_a_server_that_forbids_its_clients_pings_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie between 0 and the interval"):
        Keepalive(interval=5.0, minimum=10.0)
