# SPDX-License-Identifier: Apache-2.0
"""Refusals carry reason, retry and violations over the wire and back."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sluicegate.wire import errors
from sluicegate.wire.words import Reason


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("retry_after", [None, 0.0, 2.5])
def test_a_refusal_comes_back_the_same(reason: Reason, retry_after: float | None) -> None:
    refusal = errors.Refusal(
        reason, "wait 2.5 s", retry_after, {"pool": "gpt-4o"}, (errors.Violation("call.model", "too long"),)
    )
    assert errors.from_status(errors.to_status(refusal)) == refusal


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.PREDICTED_WAIT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.QUEUE_FULL_POOL, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.UNKNOWN_POOL, grpc.StatusCode.NOT_FOUND),
        (Reason.TENANT_NOT_ALLOWED, grpc.StatusCode.PERMISSION_DENIED),
        (Reason.INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT),
        (Reason.SHUTTING_DOWN, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_the_code_says_whose_fault_it_is(reason: Reason, code: grpc.StatusCode) -> None:
    assert errors.code_of(reason) is code
    assert errors.to_status(errors.Refusal(reason, "")).code == code.value[0]


def test_invalid_names_every_field() -> None:
    refusal = errors.invalid([errors.Violation("a", "1 is too small"), errors.Violation("b", "is required")])
    assert refusal.message == "a: 1 is too small; b: is required"
    assert [v.field for v in refusal.violations] == ["a", "b"]


def test_foreign_and_broken_statuses_are_none_of_ours() -> None:
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    assert errors.from_status(Status(code=8, message="busy")) is None
    assert errors.from_status(Status(code=8, message="busy", details=[broken])) is None
