# SPDX-License-Identifier: Apache-2.0
"""A whole broker: its parts, in the order in which they start and stop.

Stopping: not ready any more; sessions are asked to reconnect later and unary waiters to ask again; the server ends
its calls; the last decisions are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluicegate.broker.admin import Admin
from sluicegate.broker.cluster import enter
from sluicegate.broker.config_watch import ConfigWatch
from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.config import EMPTY
from sluicegate.broker.decisions import DecisionLog
from sluicegate.broker.failures import FailureLog
from sluicegate.broker.introspection import ConfigService, IntrospectionService
from sluicegate.broker.metrics import Metrics
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.service import BudgetService
from sluicegate.broker.sessions import Sessions
from sluicegate.broker.settings import Settings
from sluicegate.v1 import budget_service_pb2_grpc, config_service_pb2_grpc, introspection_service_pb2_grpc
from sluicegate.wire.channel import server_options

log = logging.getLogger(__name__)

SERVICES = ("", "sluicegate.v1.BudgetService", "sluicegate.v1.ConfigService", "sluicegate.v1.IntrospectionService")
_RECONNECT_AFTER = (0.5, 1.5)


@dataclass(slots=True)
class RunningBroker:
    """A broker that serves. `configuration` and `runtime` are for whoever embeds it."""

    port: int
    admin_port: int
    runtime: Runtime
    configuration: Configuration
    _settings: Settings
    _server: grpc.aio.Server
    _health: health.aio.HealthServicer
    _admin: Admin
    _sessions: Sessions
    _service: BudgetService
    _decisions: DecisionLog
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    _serving: list[bool] = field(default_factory=list[bool])
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def stop(self) -> None:
        """Stop clean, within the settings' drain time and a little. A second call does nothing."""
        if not self._serving:
            return
        self._serving.clear()
        await self._health.enter_graceful_shutdown()
        self._service.stop()
        await self._sessions.dismiss(random.uniform(*_RECONNECT_AFTER), self._settings.drain)
        self.runtime.stop()
        await self._server.stop(min(1.0, self._settings.drain))
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._decisions.flush()
        await self._admin.stop()
        await self._stack.aclose()
        log.info("stopped")


async def start_broker(settings: Settings) -> RunningBroker:
    """Start a broker in the running event loop; it serves when this returns.

    Raises OSError where a port is taken, the decision log cannot be written, or the cluster does not give what the
    settings ask of it. Bad documents are findings, no errors.
    """
    async with contextlib.AsyncExitStack() as stack:
        broker = await _start(settings, stack)
        broker._stack = stack.pop_all()
        return broker


async def _start(settings: Settings, stack: contextlib.AsyncExitStack) -> RunningBroker:
    decisions = DecisionLog(settings.decisions)
    runtime = Runtime(EMPTY, trust_claims=settings.trust_claims)
    configuration = Configuration(runtime)
    sessions = Sessions(runtime, settings.session_grace)
    metrics = Metrics(runtime, sessions, configuration, decisions, settings.max_tenant_labels)
    runtime.add_witness(metrics)
    runtime.add_witness(decisions)
    runtime.add_witness(FailureLog())
    configuration.on_applied.append(sessions.configured)
    watch = None
    if settings.config is not None:
        watch = ConfigWatch(settings.config, configuration)
        await watch.load()
    cluster = await enter(settings, configuration, stack)
    serving: list[bool] = []

    def why_not_ready() -> str:
        if not serving:
            return "stopping"
        return "" if configuration.applications else "no configuration yet"

    service = BudgetService(runtime, sessions, metrics.absurd)
    health_service = health.aio.HealthServicer()
    server = grpc.aio.server(options=server_options(), interceptors=cluster.gates)
    budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(service, server)
    config_service_pb2_grpc.add_ConfigServiceServicer_to_server(ConfigService(configuration), server)
    introspection_service_pb2_grpc.add_IntrospectionServiceServicer_to_server(
        IntrospectionService(runtime, decisions), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    address = f"{settings.host}:{settings.port}"
    try:
        if cluster.credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, cluster.credentials)
    except RuntimeError as error:
        raise OSError(f"--port: cannot serve on {address}: is another broker there?") from error
    admin = Admin(runtime, configuration, metrics, why_not_ready, guarded=bool(settings.audience))
    try:
        await admin.start(settings.admin_host, settings.admin_port)
    except OSError:
        await admin.stop()
        await server.stop(0)
        raise
    await server.start()
    for name in SERVICES:
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    serving.append(True)
    tasks = [asyncio.create_task(decisions.run()), asyncio.create_task(sessions.keep_told())]
    if watch is not None:
        tasks.append(asyncio.create_task(watch.run()))
    log.info("serving", extra={"port": port, "admin_port": admin.port})
    return RunningBroker(
        port,
        admin.port,
        runtime,
        configuration,
        settings,
        server,
        health_service,
        admin,
        sessions,
        service,
        decisions,
        tasks,
        serving,
    )
