# SPDX-License-Identifier: Apache-2.0
"""One inspected call from the broker's word to the last byte, driven by the table of `core.plan`.

A failure of which nothing has reached the app is settled as retriable, and the call waits for the broker's word under
the same id; if that word is no, the app gets the provider's own response.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, assert_never

from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar.books import Books
from sluicegate.sidecar.core.classify import classify, classify_stream_error
from sluicegate.sidecar.core.errors import Explanation, Refusal
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.plan import Step
from sluicegate.sidecar.core.providers import Wire
from sluicegate.sidecar.core.split import balanced, inputs_of
from sluicegate.sidecar.core.usage import EventReader, OpaqueReader, reader_for
from sluicegate.sidecar.core.verdict import NETWORK, NOT_SENT, SUCCESS, Verdict
from sluicegate.sidecar.ending import Ending, Failure
from sluicegate.sidecar.inbound import Inbound, backward_headers
from sluicegate.sidecar.parts import Parts, Whole
from sluicegate.sidecar.relay import Body, ClientGoneError, Kept, content_of, decoder_for, first_bytes, relay
from sluicegate.sidecar.services import Services
from sluicegate.sidecar.trimming import Size, trim
from sluicegate.sidecar.upstream import UpstreamError, UpstreamResponse
from sluicegate.sidecar.way import Way, way_of
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Outcome, Reason

if TYPE_CHECKING:
    from sluicegate.sidecar.tracing import CallTrace

_MAX_ERROR_BODY = 1024 * 1024
EMBEDS = (Wire.EMBEDDINGS, Wire.EMBED)


class Call:
    """One call; `run` once. `size` gives the estimate of a changed request."""

    def __init__(
        self,
        services: Services,
        request: web.BaseRequest,
        inbound: Inbound,
        call_id: str,
        estimate: Estimate,
        size: Size,
        trace: CallTrace | None = None,
    ) -> None:
        self._s = services
        self._request = request
        self._in = inbound
        self._estimate = estimate
        self._size = size
        self._inputs = inputs_of(inbound.body) if inbound.api.wire in EMBEDS else None
        self._books = Books(services, inbound, call_id, estimate, trace)
        self._ending = Ending(services, request, inbound, self._books)

    async def run(self, wire_request: pb.CallRequest) -> web.StreamResponse:
        """Serves the call. Raises ClientGoneError or CancelledError when the app went away, all debts paid."""
        books, ending = self._books, self._ending
        try:
            books.plan.advance(Step.ASK)
            if (parts := self._beyond_one_request()) is not None:
                return await self._in_parts(wire_request, parts)
            wire_request.divisible = self._inputs is not None
            wire_request.cached.SetInParent()
            if ending.held is not None:
                age = max(0.0, time.monotonic() - ending.held.stored)
                wire_request.cached.age.CopyFrom(convert.to_duration(age))
            answer = await self._s.broker.acquire(wire_request, self._estimate)
            failure: Failure | None = None
            last = False
            while True:
                match answer:
                    case pb.Grant():
                        result = await self._attempt(answer)
                        if isinstance(result, web.StreamResponse):
                            return result
                        failure = result
                        if not answer.pool or failure.final:
                            return await self._final_failure(failure, managed=bool(answer.pool))
                        answer = await books.ask_again(failure.verdict, dispatched=failure.dispatched)
                    case pb.Fallback():
                        done = await ending.fall_back(answer, failure, last=last)
                        if isinstance(done, web.StreamResponse):
                            return done
                        last = True
                        answer = await self._ask_for_the_rest(wire_request, done)
                    case pb.Reject() if answer.part_tokens and self._inputs is not None:
                        bounds = {"most_items": self._in.api.max_inputs, "most_tokens": answer.part_tokens}
                        return await self._in_parts(
                            wire_request, balanced(self._inputs, self._estimate.input_tokens, **bounds)
                        )
                    case pb.Reject():
                        return await ending.reject(answer, failure)
                    case _:
                        assert_never(answer)
        except UpstreamError:
            # It broke in the middle: the app's connection is cut off already, and the attempt settled.
            raise ClientGoneError from None
        except BaseException as problem:
            # Also of a fault of our own the broker learns that the call is over.
            books.client_gone(counts=isinstance(problem, ClientGoneError | asyncio.CancelledError))
            raise

    def _beyond_one_request(self) -> list[range] | None:
        """The parts of a call that has more inputs or tokens than its provider takes in one request; else None."""
        most_items, most_tokens = self._in.api.max_inputs, self._in.api.max_input_tokens
        if self._inputs is None or not (most_items or most_tokens):
            return None
        parts = balanced(
            self._inputs, self._estimate.input_tokens, most_items=most_items, most_tokens=most_tokens * 9 // 10
        )
        too_many = most_items and len(self._inputs.items) > most_items
        too_large = most_tokens and self._estimate.input_tokens > most_tokens
        return parts if len(parts) > 1 and (too_many or too_large) else None

    async def _in_parts(self, message: pb.CallRequest, parts: list[range]) -> web.StreamResponse:
        assert self._inputs is not None
        whole = Whole(self._in, self._inputs, parts, message)
        return await Parts(self._s, whole, self._books, self._ending, self._size).run()

    async def _ask_for_the_rest(
        self, message: pb.CallRequest, options: list[types_pb2.FallbackOption]
    ) -> pb.Grant | pb.Fallback | pb.Reject:
        """A fallback had no answer here, and the next is the broker's to decide: asks for those that are left, once,
        as a call of its own, since the first is answered."""
        again = pb.CallRequest()
        again.CopyFrom(message)
        again.call_id = self._books.call_id = f"{message.call_id}.r"
        del again.criticality.fallback[:]
        again.criticality.fallback.extend(options)
        again.cached.Clear()
        for field in ("max_wait", "deadline"):
            if again.criticality.HasField(field):
                limit = getattr(again.criticality, field)
                limit.CopyFrom(convert.to_duration(max(0.0, convert.from_duration(limit) - self._books.waited)))
        return await self._s.broker.acquire(again, self._estimate)

    async def _attempt(self, grant: pb.Grant) -> web.StreamResponse | Failure:
        books = self._books
        books.granted(grant)
        inbound = self._in
        if grant.trim_to_tokens:
            shorter = await trim(inbound, self._estimate, grant.trim_to_tokens, self._size)
            if shorter is not None:
                inbound, books.estimate, books.notes = shorter.inbound, shorter.estimate, shorter.headers()
        way = way_of(inbound, grant, self._s.broker.routes, self._s.credentials)
        if isinstance(way, Refusal):
            books.finish(Step.UNSENDABLE, NOT_SENT, dispatched=False)
            return await self._ending.refuse(way)
        books.carry_trace(way.headers)
        provider = way.provider
        try:
            upstream = await self._s.transport.send(self._request.method, way.url, way.headers, way.data)
        except UpstreamError as problem:
            books.count_fault(provider, problem.fault)
            return Failure(NETWORK, problem.dispatched, message=str(problem), final=problem.final)
        try:
            return await self._receive(grant, way, upstream)
        finally:
            upstream.close()

    async def _receive(self, grant: pb.Grant, way: Way, upstream: UpstreamResponse) -> web.StreamResponse | Failure:
        books, provider, hides = self._books, way.provider, way.hides
        readings = read_meters(provider, upstream.headers, way.dialect)
        if readings.ignored:
            self._s.metrics.ignored_headers(provider).inc(readings.ignored)
        if readings.meters and grant.pool:
            self._s.broker.observe(books.call_id, readings.meters)
        headers = backward_headers(upstream.headers)
        if upstream.status >= 400:
            return await self._failed(grant, way, upstream, headers)
        content_type = headers.get("content-type", "")
        decoder = None
        coding = headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            decoder = decoder_for(coding)
            if decoder is None:
                content_type = ""
        reader = books.reader = reader_for(self._in.api.wire, content_type, hide_usage=hides, stream=self._in.stream)
        alters = hides and isinstance(reader, EventReader)
        body = Body(upstream, reader, decoder, alters)
        try:
            first = await first_bytes(body)
        except UpstreamError as problem:
            books.count_fault(provider, problem.fault)
            return Failure(NETWORK, True, message=str(problem))
        if reader.error is not None:
            verdict = classify_stream_error(provider, upstream.headers, reader.error, way.dialect)
            if verdict.retriable and grant.pool:
                if alters:
                    headers.popall("content-encoding", None)
                return Failure(verdict, True, upstream.status, headers, first, reason=upstream.reason)
        return await self._pass_on(grant, way, upstream, headers, first, body)

    async def _pass_on(
        self,
        grant: pb.Grant,
        way: Way,
        upstream: UpstreamResponse,
        headers: CIMultiDict[str],
        first: bytes,
        body: Body,
    ) -> web.StreamResponse:
        books, provider = self._books, way.provider
        books.plan.advance(Step.ACCEPTED)
        if grant.probe and upstream.status < 300 and body.reader.error is None:
            self._s.broker.observe(books.call_id, (), accepted=True)
        books.explain(headers, grant)
        managed = bool(grant.pool) and upstream.status == 200 and body.decoder is None
        kept = Kept(self._s.cache.max_answer) if managed else None
        try:
            response = await relay(self._request, upstream, headers, first, body, kept)
        except UpstreamError as problem:
            books.count_fault(provider, problem.fault)
            books.finish(Step.BROKEN, NETWORK)
            raise
        verdict = SUCCESS
        reader = body.reader
        if reader.error is not None:
            verdict = classify_stream_error(provider, upstream.headers, reader.error, way.dialect)
            books.count_fault(provider, "error_in_body")
        elif not reader.finished:
            verdict = NETWORK
            books.count_fault(provider, "unfinished_stream")
        if reader.broken:
            books.count_fault(provider, "unreadable_body", reader.broken)
        elif reader.usage is None and verdict is SUCCESS:
            books.count_fault(provider, "no_usage")
        books.finish(Step.ENDED, verdict)
        changed = grant.model or grant.trim_to_tokens
        if kept is not None and kept.whole and verdict is SUCCESS and not reader.broken and not changed:
            self._ending.remember(grant.tenant, headers.get("content-type", ""), b"".join(kept.chunks))
        return response

    async def _failed(
        self, grant: pb.Grant, way: Way, upstream: UpstreamResponse, headers: CIMultiDict[str]
    ) -> web.StreamResponse | Failure:
        data, provider, rest = bytearray(), way.provider, True
        try:
            while len(data) <= _MAX_ERROR_BODY and rest:
                data += (chunk := await upstream.next_chunk())
                rest = bool(chunk)
        except UpstreamError as problem:
            self._books.count_fault(provider, problem.fault)
            rest = False
        content = content_of(bytes(data), headers.get("content-encoding", ""))
        verdict = classify(provider, upstream.status, upstream.headers, content, way.dialect)
        if rest:
            return await self._pass_error_on(grant, upstream, headers, bytes(data), verdict)
        failure = Failure(verdict, True, upstream.status, headers, bytes(data), reason=upstream.reason)
        if verdict.retriable and grant.pool:
            return failure
        self._books.plan.advance(Step.ACCEPTED)
        self._books.finish(Step.ENDED, verdict)
        return await self._ending.original(failure)

    async def _pass_error_on(
        self, grant: pb.Grant, upstream: UpstreamResponse, headers: CIMultiDict[str], first: bytes, verdict: Verdict
    ) -> web.StreamResponse:
        """An error body too large to be held goes to the app as it comes, and the call with it."""
        self._books.plan.advance(Step.ACCEPTED)
        self._books.finish(Step.ENDED, verdict)
        self._ending.final(headers)
        self._books.explain(headers, grant)
        return await relay(self._request, upstream, headers, first, Body(upstream, OpaqueReader()), None)

    async def _final_failure(self, failure: Failure, *, managed: bool) -> web.StreamResponse:
        """A call that must not, or is not ours to, go again: the app learns at once."""
        self._books.finish(Step.UNSENDABLE, failure.verdict, dispatched=failure.dispatched)
        reason = Reason.ATTEMPTS_EXHAUSTED if managed else Reason.UNMANAGED
        books = self._books
        explanation = Explanation(Outcome.REJECTED, reason, books.pool, books.waited, books.attempts)
        return await self._ending.fail(failure, Refusal(502, failure.message, explanation))
