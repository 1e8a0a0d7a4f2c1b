# SPDX-License-Identifier: Apache-2.0
"""Who a call speaks for and how urgent it is; what may not be said."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.criticality import Asked, InvalidValueError, read_criticality, strip_baggage
from sluicegate.wire.values import Chain, Criticality, UseCached, UseDegraded, UseModel, UsePool, UseTrimmed
from sluicegate.wire.words import Latency

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def read(*headers: tuple[str, str], defaults: Asked | None = None) -> Asked:
    return read_criticality(headers, defaults or Asked(), NOW)


def test_every_header():
    got = read(
        ("X-Sluicegate-Tenant", "acme/acme"),
        ("x-sluicegate-task-type", "chat"),
        ("x-sluicegate-latency", "near-real-time"),
        ("x-sluicegate-max-wait", "800ms"),
        ("x-sluicegate-deadline", "2026-01-01T12:10:00Z"),
        ("x-sluicegate-fallback", "model:gpt-4o-mini, pool:claude-sonnet, cached:10m, trim:8000, degrade"),
        ("x-sluicegate-chain", "id=job-7;step=2;of=5"),
        ("x-sluicegate-orchestrator", "true"),
    )
    fallback = (UseModel("gpt-4o-mini"), UsePool("claude-sonnet"), UseCached(600.0), UseTrimmed(8000), UseDegraded())
    chat = Criticality("chat", Latency.NEAR_REAL_TIME, 0.8, 600.0, fallback, Chain("job-7", 2, 5), True)
    assert got == Asked(chat, "acme/acme")


def test_headers_over_baggage_over_defaults():
    defaults = Asked(Criticality(task_type="from-pod", latency=Latency.BATCH, max_wait=9.0))
    got = read(
        ("baggage", "a=b, sluicegate.latency=real-time;x=y, sluicegate.task-type=from%2Dbaggage, sluicegate.new=1"),
        ("x-sluicegate-task-type", "from-header"),
        defaults=defaults,
    )
    kept = got.criticality
    assert (kept.task_type, kept.latency, kept.max_wait) == ("from-header", Latency.REAL_TIME, 9.0)
    assert read(("authorization", "x"), defaults=defaults) is defaults


def test_a_deadline_that_is_past_leaves_no_time():
    assert read(("x-sluicegate-deadline", "2020-01-01T00:00:00+00:00")).criticality.deadline == 0.0
    assert read(("x-sluicegate-deadline", "10m")).criticality.deadline == 600.0


@pytest.mark.parametrize(
    ("header", "value", "allowed"),
    [
        ("x-sluicegate-latency", "fast", "real-time, near-real-time, batch"),
        ("x-sluicegate-latency", "real_time", "real-time"),
        ("x-sluicegate-max-wait", "800", "800ms"),
        ("x-sluicegate-max-wait", "-1s", "800ms"),
        ("x-sluicegate-deadline", "2026-01-01T00:00:00", "RFC 3339"),
        ("x-sluicegate-tenant", "acme", "namespace/name"),
        ("x-sluicegate-task-type", "a b", "letters"),
        ("x-sluicegate-fallback", "model:", "model:NAME"),
        ("x-sluicegate-fallback", "cached:never", "cached:DURATION"),
        ("x-sluicegate-fallback", ",".join(["degrade"] * 9), "at most 8"),
        ("x-sluicegate-fallback", "trim:0", "trim:TOKENS"),
        ("x-sluicegate-fallback", "trim:-5", "trim:TOKENS"),
        ("x-sluicegate-fallback", "trim:", "trim:TOKENS"),
        ("x-sluicegate-fallback", "trim:1e3", "trim:TOKENS"),
        ("x-sluicegate-chain", "step=2", "id=TEXT"),
        ("x-sluicegate-chain", "id=a;step=9;of=2", "step not above of"),
        ("x-sluicegate-orchestrator", "yes", "true, false"),
        ("x-sluicegate-priority", "1", "x-sluicegate-latency"),
        ("x-sluicegate-task-type", "a" * 2000, "at most"),
    ],
)
def test_what_cannot_be_read_names_header_value_and_allowed(header: str, value: str, allowed: str):
    with pytest.raises(InvalidValueError) as caught:
        read((header, value))
    assert caught.value.where == header
    assert value[:50] in str(caught.value)
    assert allowed in caught.value.allowed


def test_baggage_names_the_member():
    with pytest.raises(InvalidValueError, match=r"baggage member sluicegate\.latency"):
        read(("baggage", "sluicegate.latency=fast"))


@pytest.mark.parametrize(
    ("given_", "left"),
    [
        ("a=1,b=2", "a=1,b=2"),
        ("sluicegate.latency=batch", ""),
        ("a=1 , sluicegate.chain=id%3Dx;p, b=2;q=r", "a=1 , b=2;q=r"),
    ],
)
def test_our_baggage_goes_no_further(given_: str, left: str):
    assert strip_baggage(given_) == left


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str):
    for name in ("tenant", "latency", "max-wait", "deadline", "fallback", "chain", "orchestrator"):
        with contextlib.suppress(InvalidValueError):  # anything else would be a defect
            assert read((f"x-sluicegate-{name}", text)) is not None
