# SPDX-License-Identifier: Apache-2.0
"""Spans between two observations of a bucket, compared for what the calls in between really cost.

A span is made twice, by times of dispatch and of arrival (see `foreign`), each with the least that the calls of the
span can have declared, and the dearer result counts. Spans do not overlap; one in which the bucket may have been full
says nothing, since what flows in there is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.broker.core.bucket import Bucket
from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.history import Log
from sluicegate.broker.core.meter import OVERTAKING
from sluicegate.broker.core.ratio import OutputShare
from sluicegate.broker.core.units import Charge
from sluicegate.wire.values import MeterReading

_SHORTEST = 3.0
_LONG_ENOUGH = 20.0
_LONGEST = 60.0
_MISMATCH = 0.05
_KINDS = 256


@dataclass(frozen=True, slots=True)
class _Figure:
    """`remaining` as one call saw it.

    `given`, `output`: input and declared output of what we had granted, least and most about the time of dispatch,
    least and most about the time of arrival.
    """

    dispatched: float
    arrived: float
    remaining: float
    given: tuple[float, float, float, float]
    output: tuple[float, float, float, float]
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
        if charge.kind in self._outputs or len(self._outputs) < _KINDS:
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
            _around(self._given, dispatched, now, own.input_tokens),
            _around(self._output, dispatched, now, own.output_tokens),
            bucket.limit,
        )
        old, last = self._anchor, self._newest
        if last is None or dispatched >= last.dispatched:
            self._newest = new
        full = new.remaining >= 0.98 * bucket.capacity or (
            last is not None
            and last.remaining + bucket.rate * max(0.0, dispatched - last.dispatched) >= bucket.capacity
        )
        if old is None or full or old.limit != new.limit or now - old.arrived > _LONGEST:
            self._begin(None if new.remaining >= 0.98 * bucket.capacity else new)
            return
        by_dispatch, by_arrival = dispatched - old.dispatched, now - old.arrived
        if min(by_dispatch, by_arrival) < max(_SHORTEST, min(2 * (now - dispatched), _LONG_ENOUGH)):
            return
        if abs(by_arrival - by_dispatch) > _MISMATCH * by_dispatch and by_dispatch < _LONG_ENOUGH:
            return  # a figure of a call as slow as the anchor's tells more
        outputs = {kind: amount for kind, amount in self._outputs.items() if amount > 0}
        share = self._share.mean(outputs)
        drop = old.remaining - new.remaining

        def excess(seconds: float, given: float, output: float) -> float:
            return drop + bucket.rate * seconds - given - share * output

        early = excess(by_dispatch, new.given[0] - old.given[1], new.output[0] - old.output[1])
        late = excess(by_arrival, new.given[2] - old.given[3], new.output[2] - old.output[3])
        self._share.learn(outputs, max(early, late), drop + bucket.rate * by_dispatch)
        self._begin(new)

    def _begin(self, anchor: _Figure | None) -> None:
        self._anchor = anchor
        self._outputs.clear()


def _around(log: Log, dispatched: float, arrived: float, own: float) -> tuple[float, float, float, float]:
    return log.at(dispatched - OVERTAKING) + own, log.at(dispatched + OVERTAKING), log.at(arrived - OVERTAKING), log.sum
