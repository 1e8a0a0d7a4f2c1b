# SPDX-License-Identifier: Apache-2.0
"""One inspected call from the broker's word to the last byte, driven by the table of `core.plan`.

Every way out pays what the table says is owed: a waiting call is cancelled, each sent attempt is settled exactly once.
A failure of which nothing has reached the app is settled as retriable, and the call waits for the broker's word under
the same id; if that word is no, the app gets the provider's own response.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import assert_never

import orjson
from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar import messages
from sluicegate.sidecar.broker_client import BrokerClient
from sluicegate.sidecar.cache import ResponseCache, cache_key
from sluicegate.sidecar.core.classify import classify, classify_stream_error
from sluicegate.sidecar.core.degraded import degraded_answer
from sluicegate.sidecar.core.errors import Explanation, Refusal, refuse, status_of
from sluicegate.sidecar.core.estimate import OutputHistory
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.plan import Duty, Plan, State, Step
from sluicegate.sidecar.core.providers import Wire
from sluicegate.sidecar.core.repeat import RefusedCalls
from sluicegate.sidecar.core.usage import EventReader, JsonReader, OpaqueReader, reader_for
from sluicegate.sidecar.core.verdict import SUCCESS, Verdict
from sluicegate.sidecar.inbound import Inbound, backward_headers
from sluicegate.sidecar.metrics import Metrics
from sluicegate.sidecar.relay import Body, ClientGoneError, Kept, Response, decoder_for, first_bytes, relay
from sluicegate.sidecar.upstream import Transport, UpstreamError, UpstreamResponse
from sluicegate.sidecar.way import way_of
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import ErrorClass, Outcome, Provider, Reason

_MAX_ERROR_BODY = 1024 * 1024
_CANCELLED = Verdict(ErrorClass.CANCELLED)
_NETWORK = Verdict(ErrorClass.NETWORK)


@dataclass(frozen=True, slots=True)
class Services:
    """What calls share."""

    broker: BrokerClient
    transport: Transport
    metrics: Metrics
    history: OutputHistory
    refused: RefusedCalls
    cache: ResponseCache
    credentials: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt of which nothing reached the app: the provider's response, or why there was none."""

    verdict: Verdict
    dispatched: bool
    status: int = 0
    headers: CIMultiDict[str] | None = None
    body: bytes = b""
    message: str = ""


