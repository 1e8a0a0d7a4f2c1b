# SPDX-License-Identifier: Apache-2.0
"""The admin port: /livez, /readyz, /metrics and /status (JSON). Nothing here holds a key or a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sluicegate.sidecar.broker_client import BrokerClient
from sluicegate.sidecar.metrics import Metrics


class Admin:
    """The handler of the admin server. `stopping` turns readiness off."""

    def __init__(self, metrics: Metrics, broker: BrokerClient, in_flight: Callable[[], int]) -> None:
        self._metrics = metrics
        self._broker = broker
        self._in_flight = in_flight
        self.stopping = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET and HEAD only."""
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"allow": "GET, HEAD"}, text="allowed: GET, HEAD\n")
        match request.path:
            case "/livez":
                return web.Response(text="ok\n")
            case "/readyz":
                return self._ready()
            case "/metrics":
                return web.Response(
                    body=generate_latest(self._metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
                )
            case "/status":
                return web.Response(body=orjson.dumps(self._status()), content_type="application/json")
            case _:
                return web.Response(status=404, text="allowed: /livez, /readyz, /metrics, /status\n")

    def _ready(self) -> web.Response:
        """Ready when calls are taken, whatever the broker does: its policy for its absence holds, whereas a pod that is
        not ready gets no traffic at all."""
        if self.stopping:
            return web.Response(status=503, text="stopping\n")
        return web.Response(text="ok\n")

    def _status(self) -> dict[str, Any]:
        routes = self._broker.routes
        return {
            "broker": {"connected": self._broker.connected, "epoch": self._broker.epoch},
            "config_version": routes.version,
            "on_broker_unavailable": routes.on_unavailable.value,
            "in_flight": self._in_flight(),
            "pools": [
                {"name": r.pool, "provider": r.provider.value, "endpoint": r.endpoint, "models": list(r.models)}
                for r in routes.pools.values()
            ],
        }
