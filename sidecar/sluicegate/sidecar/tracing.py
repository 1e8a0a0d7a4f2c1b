# SPDX-License-Identifier: Apache-2.0
"""Spans of calls and of their attempts, sent by OTLP over HTTP as the standard `OTEL_*` variables say.

A call is a SERVER span under the app's `traceparent`, each of its attempts a CLIENT span under that. A span holds no
prompt, no answer and no key. This module, and with it OpenTelemetry, is imported only where an endpoint is configured.

The SDK's sampler, parent-based unless the variables say otherwise, is asked before a span is made; of a call that is
not sampled nothing is kept. A parent-based one's answer is known where the app says that its trace is not sampled: such
a call costs one look at its header.
Finished spans wait in a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`) for a thread that sends them; what does not fit is
dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections.abc import Mapping, MutableMapping
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler
from opentelemetry.trace import (
    INVALID_TRACE_ID,
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sluicegate.sidecar import semconv
from sluicegate.sidecar.core.routes import Route
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.sidecar.inbound import Inbound
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.values import Usage
from sluicegate.wire.words import ErrorClass, Outcome

log = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()
_POST = {semconv.HTTP_METHOD: "POST"}
_STOP_WITHIN = 2.0
_UNSAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
"""A `traceparent` that says so, by W3C's Trace Context."""


def _sampled(sampler: Sampler, parent: Context, trace_id: int) -> bool:
    return sampler.should_sample(parent, trace_id, "").decision is not Decision.DROP


class _Roots(RandomIdGenerator):
    """The SDK's ids, but a trace that begins here gets the one that its sampler was asked about before."""

    def __init__(self) -> None:
        self._next = INVALID_TRACE_ID

    def sampled(self, sampler: Sampler) -> bool:
        """Whether the trace that begins now is. If so, `start_span` comes next."""
        trace_id = super().generate_trace_id()
        sampled = _sampled(sampler, Context(), trace_id)
        self._next = trace_id if sampled else INVALID_TRACE_ID
        return sampled

    def generate_trace_id(self) -> int:
        trace_id, self._next = self._next, INVALID_TRACE_ID
        return trace_id or super().generate_trace_id()


