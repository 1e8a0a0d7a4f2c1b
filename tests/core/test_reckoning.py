# SPDX-License-Identifier: Apache-2.0
"""Bounds by dead reckoning, compared with a scan over every moment at which a figure may have been taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.broker.core.reckoning import Drawn, InStep

RATE = 10.0
draws = st.lists(st.tuples(st.floats(0.01, 5), st.integers(-20, 100)), min_size=1, max_size=30)


@given(draws, st.floats(0, 60), st.floats(0, 10))
def test_the_most_left_is_the_best_moment(steps: list[tuple[float, int]], dispatched: float, pause: float):
    drawn = Drawn()
    now = 0.0
    history: list[tuple[float, int]] = []
    for gap, amount in steps:
        now += gap
        drawn.add(amount, RATE, now)
        history.append((now, amount))
    now += pause
    dispatched = min(dispatched, now)
    moments = [dispatched, *(at for at, _ in history if at >= dispatched), now]
    grown = [RATE * (now - s) - sum(amount for at, amount in history if at > s) for s in moments]
    most = drawn.most_left(dispatched, RATE, now)
    assert most == pytest.approx(min(RATE * (now - dispatched), max(grown)), abs=1e-6)
    least = drawn.least_left(dispatched, 0.0, 0.1, RATE, now)
    if least is not None:
        assert least <= max(grown) + 1e-6
        assert least <= 0.0


def test_another_rate_makes_the_past_unknown():
    drawn = Drawn()
    drawn.add(50.0, RATE, 1.0)
    drawn.add(50.0, 2 * RATE, 2.0)
    assert drawn.most_left(1.5, 2 * RATE, 3.0) == 2 * RATE * 1.5
    assert drawn.least_left(1.5, 0.0, 0.1, 2 * RATE, 3.0) is None
    assert drawn.most_left(2.5, RATE, 3.0) == 0.5 * RATE


def test_what_is_given_back_loosens_the_upper_bound_only():
    drawn = Drawn()
    drawn.add(100.0, RATE, 1.0)
    drawn.add(-60.0, RATE, 2.0, lifted=True)
    assert drawn.most_left(0.5, RATE, 2.0) == RATE * 1.5
    drawn.add(100.0, RATE, 2.5)
    assert drawn.least_left(0.5, 0.0, 0.1, RATE, 2.5) == RATE * 1.5 - 200.0  # taken just before the first draw


def test_memory_is_bounded_and_the_bound_stays_safe():
    drawn = Drawn()
    for n in range(20_000):
        drawn.add(1.0, RATE, n / 10)
    assert 0.0 <= drawn.most_left(1.0, RATE, 2000.0) <= RATE * 1999.0
    assert drawn.most_left(1999.0, RATE, 2000.0) == pytest.approx(1.1, abs=1.0)


def feed(step: InStep, figures: list[float], start: float = 0.0) -> None:
    for n, remaining in enumerate(figures):
        drawn = (n * 30.0, n * 30.0)
        step.compare(start + n * 4.0, remaining, 1.0, drawn, RATE, 1000.0)


def test_figures_that_follow_are_believed_until_one_does_not():
    step = InStep()
    assert not step
    feed(step, [500.0 + 10.0 * n for n in range(6)])  # 40 flow in, 30 are drawn
    assert step
    feed(step, [500.0, 440.0], start=100.0)
    assert not step


def test_each_429_asks_for_more():
    step = InStep()
    at, needed = 0, []
    for _ in range(3):
        count = 0
        while not step and count < 1000:
            at += 1
            count += 1
            step.compare(at * 4.0, 500.0, 1.0, (at * 40.0, at * 40.0), RATE, 1000.0)
        needed.append(count)
        step.distrust()
    assert needed[0] < needed[1] < needed[2] < 1000
