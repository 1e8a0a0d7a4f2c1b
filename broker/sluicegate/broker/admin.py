# SPDX-License-Identifier: Apache-2.0
"""The admin server: health for the kubelet, metrics for Prometheus, state for people.

Where callers of the broker must prove themselves, state is told on loopback only, which `kubectl port-forward` is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.units import MeterKey
from sluicegate.broker.metrics import Metrics
from sluicegate.broker.runtime import Runtime

_QUEUE = 1_000
_SLICE, _PAUSE, _PAUSES = 250, 0.01, 2.0
"""Samples of which text is made at once, some 2 ms; seconds until the next, in which calls go on; seconds until calls
have but one turn of the event loop in between."""


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

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=await page(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

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


class _Slice(Collector):
    """Some of a family's samples."""

    def __init__(self, family: Metric, start: int) -> None:
        self._part = Metric(family.name, family.documentation, family.type, family.unit)
        self._part.samples = family.samples[start : start + _SLICE]

    def collect(self) -> Iterable[Metric]:
        return (self._part,)


async def page(registry: CollectorRegistry) -> bytes:
    """What `registry` has, whose families have no `_created` samples, made slice by slice: calls go on in between.

    A family may come in pieces, one after the other. With 200 pools and 1,000 parties that is a quarter of a second of
    CPU. Pauses end after `_PAUSES` seconds, so that a page of 10,000 parties comes within a scrape's time as well.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _PAUSES
    parts: list[bytes] = []
    name, since = "", 0
    for family in registry.collect():
        for start in range(0, max(1, len(family.samples)), _SLICE):
            text = generate_latest(_Slice(family, start))
            parts.append(text.split(b"\n", 2)[2] if family.name == name else text)  # HELP and TYPE stand once
            name = family.name
            since += min(_SLICE, len(family.samples) - start)
            if since >= _SLICE:
                since = 0
                await asyncio.sleep(_PAUSE if clock() < until else 0)
    return b"".join(parts)


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
