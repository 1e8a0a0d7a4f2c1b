# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, and how fast things go: rates, episodes and one-shot faults, drawn from a seed."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """One thing that can go wrong with a call."""

    OVERLOAD = "overload"  # before the model starts: 503, Anthropic 529, Azure, Vertex and Mistral a 429
    STREAM_OVERLOAD = "stream-overload"  # overload told inside a 200 stream; without a stream as `overload`
    SERVER_ERROR = "server-error"  # 500
    STREAM_BREAK = "stream-break"  # the connection is cut in the middle of the body
    SLOW_STREAM = "slow-stream"  # ten times slower than usual
    HANG = "hang"  # nothing comes, not even headers
    BILLING = "billing"  # insufficient_quota, credit balance too low, prepayment credits depleted, 402
    AUTH = "auth"  # 401, on Gemini a 400
    FORBIDDEN = "forbidden"  # 403
    CONTEXT_LENGTH = "context-length"  # 400: the prompt is longer than the model reads
    CONTENT_POLICY = "content-policy"  # 400, where the provider has an error for it; Google and Mistral serve the call
    GARBAGE_HEADERS = "garbage-headers"  # rate-limit headers that are no numbers
    ABSURD_HEADERS = "absurd-headers"  # negative and enormous limits
    MISSING_HEADERS = "missing-headers"  # no rate-limit headers at all
    WRONG_CONTENT_TYPE = "wrong-content-type"  # JSON or SSE called text/html
    BROKEN_SSE = "broken-sse"  # a stream with events that do not parse
    WRONG_CONTENT_LENGTH = "wrong-content-length"  # promises more bytes than come


FAULT_NAMES = ", ".join(sorted(Fault))


@dataclass(frozen=True, slots=True)
class Episode:
    """`fault` hits `rate` of the calls from `at` for `duration` seconds (since the emulator started)."""

    fault: Fault
    at: float
    duration: float
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a model answers. Seconds to the first byte: lognormal of `latency` and `latency_sigma`, at most
    `latency_most`. Then `tokens_per_second` of output, 0 meaning at once."""

    latency: float = 0.05
    latency_sigma: float = 0.0
    latency_most: float = 60.0
    tokens_per_second: float = 0.0

    def first_byte(self, source: random.Random) -> float:
        """Seconds until the first byte."""
        if self.latency_sigma == 0 or self.latency == 0:
            return min(self.latency, self.latency_most)
        return min(self.latency_most, self.latency * math.exp(source.gauss(0, self.latency_sigma)))


class FaultPlan:
    """Decides what goes wrong with the next call. At most one fault per call: a one-shot fault first, then the episodes
    that are on, then the standing rates."""

    MOST_PENDING = 10_000

    def __init__(self, rates: Mapping[Fault, float], episodes: Iterable[Episode], seed: int) -> None:
        self._rates: dict[Fault, float] = {}
        self._episodes: list[Episode] = list(episodes)
        self._next: deque[Fault] = deque(maxlen=self.MOST_PENDING)
        self._random = random.Random(seed)
        self.set_rates(rates)

    def set_rates(self, rates: Mapping[Fault, float]) -> None:
        """Change standing rates; 0 takes a fault away, the others stay. ValueError where they come to more than 1."""
        merged = {fault: rate for fault, rate in {**self._rates, **rates}.items() if rate > 0}
        if sum(merged.values()) > 1 + 1e-9:
            raise ValueError(f"the rates of all faults come to {sum(merged.values()):g}; at most 1 is possible")
        self._rates = merged

    def add_episode(self, episode: Episode) -> None:
        """Add an episode; the oldest goes when there are too many."""
        self._episodes.append(episode)
        del self._episodes[: -self.MOST_PENDING]

    def push(self, faults: Iterable[Fault]) -> None:
        """These hit the next calls, one each."""
        self._next.extend(faults)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._rates, self._episodes = {}, []
        self._next.clear()

    def draw(self, now: float) -> Fault | None:
        """The fault of a call that begins at `now`, if any."""
        if self._next:
            return self._next.popleft()
        for episode in self._episodes:
            if episode.at <= now < episode.at + episode.duration and self._random.random() < episode.rate:
                return episode.fault
        if not self._rates:
            return None
        point = self._random.random()
        for fault, rate in self._rates.items():
            if point < rate:
                return fault
            point -= rate
        return None


def spoil_headers(fault: Fault | None, headers: dict[str, str]) -> dict[str, str]:
    """The rate-limit `headers` as `fault` leaves them."""
    if fault is Fault.MISSING_HEADERS:
        return {}
    if fault is Fault.GARBAGE_HEADERS:
        wrong = ("banana", "1e999", "", "NaN", "1m-3s", "0x10", "-")
        return {name: wrong[index % len(wrong)] for index, name in enumerate(headers)}
    if fault is Fault.ABSURD_HEADERS:
        return {name: _absurd(name) for name in headers}
    return headers


def _absurd(name: str) -> str:
    if "reset" in name:
        return "-5s" if name.startswith("x-") else "9999-12-31T23:59:59Z"
    return "-1" if "limit-" in name or name.endswith("-limit") else "99999999999999999999999999"
