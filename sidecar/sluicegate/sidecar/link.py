# SPDX-License-Identifier: Apache-2.0
"""A connection to the broker with its session: gRPC by grpclib, on this event loop.

grpcio's C core, which the broker has, would do the same with threads of its own and a fifth of the sidecar's memory.
grpclib does not bound a message that it receives: the broker bounds what it sends (`wire.channel`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from grpclib.client import Channel, Handler, Stream, StreamStreamMethod
from grpclib.config import Configuration
from grpclib.protocol import EventsProcessor, H2Protocol

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire.channel import KEEPALIVE, Keepalive

if TYPE_CHECKING:
    from h2.events import StreamReset

SessionStream = Stream[pb.SessionRequest, pb.SessionResponse]

_METHOD = f"/{pb.DESCRIPTOR.services_by_name['BudgetService'].full_name}/Session"
_GOODBYE = 1.0
"""Seconds that a closing connection waits for the broker: asyncio's 30 for TLS's end would hide that it is dead."""

logging.getLogger("hpack").setLevel(logging.INFO)  # at debug it writes headers, and the token is one


class _Events(EventsProcessor):
    """Lets a session that has begun hear what came before its end: grpclib's own forgets what is not read yet."""

    def process_stream_reset(self, event: StreamReset) -> None:
        self._end()
        super().process_stream_reset(event)

    def close(self, reason: str = "Connection closed") -> None:
        self._end()
        super().close(reason)

    def _end(self) -> None:
        for stream in [stream for stream in self.streams.values() if stream.headers is not None]:
            stream.__ended__()
            stream.wrapper = None  # through which it would be cancelled


class _Protocol(H2Protocol):
    """A connection that notices a silent peer in time, and says when its socket is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.lost = asyncio.Event()
        super().connection_made(transport)
        self.processor = _Events(self.handler, self.connection)
        # grpclib closes after the keepalive's time-out, which waits for a peer that takes nothing: the kernel does not.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            within = round(self.config._keepalive_timeout * 1_000)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, within)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


class _Channel(Channel):
    _made: tuple[asyncio.Transport, _Protocol] | None = None

    async def _create_connection(self) -> H2Protocol:
        self._made = await self._loop.create_connection(
            lambda: _Protocol(Handler(), self._config, self._h2_config),
            self._host,
            self._port,
            ssl=self._ssl,
            ssl_shutdown_timeout=None if self._ssl is None else _GOODBYE,
        )
        return self._made[1]

    async def end(self) -> None:
        """Closes the connection and waits until it is; what the broker does not take in time is lost."""
        self.close()
        if self._made is None:
            return
        transport, protocol = self._made
        try:
            async with asyncio.timeout(_GOODBYE):
                await protocol.lost.wait()
        except TimeoutError:
            transport.abort()


@asynccontextmanager
async def connect(
    address: str, roots: str, metadata: Mapping[str, str], keepalive: Keepalive = KEEPALIVE
) -> AsyncGenerator[tuple[SessionStream, Channel]]:
    """A Session stream on a connection of its own, made with its first message and closed with it.

    `address` is host:port; `roots` are the authorities' certificates in PEM, none: plain text. The first message and
    its answer raise OSError where there is no connection, GRPCError or StreamTerminatedError where it ends. After them
    its end is None from `recv_message`; a StreamTerminatedError that leaves this context then gives way to a GRPCError
    with the broker's status, where it gave one. Closing the channel ends both ways.
    """
    host, _, port = address.rpartition(":")
    channel = _Channel(
        host.strip("[]"), int(port), ssl=_tls(roots) if roots else None, config=_configuration(keepalive)
    )
    try:
        method = StreamStreamMethod(channel, _METHOD, pb.SessionRequest, pb.SessionResponse)
        async with method.open(metadata=metadata) as stream:
            yield stream, channel
    finally:
        await channel.end()


def _tls(roots: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.encode("ascii", "ignore").decode())  # comments may be in any language
    context.set_alpn_protocols(["h2"])
    return context


def _configuration(keepalive: Keepalive) -> Configuration:
    return Configuration(
        _keepalive_time=keepalive.interval,
        _keepalive_timeout=keepalive.timeout,
        _keepalive_permit_without_calls=True,
        _http2_max_pings_without_data=0,  # any number
        _http2_min_sent_ping_interval_without_data=keepalive.minimum,  # at the interval itself some would be left out
    )
