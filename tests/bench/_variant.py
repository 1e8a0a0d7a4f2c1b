# SPDX-License-Identifier: Apache-2.0
"""Broker or sidecar less one of its parts, to see what it costs: `python -m tests.bench._variant NAME [ARGUMENTS]`.

Each imports its own program only: the other's modules would cost it memory, and time of the garbage collector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class _Nothing:
    """A metric that counts nothing."""

    def inc(self, amount: float = 1.0) -> None:
        pass

    observe = inc


def _broker_without_metrics() -> int:
    from sluicegate.broker import main as broker
    from sluicegate.broker.metrics import Metrics

    Metrics.witness = lambda self, effects, wall_offset: None  # type: ignore[method-assign]
    broker.main()
    return 0


def _sidecar_without_metrics() -> int:
    from sluicegate.sidecar import main as sidecar
    from sluicegate.wire.tallies import Counts, Spreads

    nothing: Any = _Nothing()
    for family in (Counts, Spreads):
        setattr(family, "__call__", lambda self, *labels: nothing)  # noqa: B010 - a type checker would object, rightly
    return sidecar.main()


VARIANTS: dict[str, Callable[[], int]] = {
    "broker-without-metrics": _broker_without_metrics,
    "sidecar-without-metrics": _sidecar_without_metrics,
}

if __name__ == "__main__":
    sys.exit(VARIANTS[sys.argv.pop(1)]())