class Call:
    """One call; `run` once."""

    def __init__(
        self, services: Services, request: web.BaseRequest, inbound: Inbound, call_id: str, estimate: Estimate
    ) -> None:
        self._s = services
        self._request = request
        self._in = inbound
        self._id = call_id
        self._estimate = estimate
        self._plan = Plan()
        self._grant: pb.Grant | None = None
        self._reader: EventReader | JsonReader | OpaqueReader = OpaqueReader()
        self._attempts = 0
        self._arrived = time.monotonic()
        self._pool_label = ""

    async def run(self, wire_request: pb.CallRequest) -> web.StreamResponse:
        """Serves the call. Raises ClientGoneError or CancelledError when the app went away, all debts paid."""
        try:
            self._plan.advance(Step.ASK)
            answer = await self._s.broker.acquire(wire_request, self._estimate)
            failure: _Failure | None = None
            while True:
                match answer:
                    case pb.Grant():
                        result = await self._attempt(answer)
                        if isinstance(result, web.StreamResponse):
                            return result
                        failure = result
                        if not answer.pool:
                            return await self._unmanaged_failure(failure)
                        answer = await self._ask_again(failure)
                    case pb.Fallback():
                        return await self._fall_back(answer, failure)
                    case pb.Reject():
                        return await self._reject(answer, failure)
                    case _:
                        assert_never(answer)
        except (ClientGoneError, asyncio.CancelledError):
            self._client_gone()
            raise
        except UpstreamError:
            # It broke in the middle: the app's connection is cut off already, and the attempt settled.
            raise ClientGoneError from None

    # ---- attempts

    async def _attempt(self, grant: pb.Grant) -> web.StreamResponse | _Failure:
        self._plan.advance(Step.GRANT)
        self._grant = grant
        self._attempts += 1
        self._pool_label = grant.pool
        self._reader = OpaqueReader()
        way = way_of(self._in, grant, self._s.broker.routes, self._s.credentials)
        if isinstance(way, Refusal):
            self._finish(Step.UNSENDABLE, _NETWORK, dispatched=False)
            return await self.refuse(way)
        provider = way.provider
        try:
            upstream = await self._s.transport.send(self._request.method, way.url, way.headers, way.data)
        except UpstreamError as problem:
            self._s.metrics.faults.labels(provider.value, problem.fault).inc()
            return _Failure(_NETWORK, problem.dispatched, message=str(problem))
        try:
            return await self._receive(grant, provider, upstream, way.hides)
        finally:
            upstream.close()

    async def _receive(
        self, grant: pb.Grant, provider: Provider, upstream: UpstreamResponse, hides: bool
    ) -> web.StreamResponse | _Failure:
        readings = read_meters(provider, upstream.headers)
        if readings.ignored:
            self._s.metrics.ignored_headers.labels(provider.value).inc(readings.ignored)
        if readings.meters and grant.pool:
            self._s.broker.observe(self._id, readings.meters)
        headers = backward_headers(upstream.headers)
        if upstream.status >= 400:
            return await self._failed(provider, upstream, headers)
        content_type = headers.get("content-type", "")
        decoder = None
        coding = headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            decoder = decoder_for(coding)
            if decoder is None:
                content_type = ""
        self._reader = reader_for(self._in.api.wire, content_type, hide_usage=hides)
        alters = hides and isinstance(self._reader, EventReader)
        body = Body(upstream, self._reader, decoder, alters)
        try:
            first = await first_bytes(body)
        except UpstreamError as problem:
            self._s.metrics.faults.labels(provider.value, problem.fault).inc()
            return _Failure(_NETWORK, True, message=str(problem))
        if isinstance(self._reader, EventReader) and self._reader.error is not None:
            verdict = classify_stream_error(provider, upstream.headers, self._reader.error)
            if verdict.retriable and grant.pool:
                if alters:
                    headers.popall("content-encoding", None)
                return _Failure(verdict, True, upstream.status, headers, first)
        return await self._pass_on(provider, upstream, headers, first, body)

    async def _pass_on(
        self, provider: Provider, upstream: UpstreamResponse, headers: CIMultiDict[str], first: bytes, body: Body
    ) -> web.StreamResponse:
        assert self._grant is not None
        grant = self._grant
        self._plan.advance(Step.ACCEPTED)
        self._explain(headers, grant)
        managed = bool(grant.pool) and upstream.status == 200 and body.decoder is None
        kept = Kept(self._s.cache.max_answer) if managed else None
        try:
            response = await relay(self._request, upstream.status, headers, first, body, kept)
        except UpstreamError as problem:
            self._s.metrics.faults.labels(provider.value, problem.fault).inc()
            self._finish(Step.BROKEN, _NETWORK)
            raise
        verdict = SUCCESS
        reader = body.reader
        if reader.error is not None:
            verdict = classify_stream_error(provider, upstream.headers, reader.error)
            self._s.metrics.faults.labels(provider.value, "error_in_body").inc()
        elif not reader.finished:
            verdict = _NETWORK
            self._s.metrics.faults.labels(provider.value, "unfinished_stream").inc()
        if reader.broken:
            self._s.metrics.faults.labels(provider.value, "unreadable_body").inc(reader.broken)
        elif reader.usage is None and verdict is SUCCESS:
            self._s.metrics.faults.labels(provider.value, "no_usage").inc()
        self._finish(Step.ENDED, verdict)
        if kept is not None and kept.whole and verdict is SUCCESS and not reader.broken and not grant.model:
            self._s.cache.store(
                grant.tenant, self._cache_key(), headers.get("content-type", ""), b"".join(kept.chunks), self._arrived
            )
        return response

    async def _failed(
        self, provider: Provider, upstream: UpstreamResponse, headers: CIMultiDict[str]
    ) -> web.StreamResponse | _Failure:
        data = bytearray()
        try:
            while len(data) <= _MAX_ERROR_BODY and (chunk := await upstream.next_chunk()):
                data += chunk
        except UpstreamError as problem:
            self._s.metrics.faults.labels(provider.value, problem.fault).inc()
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            parsed = None
        verdict = classify(provider, upstream.status, upstream.headers, parsed)
        headers.popall("content-length", None)
        failure = _Failure(verdict, True, upstream.status, headers, bytes(data))
        if verdict.retriable and self._grant is not None and self._grant.pool:
            return failure
        self._plan.advance(Step.ACCEPTED)
        self._finish(Step.ENDED, verdict)
        return await self._original(failure)

    # ---- what the broker says after a failure, and other ends

    async def _ask_again(self, failure: _Failure) -> pb.Grant | pb.Fallback | pb.Reject:
        assert self._grant is not None
        self._count(failure.verdict)
        self._plan.advance(Step.RETRIABLE)
        settlement = messages.settlement(
            self._id,
            self._grant.attempt,
            failure.verdict,
            dispatched=failure.dispatched,
            retriable=True,
            usage=None,
        )
        return await self._s.broker.settle_and_wait(settlement)

    async def _unmanaged_failure(self, failure: _Failure) -> web.StreamResponse:
        """A call that is not ours to repeat: the app learns at once."""
        self._finish(Step.UNSENDABLE, failure.verdict, dispatched=failure.dispatched)
        return await self._final_failure(failure, refuse(502, Reason.UNMANAGED, failure.message))

    async def _reject(self, reject: pb.Reject, failure: _Failure | None) -> web.StreamResponse:
        self._plan.advance(Step.REJECT)
        retry_after = convert.from_duration(reject.retry_after) if reject.HasField("retry_after") else None
        explanation = Explanation(
            Outcome.REJECTED, reject.reason, reject.pool, self._waited, self._attempts, reject.binding_limit
        )
        refusal = Refusal(
            status_of(reject.reason),
            reject.message or f"refused: {reject.reason}",
            explanation,
            retry_after,
            reject.reason,
            reject.mitigation,
            reject.fits_now,
        )
        if failure is not None:
            return await self._final_failure(failure, refusal)
        self._s.refused.remember(self._in.key, refusal, time.monotonic())
        return await self.refuse(refusal)

    async def _final_failure(self, failure: _Failure, refusal: Refusal) -> web.StreamResponse:
        """The provider's own response, or where there was none a refusal that says so."""
        if failure.headers is not None:
            return await self._original(failure, refusal)
        status = 504 if "within" in failure.message or "nothing for" in failure.message else 502
        text = f"the provider could not be reached: {failure.message}"
        return await self.refuse(Refusal(status, text, refusal.explanation, refusal.retry_after))

    async def _original(self, failure: _Failure, refusal: Refusal | None = None) -> web.StreamResponse:
        assert failure.headers is not None
        headers = failure.headers
        headers.popall("content-length", None)
        if self._pool_label:
            headers.popall("x-should-retry", None)
            headers["x-should-retry"] = "false"
        if refusal is not None:
            self._count_call(refusal.explanation.outcome, refusal.explanation.reason)
            for name, value in refusal.explanation.headers():
                headers[name] = value
        elif self._grant is not None:
            self._explain(headers, self._grant)
        return await _send(self._request, failure.status, headers, failure.body)

    async def _fall_back(self, fallback: pb.Fallback, failure: _Failure | None) -> web.StreamResponse:
        for option in (fallback.option, *fallback.next):
            answer = self._stand_in(option, fallback.tenant)
            if answer is None:
                continue
            outcome, content_type, data = answer
            self._plan.advance(Step.ANSWER_HERE)
            reason = Reason.CACHE_HIT if outcome is Outcome.CACHED else Reason.DEGRADED
            explanation = Explanation(
                outcome,
                fallback.reason or reason.value,
                fallback.pool,
                self._waited,
                self._attempts,
                fallback.binding_limit,
            )
            self._count_call(outcome, explanation.reason)
            headers: CIMultiDict[str] = CIMultiDict(explanation.headers())
            headers["content-type"] = content_type
            return await _send(self._request, 200, headers, data)
        reject = pb.Reject(
            call_id=self._id,
            reason=fallback.reason,
            message=f"refused: {fallback.reason}; no fallback had an answer",
            pool=fallback.pool,
            binding_limit=fallback.binding_limit,
        )
        if fallback.HasField("predicted_wait"):
            reject.retry_after.CopyFrom(fallback.predicted_wait)
        return await self._reject(reject, failure)

    def _stand_in(self, option: types_pb2.FallbackOption, tenant: str) -> tuple[Outcome, str, bytes] | None:
        inbound = self._in
        match option.WhichOneof("kind"):
            case "cached_max_age":
                age = convert.from_duration(option.cached_max_age)
                found = self._s.cache.find(tenant, self._cache_key(), age, time.monotonic())
                return None if found is None else (Outcome.CACHED, found.content_type, found.body)
            case "degrade_message":
                made = degraded_answer(
                    inbound.api.wire,
                    option.degrade_message,
                    model=inbound.model,
                    call_id=self._id,
                    created=int(time.time()),
                    stream=inbound.stream,
                )
                return None if made is None else (Outcome.DEGRADED, *made)
            case _:
                return None

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """Sends a refusal in the provider's shape."""
        self._count_call(refusal.explanation.outcome, refusal.explanation.reason)
        return await send_refusal(self._request, refusal, self._in)

    # ---- books

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._arrived

    def _cache_key(self) -> bytes:
        return cache_key(self._in.path, self._in.body, self._in.fingerprint)

    def _explain(self, headers: CIMultiDict[str], grant: pb.Grant) -> None:
        outcome = convert.OUTCOME.from_proto(grant.outcome) or Outcome.GRANTED
        waited = convert.from_duration(grant.waited)
        self._s.metrics.wait.labels(self._in.table.provider.value).observe(waited)
        self._count_call(outcome, grant.reason)
        explanation = Explanation(outcome, grant.reason, grant.pool, waited, self._attempts, grant.binding_limit)
        for name, value in explanation.headers():
            headers[name] = value

    def _count(self, verdict: Verdict) -> None:
        labels = (self._in.table.provider.value, self._pool_label, verdict.error_class.value)
        self._s.metrics.attempts.labels(*labels).inc()

    def _count_call(self, outcome: Outcome, reason: str) -> None:
        self._s.metrics.calls.labels(self._in.table.provider.value, outcome.value, reason).inc()

    def _client_gone(self) -> None:
        if self._plan.state is State.DONE:
            return
        duty = self._plan.advance(Step.CLIENT_GONE)
        self._count_call(Outcome.CANCELLED, Reason.CANCELLED.value)
        if duty is Duty.CANCEL:
            self._s.broker.cancel(self._id)
        elif duty is Duty.SETTLE:
            usage = self._reader.usage
            if usage is not None and isinstance(self._reader, EventReader):
                # What had been produced by then: an event bears about a token.
                usage = Usage(
                    usage.input_tokens, max(usage.output_tokens, self._reader.events), usage.cached_input_tokens
                )
            self._settle(_CANCELLED, dispatched=True, usage=usage)

    def _finish(self, step: Step, verdict: Verdict, *, dispatched: bool = True) -> None:
        self._plan.advance(step)
        self._settle(verdict, dispatched=dispatched, usage=self._reader.usage)

    def _settle(self, verdict: Verdict, *, dispatched: bool, usage: Usage | None) -> None:
        assert self._grant is not None
        self._count(verdict)
        settlement = messages.settlement(
            self._id, self._grant.attempt, verdict, dispatched=dispatched, retriable=False, usage=usage
        )
        self._s.broker.settle(settlement)
        if usage is None:
            return
        provider, pool = self._in.table.provider.value, self._grant.pool
        tokens = self._s.metrics.tokens
        tokens.labels(provider, pool, "input").inc(usage.input_tokens)
        tokens.labels(provider, pool, "output").inc(usage.output_tokens)
        self._s.metrics.estimated.labels(provider, pool).inc(self._estimate.input_tokens)
        if verdict is SUCCESS and self._in.api.wire is not Wire.EMBEDDINGS:
            self._s.history.record(self._grant.model or self._in.model, usage.output_tokens)


async def send_refusal(request: web.BaseRequest, refusal: Refusal, inbound: Inbound) -> web.StreamResponse:
    """A refusal as the provider of `inbound` would word it."""
    headers: CIMultiDict[str] = CIMultiDict(refusal.headers())
    headers["content-type"] = "application/json"
    return await _send(request, refusal.status, headers, refusal.body(inbound.table.shape))


async def _send(request: web.BaseRequest, status: int, headers: CIMultiDict[str], data: bytes) -> web.StreamResponse:
    response = Response(status=status, headers=headers)
    response.content_length = len(data)
    try:
        await response.prepare(request)
        if data:
            await response.write(data)
        await response.write_eof()
    except ConnectionError:
        raise ClientGoneError from None
    return response