class Tracing:
    """One per sidecar. `stop` sends what is left. `processor`: another way out than OTLP."""

    def __init__(self, namespace: str, pod: str, version: str, processor: SpanProcessor | None = None) -> None:
        ours = {"service.name": "sluicegate-sidecar", "service.version": version, "k8s.namespace.name": namespace}
        if pod:
            ours["k8s.pod.name"] = pod
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol not in (None, "", "http/protobuf"):
            log.warning("traces are sent as http/protobuf; OTEL_EXPORTER_OTLP_PROTOCOL says %s", protocol)
        self._roots = _Roots()
        self._provider = TracerProvider(resource=resource, id_generator=self._roots, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("sluicegate.sidecar", version, semconv.SCHEMA_URL)

    def call(self, inbound: Inbound) -> CallTrace | None:
        """A call begins; None where it is not sampled."""
        sampler = self._provider.sampler
        if isinstance(sampler, ParentBased) and _UNSAMPLED.fullmatch(inbound.headers.get("traceparent", "")):
            return None
        parent = _PROPAGATOR.extract(inbound.headers)
        if parent:
            sampled = _sampled(sampler, parent, get_current_span(parent).get_span_context().trace_id)
        else:
            sampled = self._roots.sampled(sampler)
        if not sampled:
            return None
        operation = semconv.OPERATIONS[inbound.api.wire]
        span = self._tracer.start_span(f"sluicegate {operation}", parent, SpanKind.SERVER, _POST)
        return CallTrace(self, span, operation, inbound)

    def attempt(self, call: CallTrace, name: str, attributes: Mapping[str, str | int]) -> Span:
        """One of its attempts begins."""
        return self._tracer.start_span(name, set_span_in_context(call.span), SpanKind.CLIENT, attributes)

    async def stop(self) -> None:
        """Sends what is left, for at most two seconds."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop did not wait any longer
                loop.call_soon_threadsafe(done.set)

        # Not the loop's executor: that would be waited for to the end.
        threading.Thread(target=shut_down, name="tracing-stop", daemon=True).start()
        try:
            async with asyncio.timeout(_STOP_WITHIN):
                await done.wait()
        except TimeoutError:
            log.warning("the trace collector did not take the last spans within %g s", _STOP_WITHIN)


class CallTrace:
    """The spans of one call. `end` once."""

    __slots__ = ("_inbound", "_operation", "_tracing", "span")

    def __init__(self, tracing: Tracing, span: Span, operation: str, inbound: Inbound) -> None:
        self.span = span
        self._tracing = tracing
        self._operation = operation
        self._inbound = inbound

    def attempt(self, grant: pb.Grant, number: int, route: Route | None) -> AttemptTrace:
        """The attempt that `grant` allows begins, the call's `number`th."""
        span = self.span
        for name, text in (
            (semconv.POOL, grant.pool),
            (semconv.TENANT, grant.tenant),
            (semconv.TIER, grant.tier),
            (semconv.BINDING_LIMIT, grant.binding_limit),
        ):
            if text or number > 1:  # not what was said of the attempt before
                span.set_attribute(name, text)
        span.set_attribute(semconv.QUEUE_WAIT, convert.from_duration(grant.waited))
        inbound = self._inbound
        model = grant.model or inbound.model
        provider = inbound.table.provider if route is None else route.dialect or route.provider
        attributes: dict[str, str | int] = {
            semconv.OPERATION: self._operation,
            semconv.PROVIDER: semconv.PROVIDERS.get(provider, str(provider)),
            semconv.REQUEST_MODEL: model,
            semconv.ATTEMPT: number,
        }
        if route is not None:
            attributes[semconv.POOL] = route.pool
            where = urlsplit(route.endpoint)
            attributes[semconv.SERVER_ADDRESS] = where.hostname or ""
            attributes[semconv.SERVER_PORT] = where.port or (80 if where.scheme == "http" else 443)
        return AttemptTrace(self._tracing.attempt(self, f"{self._operation} {model}", attributes))

    def became(self, outcome: Outcome, reason: str, attempts: int, waited: float) -> None:
        """What the app is told of the call. `waited`: seconds so far, for one that got no slot in the end."""
        span = self.span
        span.set_attribute(semconv.OUTCOME, outcome)
        span.set_attribute(semconv.REASON, reason)
        span.set_attribute(semconv.ATTEMPTS, attempts)
        if outcome is Outcome.REJECTED:
            span.set_attribute(semconv.QUEUE_WAIT, waited)

    def end(self, status: int | None) -> None:
        """The app has its response, or went away (None)."""
        span = self.span
        if status is not None:
            span.set_attribute(semconv.HTTP_STATUS, status)
            if status >= 500:
                span.set_attribute(semconv.ERROR_TYPE, str(status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()


class AttemptTrace:
    """The span of one attempt. `end` once."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def carry(self, headers: MutableMapping[str, str]) -> None:
        """Puts this span in the place of the app's own in the `traceparent` that travels on; adds none."""
        if "traceparent" in headers:
            _PROPAGATOR.inject(headers, set_span_in_context(self._span))

    def end(self, verdict: Verdict, usage: Usage | None) -> None:
        """What became of it."""
        span = self._span
        if usage is not None:
            span.set_attribute(semconv.INPUT_TOKENS, usage.input_tokens)
            span.set_attribute(semconv.OUTPUT_TOKENS, usage.output_tokens)
            if usage.cached_input_tokens:
                span.set_attribute(semconv.CACHED_INPUT_TOKENS, usage.cached_input_tokens)
        if verdict.error_class is not ErrorClass.NONE:
            span.set_attribute(semconv.ERROR_TYPE, verdict.error_class)
            span.set_status(Status(StatusCode.ERROR))
        span.end()
