# SPDX-License-Identifier: Apache-2.0
"""`sluicegate-operator`: kopf watches, one task reconciles. One replica; the broker goes on without it.

kopf's handlers do nothing that can fail: they mark that something changed. It writes nothing to the resources, needs
no finalizer, and brings no admission webhook (the injector is a process of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import kopf
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sluicegate.kube.client import Access, KubeError, access, connect
from sluicegate.operator.delivery import Broker
from sluicegate.operator.reconcile import Metrics, Reconciler
from sluicegate.operator.settings import Settings, read_settings
from sluicegate.wire import logs
from sluicegate.wire.environment import SettingsError

_GROUP, _VERSION = "sluicegate.dev", "v1alpha1"


class Operator:
    """The tasks beside kopf, in kopf's loop. `start` and `stop` are its startup and cleanup handlers."""

    def __init__(self, settings: Settings, reach: Access) -> None:
        self.admin_port = 0
        self._settings = settings
        self._access = reach
        self._stack = contextlib.AsyncExitStack()
        self._reconciler: Reconciler | None = None
        self._metrics = Metrics()

    async def start(self, **_: Any) -> None:
        """Connects and begins to reconcile. Raises KubeError, OSError."""
        settings = self._settings
        client = await self._stack.enter_async_context(connect(self._access))
        broker = Broker(settings, client, self._returned)
        self._stack.push_async_callback(broker.close)
        self._reconciler = Reconciler(client, broker.apply, settings.snapshot, self._metrics)
        task = asyncio.create_task(self._reconciler.run(settings.debounce, settings.resync))
        self._stack.push_async_callback(_ended, task)
        await self._serve_admin()

    async def stop(self, **_: Any) -> None:
        """Ends all."""
        await self._stack.aclose()

    async def changed(self, **_: Any) -> None:
        """kopf saw an event."""
        if self._reconciler is not None:
            self._reconciler.mark()

    async def _returned(self) -> None:
        await self.changed()

    async def _serve_admin(self) -> None:
        app = web.Application()
        app.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._page)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._settings.admin_host, self._settings.admin_port).start()
        self.admin_port = runner.addresses[0][1]

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._reconciler is None or not self._reconciler.ready:
            return web.Response(status=503, text="the broker has not taken a configuration yet\n")
        return web.Response(text="ok\n")

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def registry_of(operator: Operator, reach: Access) -> kopf.OperatorRegistry:
    """What kopf watches, and how it gets in."""
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        token = reach.token_file.read_text().strip() if reach.token_file else reach.token
        return kopf.ConnectionInfo(
            server=reach.url,
            ca_path=str(reach.ca) if reach.ca else None,
            scheme="Bearer" if token else None,
            token=token or None,
            certificate_path=str(reach.certificate) if reach.certificate else None,
            private_key_path=str(reach.key) if reach.key else None,
        )

    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.peering.standalone = True
        settings.posting.enabled = False
        settings.persistence.finalizer = f"{_GROUP}/finalizer"
        settings.queueing.worker_limit = 20
        settings.networking.request_timeout = 60.0

    kopf.on.login(registry=registry)(login)
    kopf.on.startup(registry=registry, id="configure")(configure)
    kopf.on.startup(registry=registry, id="start")(operator.start)
    kopf.on.cleanup(registry=registry, id="stop")(operator.stop)
    kopf.on.event(_GROUP, _VERSION, "tenantpolicies", registry=registry, id="policy")(operator.changed)
    kopf.on.event(_GROUP, _VERSION, "providerpools", registry=registry, id="pool")(operator.changed)
    kopf.on.event("", "v1", "namespaces", registry=registry, id="namespace")(operator.changed)
    return registry


def quieten() -> None:
    """kopf says of every event that its handler succeeded, with all of its settings in the line."""

    def without_settings(record: logging.LogRecord) -> bool:
        record.__dict__.pop("settings", None)
        return True

    objects = logging.getLogger("kopf.objects")
    objects.setLevel(logging.WARNING)
    objects.addFilter(without_settings)


def run(settings: Settings, environment: Mapping[str, str]) -> None:
    """Runs until a signal asks to stop. Raises KubeError."""
    reach = access(environment, settings.kubeconfig)
    operator = Operator(settings, reach)
    kopf.run(registry=registry_of(operator, reach), clusterwide=True, standalone=True)


def main() -> None:
    """Entry point. Exits 2 on wrong settings, 1 when it cannot run."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"sluicegate-operator: {error}\n")
        raise SystemExit(2) from None
    logs.configure(settings.log_level)
    quieten()
    try:
        run(settings, os.environ)
    except (KubeError, OSError) as error:
        sys.stderr.write(f"sluicegate-operator: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
