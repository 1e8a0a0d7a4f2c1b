# SPDX-License-Identifier: Apache-2.0
"""Effects and views of the core to messages of the wire."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from sluicegate.broker.core import findings
from sluicegate.broker.core.budget import MeterStatus
from sluicegate.broker.core.config import PoolConfig
from sluicegate.broker.core.effects import Decision, FellBack, Granted, Rejected, Requeued
from sluicegate.broker.core.status import PoolStatus, TenantStatus, WaitingCall
from sluicegate.broker.core.units import MeterKey, SafeShare
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import config_service_pb2, introspection_service_pb2, types_pb2
from sluicegate.wire import convert
from sluicegate.wire.errors import Refusal
from sluicegate.wire.values import FallbackOption, UseCached, UseDegraded, UseModel, UsePool, UseTrimmed
from sluicegate.wire.words import Mitigation, kebab


def _binding(key: MeterKey | None) -> str:
    return "" if key is None else str(key)


def grant(effect: Granted) -> pb.Grant:
    return pb.Grant(
        call_id=effect.call_id,
        pool=effect.pool,
        model=effect.model,
        outcome=convert.OUTCOME.to_proto(effect.outcome),
        reason=effect.reason,
        waited=convert.to_duration(effect.waited),
        attempt=effect.attempt,
        binding_limit=_binding(effect.binding),
        tenant=effect.party.tenant,
        tier=effect.party.tier,
        task_type=effect.party.task_type,
        trim_to_tokens=effect.trim_to,
        pool_credential=effect.foreign,
        probe=effect.probe,
    )


def option(value: FallbackOption) -> types_pb2.FallbackOption:
    match value:
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


def fallback(effect: FellBack) -> pb.Fallback:
    return pb.Fallback(
        call_id=effect.call_id,
        option=option(effect.option),
        next=[option(value) for value in effect.next_options],
        reason=effect.reason,
        predicted_wait=convert.to_duration(effect.predicted_wait),
        pool=effect.pool,
        binding_limit=_binding(effect.binding),
        tenant=effect.party.tenant,
        tier=effect.party.tier,
        task_type=effect.party.task_type,
    )


def reject(effect: Rejected) -> pb.Reject:
    return pb.Reject(
        call_id=effect.call_id,
        reason=effect.reason,
        message=effect.message,
        retry_after=None if effect.retry_after is None else convert.to_duration(effect.retry_after),
        pool=effect.pool,
        binding_limit=_binding(effect.binding),
        mitigation=effect.mitigation,
        fits_now=max(0, effect.fits_now),
        tenant=effect.party.tenant,
        tier=effect.party.tier,
        task_type=effect.party.task_type,
        part_tokens=effect.part_tokens,
    )


def refusal(effect: Rejected) -> Refusal:
    """The same for a unary call: a google.rpc.Status. Its metadata are Reject's fields, those that say something."""
    metadata = {
        "call_id": effect.call_id,
        "pool": effect.pool,
        "binding_limit": _binding(effect.binding),
        "mitigation": "" if effect.mitigation is Mitigation.NONE else effect.mitigation,
        "fits_now": str(effect.fits_now) if effect.fits_now > 0 else "",
        "part_tokens": str(effect.part_tokens) if effect.part_tokens else "",
        "tenant": effect.party.tenant,
        "tier": effect.party.tier,
        "task_type": effect.party.task_type,
    }
    return Refusal(effect.reason, effect.message, effect.retry_after, {k: v for k, v in metadata.items() if v})


def retry(effect: Requeued) -> pb.RetryDirective:
    return pb.RetryDirective(
        call_id=effect.call_id,
        reason=effect.reason,
        eligible_in=convert.to_duration(max(0.0, effect.eligible_in)),
        attempt=effect.attempt,
    )


def safe_share(share: SafeShare) -> pb.SafeShare:
    return pb.SafeShare(
        pool=share.pool,
        resource=convert.RESOURCE.to_proto(share.meter.resource),
        window_seconds=share.meter.window,
        amount=share.amount,
    )


