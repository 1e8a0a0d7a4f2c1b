# SPDX-License-Identifier: Apache-2.0
"""Words and durations to and from the wire. Every member of every enum goes both ways (tests/wire/test_convert.py).

A codec reads 0 (unspecified) as None and raises ValueError for a number that this version does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from google.protobuf.duration_pb2 import Duration

from sluicegate.v1 import types_pb2
from sluicegate.wire import words

MAX_DURATION = 315_576_000_000.0
"""Seconds: the largest google.protobuf.Duration, about 10,000 years. Longer ones, also infinity, are cut to it."""

W = TypeVar("W", bound=StrEnum)
V = TypeVar("V", bound=int)


class EnumCodec(Generic[W, V]):
    """The two-way table between one enum of `words` and its proto enum."""

    __slots__ = ("_by_number", "_by_word", "_enum")

    def __init__(self, enum: type[W], value: Callable[[str], V], prefix: str) -> None:
        self._enum = enum
        self._by_word: dict[W, V] = {word: value(f"{prefix}_{word.name}") for word in enum}
        self._by_number: dict[int, W] = {int(number): word for word, number in self._by_word.items()}

    def to_proto(self, word: W) -> V:
        return self._by_word[word]

    def from_proto(self, number: int) -> W | None:
        """None for 0, unspecified."""
        if number == 0:
            return None
        try:
            return self._by_number[number]
        except KeyError:
            known = ", ".join(f"{n} ({word})" for n, word in sorted(self._by_number.items()))
            raise ValueError(f"{number} is not a known {self._enum.__name__}; known are {known}") from None


RESOURCE = EnumCodec(words.Resource, types_pb2.Resource.Value, "RESOURCE")
ALGORITHM = EnumCodec(words.Algorithm, types_pb2.Algorithm.Value, "ALGORITHM")
PROVIDER = EnumCodec(words.Provider, types_pb2.Provider.Value, "PROVIDER")
LATENCY = EnumCodec(words.Latency, types_pb2.Latency.Value, "LATENCY")
OUTCOME = EnumCodec(words.Outcome, types_pb2.Outcome.Value, "OUTCOME")
ERROR_CLASS = EnumCodec(words.ErrorClass, types_pb2.ErrorClass.Value, "ERROR_CLASS")
ON_BROKER_UNAVAILABLE = EnumCodec(
    words.OnBrokerUnavailable, types_pb2.OnBrokerUnavailable.Value, "ON_BROKER_UNAVAILABLE"
)


def to_duration(seconds: float) -> Duration:
    """`seconds` as a Duration, to the nanosecond. Raises ValueError for NaN."""
    if seconds == 0:  # most calls have not waited
        return Duration()
    if math.isnan(seconds):
        raise ValueError("a duration cannot be NaN")
    clamped = max(-MAX_DURATION, min(MAX_DURATION, seconds))
    whole = math.trunc(clamped)
    nanos = round((clamped - whole) * 1e9)
    if abs(nanos) >= 1_000_000_000:
        whole += int(math.copysign(1, nanos))
        nanos = 0
    return Duration(seconds=whole, nanos=nanos)


def from_duration(duration: Duration) -> float:
    """Seconds of `duration`."""
    return duration.seconds + duration.nanos / 1e9
