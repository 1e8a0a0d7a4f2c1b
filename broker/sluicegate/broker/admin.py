# SPDX-License-Identifier: Apache-2.0
"""The admin server: health for the kubelet, metrics for Prometheus, state for people.

Where callers of the broker must prove themselves, state is told on loopback only, which `kubectl port-forward` is.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import choose_encoder

from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.units import MeterKey
from sluicegate.broker.metrics import Metrics
from sluicegate.broker.runtime import Runtime

_QUEUE = 1_000


class Admin:
    """Serves on `host`:`port` between `start` and `stop`. `ready` says why the broker is not ready; empty: it is.

    `guarded`: what tenants have waiting is told on loopback only.
    """

    def __init__(
        self,
        runtime: Runtime,
        configuration: Configuration,
        metrics: Metrics,
        ready: Callable[[], str],
        *,
        guarded: bool = False,
    ) -> None:
        self.port = 0
        self._runtime = runtime
        self._configuration = configuration
        self._metrics = metrics
        self._ready = ready
        app = web.Application(middlewares=[_local] if guarded else [])
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
                web.get("/debug/pools", self._pools),
                web.get("/debug/queues", self._queues),
                web.get("/debug/tenants", self._tenants),
                web.get("/debug/findings", self._findings),
                web.get("/debug/config", self._config),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self, host: str, port: int) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        why_not = self._ready()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": content_type})

    async def _pools(self, _: web.Request) -> web.Response:
        return _json(self._runtime.dispatcher.pool_status(self._runtime.clock()))

    async def _queues(self, _: web.Request) -> web.Response:
        now = self._runtime.clock()
        pools = sorted(self._runtime.snapshot.pools)
        return _json({pool: self._runtime.dispatcher.queue(pool, now, _QUEUE) for pool in pools})

    async def _tenants(self, _: web.Request) -> web.Response:
        return _json(self._runtime.dispatcher.tenant_status(self._runtime.clock()))

    async def _findings(self, _: web.Request) -> web.Response:
        return _json(self._configuration.compiled.findings)

    async def _config(self, _: web.Request) -> web.Response:
        return _json(self._runtime.snapshot)


@web.middleware
async def _local(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path.startswith("/debug/") and not _is_loopback(request.remote or ""):
        return web.Response(status=403, text="told on loopback only: kubectl port-forward to this pod\n")
    return await handler(request)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _json(value: Any) -> web.Response:
    text = json.dumps(_plain(value), indent=2, allow_nan=False, default=str)
    return web.Response(text=f"{text}\n", content_type="application/json")


def _plain(value: Any) -> Any:
    """Dataclasses to JSON; infinite waits become null, meters their names."""
    if isinstance(value, MeterKey):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    return value
