# SPDX-License-Identifier: Apache-2.0
"""The parts below the budget: the log of answers, a bucket's edges, a window's edges."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from sluicegate.broker.core.bucket import Bucket
from sluicegate.broker.core.history import History, Log
from sluicegate.broker.core.meter import Terms
from sluicegate.broker.core.units import MeterKey
from sluicegate.broker.core.window import FixedWindow
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import LearnLimits, Resource

KEY = MeterKey(Resource.TOKENS, 60.0)


def terms(learn: LearnLimits = LearnLimits.FOLLOW, burst: float | None = None, on_completion: bool = False) -> Terms:
    return Terms(KEY, 6000, 6000, burst, 60.0, on_completion, learn, blur=0.01)


def bucket(**more) -> Bucket:
    return Bucket(terms(**more), 0.0, Counter())


def reading(low: float | None, high: float | None = None, limit: float | None = None, reset: float | None = None):
    return MeterReading(Resource.TOKENS, 60.0, limit, low, high, reset)


def test_log_knows_its_sum_at_any_recent_time():
    log = Log()
    assert (log.at(5.0), log.before(5.0)) == (0.0, 0.0)
    for time, amount in [(1.0, 10), (2.0, 20), (2.0, 5), (3.0, -5)]:
        log.add(amount, time)
    assert [log.at(t) for t in (0.5, 1.0, 1.5, 2.0, 9.0)] == [0, 10, 10, 35, 30]
    assert [log.before(t) for t in (1.0, 2.0, 2.5, 3.5)] == [0, 10, 35, 30]


def test_log_is_bounded_and_says_when_it_does_not_reach_back():
    log = Log()
    for n in range(20_000):
        log.add(1.0, float(n))
    assert log.sum == 20_000
    assert log.before(1.0) is None
    assert 0 < log.at(1.0) < 20_000
    assert log.before(19_999.0) == 19_999
    assert len(log._times) <= 8_192


def test_history_counts_what_a_figure_may_lack():
    history = History()
    for amount in (100, 200, 400):
        history.grant(amount)
    history.answer(100, 1.0)
    history.answer(200, 3.0)
    assert history.not_included(2.0, own=400) == 200
    assert history.not_included(0.5, own=400) == 300
    assert history.not_included(4.0, own=400) == 0
    assert history.unanswered == 400


def test_an_observation_older_than_the_history_only_bounds_from_above():
    meter = bucket()
    for n in range(9000):
        meter.grant(0.001, 1.0 + n)
        meter.answer(0.001, 1.0 + n)
        meter.settle(0.001, 0.001, True, 1.0 + n)
    meter.grant(5900, 9001.0)
    meter.observe(reading(6000, 6000), 0.5, 0.0, 9001.0)
    assert meter.available(9001.0) < 200
    meter.observe(reading(0, 50), 9000.9, 0.0, 9001.0)
    assert meter.holds(50.0, 9001.0)
    assert not meter.holds(51.0, 9001.0)


def test_time_that_goes_back_changes_nothing():
    meter = bucket()
    level = meter.available(10.0)
    assert meter.available(5.0) == level


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        (reading(-1, -1), "remaining_invalid"),
        (reading(math.nan, 5), "remaining_invalid"),
        (reading(7000, 7000), "remaining_above_limit"),
        (reading(10, 11, reset=1e9), "reset_out_of_range"),
        (reading(5000, 5001, reset=55.0), "reset_out_of_range"),
        (reading(10, 10, limit=-5), "limit_out_of_range"),
        (reading(1, 2, reset=0.3), "capacity_out_of_range"),
    ],
)
def test_absurd_figures_are_counted(figures: MeterReading, complaint: str):
    meter = bucket()
    meter.observe(figures, 0.0, 0.0, 0.0)
    assert meter.anomalies[complaint] == 1
    assert 0 <= meter.available(0.0) <= meter.capacity == 6000


@pytest.mark.parametrize(("low", "high"), [(3000, None), (None, 3000), (3000, 3000), (3500, 3000)])
def test_half_an_interval_and_a_reversed_one(low: float | None, high: float | None):
    meter = bucket()
    meter.observe(reading(low, high), 0.0, 0.0, 0.0)
    assert meter.available(0.0) == 3000


def test_a_reading_without_remaining_teaches_the_limit_only():
    meter = bucket()
    meter.observe(reading(None, limit=3000), 0.0, 0.0, 0.0)
    assert meter.limit == 3000
    assert not meter.observed


def test_remaining_beyond_a_small_declared_burst_shows_the_real_size():
    meter = bucket(burst=10.0)
    meter.observe(reading(4000, 4001), 0.0, 0.0, 0.0)
    assert meter.capacity == pytest.approx(4000, abs=1)
    kept = bucket(burst=10.0, learn=LearnLimits.OFF)
    kept.observe(reading(4000, 4001), 0.0, 0.0, 0.0)
    assert kept.capacity == 1000


def test_a_limit_change_keeps_the_size_as_a_duration():
    meter = bucket(burst=10.0)
    meter.learn_limit(3000, 1.0)
    assert (meter.limit, meter.capacity) == (3000, 500)
    assert meter.available(1.0) <= 500


def test_what_was_sent_but_never_charged_leaves_no_trace():
    meter = bucket(on_completion=True)
    meter.grant(50, 0.0)
    meter.take_back(50, True, 0.0, 0.0)
    assert meter.available(0.0) == 100
    assert meter.history.total == 0
    assert meter.reserved == 0


def test_a_plain_rejection_without_a_hint_waits_for_the_charge():
    meter = bucket()
    meter.observe(reading(500, 500), -1.0, 0.0, 0.0)
    meter.reject(400, None, 0.5, 1.0)
    assert meter.available(1.0) == 0
    short = meter.lack(400, 1.0, 0.0)
    assert short is not None
    assert short.ready_at > 5.0


def test_a_charge_on_completion_never_means_hidden_slices():
    meter = bucket(on_completion=True)
    meter.observe(reading(6000, 6000), 0.0, 0.0, 0.0)
    meter.reject(10, 1.0, 1.0, 1.0)
    assert meter.size == meter.capacity


def test_a_window_only_aligns_to_sane_resets():
    window = FixedWindow(terms(), 0.0, Counter())
    window.observe(reading(100, 100, reset=0.0), 0.0, 0.0, 0.0)
    assert window.end is None
    window.observe(reading(100, 100, reset=80.0), 0.0, 0.0, 0.0)
    assert window.end == 60.0
    window.observe(reading(100, 100, reset=30.0), 0.5, 0.0, 1.0)
    assert window.end == 32.0  # whole seconds may be truncated
    window.observe(reading(100, 100, reset=30.5), 1.0, 0.0, 2.0)
    assert window.end == 32.0  # within what this one says as well
