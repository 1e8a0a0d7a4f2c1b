# SPDX-License-Identifier: Apache-2.0
"""The sidecar's connection to the broker, against gRPC's own server: keepalive, TLS, who is gone and who refuses."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from sluicegate.kube.certificates import Keyring, renew
from sluicegate.sidecar.broker_client import BrokerClient
from sluicegate.sidecar.link import SessionStream, connect
from sluicegate.sidecar.metrics import Metrics
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc
from sluicegate.wire.channel import MAX_BATCH, Keepalive, server_options
from tests.proxy.scripted import ScriptedBroker, eventually, granted

SHORT = Keepalive(interval=0.4, timeout=0.6, minimum=0.1)
HELLO = pb.SessionRequest(hello=pb.Hello(session_id="s"))


def ring() -> Keyring:
    return renew(None, "broker", ["localhost"], dt.datetime.now(dt.UTC))


class Refusing(ScriptedBroker):
    async def Session(self, request_iterator, context):  # noqa: N802 - gRPC's name
        await anext(request_iterator)
        yield pb.SessionResponse()
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")


@asynccontextmanager
async def serving(broker: ScriptedBroker, keys: Keyring | None = None, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=server_options(SHORT))
    budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(broker, server)
    if keys is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        pair = [(keys.served.key, keys.served.certificate)]
        bound = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials(pair))
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


@asynccontextmanager
async def tunnel(port: int) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A way to `port` that carries all until it is told to be silent, and then takes all and gives nothing."""
    silent = False
    tasks: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if not silent:
                    target.write(data)
        finally:
            target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        tasks.update(asyncio.create_task(carry(*ends)) for ends in ((reader, back), (there, writer)))

    def fall_silent() -> None:
        nonlocal silent
        silent = True

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], fall_silent
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def welcomed(stream: SessionStream) -> pb.SessionResponse:
    await stream.send_message(HELLO)
    message = await stream.recv_message()
    assert message is not None
    return message


async def until_it_ends(port: int, keys: Keyring | None = None, then: Callable[[], None] = lambda: None) -> None:
    """Opens a session, does `then`, and listens; raises what ends it."""
    roots = keys.bundle.decode() if keys else ""
    async with asyncio.timeout(10), connect(f"localhost:{port}", roots, {}, SHORT) as (stream, _):
        await welcomed(stream)
        then()
        while await stream.recv_message() is not None:
            pass
        raise StreamTerminatedError  # which gives way to the broker's word


async def test_an_idle_session_lives_through_several_keepalive_periods():
    async with serving(ScriptedBroker([])) as port, connect(f"127.0.0.1:{port}", "", {}, SHORT) as (stream, _):
        await welcomed(stream)
        await asyncio.sleep(SHORT.interval * 8)  # the server would hang up after two pings too many
        assert (await welcomed(stream)).welcome.epoch == "1"
        await stream.cancel()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_broker_that_falls_silent_is_noticed(tls: bool):
    keys = ring() if tls else None
    async with serving(ScriptedBroker([]), keys) as port, tunnel(port) as (through, fall_silent):
        began = time.monotonic()
        with pytest.raises(StreamTerminatedError):
            await until_it_ends(through, keys, fall_silent)
        assert time.monotonic() - began >= SHORT.timeout, "it was not silence that ended it"


async def test_what_the_broker_says_at_the_end_is_raised():
    async with serving(Refusing([])) as port:
        with pytest.raises(GRPCError) as refused:
            await until_it_ends(port)
    assert (refused.value.status, refused.value.message) == (Status.PERMISSION_DENIED, "not you")


async def test_another_authority_s_broker_is_not_talked_to():
    broker = ScriptedBroker([])
    async with serving(broker, ring()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await until_it_ends(port, ring())
    assert broker.hellos == []


async def test_a_batch_beyond_the_windows_of_http2_arrives_whole():
    """512 calls of 6 kB: far more than a frame and the first window hold."""
    broker = ScriptedBroker([])
    batch = pb.SessionRequest(acquires=[pb.CallRequest(call_id=f"{n}", model="m" * 6_000) for n in range(MAX_BATCH)])
    async with serving(broker) as port, connect(f"127.0.0.1:{port}", "", {}) as (stream, _):
        await welcomed(stream)
        await stream.send_message(batch)
        message = await stream.recv_message()
        assert message is not None
        assert len(message.grants) == MAX_BATCH
        await stream.cancel()
    assert list(broker.acquires) == list(batch.acquires)


async def test_the_file_of_authorities_is_read_anew_for_each_session(tmp_path: Path):
    first, second = ring(), ring()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(first.bundle)
    async with AsyncExitStack() as stack:
        one = AsyncExitStack()
        port = await one.enter_async_context(serving(ScriptedBroker([]), first))
        client = BrokerClient(f"localhost:{port}", HELLO.hello, Metrics(), ca=ca)
        await client.start()
        stack.push_async_callback(client.stop)
        assert await client.ready(5)
        await one.aclose()
        ca.write_bytes(second.bundle)
        await stack.enter_async_context(serving(ScriptedBroker([]), second, port))
        await eventually(lambda: client.connected)


async def test_stopping_while_the_connection_breaks_ends():
    """The loss of the connection can take the place of the cancellation."""
    for after in (0.0, 0.001, 0.003):
        async with serving(ScriptedBroker([], granted)) as port, tunnel(port) as (through, _):
            client = BrokerClient(f"127.0.0.1:{through}", HELLO.hello, Metrics())
            await client.start()
            assert await client.ready(5)
        await asyncio.sleep(after)
        async with asyncio.timeout(3):
            await client.stop()
