# SPDX-License-Identifier: Apache-2.0
"""`sluicegate-sidecar`, and `start_sidecar` for whoever runs one inside another program."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from sluicegate.sidecar.admin import Admin
from sluicegate.sidecar.broker_client import BrokerClient
from sluicegate.sidecar.cache import ResponseCache
from sluicegate.sidecar.core.repeat import RefusedCalls
from sluicegate.sidecar.credentials import KeyFiles
from sluicegate.sidecar.listener import Listener
from sluicegate.sidecar.metrics import Metrics
from sluicegate.sidecar.proxy import Proxy
from sluicegate.sidecar.services import Services
from sluicegate.sidecar.settings import Settings, SettingsError, read_settings
from sluicegate.sidecar.tokenizer import Tokenizer
from sluicegate.sidecar.upstream import HttpTransport, Timeouts
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire.version import VERSION

if TYPE_CHECKING:
    from sluicegate.sidecar.tracing import Tracing

log = logging.getLogger(__name__)
_MAX_HEADER = 16_384
_COLLECT = (2_000, 10, 10)
"""Python 3.13's own. The 700 before it are a few calls in flight: a twentieth of a busy sidecar's time."""


@dataclass(slots=True)
class RunningSidecar:
    """A sidecar that serves. `port` and `admin_port` are the ones really bound."""

    port: int
    admin_port: int
    metrics: Metrics
    broker: BrokerClient
    _settings: Settings
    _proxy_runner: web.ServerRunner
    _admin_runner: web.ServerRunner
    _admin: Admin
    _transport: HttpTransport
    _tokenizer: Tokenizer
    _tracing: Tracing | None

    async def stop(self) -> None:
        """Stops accepting, lets what is in flight end within the grace, settles or cancels the rest."""
        self._admin.stopping = True
        await self._proxy_runner.cleanup()
        await self.broker.stop()
        await self._transport.close()
        await self._admin_runner.cleanup()
        self._tokenizer.close()
        if self._tracing is not None:
            await self._tracing.stop()


async def start_sidecar(settings: Settings, tracing: Tracing | None = None) -> RunningSidecar:
    """Serves on the ports of `settings` (0: any free one). `tracing`: another than they ask for; it is stopped with the
    sidecar. Raises OSError when a port is taken."""
    if tracing is None and settings.tracing:
        from sluicegate.sidecar.tracing import Tracing

        try:
            tracing = Tracing(settings.namespace, settings.pod, VERSION)
        except ValueError as problem:  # calls go on
            log.error("no traces: OpenTelemetry refuses its environment (OTEL_*): %s", problem)
    metrics = Metrics()
    credentials = KeyFiles(settings.credentials_dir, settings.credentials)
    hello = pb.Hello(
        session_id=uuid.uuid4().hex,
        namespace=settings.namespace,
        service_account=settings.service_account,
        pod=settings.pod,
        authenticated_pools=sorted(credentials),
        version=VERSION,
    )
    broker = BrokerClient(
        settings.broker,
        hello,
        metrics,
        ca=settings.broker_ca,
        ca_pem=settings.broker_ca_pem,
        token_file=settings.token_file,
        patience=settings.broker_patience,
        max_pending=settings.max_pending,
    )
    timeouts = Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout)
    transport = HttpTransport(timeouts, settings.extra_ca)
    tokenizer = Tokenizer()
    services = Services(
        broker=broker,
        transport=transport,
        metrics=metrics,
        refused=RefusedCalls(),
        cache=ResponseCache(settings.cache_bytes),
        credentials=credentials,
        tracing=tracing,
    )
    proxy = Proxy(settings, services, tokenizer)
    admin = Admin(metrics, broker, lambda: proxy.in_flight)
    server = Listener(
        proxy.handle,
        metrics,
        _MAX_HEADER,
        handler_cancellation=True,
        auto_decompress=False,
        read_bufsize=64 * 1024,
        keepalive_timeout=75.0,
        lingering_time=2.0,
    )
    proxy_runner = web.ServerRunner(server, shutdown_timeout=settings.grace)
    admin_runner = web.ServerRunner(web.Server(admin.handle, access_log=None), shutdown_timeout=1.0)
    await broker.start()
    try:
        port = await _listen(proxy_runner, settings.host, settings.port)
        admin_port = await _listen(admin_runner, settings.admin_host, settings.admin_port)
    except BaseException:
        await proxy_runner.cleanup()
        await admin_runner.cleanup()
        await broker.stop()
        await transport.close()
        tokenizer.close()
        if tracing is not None:
            await tracing.stop()
        raise
    return RunningSidecar(
        port, admin_port, metrics, broker, settings, proxy_runner, admin_runner, admin, transport, tokenizer, tracing
    )


async def _listen(runner: web.ServerRunner, host: str, port: int) -> int:
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    bound: int = runner.addresses[0][1]
    return bound


async def _serve(settings: Settings) -> None:
    sidecar = await start_sidecar(settings)
    log.info("serving on %s:%d, admin on %d", settings.host, sidecar.port, sidecar.admin_port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    log.info("stopping, %g s of grace", settings.grace)
    await sidecar.stop()


def main() -> int:
    """Runs a sidecar as the environment says. 2: the environment is wrong; 1: a port is taken."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = read_settings(os.environ)
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    if sys.version_info < (3, 13):
        gc.set_threshold(*_COLLECT)
    try:
        import uvloop

        uvloop.run(_serve(settings))
    except OSError as problem:
        sys.stderr.write(f"cannot serve: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
