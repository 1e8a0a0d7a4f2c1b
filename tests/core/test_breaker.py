# SPDX-License-Identifier: Apache-2.0
"""The breaker's table, row by row, and what must hold whatever happens."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.broker.core.breaker import FAILURES, Breaker, BreakerState
from sluicegate.broker.core.config import BreakerConfig
from sluicegate.wire.words import ErrorClass

CONFIG = BreakerConfig(failure_rate_percent=50, minimum_calls=4, window=10.0, open_for=5.0, max_open_for=30.0)
NEUTRAL = sorted(set(ErrorClass) - FAILURES - {ErrorClass.NONE, ErrorClass.BILLING})


def end(breaker: Breaker, error: ErrorClass, now: float, retry_after: float | None = None) -> bool:
    assert breaker.admits(now)
    return breaker.ended(breaker.granted("c", now), error, now, retry_after=retry_after)


def opened(retry_after: float | None = None) -> Breaker:
    breaker = Breaker(CONFIG)
    assert [end(breaker, ErrorClass.OVERLOAD, 0.0, retry_after) for _ in range(4)] == [False, False, False, True]
    return breaker


def test_opens_at_the_rate_of_enough_calls() -> None:
    breaker = Breaker(CONFIG)
    errors = [ErrorClass.NONE, ErrorClass.NONE, ErrorClass.SERVER]
    assert not any(end(breaker, error, 1.0) for error in errors)
    assert end(breaker, ErrorClass.NETWORK, 1.0)
    assert breaker.cause is ErrorClass.NETWORK
    assert not breaker.admits(5.9)


def test_failures_outside_the_window_are_forgotten() -> None:
    breaker = Breaker(CONFIG)
    for at in (0.0, 0.0, 0.0, 10.5, 10.5, 10.5):
        assert not end(breaker, ErrorClass.OVERLOAD, at)
    assert end(breaker, ErrorClass.OVERLOAD, 10.6)


@pytest.mark.parametrize("error", NEUTRAL)
def test_neutral_outcomes_neither_open_nor_dilute(error: ErrorClass) -> None:
    breaker = Breaker(CONFIG)
    assert not any(end(breaker, error, 0.0) for _ in range(100))
    assert [end(breaker, ErrorClass.OVERLOAD, 0.0) for _ in range(4)] == [False, False, False, True]


def test_a_longer_retry_after_is_honoured_and_an_absurd_one_is_bounded() -> None:
    assert opened(retry_after=20.0).until == 20.0
    assert opened(retry_after=1.0).until == 5.0
    assert opened(retry_after=1e9).until == 3600.0
    assert opened(retry_after=nan).until == opened(retry_after=inf).until == 5.0


def test_open_time_doubles_up_to_its_most_and_starts_again_after_it_closed() -> None:
    breaker, now, lengths = opened(), 0.0, []
    for _ in range(5):
        lengths.append(breaker.until - now)
        now = breaker.until
        end(breaker, ErrorClass.OVERLOAD, now)
    assert lengths == [5.0, 10.0, 20.0, 30.0, 30.0]
    now = breaker.until
    assert not end(breaker, ErrorClass.NONE, now)
    assert breaker.state is BreakerState.CLOSED
    for _ in range(4):
        end(breaker, ErrorClass.SERVER, now)
    assert breaker.until == now + 5.0


@pytest.mark.parametrize("error", NEUTRAL)
def test_a_probe_that_says_nothing_leaves_the_next_call_to_probe(error: ErrorClass) -> None:
    breaker = opened()
    assert not end(breaker, error, 5.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admits(5.0)


def test_a_probe_that_never_ends_counts_as_lost_and_its_late_word_for_nothing() -> None:
    breaker = opened()
    assert breaker.admits(5.0)
    lost = breaker.granted("lost", 5.0)
    assert not breaker.admits(34.9)
    assert breaker.wakes_at() == 35.0
    assert breaker.admits(35.0)
    breaker.granted("second", 35.0)
    assert not breaker.ended(lost, ErrorClass.NONE, 36.0)
    assert (breaker.state, breaker.probe) == (BreakerState.HALF_OPEN, "second")


def test_what_was_in_flight_when_it_opened_neither_closes_nor_opens_it_but_may_prolong() -> None:
    breaker = Breaker(CONFIG)
    early = breaker.granted("early", 0.0)
    for _ in range(4):
        end(breaker, ErrorClass.OVERLOAD, 0.0)
    assert not breaker.ended(early, ErrorClass.NONE, 1.0)
    assert not breaker.ended(early, ErrorClass.OVERLOAD, 1.0, retry_after=9.0)
    assert breaker.until == 10.0
    assert breaker.transitions[BreakerState.OPEN] == 1


def test_billing_opens_at_once_probes_slowly_and_a_new_document_is_believed() -> None:
    breaker = Breaker(CONFIG)
    assert end(breaker, ErrorClass.BILLING, 0.0)
    assert breaker.until == 60.0
    assert end(breaker, ErrorClass.BILLING, 60.0)
    assert breaker.until == 180.0
    breaker.reconfigure(CONFIG, 61.0, changed=False)
    assert not breaker.admits(61.0)
    breaker.reconfigure(CONFIG, 62.0, changed=True)
    assert breaker.admits(62.0)


def test_other_bounds_hold_at_once() -> None:
    breaker = opened(retry_after=25.0)
    breaker.reconfigure(BreakerConfig(50, 4, 10.0, 1.0, 2.0), 1.0, changed=True)
    assert breaker.until == 3.0


Step = tuple[str, float, ErrorClass, float | None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "end", "end", "lose", "accept"]),
        st.floats(0.0, 40.0),
        st.sampled_from(ErrorClass),
        st.none() | st.floats(allow_nan=True),
    ),
    max_size=200,
)


@given(STEPS)
def test_never_a_grant_while_open_never_two_probes_and_never_wedged(steps: list[Step]) -> None:
    breaker, again = Breaker(CONFIG), Breaker(CONFIG)
    now, out = 0.0, list[int]()
    for kind, seconds, error, retry_after in steps:
        now += seconds / 10.0
        if kind == "grant":
            before, until, probe = breaker.state, breaker.until, breaker.probe
            admits = breaker.admits(now)
            assert again.admits(now) == admits
            if before is BreakerState.OPEN:
                assert admits == (now >= until)
            if before is BreakerState.HALF_OPEN and probe:
                assert admits == (now >= until)
            if admits:
                out.append(breaker.granted("c", now))
                assert again.granted("c", now) == out[-1]
        elif kind == "accept" and out:
            current = breaker.state is BreakerState.HALF_OPEN and out[0] == breaker.epoch
            did = breaker.accepted(out[0])
            assert again.accepted(out[0]) == did
            assert did == (current and breaker.state is BreakerState.CLOSED)
        elif out:
            epoch = out.pop(0)
            said = ErrorClass.CANCELLED if kind == "lose" else error
            was = breaker.state
            did = breaker.ended(epoch, said, now, retry_after=retry_after)
            assert again.ended(epoch, said, now, retry_after=retry_after) == did
            assert did == (was is not BreakerState.OPEN and breaker.state is BreakerState.OPEN)
        assert sum(epoch == breaker.epoch for epoch in out) <= 1 or breaker.state is BreakerState.CLOSED
    assert breaker.admits(now + 4000.0), "whatever happened, some call goes at last"
