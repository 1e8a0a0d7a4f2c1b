# SPDX-License-Identifier: Apache-2.0
"""Spans between two observations of a bucket, compared for what the calls in between really cost.

A span is made twice, by times of dispatch and of arrival (see `foreign`), each with the least that the calls of the
span can have declared, and the dearer result counts. Spans do not overlap; one in which the bucket may have been full
says nothing, since what flows in there is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.history import Log
from sluicegate.broker.core.meter import OVERTAKING, Bucket
from sluicegate.broker.core.ratio import OutputShare
from sluicegate.broker.core.units import Charge, MeterReading

_SHORTEST = 3.0
_LONGEST = 30.0


@dataclass(frozen=True, slots=True)
class _Figure:
    """`remaining` as one call saw it; input and declared output of what we had granted: least and most at dispatch,
    and at arrival."""

    dispatched: float
    arrived: float
    remaining: float
    given: tuple[float, float, float]
    output: tuple[float, float, float]
    limit: float


class ChargeSpans:
    """Feeds `share` from the observations of one bucket."""

    __slots__ = ("_anchor", "_given", "_newest", "_output", "_outputs", "_share")

    def __init__(self, share: OutputShare) -> None:
        self._share = share
        self._given = Log()
        self._output = Log()
        self._outputs: dict[str, float] = {}  # declared in the span, by kind
        self._anchor: _Figure | None = None
        self._newest: _Figure | None = None

    def grant(self, charge: Charge, now: float) -> None:
        self._add(charge, 1.0, now)

    def revoke(self, charge: Charge, now: float) -> None:
        """The provider never charged it."""
        self._add(charge, -1.0, now)

    def _add(self, charge: Charge, sign: float, now: float) -> None:
        self._given.add(sign * charge.input_tokens, now)
        self._output.add(sign * charge.output_tokens, now)
        self._outputs[charge.kind] = max(0.0, self._outputs.get(charge.kind, 0.0) + sign * charge.output_tokens)

    def restart(self) -> None:
        self._begin(None)

    def observe(self, reading: MeterReading, bucket: Bucket, dispatched: float, own: Charge, now: float) -> None:
        low, high = sane(reading.remaining_low), sane(reading.remaining_high)
        if low is None or high is None:
            return
        new = _Figure(
            dispatched,
            now,
            (low + high) / 2,
            _around(self._given, dispatched, own.input_tokens),
            _around(self._output, dispatched, own.output_tokens),
            bucket.limit,
        )
        old, last = self._anchor, self._newest
        self._newest = new
        full = new.remaining >= 0.98 * bucket.capacity or (
            last is not None and last.remaining + bucket.rate * (now - last.dispatched) >= bucket.capacity
        )
        if old is None or full or old.limit != new.limit or now - old.arrived > _LONGEST:
            self._begin(None if new.remaining >= 0.98 * bucket.capacity else new)
            return
        latency = now - dispatched
        if min(dispatched - old.dispatched, now - old.arrived) < max(_SHORTEST, min(2 * latency, 10.0)):
            return
        outputs = {kind: amount for kind, amount in self._outputs.items() if amount > 0}
        share = self._share.mean(outputs)
        drop = old.remaining - new.remaining

        def excess(seconds: float, given: float, output: float) -> float:
            return drop + bucket.rate * seconds - given - share * output

        by_dispatch = excess(
            new.dispatched - old.dispatched, new.given[0] - old.given[1], new.output[0] - old.output[1]
        )
        by_arrival = excess(new.arrived - old.arrived, new.given[2] - old.given[2], new.output[2] - old.output[2])
        cost = drop + bucket.rate * (new.dispatched - old.dispatched)
        self._share.learn(outputs, max(by_dispatch, by_arrival), cost)
        self._begin(new)

    def _begin(self, anchor: _Figure | None) -> None:
        self._anchor = anchor
        self._outputs.clear()


def _around(log: Log, dispatched: float, own: float) -> tuple[float, float, float]:
    return log.at(dispatched - OVERTAKING) + own, log.at(dispatched + OVERTAKING), log.sum
