# SPDX-License-Identifier: Apache-2.0
"""Metrics by their labels, looked up fast enough for every call."""

from __future__ import annotations

from typing import Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)


class Labelled(Generic[M]):
    """The children of `metric`. Call it with the values of its labels, in order.

    The library's own `labels` takes about 3 us for a child that it knows, this about 0.3. Nothing is forgotten here
    either, so the labels must be bounded.
    """

    __slots__ = ("_children", "_metric")

    def __init__(self, metric: M) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child
