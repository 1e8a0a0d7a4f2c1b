# SPDX-License-Identifier: Apache-2.0
"""Foreign use and the learned share, from figures made by hand."""

from __future__ import annotations

import pytest

from sluicegate.broker.core.bucket import Bucket
from sluicegate.broker.core.foreign import ForeignUse, Sample
from sluicegate.broker.core.ratio import OutputShare
from sluicegate.broker.core.span import ChargeSpans
from sluicegate.broker.core.units import Charge
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import Resource
from tests.core.test_meter import bucket


def feed(foreign: ForeignUse, seconds: float, *, rate: float, start: float = 0.0, ours: float = 60.0) -> None:
    """Figures each half second of a meter of 100 per second and 6000, of which others take `rate`."""
    steps = int(seconds * 2)
    for n in range(steps):
        now = start + n / 2
        sent = ours * now
        remaining = 3000 + (100 - ours) * (now - start) - rate * (now - start)
        sample = Sample(now - 0.5, now, remaining, 1.0, (sent - ours / 2, sent - ours / 2), (sent, sent))
        foreign.observe(sample, 100.0, 6000.0, 10.0)


def test_nobody_else_is_nobody_else():
    foreign = ForeignUse()
    foreign.suspect(0.0)
    feed(foreign, 30, rate=0)
    assert foreign.rate == 0
    assert foreign.margin(30.0, 10.0, 6000) == 0


def test_others_are_found_and_forgotten():
    foreign = ForeignUse()
    foreign.suspect(0.0)
    feed(foreign, 30, rate=30)
    assert foreign.rate == pytest.approx(30, abs=3)
    assert foreign.margin(30.0, 10.0, 6000) > 10
    assert foreign.margin(40.0, 10.0, 6000) > foreign.margin(30.0, 10.0, 6000)  # the older the news the wider
    foreign.forget_spans()
    feed(foreign, 40, rate=0, start=31)
    assert foreign.rate < 1


def test_a_little_counts_only_after_evidence():
    foreign = ForeignUse()
    feed(foreign, 30, rate=8)
    assert foreign.rate == 0
    foreign.suspect(30.0)
    foreign.forget_spans()
    feed(foreign, 30, rate=8, start=30)
    assert foreign.rate == pytest.approx(8, abs=2)


def test_a_lot_is_evidence_itself():
    foreign = ForeignUse()
    feed(foreign, 30, rate=40)
    assert foreign.rate == pytest.approx(40, abs=4)


def test_silence_fades_it():
    foreign = ForeignUse()
    feed(foreign, 30, rate=40)
    assert foreign.drain(130.0) < 1


def test_a_full_bucket_says_little_and_shrinks_it():
    foreign = ForeignUse()
    feed(foreign, 30, rate=40)
    before = foreign.rate
    foreign.observe(Sample(30.0, 31.0, 6000, 1.0, (0, 0), (0, 0)), 100.0, 6000.0, 10.0)
    assert foreign.rate < before


def test_a_429_widens_the_margin_for_a_while():
    foreign = ForeignUse()
    foreign.rejected(100.0, 6000.0, 10.0)
    once = foreign.margin(10.0, 10.0, 6000)
    foreign.rejected(100.0, 6000.0, 10.0)
    assert foreign.margin(10.0, 10.0, 6000) > once > 0
    for _ in range(50):
        foreign.rejected(100.0, 6000.0, 10.0)
    assert foreign.margin(10.0, 10.0, 6000) <= 3000
    assert foreign.margin(1000.0, 10.0, 6000) < 1


def spans(share: OutputShare, meter: Bucket, true_share: float, start: float = 0.0, count: int = 40) -> ChargeSpans:
    """One call a second of 20 input and 100 declared output, answered after half a second."""
    comparison = ChargeSpans(share)
    remaining = 3000.0
    for n in range(count):
        now = start + n
        charge = Charge(1.0, 0, 20.0, 100.0, "m")
        comparison.grant(charge, now)
        remaining += (100.0 if n else 0.0) - 20.0 - 100.0 * true_share
        figure = MeterReading(Resource.TOKENS, 60.0, 6000, remaining, remaining)
        comparison.observe(figure, meter, now, charge, now + 0.5)
    return comparison


@pytest.mark.parametrize("true_share", [0.0, 0.3, 0.7, 1.0])
def test_the_share_is_learned(true_share: float):
    share = OutputShare()
    spans(share, bucket(), true_share)
    assert share.of("m") == pytest.approx(true_share, abs=0.1)
    assert share.of("m") >= true_share - 0.01
    assert share.of("other") == 1.0


def test_a_429_makes_it_conservative_again_and_slower():
    share = OutputShare()
    spans(share, bucket(), 0.0)
    share.distrust("m")
    share.distrust("nobody")
    assert share.of("m") == 1.0
    spans(share, bucket(), 0.0, start=100, count=16)
    assert share.of("m") == 1.0  # four spans were enough before
    spans(share, bucket(), 0.0, start=200, count=60)
    assert share.of("m") < 0.2
    assert "'m'" in repr(share)


def test_a_rule_that_no_share_expresses_counts_as_its_dearest_spans():
    share = OutputShare()
    for n in range(12):
        true = 0.2 if n % 2 else 0.8
        share.learn({"m": 100.0}, (true - share.of("m")) * 100.0, 120.0)
    assert share.of("m") == pytest.approx(0.8)
    assert share.doubt > 0.5


def test_spans_without_output_or_figures_teach_nothing():
    share = OutputShare()
    share.learn({}, 5.0, 5.0)
    share.learn({"m": 0.0}, 5.0, 5.0)
    assert share.mean({}) == 1.0
    comparison = ChargeSpans(share)
    comparison.observe(MeterReading(Resource.TOKENS), bucket(), 0.0, Charge(), 1.0)
    comparison.grant(Charge(1, 5, 5, 5, "m"), 0.0)
    comparison.revoke(Charge(1, 5, 5, 5, "m"), 0.0)
    comparison.restart()
    assert share.of("m") == 1.0


def test_kinds_are_bounded():
    share = OutputShare()
    for n in range(400):
        share.learn({f"m{n}": 10.0}, -1.0, 10.0)
    assert len(share._kinds) == 256


def test_a_large_first_pile_is_not_drawn_to_its_end_before_spans_can_tell():
    foreign = ForeignUse()
    assert foreign.caution(0.0, 10.0, 6000) == 0
    feed(foreign, 20, rate=0, ours=100)
    assert foreign.caution(5.0, 10.0, 6000) == 10
    assert foreign.caution(24.0, 10.0, 6000) == 0
    small = ForeignUse()
    small.observe(Sample(0.0, 0.5, 100, 1.0, (0, 0), (0, 0)), 100.0, 6000.0, 10.0)
    assert small.caution(1.0, 10.0, 6000) == 0
