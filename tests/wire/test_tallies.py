# SPDX-License-Identifier: Apache-2.0
"""Counts and spreads say on a page what the library's own counters and histograms would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from sluicegate.wire.tallies import Counts, Spreads

BOUNDS = (0.1, 1.0, 2.5, 10.0)
LABELS = ("pool", "kind")
VALUES = st.one_of(st.sampled_from(BOUNDS), st.integers(0, 20).map(float), st.floats(0, 1e6))
STEPS = st.lists(st.tuples(st.sampled_from(["a", 'q"uote\n', ""]), st.sampled_from(["x", "y"]), VALUES), max_size=30)


def page(registry: CollectorRegistry) -> list[str]:
    """What a scrape gives, less the times of creation."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(STEPS)
def test_a_page_is_as_the_librarys(steps: list[tuple[str, str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("calls", "Calls.", LABELS, ours)
    spreads = Spreads("wait_seconds", "Waits.", LABELS, BOUNDS, ours)
    counter = Counter("calls", "Calls.", LABELS, registry=theirs)
    histogram = Histogram("wait_seconds", "Waits.", LABELS, buckets=BOUNDS, registry=theirs)
    for pool, kind, value in steps:
        counts(pool, kind).inc(value)
        spreads(pool, kind).observe(value)
        counter.labels(pool, kind).inc(value)
        histogram.labels(pool, kind).observe(value)
    assert page(ours) == page(theirs)


def test_one_name_is_registered_once() -> None:
    registry = CollectorRegistry()
    Counts("calls", "Calls.", LABELS, registry)
    with pytest.raises(ValueError, match="calls"):
        Counts("calls", "Calls.", LABELS, registry)
