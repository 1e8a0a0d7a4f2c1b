# SPDX-License-Identifier: Apache-2.0
"""The reverse proxy on loopback: every request of the app comes in here.

A POST to a path that its provider's table inspects is read, estimated, asked for and relayed (`call.py`); everything
else streams through in both directions as it is, unmanaged. aiohttp cancels a handler whose client goes away, and
that cancellation is how a waiting or running call learns of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar import messages
from sluicegate.sidecar.call import Call
from sluicegate.sidecar.core.criticality import InvalidValueError, read_criticality
from sluicegate.sidecar.core.errors import Explanation, Refusal, refuse
from sluicegate.sidecar.core.estimate import Prompt, estimate, prompt_of
from sluicegate.sidecar.core.providers import MOUNTED, ErrorShape, Place, taken_by
from sluicegate.sidecar.core.routes import Target, join, target_of
from sluicegate.sidecar.core.usage import OpaqueReader
from sluicegate.sidecar.inbound import (
    READABLE,
    BufferSpace,
    Inbound,
    RefusedError,
    backward_headers,
    credential_of,
    decompressed,
    fingerprint_of,
    model_of,
    onward_headers,
    parse_json,
    read_body,
    request_key,
    shape_of,
    streams,
    without_credentials,
)
from sluicegate.sidecar.relay import Body, ClientGoneError, Response, WholeResponse, relay
from sluicegate.sidecar.services import Services
from sluicegate.sidecar.settings import Settings
from sluicegate.sidecar.tokenizer import Tokenizer
from sluicegate.sidecar.trimming import with_least
from sluicegate.sidecar.upstream import UpstreamError, check_endpoint
from sluicegate.sidecar.websocket import pass_websocket, wants_websocket
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Outcome, Reason, camel

if TYPE_CHECKING:
    from sluicegate.sidecar.tracing import CallTrace

log = logging.getLogger(__name__)


class Proxy:
    """The handler of the low-level server."""

    def __init__(self, settings: Settings, services: Services, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._s = services
        self._tokenizer = tokenizer
        self._space = BufferSpace(settings.max_buffers)
        self.in_flight = 0
        services.metrics.in_flight.set_function(lambda: self.in_flight)
        services.metrics.buffered.set_function(lambda: self._space.used)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serves one request. A client that has gone gets an empty response that goes nowhere."""
        self.in_flight += 1
        shape = ErrorShape.OPENAI
        try:
            path, _, query = request.raw_path.partition("?")
            target = target_of(path, self._s.broker.routes)
            if target is None:
                allowed = ", ".join(table.mount for table in MOUNTED)
                text = f"{path[:200]!r} is below no base path; allowed: {allowed}, /pools/<name>"
                raise RefusedError(refuse(404, Reason.INVALID_REQUEST, text))
            place = target.table.find(target.rest) if request.method == "POST" else None
            shape = shape_of(target.table, place.api if place else None, query)
            if place is None:
                return await self._pass_through(request, target)
            return await self._inspect(request, target, place, shape)
        except RefusedError as problem:
            return await self._refuse(request, problem.refusal, shape)
        except ClientGoneError:
            return Response(status=499)
        except UpstreamError:
            return Response(status=502)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request failed inside the sidecar")
            refusal = refuse(503, Reason.SIDECAR_OVERLOADED, "the sidecar failed on this request; its log says how")
            if request.transport is None or request.writer.output_size:
                raise
            return await self._refuse(request, refusal, shape)
        finally:
            self.in_flight -= 1

    # ---- inspected calls

    async def _inspect(
        self, request: web.BaseRequest, target: Target, place: Place, shape: ErrorShape
    ) -> web.StreamResponse:
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in READABLE:
            return await self._pass_through(request, target)
        await _expect_continue(request)
        raw, taken = await read_body(request, self._settings.max_body, self._space, self._settings.body_timeout)
        try:
            if coding not in ("", "identity"):
                raw, more = await decompressed(raw, self._settings.max_body, self._space)
                taken += more
            body = parse_json(raw)
            if not place.api.model_needed and "model" not in body:
                return await self._pass_through(request, target, raw)
            inbound = self._understand(request, target, place, shape, raw, body)
            known = self._s.refused.find(inbound.key, time.monotonic(), self._s.broker.routes.version)
            if known is not None:
                raise RefusedError(known)
            return await self._serve(request, inbound)
        finally:
            self._space.give_back(taken)

    def _understand(
        self,
        request: web.BaseRequest,
        target: Target,
        place: Place,
        shape: ErrorShape,
        raw: bytes,
        body: dict[str, Any],
    ) -> Inbound:
        try:
            criticality = read_criticality(request.headers.items(), self._settings.defaults, datetime.now(UTC))
        except InvalidValueError as problem:
            raise RefusedError(refuse(400, Reason.INVALID_REQUEST, str(problem))) from None
        path, mark, query = request.raw_path.partition("?")
        query = mark + query
        model = model_of(target.table, place, body)
        self._check_pool(target, model)
        credential = credential_of(target.table, request.headers, query)
        fingerprint = fingerprint_of(credential, self._settings.fingerprint_salt)
        path += without_credentials(target.table, query)
        return Inbound(
            target=target,
            place=place,
            path=path,
            query=query,
            headers=request.headers,
            raw=raw,
            body=body,
            model=model,
            stream=streams(place.api, body),
            criticality=criticality,
            credential=credential,
            fingerprint=fingerprint,
            key=request_key(path, request.headers, raw, fingerprint),
            shape=shape,
        )

    def _check_pool(self, target: Target, model: str) -> None:
        """Raises RefusedError (404) for a model that the pool which the path names does not hold."""
        route = self._s.broker.routes.pools.get(target.pool) if target.pool else None
        if route is None or not route.models or route.holds(model):
            return
        text = f"pool {route.pool!r} does not hold model {model[:100]!r}; it holds: {', '.join(route.models)}"
        raise RefusedError(refuse(404, Reason.UNKNOWN_MODEL, text, pool=route.pool))

    async def _serve(self, request: web.BaseRequest, inbound: Inbound) -> web.StreamResponse:
        trace = None if self._s.tracing is None else self._s.tracing.call(inbound)
        if trace is None:
            return await self._call(request, inbound, None)
        status = None
        try:
            response = await self._call(request, inbound, trace)
            status = response.status
            return response
        finally:
            trace.end(status)

    async def _call(self, request: web.BaseRequest, inbound: Inbound, trace: CallTrace | None) -> web.StreamResponse:
        cost = await with_least(inbound, await self._size(inbound), self._size)
        call_id = os.urandom(16).hex()
        message = messages.call_request(
            call_id,
            inbound.target.pool or self._settings.pool,
            inbound.table.provider,
            inbound.model,
            inbound.fingerprint,
            cost,
            inbound.criticality,
            taken_by(inbound.table.provider, inbound.api.wire),
        )
        return await Call(self._s, request, inbound, call_id, cost, self._size, trace).run(message)

    async def _size(self, inbound: Inbound) -> Estimate:
        prompt = prompt_of(inbound.api, inbound.named_body, inbound.table.provider)
        return estimate(prompt, await self._count(prompt))

    async def _count(self, prompt: Prompt) -> int | None:
        if prompt.encoding is None:
            return None
        return await self._tokenizer.count(prompt.encoding, prompt.texts)

    # ---- everything else

    async def _pass_through(
        self, request: web.BaseRequest, target: Target, raw: bytes | None = None
    ) -> web.StreamResponse:
        """Sends a request on as it is. `raw`: its body, where it has been read."""
        upgrades = wants_websocket(request)
        if upgrades and self._settings.websocket == "refuse":
            text = "WebSocket upgrades are switched off on this sidecar"
            raise RefusedError(refuse(501, Reason.INVALID_REQUEST, text))
        await _expect_continue(request)
        route = self._s.broker.routes.pools.get(target.pool) if target.pool else None
        if target.pool and route is None:
            names = ", ".join(sorted(self._s.broker.routes.pools)) or "none"
            text = f"pool {target.pool[:100]!r} is not known; known: {names}"
            raise RefusedError(refuse(404, Reason.UNKNOWN_POOL, text))
        table = target.table
        endpoint = route.endpoint if route else self._s.broker.routes.endpoint_of(table)
        if not endpoint:
            text = f"no pool says where {camel(table.provider)} is: its pools have no one endpoint"
            raise RefusedError(refuse(404, Reason.UNKNOWN_POOL, text))
        problem = check_endpoint(endpoint, allow_plaintext=route is not None and route.allow_plaintext)
        if problem is not None:
            raise RefusedError(refuse(503, Reason.INVALID_REQUEST, problem))
        headers = onward_headers(request.headers, identity=False)
        body: AsyncIterator[bytes] | bytes | None = raw
        if raw is not None:
            headers.popall("content-encoding", None)
        if raw is None and request.can_read_body:
            body = request.content.iter_any()
            if request.content_length is not None:
                headers["content-length"] = str(request.content_length)
        _, mark, query = request.raw_path.partition("?")
        url = join(table, endpoint, target.rest) + mark + query
        provider = table.provider
        if upgrades:
            self._s.metrics.calls(provider, Outcome.UNMANAGED, Reason.UNMANAGED).inc()
            return await pass_websocket(request, self._s.transport, url, headers)
        try:
            upstream = await self._s.transport.send(request.method, url, headers, body)
        except UpstreamError as problem_sending:
            self._s.metrics.faults(provider, problem_sending.fault).inc()
            status = 504 if problem_sending.fault == "first_byte" else 502
            text = f"the provider could not be reached: {problem_sending}"
            raise RefusedError(refuse(status, Reason.UNMANAGED, text)) from None
        explanation = Explanation(Outcome.UNMANAGED, Reason.UNMANAGED, target.pool, attempts=1)
        self._s.metrics.calls(provider, Outcome.UNMANAGED, Reason.UNMANAGED).inc()
        back = backward_headers(upstream.headers)
        for name, value in explanation.headers():
            back[name] = value
        try:
            return await relay(request, upstream, back, b"", Body(upstream, OpaqueReader()), None)
        except UpstreamError as broken:
            self._s.metrics.faults(provider, broken.fault).inc()
            raise
        finally:
            upstream.close()

    async def _refuse(self, request: web.BaseRequest, refusal: Refusal, shape: ErrorShape) -> web.StreamResponse:
        explanation = refusal.explanation
        self._s.metrics.calls("", explanation.outcome, explanation.reason).inc()
        original = refusal.original
        headers: CIMultiDict[str] = CIMultiDict(original.headers if original is not None else ())
        headers.update(refusal.headers())
        if original is not None:
            return WholeResponse(status=original.status, headers=headers, body=original.body)
        headers["content-type"] = "application/json"
        return WholeResponse(status=refusal.status, headers=headers, body=refusal.body(shape))


async def _expect_continue(request: web.BaseRequest) -> None:
    if request.headers.get("expect", "").lower() == "100-continue" and request.version == (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
