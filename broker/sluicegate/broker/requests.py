# SPDX-License-Identifier: Apache-2.0
"""Requests of the wire to events of the core. What is out of bounds is a violation that names field, value and bounds.

A settlement is the exception: it must end its reservation, so that absurd figures in it count as not said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from sluicegate.broker.core.events import Acquire, Attach, Observe, Settle
from sluicegate.broker.core.units import Workload
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.errors import Violation
from sluicegate.wire.values import (
    Chain,
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
from sluicegate.wire.words import ErrorClass, Provider

MAX_ID = 128
MAX_NAME = 253
MAX_TENANT = 507
MAX_MODEL = 256
MAX_TOKENS = 10**9
MAX_CHOICES = 1_000
MAX_FALLBACKS = 16
MAX_MESSAGE = 4_096
MAX_READINGS = 32
MAX_POOLS = 1_000
WEEK = 7 * 86_400.0
_SHOWN = 40
_UNSAID = Criticality()

T = TypeVar("T")


class Checked:
    """Collects what is wrong with one request while it is read."""

    def __init__(self, prefix: str = "") -> None:
        self.violations: list[Violation] = []
        self._prefix = prefix

    def fail(self, field: str, description: str) -> None:
        self.violations.append(Violation(f"{self._prefix}{field}", description))

    def text(self, field: str, value: str, longest: int, *, required: bool = False) -> str:
        if required and not value:
            self.fail(field, "is required")
        elif len(value) > longest:
            self.fail(field, f"{value[:_SHOWN]!r}… has {len(value)} characters; at most {longest} are allowed")
        elif not value.isprintable():
            self.fail(field, f"{value[:_SHOWN]!r} holds control characters; only printable ones are allowed")
        return value

    def whole(self, field: str, value: int, most: int) -> int:
        if not 0 <= value <= most:
            self.fail(field, f"{value} is not from 0 to {most}")
        return value

    def seconds(self, field: str, value: Duration) -> float:
        seconds = convert.from_duration(value)
        if not 0 <= seconds <= WEEK:
            self.fail(field, f"{seconds:g} s is not from 0 to {WEEK:g} s")
        return seconds

    def word(self, field: str, read: Callable[[int], T], number: int) -> T | None:
        try:
            return read(number)
        except ValueError as error:
            self.fail(field, str(error))
            return None


def hello(message: pb.Hello) -> list[Violation]:
    """What is wrong with a Hello."""
    check = Checked("hello.")
    check.text("session_id", message.session_id, MAX_ID, required=True)
    for field, value in (
        ("namespace", message.namespace),
        ("service_account", message.service_account),
        ("pod", message.pod),
        ("version", message.version),
    ):
        check.text(field, value, MAX_NAME)
    if len(message.authenticated_pools) > MAX_POOLS:
        check.fail("authenticated_pools", f"{len(message.authenticated_pools)} pools; at most {MAX_POOLS} are allowed")
    return check.violations


def workload(namespace: str, service_account: str) -> Workload:
    """Who asks; both names default to `default`, as in Kubernetes."""
    return Workload(namespace or "default", service_account or "default")


def acquire(
    call: pb.CallRequest, session: str, who: Workload, pools: frozenset[str]
) -> tuple[Acquire, list[Violation]]:
    """The event, to be used only when there is no violation."""
    check = Checked("call.")
    tenant = check.text("tenant", call.tenant, MAX_TENANT)
    if tenant and tenant.count("/") != 1:
        check.fail("tenant", f"{tenant[:_SHOWN]!r} is not of the form namespace/name")
    event = Acquire(
        call_id=check.text("call_id", call.call_id, MAX_ID, required=True),
        session=session,
        workload=who,
        provider=check.word("provider", convert.PROVIDER.from_proto, call.provider),
        model=check.text("model", call.model, MAX_MODEL, required=True),
        estimate=_estimate(check, call.estimate),
        criticality=_criticality(check, call.criticality),
        pool=check.text("pool", call.pool, MAX_NAME),
        tenant=tenant,
        key_fingerprint=check.text("key_fingerprint", call.key_fingerprint, MAX_ID),
        authenticated_pools=pools,
        cached_age=_cached_age(check, call),
        divisible=call.divisible,
        part=call.part,
        taken_by=_taken_by(call.taken_by),
    )
    return event, check.violations


_PROVIDERS: dict[int, Provider] = {convert.PROVIDER.to_proto(provider): provider for provider in Provider}


def _taken_by(numbers: Iterable[int]) -> frozenset[Provider]:
    """A provider of a later version is in no pool of this one."""
    return frozenset(_PROVIDERS[number] for number in numbers if number in _PROVIDERS)


def _cached_age(check: Checked, call: pb.CallRequest) -> float | None:
    if not call.HasField("cached"):
        return None
    return check.seconds("cached.age", call.cached.age) if call.cached.HasField("age") else math.inf


def _estimate(check: Checked, estimate: types_pb2.Estimate) -> Estimate:
    most: int | None = None
    if estimate.HasField("max_output_tokens"):
        most = check.whole("estimate.max_output_tokens", estimate.max_output_tokens, MAX_TOKENS)
    return Estimate(
        check.whole("estimate.input_tokens", estimate.input_tokens, MAX_TOKENS),
        check.whole("estimate.output_tokens", estimate.output_tokens, MAX_TOKENS),
        most,
        check.whole("estimate.characters", estimate.characters, 8 * MAX_TOKENS),
        check.whole("estimate.choices", estimate.choices, MAX_CHOICES) or 1,
        check.whole("estimate.least_input_tokens", estimate.least_input_tokens, MAX_TOKENS),
        check.whole("estimate.images", estimate.images, MAX_TOKENS),
        check.whole("estimate.image_tokens", estimate.image_tokens, MAX_TOKENS),
        estimate.exact,
    )


def _criticality(check: Checked, said: types_pb2.Criticality) -> Criticality:
    if not said.ByteSize():
        return _UNSAID
    prefix = "criticality"
    if len(said.fallback) > MAX_FALLBACKS:
        check.fail(f"{prefix}.fallback", f"{len(said.fallback)} entries; at most {MAX_FALLBACKS} are allowed")
    fallback: tuple[FallbackOption, ...] | None = None
    if said.fallback:
        options = [_option(check, f"{prefix}.fallback[{i}]", o) for i, o in enumerate(said.fallback[:MAX_FALLBACKS])]
        fallback = tuple(option for option in options if option is not None)
    chain: Chain | None = None
    if said.HasField("chain"):
        chain = Chain(
            check.text(f"{prefix}.chain.id", said.chain.id, MAX_ID, required=True),
            check.whole(f"{prefix}.chain.step", said.chain.step, 1_000_000),
            check.whole(f"{prefix}.chain.of", said.chain.of, 1_000_000),
        )
    return Criticality(
        task_type=check.text(f"{prefix}.task_type", said.task_type, MAX_ID),
        latency=check.word(f"{prefix}.latency", convert.LATENCY.from_proto, said.latency),
        max_wait=check.seconds(f"{prefix}.max_wait", said.max_wait) if said.HasField("max_wait") else None,
        deadline=check.seconds(f"{prefix}.deadline", said.deadline) if said.HasField("deadline") else None,
        fallback=fallback,
        chain=chain,
        orchestrator=said.orchestrator if said.HasField("orchestrator") else None,
    )


def _option(check: Checked, field: str, option: types_pb2.FallbackOption) -> FallbackOption | None:
    match option.WhichOneof("kind"):
        case "model":
            return UseModel(check.text(f"{field}.model", option.model, MAX_MODEL, required=True))
        case "pool":
            return UsePool(check.text(f"{field}.pool", option.pool, MAX_NAME, required=True))
        case "cached_max_age":
            return UseCached(check.seconds(f"{field}.cached_max_age", option.cached_max_age))
        case "degrade_message":
            if len(option.degrade_message) > MAX_MESSAGE:
                check.fail(f"{field}.degrade_message", f"at most {MAX_MESSAGE} characters are allowed")
            return UseDegraded(option.degrade_message)
        case "trim_input_tokens":
            tokens = check.whole(f"{field}.trim_input_tokens", option.trim_input_tokens, MAX_TOKENS)
            return UseTrimmed(tokens)
        case _:
            check.fail(field, "must say one of model, pool, cached_max_age, degrade_message and trim_input_tokens")
            return None


def attach(
    message: pb.Attachment, session: str, who: Workload, pools: frozenset[str]
) -> tuple[Attach, list[Violation]]:
    """The event, to be used only when there is no violation."""
    event, violations = acquire(message.call, session, who, pools)
    age = max(0.0, convert.from_duration(message.age)) if message.HasField("age") else 0.0
    return Attach(event, message.granted, min(age, WEEK), max(1, min(message.attempt, 1_000))), violations


def observe(message: pb.Observation, session: str) -> Observe:
    """At most MAX_READINGS readings; whoever folds them in clamps their values. Unknown resources are left out."""
    readings = [_reading(reading) for reading in message.readings[:MAX_READINGS]]
    known = tuple([reading for reading in readings if reading is not None])
    return Observe(message.call_id, known, session=session, accepted=message.accepted)


def _reading(reading: types_pb2.MeterReading) -> MeterReading | None:
    try:
        resource = convert.RESOURCE.from_proto(reading.resource)
    except ValueError:
        return None
    if resource is None:
        return None
    return MeterReading(
        resource,
        reading.window_seconds if reading.HasField("window_seconds") else None,
        reading.limit if reading.HasField("limit") else None,
        reading.remaining_low if reading.HasField("remaining_low") else None,
        reading.remaining_high if reading.HasField("remaining_high") else None,
        reading.reset_seconds if reading.HasField("reset_seconds") else None,
    )


def settle(message: pb.Settlement, session: str) -> tuple[Settle, list[str]]:
    """The event, and the fields whose values were absurd and count as not said."""
    absurd: list[str] = []
    try:
        error_class = convert.ERROR_CLASS.from_proto(message.error_class) or ErrorClass.NONE
    except ValueError:
        absurd.append("error_class")
        error_class = ErrorClass.SERVER
    usage: Usage | None = None
    if message.HasField("usage"):
        counts = (message.usage.input_tokens, message.usage.output_tokens, message.usage.cached_input_tokens)
        if min(counts) >= 0 and max(counts) <= MAX_TOKENS:
            usage = Usage(*counts)
        else:
            absurd.append("usage")
    retry_after: float | None = None
    if message.HasField("retry_after"):
        retry_after = convert.from_duration(message.retry_after)
        if not 0 <= retry_after <= WEEK:
            absurd.append("retry_after")
            retry_after = None
    event = Settle(
        call_id=message.call_id,
        error_class=error_class,
        attempt=max(0, message.attempt),
        dispatched=message.dispatched,
        retriable=message.retriable,
        usage=usage,
        quota=_quota(message.quota, absurd) if message.HasField("quota") else None,
        retry_after=retry_after,
        session=session,
    )
    return event, absurd


def _quota(quota: types_pb2.QuotaRejection, absurd: list[str]) -> QuotaRejection:
    try:
        resource = convert.RESOURCE.from_proto(quota.resource)
    except ValueError:
        absurd.append("quota.resource")
        resource = None

    def sane(field: str, present: bool, value: float) -> float | None:
        if not present:
            return None
        if math.isfinite(value) and value >= 0:
            return value
        absurd.append(f"quota.{field}")
        return None

    return QuotaRejection(
        resource,
        sane("window_seconds", quota.HasField("window_seconds"), quota.window_seconds),
        sane("retry_after_seconds", quota.HasField("retry_after_seconds"), quota.retry_after_seconds),
        quota.never_fits,
        sane("limit", quota.HasField("limit"), quota.limit),
        sane("requested", quota.HasField("requested"), quota.requested),
    )
