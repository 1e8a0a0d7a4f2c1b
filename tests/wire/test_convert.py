# SPDX-License-Identifier: Apache-2.0
"""Words and durations go to the wire and come back the same."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.v1 import types_pb2
from sluicegate.wire import convert, durations, words

CODECS = [
    (convert.RESOURCE, words.Resource, types_pb2.Resource),
    (convert.ALGORITHM, words.Algorithm, types_pb2.Algorithm),
    (convert.PROVIDER, words.Provider, types_pb2.Provider),
    (convert.LATENCY, words.Latency, types_pb2.Latency),
    (convert.OUTCOME, words.Outcome, types_pb2.Outcome),
    (convert.ERROR_CLASS, words.ErrorClass, types_pb2.ErrorClass),
    (convert.ON_BROKER_UNAVAILABLE, words.OnBrokerUnavailable, types_pb2.OnBrokerUnavailable),
]


@pytest.mark.parametrize(("codec", "enum", "proto"), CODECS, ids=[enum.__name__ for _, enum, _ in CODECS])
def test_every_member_goes_both_ways(codec: convert.EnumCodec[Any, Any], enum: type[StrEnum], proto) -> None:
    numbers = {codec.to_proto(word) for word in enum}
    assert numbers == {number for number in proto.values() if number}, "the proto enum and the words differ"
    assert all(codec.from_proto(codec.to_proto(word)) is word for word in enum)
    assert codec.from_proto(0) is None


def test_an_unknown_number_is_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"99 is not a known Latency; known are 1 \(real_time\)"):
        convert.LATENCY.from_proto(99)


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_durations_return_to_the_nanosecond(seconds: float) -> None:
    assert convert.from_duration(convert.to_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.floats(allow_nan=False))
def test_every_duration_is_valid_protobuf(seconds: float) -> None:
    duration = convert.to_duration(seconds)
    assert abs(duration.seconds) <= convert.MAX_DURATION
    assert abs(duration.nanos) < 1_000_000_000
    assert duration.seconds * duration.nanos >= 0, "the signs agree"


def test_nan_is_no_duration() -> None:
    with pytest.raises(ValueError, match="NaN"):
        convert.to_duration(math.nan)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("800ms", 0.8), ("1m", 60), ("1h30m", 5400), ("24h", 86_400), ("1.5s", 1.5), ("0", 0), ("0s", 0), ("10us", 1e-5)],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "1 m", "m", "-1s", "+1s", "1d", "1m ", "1e3s", "9" * 100 + "s", "1m30", ".5s"]
)
def test_other_durations_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 800ms, 30s, 1m"):
        durations.parse(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_spelled_durations_parse_back(milliseconds: int) -> None:
    assert durations.parse(durations.spell(milliseconds / 1_000)) == pytest.approx(milliseconds / 1_000)
