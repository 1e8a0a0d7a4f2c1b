# SPDX-License-Identifier: Apache-2.0
"""ConfigService and IntrospectionService: what is configured, what the broker knows and does."""

from __future__ import annotations

import asyncio

from sluicegate.broker import answers
from sluicegate.broker.configuration import Configuration
from sluicegate.broker.decisions import DecisionLog
from sluicegate.broker.requests import MAX_NAME
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.service import Context, refuse
from sluicegate.v1 import config_service_pb2 as config_pb
from sluicegate.v1 import config_service_pb2_grpc, introspection_service_pb2_grpc
from sluicegate.v1 import introspection_service_pb2 as pb
from sluicegate.wire import errors
from sluicegate.wire.errors import Refusal, Violation
from sluicegate.wire.version import VERSION
from sluicegate.wire.words import Reason

PAGE = 100
MAX_PAGE = 1_000
MAX_OFFSET = 200_000
MAX_DOCUMENTS = 20_000
MAX_WATCHERS = 100


class ConfigService(config_service_pb2_grpc.ConfigServiceServicer):
    """Replaces the documents as a whole."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    async def ApplyConfig(  # noqa: N802
        self,
        request: config_pb.ApplyConfigRequest,
        context: Context,
    ) -> config_pb.ApplyConfigResponse:
        if len(request.documents) > MAX_DOCUMENTS:
            description = f"{len(request.documents)} documents; at most {MAX_DOCUMENTS} are allowed"
            await refuse(context, errors.invalid([Violation("documents", description)]))
        documents = [
            (document.source[: 2 * MAX_NAME] or f"documents[{index}]", document.json)
            for index, document in enumerate(request.documents)
        ]
        compiled = self._configuration.apply_json(documents)
        await asyncio.sleep(0)  # the core takes it over at the end of this turn
        return config_pb.ApplyConfigResponse(
            config_version=compiled.snapshot.version,
            findings=[answers.finding(finding) for finding in compiled.findings],
        )


class IntrospectionService(introspection_service_pb2_grpc.IntrospectionServiceServicer):
    """Views; they change nothing."""

    def __init__(self, runtime: Runtime, decisions: DecisionLog) -> None:
        self._runtime = runtime
        self._decisions = decisions
        self._watchers = 0

    async def ListPools(  # noqa: N802
        self,
        request: pb.ListPoolsRequest,
        context: Context,
    ) -> pb.ListPoolsResponse:
        if request.pool:
            await self._require_pool(request.pool, context)
        statuses = self._runtime.dispatcher.pool_status(self._runtime.clock())
        return pb.ListPoolsResponse(
            pools=[answers.pool_status(s) for s in statuses if request.pool in ("", s.name)],
            config_version=self._runtime.snapshot.version,
            broker_version=VERSION,
        )

    async def ListTenants(  # noqa: N802
        self,
        request: pb.ListTenantsRequest,
        context: Context,
    ) -> pb.ListTenantsResponse:
        size, offset = await self._page(request.page_size, request.page_token, context)
        statuses = self._runtime.dispatcher.tenant_status(self._runtime.clock())
        chosen = [s for s in statuses if request.tenant in ("", s.name)]
        return pb.ListTenantsResponse(
            tenants=[answers.tenant_status(s) for s in chosen[offset : offset + size]],
            next_page_token=str(offset + size) if len(chosen) > offset + size else "",
        )

    async def ListQueue(  # noqa: N802
        self,
        request: pb.ListQueueRequest,
        context: Context,
    ) -> pb.ListQueueResponse:
        await self._require_pool(request.pool, context)
        size, offset = await self._page(request.page_size, request.page_token, context)
        calls = self._runtime.dispatcher.queue(request.pool, self._runtime.clock(), offset + size + 1)
        return pb.ListQueueResponse(
            calls=[answers.waiting_call(call) for call in calls[offset : offset + size]],
            next_page_token=str(offset + size) if len(calls) > offset + size else "",
        )

    async def WatchDecisions(  # type: ignore[override]  # noqa: N802
        self,
        request: pb.WatchDecisionsRequest,
        context: Context,
    ) -> None:
        if request.pool:
            await self._require_pool(request.pool, context)
        if self._watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} readers watch decisions already"
            await refuse(context, Refusal(Reason.BROKER_OVERLOADED, message, 10.0))
        watcher = self._decisions.watch(request.pool)
        self._watchers += 1
        try:
            await context.send_initial_metadata(())  # the reader knows that it misses nothing from now on
            while True:
                items, missed = await watcher.take()
                await context.write(
                    pb.WatchDecisionsResponse(
                        decisions=[answers.decision(item, at) for item, at in items], missed=missed
                    )
                )
        finally:
            self._watchers -= 1
            self._decisions.unwatch(watcher)

    async def _require_pool(self, pool: str, context: Context) -> None:
        pools = self._runtime.snapshot.pools
        if pool not in pools:
            message = f"pool: {pool[:MAX_NAME]!r} is no pool; pools are {', '.join(sorted(pools)) or 'none'}"
            await refuse(context, Refusal(Reason.UNKNOWN_POOL, message))

    @staticmethod
    async def _page(size: int, token: str, context: Context) -> tuple[int, int]:
        violations: list[Violation] = []
        if size < 0:
            violations.append(
                Violation("page_size", f"{size} is negative; 0 means {PAGE}, at most {MAX_PAGE} is served")
            )
        if token and not (token.isascii() and token.isdigit() and int(token[:9]) <= MAX_OFFSET and len(token) < 9):
            violations.append(Violation("page_token", "is none that this broker gave"))
        if violations:
            await refuse(context, errors.invalid(violations))
        return min(size or PAGE, MAX_PAGE), int(token or 0)
