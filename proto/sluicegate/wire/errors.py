# SPDX-License-Identifier: Apache-2.0
"""Refusals as google.rpc.Status, and back (AIP-193).

Each carries ErrorInfo with the reason word, the domain `sluicegate.dev` and metadata for programs; RetryInfo where a
repeat has a chance; BadRequest with one violation per field where the request is at fault.
"""

from __future__ import annotations

# google.rpc ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status import rpc_status

from sluicegate.wire.convert import from_duration, to_duration
from sluicegate.wire.words import Reason

DOMAIN = "sluicegate.dev"

_CODES: dict[Reason, grpc.StatusCode] = {
    Reason.UNKNOWN_POOL: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_TENANT: grpc.StatusCode.NOT_FOUND,
    Reason.UNMANAGED_REJECTED: grpc.StatusCode.NOT_FOUND,
    Reason.AMBIGUOUS_POOL: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BILLING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TENANT_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ACCESS_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NEVER_FITS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.BROKER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.BREAKER_OPEN: grpc.StatusCode.UNAVAILABLE,
    Reason.ATTEMPTS_EXHAUSTED: grpc.StatusCode.ABORTED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
}


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC code of a refusal: RESOURCE_EXHAUSTED unless the reason says whose fault it is."""
    return _CODES.get(reason, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is wrong; `description` gives its value and what is allowed."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a status said. `retry_after` seconds; None: a repeat has no chance."""

    reason: Reason
    message: str
    retry_after: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    violations: tuple[Violation, ...] = ()


def to_status(refusal: Refusal) -> Status:
    """The google.rpc.Status of `refusal`."""
    info = error_details_pb2.ErrorInfo(reason=refusal.reason.name, domain=DOMAIN, metadata=dict(refusal.metadata))
    details = [_packed(info)]
    if refusal.retry_after is not None:
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=to_duration(max(0.0, refusal.retry_after)))))
    if refusal.violations:
        details.append(
            _packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                        for v in refusal.violations
                    ]
                )
            )
        )
    number: int = code_of(refusal.reason).value[0]
    return Status(code=number, message=refusal.message, details=details)


def invalid(violations: Sequence[Violation]) -> Refusal:
    """The refusal of a request with wrong fields, all of them named."""
    message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return Refusal(Reason.INVALID_REQUEST, message, violations=tuple(violations))


def from_status(status: Status) -> Refusal | None:
    """The refusal in `status`, or None where it is none of ours (no ErrorInfo of our domain with a known reason)."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    retry_after: float | None = None
    try:
        for detail in status.details:
            if detail.TypeName() == "google.rpc.ErrorInfo":
                detail.Unpack(info)
            elif detail.TypeName() == "google.rpc.RetryInfo":
                detail.Unpack(retry)
                retry_after = from_duration(retry.retry_delay)
            elif detail.TypeName() == "google.rpc.BadRequest":
                detail.Unpack(bad)
    except DecodeError:
        return None
    if info.domain != DOMAIN or info.reason not in Reason.__members__:
        return None
    violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
    return Refusal(Reason[info.reason], status.message, retry_after, dict(info.metadata), violations)


def from_rpc_error(error: grpc.RpcError | grpc.aio.AioRpcError) -> Refusal | None:
    """The refusal that a failed call carries, or None (a connection that broke, another server)."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # the details contradict the code or the message: not ours
        return None
    return None if status is None else from_status(status)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
