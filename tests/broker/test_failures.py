# SPDX-License-Identifier: Apache-2.0
"""What providers refused, as the log tells it."""

from __future__ import annotations

import logging

import pytest

from sluicegate.broker.core.effects import Party, Settled
from sluicegate.broker.failures import FailureLog
from sluicegate.wire.values import QuotaRejection
from sluicegate.wire.words import ErrorClass, Resource


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _settled(error_class: str, pool: str = "gpt-4o", *, opened: bool = False) -> Settled:
    return Settled("call", Party("acme/acme", "premium", "chat"), pool, error_class, 10.0, None, 0, 0, opened=opened)


@pytest.mark.parametrize(
    ("error_class", "level"),
    [
        (ErrorClass.BILLING, logging.ERROR),
        (ErrorClass.AUTH, logging.ERROR),
        (ErrorClass.OVERLOAD, logging.WARNING),
        (ErrorClass.SERVER, logging.WARNING),
        (ErrorClass.NETWORK, logging.WARNING),
        (QuotaRejection(Resource.TOKENS, 60.0).kind, logging.WARNING),
        (ErrorClass.INVALID, logging.INFO),
        (ErrorClass.CONTEXT_LENGTH, logging.INFO),
        (ErrorClass.CONTENT_POLICY, logging.INFO),
    ],
)
def test_each_class_has_its_level(caplog: pytest.LogCaptureFixture, error_class: str, level: int) -> None:
    caplog.set_level(logging.INFO)
    FailureLog(_Clock()).witness([_settled(error_class)], 0.0)
    (record,) = caplog.records
    assert (record.levelno, record.__dict__["error_class"], record.__dict__["pool"]) == (level, error_class, "gpt-4o")


@pytest.mark.parametrize("error_class", [ErrorClass.NONE, ErrorClass.CANCELLED])
def test_what_is_no_failure_is_not_told(caplog: pytest.LogCaptureFixture, error_class: str) -> None:
    caplog.set_level(logging.DEBUG)
    FailureLog(_Clock()).witness([_settled(error_class)], 0.0)
    assert caplog.records == []


def test_a_storm_is_one_line_every_ten_seconds_for_each_pool_and_class(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = _Clock()
    log = FailureLog(clock)
    for _ in range(50):
        log.witness([_settled("quota_tokens"), _settled("quota_requests"), _settled("quota_tokens", "other")], 0.0)
    assert len(caplog.records) == 3
    clock.now += 10.0
    log.witness([_settled("quota_tokens")], 0.0)
    assert caplog.records[-1].__dict__["others_since"] == 49
    assert len(caplog.records) == 4


def test_a_circuit_that_opens_is_told_within_a_storm_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = FailureLog(_Clock())
    log.witness([_settled("overload"), _settled("overload"), _settled("overload", opened=True)], 0.0)
    assert [record.message for record in caplog.records] == ["the provider refused a call", "the circuit opened"]


@pytest.mark.parametrize(
    ("quota", "kind"),
    [
        (QuotaRejection(), "quota"),
        (QuotaRejection(Resource.REQUESTS, 60.0), "quota_requests"),
        (QuotaRejection(Resource.TOKENS, None), "quota_tokens"),
        (QuotaRejection(Resource.INPUT_TOKENS, 60.0), "quota_input_tokens"),
        (QuotaRejection(Resource.OUTPUT_TOKENS, 60.0), "quota_output_tokens"),
        (QuotaRejection(Resource.REQUESTS, 86400.0), "quota_daily"),
        (QuotaRejection(Resource.TOKENS, 86400.0), "quota_daily"),
    ],
)
def test_quotas_are_told_apart(quota: QuotaRejection, kind: str) -> None:
    assert quota.kind == kind
