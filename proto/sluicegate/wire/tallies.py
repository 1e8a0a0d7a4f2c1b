# SPDX-License-Identifier: Apache-2.0
"""Counters and histograms that every call touches, cheap enough for it; prometheus-client shows them.

The library's own children take a lock and a look-up for each step: together a sixth of the broker's time under load.
These belong to one event loop, in which they are counted and read, so that they need neither. Labels must be bounded:
nothing is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Count:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Adds `amount`, which is not negative."""
        self.value += amount


class Counts(Collector):
    """A counter for each tuple of `labels`: call it with their values, in order."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._family = (name, documentation, None, tuple(labels))
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def __call__(self, *labels: str) -> Count:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = Count()
        return child

    def describe(self) -> Iterable[Metric]:
        return (CounterMetricFamily(*self._family),)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(*self._family)
        for labels, child in self._children.items():
            family.add_metric(labels, child.value)
        yield family


class Counted(Protocol):
    """A histogram: how many values lie in each bucket, the last beyond all `bounds`, and their sum."""

    @property
    def bounds(self) -> Sequence[float]: ...

    @property
    def counts(self) -> Sequence[int]: ...

    @property
    def total(self) -> float: ...


def show(family: HistogramMetricFamily, labels: Sequence[str], spread: Counted) -> None:
    """Adds `spread` to `family` under `labels`."""
    names = [*map(str, spread.bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, accumulate(spread.counts), strict=True)), spread.total)


class Spread:
    """One histogram, as `Counted` says."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts `value` in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Spreads(Collector):
    """A histogram with the buckets `bounds`, ascending, for each tuple of `labels`."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._family = (name, documentation, None, None, tuple(labels))
        self._bounds = tuple(map(float, bounds))
        self._children: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def __call__(self, *labels: str) -> Spread:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = Spread(self._bounds)
        return child

    def describe(self) -> Iterable[Metric]:
        return (HistogramMetricFamily(*self._family),)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(*self._family)
        for labels, child in self._children.items():
            show(family, labels, child)
        yield family
