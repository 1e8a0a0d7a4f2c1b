# SPDX-License-Identifier: Apache-2.0
"""What response headers say about the meters, and how long they ask to wait.

Headers come from outside: a value that cannot be read, is negative, infinite or absurd is left out and counted,
never guessed at. Absence of headers means nothing was said, not that there is no limit. OpenAI floors
`remaining`, so r means [r, r+1); Anthropic rounds tokens to the nearest thousand, so r means r +-500. Resets are
seconds until full: OpenAI writes Go durations, Anthropic instants which count from the response's own Date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sluicegate.wire.durations import parse as parse_duration
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import Provider, Resource

_MAX_AMOUNT = 1e12
_MAX_SECONDS = 40 * 86_400.0
_INTEGER = re.compile(r"\d{1,15}(?:\.0+)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,12})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Readings:
    """The readings of one response, and how many header values were ignored as unreadable or absurd."""

    meters: tuple[MeterReading, ...] = ()
    ignored: int = 0


class _Reader:
    """Reads single values, counting those that it ignores."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.ignored = 0

    def amount(self, name: str) -> float | None:
        raw = self.headers.get(name)
        if raw is None:
            return None
        raw = raw.strip()
        if raw == "-1":  # Azure writes -1 for "unknown"
            return None
        if _INTEGER.fullmatch(raw) and float(raw) <= _MAX_AMOUNT:
            return float(raw)
        self.ignored += 1
        return None

    def duration(self, name: str) -> float | None:
        raw = self.headers.get(name)
        if raw is None:
            return None
        try:
            seconds = parse_duration(raw.strip())
        except ValueError:
            self.ignored += 1
            return None
        if seconds > _MAX_SECONDS:
            self.ignored += 1
            return None
        return seconds

    def until(self, name: str, date: datetime | None) -> float | None:
        raw = self.headers.get(name)
        if raw is None or date is None:
            return None
        instant = parse_instant(raw)
        if instant is None or (instant - date).total_seconds() > _MAX_SECONDS:
            self.ignored += 1
            return None
        return max(0.0, (instant - date).total_seconds())


def parse_instant(text: str) -> datetime | None:
    """An RFC 3339 instant, or None."""
    text = text.strip()
    if len(text) > 40 or "T" not in text.upper():
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def parse_http_date(text: str) -> datetime | None:
    """An HTTP date, or None."""
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _reading(
    resource: Resource, limit: float | None, remaining: float | None, reset: float | None, below: float, above: float
) -> MeterReading | None:
    if limit is None and remaining is None:
        return None
    low = high = None
    if remaining is not None:
        low = max(0.0, remaining - below)
        high = remaining + above
    return MeterReading(resource, None, limit, low, high, reset)


# Of two scopes that count the same resource, the one with less left is the one that rejects.
_OPENAI_METERS = (
    (Resource.REQUESTS, ("requests", "project-requests")),
    (Resource.TOKENS, ("tokens", "project-tokens")),
)

_ANTHROPIC_METERS = (
    (Resource.REQUESTS, "requests", 0.0, 1.0),
    (Resource.INPUT_TOKENS, "input-tokens", 500.0, 500.0),
    (Resource.OUTPUT_TOKENS, "output-tokens", 500.0, 500.0),
)


def _openai(reader: _Reader) -> tuple[MeterReading, ...]:
    meters: list[MeterReading] = []
    for resource, names in _OPENAI_METERS:
        found: MeterReading | None = None
        for name in names:
            reading = _reading(
                resource,
                reader.amount(f"x-ratelimit-limit-{name}"),
                reader.amount(f"x-ratelimit-remaining-{name}"),
                reader.duration(f"x-ratelimit-reset-{name}"),
                0.0,
                1.0,
            )
            if reading is not None and (found is None or _left(reading) < _left(found)):
                found = reading
        if found is not None:
            meters.append(found)
    return tuple(meters)


def _left(reading: MeterReading) -> float:
    return math.inf if reading.remaining_low is None else reading.remaining_low


def _anthropic(reader: _Reader) -> tuple[MeterReading, ...]:
    date = parse_http_date(reader.headers.get("date", ""))
    meters: list[MeterReading] = []
    for resource, name, below, above in _ANTHROPIC_METERS:
        reading = _reading(
            resource,
            reader.amount(f"anthropic-ratelimit-{name}-limit"),
            reader.amount(f"anthropic-ratelimit-{name}-remaining"),
            reader.until(f"anthropic-ratelimit-{name}-reset", date),
            below,
            above,
        )
        if reading is not None:
            meters.append(reading)
    # The combined pair (input + output) says nothing about admission, so it counts only where the split is absent.
    if not any(m.resource in (Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS) for m in meters):
        combined = _reading(
            Resource.TOKENS,
            reader.amount("anthropic-ratelimit-tokens-limit"),
            reader.amount("anthropic-ratelimit-tokens-remaining"),
            reader.until("anthropic-ratelimit-tokens-reset", date),
            500.0,
            500.0,
        )
        if combined is not None:
            meters.append(combined)
    return tuple(meters)


def read_meters(provider: Provider, headers: Mapping[str, str]) -> Readings:
    """The meters that `headers` speak of. `headers` must find names whatever their case. Never raises."""
    reader = _Reader(headers)
    meters: tuple[MeterReading, ...] = ()
    match provider:
        case Provider.ANTHROPIC:
            meters = _anthropic(reader)
        case Provider.OPENAI | Provider.OPENAI_COMPATIBLE:
            meters = _openai(reader)
        case Provider.AZURE_OPENAI | Provider.GOOGLE_GEMINI | Provider.GOOGLE_VERTEX | Provider.MISTRAL:
            pass
    return Readings(meters, reader.ignored)


def retry_after(headers: Mapping[str, str], date: datetime | None = None) -> float | None:
    """Seconds that the headers ask to wait: the larger of `retry-after` and `retry-after-ms`; None: neither said.

    An HTTP date counts from `date`, by default the response's Date. Zero and absurd values say nothing.
    """
    waits: list[float] = []
    raw = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(raw):
        waits.append(float(raw) / 1000.0)
    raw = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(raw):
        waits.append(float(raw))
    elif raw:
        instant = parse_http_date(raw)
        origin = date or parse_http_date(headers.get("date", ""))
        if instant is not None and origin is not None:
            waits.append((instant - origin).total_seconds())
    wait = max(waits, default=0.0)
    return wait if 0.0 < wait <= _MAX_SECONDS else None
