# SPDX-License-Identifier: Apache-2.0
"""The sidecar's connection to the broker, against gRPC's own server: keepalive, TLS, who is gone and who refuses."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import socket
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
from sluicegate.sidecar.link import SessionStream, _Channel, connect
from sluicegate.sidecar.metrics import Metrics
from sluicegate.sidecar.settings import SettingsError, read_settings
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


class Dropping(ScriptedBroker):
    async def Session(self, request_iterator, context):  # noqa: N802 - gRPC's name
        await anext(request_iterator)
        yield pb.SessionResponse()
        await anext(request_iterator)
        await context.abort(grpc.StatusCode.ABORTED, "another stream took its place")


class Deaf(ScriptedBroker):
    async def Session(self, request_iterator, context):  # noqa: N802 - gRPC's name
        yield pb.SessionResponse()
        await asyncio.sleep(60)


class Parting(ScriptedBroker):
    async def Session(self, request_iterator, context):  # noqa: N802 - gRPC's name
        await anext(request_iterator)
        for number in range(20):
            yield pb.SessionResponse(config_version=f"{number}")


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
async def tunnel(port: int, *, deaf: bool = False) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A way to `port` that carries all until it is told to be silent: it then gives nothing; `deaf`: takes none."""
    silent = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(4_096):
                if not silent.is_set():
                    target.write(data)
                elif deaf:
                    await asyncio.sleep(60)
        finally:
            target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        tasks.update(asyncio.create_task(carry(*ends)) for ends in ((reader, back), (there, writer)))

    listening = socket.create_server(("127.0.0.1", 0))
    if deaf:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    server = await asyncio.start_server(accept, sock=listening, limit=4_096)
    try:
        yield listening.getsockname()[1], silent.set
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


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux notices this one")
async def test_a_broker_that_takes_nothing_is_noticed_while_much_waits_to_be_sent():
    batch = pb.SessionRequest(acquires=[pb.CallRequest(call_id="a", model="m" * 60_000)])
    async with (
        serving(ScriptedBroker([])) as port,
        tunnel(port, deaf=True) as (through, fall_silent),
        asyncio.timeout(10),
        connect(f"127.0.0.1:{through}", "", {}, SHORT) as (stream, channel),
    ):
        await welcomed(stream)
        assert isinstance(channel, _Channel)
        assert channel._made is not None
        transport, _ = channel._made
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        fall_silent()
        await stream.send_message(batch)
        assert transport.get_write_buffer_size() > 0
        assert await stream.recv_message() is None


async def test_what_the_broker_said_before_it_ended_is_heard():
    async with serving(Parting([])) as port, connect(f"127.0.0.1:{port}", "", {}) as (stream, channel):
        heard = [(await welcomed(stream)).config_version]
        await asyncio.sleep(0.3)  # the end is here, and nothing has been read
        while (message := await stream.recv_message()) is not None:
            heard.append(message.config_version)
        assert heard == [f"{number}" for number in range(20)]
        channel.close()


async def test_a_broker_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture):
    metrics = Metrics()
    client = BrokerClient("127.0.0.1:1", HELLO.hello, metrics)
    await client.start()
    await eventually(lambda: metrics.session_failures("unavailable").value >= 3)
    await client.stop()
    told = [record for record in caplog.records if record.name == "sluicegate.sidecar.broker_client"]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "127.0.0.1:1: unavailable" in told[0].message


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
    ca.write_bytes("# Behörde\n".encode() + first.bundle)
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


async def test_what_was_said_before_the_stop_arrives():
    broker = ScriptedBroker([])
    said = [f"{number}" for number in range(8_000)]
    async with serving(broker) as port:
        client = BrokerClient(f"127.0.0.1:{port}", HELLO.hello, Metrics())
        await client.start()
        assert await client.ready(5)
        for call in said:
            client.settle(pb.Settlement(call_id=call, attempt=1))
        await client.stop(10)
        assert [settlement.call_id for settlement in broker.settlements] == said


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Dropping, "no session with the broker at .*: aborted"),
        (Deaf, "the broker did not end the session within 0.3 s; what was said last may be lost"),
    ],
)
async def test_a_stop_that_may_have_lost_something_says_so(
    ending: type[ScriptedBroker], told: str, caplog: pytest.LogCaptureFixture
):
    async with serving(ending([])) as port:
        client = BrokerClient(f"127.0.0.1:{port}", HELLO.hello, Metrics())
        await client.start()
        await eventually(lambda: client.connected)
        client.settle(pb.Settlement(call_id="c", attempt=1))
        async with asyncio.timeout(3):
            await client.stop(0.3)
    logged = [record.message for record in caplog.records if record.name == "sluicegate.sidecar.broker_client"]
    assert len(logged) == 1
    assert re.search(told, logged[0])


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


@pytest.mark.parametrize("address", ["broker", "broker:", ":15051", "broker:0", "broker:65536", "dns:///broker:15051"])
def test_an_address_that_is_none_is_refused_at_the_start(address: str):
    with pytest.raises(SettingsError, match=r"SLUICEGATE_SIDECAR_BROKER.*host:port of the broker"):
        read_settings({"SLUICEGATE_SIDECAR_BROKER": address})
    assert read_settings({"SLUICEGATE_SIDECAR_BROKER": "[fd00::1]:15051"}).broker == "[fd00::1]:15051"