def route(pool: PoolConfig) -> pb.Route:
    resources = dict.fromkeys(limit.resource for limit in pool.limits)
    return pb.Route(
        pool=pool.name,
        provider=convert.PROVIDER.to_proto(pool.provider),
        endpoint=pool.endpoint,
        models=pool.models,
        allow_plaintext=pool.allow_plaintext,
        dialect=pool.dialect,
        resources=[convert.RESOURCE.to_proto(resource) for resource in resources],
    )


_SEVERITY = {
    findings.Severity.WARNING: config_service_pb2.SEVERITY_WARNING,
    findings.Severity.ERROR: config_service_pb2.SEVERITY_ERROR,
}


def finding(value: findings.Finding) -> config_service_pb2.Finding:
    return config_service_pb2.Finding(
        source=value.source,
        document=value.document,
        field=value.field,
        value=value.value,
        message=value.message,
        severity=_SEVERITY[value.severity],
    )


def pool_status(status: PoolStatus) -> introspection_service_pb2.PoolStatus:
    return introspection_service_pb2.PoolStatus(
        name=status.name,
        provider=convert.PROVIDER.to_proto(status.provider),
        endpoint=status.endpoint,
        models=status.models,
        meters=[_meter(meter) for meter in status.meters],
        tiers=[
            introspection_service_pb2.TierStatus(
                name=tier.name,
                waiting=tier.waiting,
                tenants_waiting=tier.tenants_waiting,
                oldest_wait=convert.to_duration(tier.oldest_wait),
            )
            for tier in status.tiers
        ],
        in_flight=status.in_flight,
        binding_limit=_binding(status.binding),
        breaker=kebab(status.breaker.state),
    )


def _meter(meter: MeterStatus) -> introspection_service_pb2.MeterStatus:
    return introspection_service_pb2.MeterStatus(
        resource=convert.RESOURCE.to_proto(meter.key.resource),
        window_seconds=meter.key.window,
        algorithm=convert.ALGORITHM.to_proto(meter.algorithm),
        limit=meter.limit,
        capacity=meter.capacity,
        available=meter.available,
        reserved=meter.reserved,
        foreign_rate=meter.foreign_rate,
        observed=meter.observed,
    )


def tenant_status(status: TenantStatus) -> introspection_service_pb2.TenantStatus:
    return introspection_service_pb2.TenantStatus(
        name=status.name,
        tier=status.tier,
        weight=status.weight,
        waiting=status.waiting,
        in_flight=status.in_flight,
        granted=status.granted,
        rejected=status.rejected,
        tokens_used=status.tokens_used,
    )


def waiting_call(call: WaitingCall) -> introspection_service_pb2.WaitingCall:
    binding = f" {call.binding}" if call.binding is not None else ""
    return introspection_service_pb2.WaitingCall(
        call_id=call.call_id,
        tenant=call.tenant,
        tier=call.tier,
        task_type=call.task_type,
        latency=convert.LATENCY.to_proto(call.latency),
        waited=convert.to_duration(call.waited),
        predicted_wait=convert.to_duration(call.predicted_wait),
        waits_for=f"{call.waits_for}{binding}",
        attempt=call.attempt,
        chain_id=call.chain_id,
    )


def decision(value: Decision, at: float) -> introspection_service_pb2.Decision:
    """`at`: when it was taken, seconds since the epoch."""
    taken = Timestamp()
    taken.FromNanoseconds(round(at * 1e9))
    return introspection_service_pb2.Decision(
        decide_time=taken,
        call_id=value.call_id,
        tenant=value.party.tenant,
        tier=value.party.tier,
        pool=value.pool,
        task_type=value.party.task_type,
        outcome=convert.OUTCOME.to_proto(value.outcome),
        reason=value.reason,
        waited=convert.to_duration(value.waited),
        attempt=value.attempt,
        binding_limit=_binding(value.binding),
        waiting=_counts(value.waiting),
        model=value.model,
    )


def _counts(waiting: Iterable[tuple[str, int]]) -> dict[str, int]:
    return dict(waiting)
