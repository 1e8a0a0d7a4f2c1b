# SPDX-License-Identifier: Apache-2.0
"""The sidecar's values to and from the messages of sluicegate.v1."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.sidecar.core.criticality import Asked
from sluicegate.sidecar.core.routes import Route
from sluicegate.sidecar.core.safeshare import Share
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.values import (
    Criticality,
    Estimate,
    FallbackOption,
    MeterReading,
    QuotaRejection,
    Usage,
    UseCached,
    UseDegraded,
    UseModel,
    UsePool,
    UseTrimmed,
)
from sluicegate.wire.words import Provider


def call_request(
    call_id: str,
    pool: str,
    provider: Provider,
    model: str,
    fingerprint: str,
    estimate: Estimate,
    asked: Asked,
    taken_by: Iterable[Provider] = (),
) -> pb.CallRequest:
    """The request for one slot."""
    return pb.CallRequest(
        call_id=call_id,
        pool=pool,
        provider=convert.PROVIDER.to_proto(provider),
        model=model,
        key_fingerprint=fingerprint,
        tenant=asked.tenant,
        estimate=types_pb2.Estimate(
            input_tokens=estimate.input_tokens,
            output_tokens=estimate.output_tokens,
            max_output_tokens=estimate.max_output_tokens,
            characters=estimate.characters,
            choices=estimate.choices,
            least_input_tokens=estimate.least_input_tokens,
            images=estimate.images,
            image_tokens=estimate.image_tokens,
            exact=estimate.exact,
        ),
        criticality=_criticality(asked.criticality),
        taken_by=map(convert.PROVIDER.to_proto, taken_by),
    )


def _criticality(value: Criticality) -> types_pb2.Criticality:
    message = types_pb2.Criticality(task_type=value.task_type)
    if value.latency is not None:
        message.latency = convert.LATENCY.to_proto(value.latency)
    if value.max_wait is not None:
        message.max_wait.CopyFrom(convert.to_duration(value.max_wait))
    if value.deadline is not None:
        message.deadline.CopyFrom(convert.to_duration(value.deadline))
    if value.fallback is not None:
        message.fallback.extend(_option(option) for option in value.fallback)
    if value.chain is not None:
        message.chain.CopyFrom(types_pb2.Chain(id=value.chain.id, step=value.chain.step, of=value.chain.of))
    if value.orchestrator is not None:
        message.orchestrator = value.orchestrator
    return message


def _option(option: FallbackOption) -> types_pb2.FallbackOption:
    match option:
        case UseModel(model):
            return types_pb2.FallbackOption(model=model)
        case UsePool(pool):
            return types_pb2.FallbackOption(pool=pool)
        case UseCached(max_age):
            return types_pb2.FallbackOption(cached_max_age=convert.to_duration(max_age))
        case UseDegraded(message):
            return types_pb2.FallbackOption(degrade_message=message)
        case UseTrimmed(tokens):
            return types_pb2.FallbackOption(trim_input_tokens=tokens)


def observation(call_id: str, readings: Iterable[MeterReading], *, accepted: bool) -> pb.Observation:
    """What the headers of a call's response said. `accepted`: it is a success whose body has begun."""
    return pb.Observation(
        call_id=call_id,
        accepted=accepted,
        readings=[
            types_pb2.MeterReading(
                resource=convert.RESOURCE.to_proto(reading.resource),
                window_seconds=reading.window,
                limit=reading.limit,
                remaining_low=reading.remaining_low,
                remaining_high=reading.remaining_high,
                reset_seconds=reading.reset,
            )
            for reading in readings
        ],
    )


def settlement(
    call_id: str, attempt: int, verdict: Verdict, *, dispatched: bool, retriable: bool, usage: Usage | None
) -> pb.Settlement:
    """What became of one attempt."""
    message = pb.Settlement(
        call_id=call_id,
        attempt=attempt,
        error_class=convert.ERROR_CLASS.to_proto(verdict.error_class),
        dispatched=dispatched,
        retriable=retriable,
    )
    if usage is not None:
        message.usage.CopyFrom(
            types_pb2.Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_input_tokens=usage.cached_input_tokens,
            )
        )
    if verdict.quota is not None:
        message.quota.CopyFrom(_quota(verdict.quota))
    if verdict.retry_after is not None:
        message.retry_after.CopyFrom(convert.to_duration(verdict.retry_after))
    return message


def _quota(quota: QuotaRejection) -> types_pb2.QuotaRejection:
    message = types_pb2.QuotaRejection(
        window_seconds=quota.window,
        retry_after_seconds=quota.retry_after,
        never_fits=quota.never_fits,
        limit=quota.limit,
        requested=quota.requested,
    )
    if quota.resource is not None:
        message.resource = convert.RESOURCE.to_proto(quota.resource)
    return message


def route_of(message: pb.Route) -> Route | None:
    """A route; None where its provider is of a later version."""
    try:
        provider = convert.PROVIDER.from_proto(message.provider)
    except ValueError:
        return None
    if provider is None:
        return None
    return Route(
        message.pool, provider, message.endpoint, tuple(message.models), message.allow_plaintext, message.dialect
    )


def share_of(message: pb.SafeShare) -> Share | None:
    """A safe share; None where its resource is of a later version."""
    try:
        resource = convert.RESOURCE.from_proto(message.resource)
    except ValueError:
        return None
    return None if resource is None else Share(resource, message.window_seconds, message.amount)
