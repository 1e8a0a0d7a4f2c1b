# SPDX-License-Identifier: Apache-2.0
"""Spans between two observations of a bucket, compared for what the calls in between really cost.

A span is made twice, by times of dispatch and of arrival (see `foreign`), and the dearer result counts. Spans do not
overlap; one that touches a full bucket says nothing, since what flows in there is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.meter import Bucket
from sluicegate.broker.core.ratio import OutputShare
from sluicegate.broker.core.units import Charge, MeterReading

_SHORTEST = 2.0
_LONGEST = 30.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Input and declared output of all calls granted so far."""

    given: float
    output: float


@dataclass(frozen=True, slots=True)
class _Anchor:
    dispatched: float
    arrived: float
    remaining: float
    before: Mark
    after: Mark
    limit: float


class ChargeSpans:
    """Feeds `share` from the observations of one bucket."""

    __slots__ = ("_anchor", "_given", "_last", "_output", "_outputs", "_share")

    def __init__(self, share: OutputShare) -> None:
        self._share = share
        self._given = 0.0
        self._output = 0.0
        self._outputs: dict[str, float] = {}  # of the span
        self._anchor: _Anchor | None = None
        self._last = 0.0

    def grant(self, charge: Charge) -> Mark:
        self._given += charge.input_tokens
        self._output += charge.output_tokens
        self._outputs[charge.kind] = self._outputs.get(charge.kind, 0.0) + charge.output_tokens
        return Mark(self._given, self._output)

    def revoke(self, charge: Charge) -> None:
        self._given -= charge.input_tokens
        self._output -= charge.output_tokens
        if charge.kind in self._outputs:
            self._outputs[charge.kind] = max(0.0, self._outputs[charge.kind] - charge.output_tokens)

    def restart(self) -> None:
        self._anchor = None
        self._outputs.clear()

    def observe(self, reading: MeterReading, bucket: Bucket, dispatched: float, before: Mark, now: float) -> None:
        low, high = sane(reading.remaining_low), sane(reading.remaining_high)
        if low is None or high is None:
            return
        new = _Anchor(dispatched, now, (low + high) / 2, before, Mark(self._given, self._output), bucket.limit)
        old = self._anchor
        full = new.remaining >= 0.98 * bucket.capacity
        if old is None or full or old.limit != new.limit or now - old.arrived > _LONGEST:
            self._begin(None if full else new)
            return
        latency = now - dispatched
        shortest = min(dispatched - old.dispatched, now - old.arrived)
        if shortest < max(_SHORTEST, min(2 * latency, 10.0)):
            return
        outputs = {kind: amount for kind, amount in self._outputs.items() if amount > 0}
        drop = old.remaining - new.remaining
        share = self._share.mean(outputs)
        by_dispatch = (
            drop
            + bucket.rate * (dispatched - old.dispatched)
            - (before.given - old.before.given)
            - share * (before.output - old.before.output)
        )
        by_arrival = (
            drop
            + bucket.rate * (now - old.arrived)
            - (new.after.given - old.after.given)
            - share * (new.after.output - old.after.output)
        )
        self._share.learn(outputs, max(by_dispatch, by_arrival))
        self._begin(new)

    def _begin(self, anchor: _Anchor | None) -> None:
        self._anchor = anchor
        self._outputs.clear()
