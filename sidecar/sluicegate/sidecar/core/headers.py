# SPDX-License-Identifier: Apache-2.0
"""What response headers say about the meters, and how long they ask to wait, by the tables of `dialects`.

Headers come from outside: a value that cannot be read, is negative, infinite or absurd is left out and counted,
never guessed at. Absence of headers means nothing was said, not that there is no limit. A reset is seconds until full,
or until a fixed window ends; never when a call would fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from sluicegate.sidecar.core.dialects import Reset, Row, Shape, Speech, speech_of
from sluicegate.sidecar.core.dialects.anthropic import ANTHROPIC, COMBINED
from sluicegate.sidecar.core.dialects.api import DAY, MINUTE
from sluicegate.wire.durations import parse as parse_duration
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import Provider, Resource

_MAX_AMOUNT = 1e12
_MAX_SECONDS = 40 * DAY
_INTEGER = re.compile(r"\d{1,15}(?:\.0+)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,20})?", re.ASCII)
_PASSED_ON = "llm_provider-"
_EPOCH_SECONDS = 1e9
_EPOCH_MILLISECONDS = 1e11


@dataclass(frozen=True, slots=True)
class Shown:
    """One limit as people see it: what it counts, what is left, seconds to its reset, its window."""

    label: str
    limit: float | None
    remaining: float | None
    reset: float | None
    window: float | None = None


@dataclass(frozen=True, slots=True)
class Readings:
    """The meters that one response speaks of, and how many header values were ignored as unreadable or absurd.

    `shown` holds more than `meters`: also what admits no calls. `unit`: of Azure's resets, `ms` or `s`. `cost`: what
    the provider says that this call was charged.
    """

    meters: tuple[MeterReading, ...] = ()
    ignored: int = 0
    shown: tuple[Shown, ...] = ()
    unit: str = ""
    cost: float | None = None


class _Reader:
    """Reads single values, counting those that it ignores."""

    def __init__(self, headers: Mapping[str, str], date: datetime | None = None) -> None:
        self.headers = headers
        self.date = date or parse_http_date(headers.get("date", ""))
        self.ignored = 0

    def amount(self, name: str) -> float | None:
        raw = self.headers.get(name)
        if raw is None:
            return None
        raw = raw.strip()
        if raw == "-1":  # written for "unknown"
            return None
        if _INTEGER.fullmatch(raw) and float(raw) <= _MAX_AMOUNT:
            return float(raw)
        self.ignored += 1
        return None

    def duration(self, name: str) -> float | None:
        """Seconds of a duration with its units; None for anything else."""
        raw = self.headers.get(name, "").strip()
        return None if raw.isdigit() else _duration(raw)

    def reset(self, name: str, form: Reset) -> float | None:
        """Seconds of a reset, whatever its form; an instant counts from the response's Date."""
        raw = self.headers.get(name)
        if raw is None:
            return None
        raw = raw.strip()
        seconds: float | None = None
        match form:
            case Reset.DURATION:
                seconds = _duration(raw)
            case Reset.SECONDS:
                seconds = float(raw) if _NUMBER.fullmatch(raw) else None
            case Reset.INSTANT:
                if self.date is None:
                    return None
                instant = parse_instant(raw)
                seconds = None if instant is None else max(0.0, (instant - self.date).total_seconds())
            case Reset.ANY:
                seconds = self.any(raw)
        if seconds is None or seconds > _MAX_SECONDS:
            self.ignored += 1
            return None
        return seconds

    def any(self, raw: str) -> float | None:
        """Seconds of a reset of unknown form: bare seconds, an epoch, a duration, an instant."""
        if not _NUMBER.fullmatch(raw):
            instant = parse_instant(raw)
            if instant is None:
                return _duration(raw)
            return None if self.date is None else max(0.0, (instant - self.date).total_seconds())
        instant = parse_epoch(raw)
        if instant is None:
            return float(raw)
        return None if self.date is None else max(0.0, (instant - self.date).total_seconds())


def _duration(raw: str) -> float | None:
    try:
        return parse_duration(raw)
    except ValueError:
        return None


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


def parse_epoch(text: str) -> datetime | None:
    """An epoch in seconds or milliseconds; None for what is no number, or too small or too large a one."""
    number = float(text) if _NUMBER.fullmatch(text) else 0.0
    seconds = number / 1000.0 if number >= _EPOCH_MILLISECONDS else number
    return datetime.fromtimestamp(seconds, UTC) if _EPOCH_SECONDS <= seconds < _EPOCH_MILLISECONDS else None


@lru_cache(maxsize=64)  # the header `date` of most responses within a second
def parse_http_date(text: str) -> datetime | None:
    """An HTTP date, or None."""
    if not text:
        return None
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def of_provider(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers`, with those of the provider in the place of a gateway's, where a gateway such as LiteLLM passes them
    on with a prefix."""
    if _PASSED_ON not in "\n".join(headers).lower():
        return headers
    passed = {name: value for name, value in headers.items() if name.lower().startswith(_PASSED_ON)}
    own = {name.lower(): value for name, value in headers.items() if name not in passed}
    return own | {name.lower().removeprefix(_PASSED_ON): value for name, value in passed.items()}


def read_meters(provider: Provider, headers: Mapping[str, str], dialect: str = "") -> Readings:
    """What `headers` say, in the way of `provider` and `dialect`. Names must be found whatever their case.

    Never raises.
    """
    return read(speech_of(provider, dialect), headers)


def read(speech: Speech, headers: Mapping[str, str]) -> Readings:
    """What `headers` say, read as `speech`. Never raises."""
    reader = _Reader(of_provider(headers))
    match speech.shape:
        case Shape.ROWS:
            return _rows(speech.rows, reader)
        case Shape.AZURE:
            return _azure(reader)
        case Shape.NAMED_WINDOWS:
            return _named(reader)
        case Shape.STRUCTURED:
            return _structured(reader)
        case Shape.ANY:
            return _any_of(speech.rows, reader)


def _rows(rows: tuple[Row, ...], reader: _Reader) -> Readings:
    meters: dict[tuple[Resource, float | None], MeterReading] = {}
    shown: dict[str, Shown] = {}
    for row in rows:
        limit, remaining = reader.amount(row.limit), reader.amount(row.remaining)
        reset = reader.reset(row.reset, row.form) if row.reset else None
        if limit is None and remaining is None:
            continue
        reading = _reading(row.resource, row.window, limit, remaining, reset, row.below, row.above)
        label = row.label or row.resource
        shown.setdefault(label, Shown(label, limit, remaining, reset, row.window or implied_window(reading)))
        key = (row.resource, row.window)
        # Of two scopes that count the same, the one with less left is the one that rejects.
        if row.meter and (key not in meters or _left(reading) < _left(meters[key])):
            meters[key] = reading
    counted = {resource for resource, _ in meters}
    if not counted.isdisjoint((Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS)) and COMBINED in rows:
        meters.pop((Resource.TOKENS, None), None)
    return Readings(tuple(meters.values()), reader.ignored, tuple(shown.values()))


def _reading(
    resource: Resource,
    window: float | None,
    limit: float | None,
    remaining: float | None,
    reset: float | None,
    below: float = 0.0,
    above: float = 1.0,
) -> MeterReading:
    low = None if remaining is None else max(0.0, remaining - below)
    high = None if remaining is None else remaining + above
    return MeterReading(resource, window, limit, low, high, reset)


def _left(reading: MeterReading) -> float:
    return math.inf if reading.remaining_low is None else reading.remaining_low


def implied_window(reading: MeterReading) -> float | None:
    """A minute or a day, where the law `used - 1 <= reset x limit / window <= used` holds.

    `remaining` is floored, hence the one. Source: 1,106 of 1,108 recorded triples of OpenAI and Groq.
    """
    limit, left, reset = reading.limit, reading.remaining_low, reading.reset
    if not limit or left is None or not reset or left >= limit:
        return None
    used = limit - left
    # Of two that fit (one call used, a short reset) the one that explains more of what is used.
    fits = [window for window in (MINUTE, DAY) if used - 1.0 - 0.05 <= reset * limit / window <= used * 1.02 + 0.05]
    return fits[0] if fits else None


# ---- families that need more than rows


def _azure(reader: _Reader) -> Readings:
    meters: list[MeterReading] = []
    shown: list[Shown] = []
    unit = ""
    for resource in (Resource.REQUESTS, Resource.TOKENS):
        limit = reader.amount(f"x-ratelimit-limit-{resource}")
        remaining = reader.amount(f"x-ratelimit-remaining-{resource}")
        if limit is None and remaining is None:
            late = reader.amount(f"x-rate-limit-reset-{resource}")  # 2023, with a hyphen more
            if late is not None:
                shown.append(Shown(resource, None, None, late))
            continue
        period = reader.amount(f"x-ratelimit-renewalperiod-{resource}") or None
        spelled = reader.duration(f"x-ratelimit-reset-{resource}")
        raw = reader.amount(f"x-ratelimit-reset-{resource}") if spelled is None else None
        reset = spelled
        if raw is not None:
            found = _azure_unit(raw, limit, remaining, period or MINUTE, keyed="x-ratelimit-key" in reader.headers)
            unit = unit or found
            reset = raw / 1000.0 if found == "ms" else raw
        shown.append(Shown(resource, limit, remaining, reset, period))
        # A reset of 0 with something used is cut off, not now.
        cut = reset == 0.0 and limit is not None and remaining is not None and remaining < limit
        meters.append(_reading(resource, period, limit, remaining, None if cut else reset))
    return Readings(tuple(meters), reader.ignored, tuple(shown), unit)


def _azure_unit(raw: float, limit: float | None, remaining: float | None, period: float, *, keyed: bool) -> str:
    if limit and remaining is not None and raw > 0:
        seconds = (limit - remaining) / limit * period
        if seconds > 0:
            return "ms" if abs(raw - seconds * 1000.0) < abs(raw - seconds) else "s"
    return "s" if keyed else "ms"


_NAMED = re.compile(
    r"x-ratelimit-(limit|remaining|reset)-(tokens|req|requests)-(?:(\d{1,4})-)?(second|minute|hour|day|month)", re.ASCII
)
_UNITS = {"second": 1.0, "minute": MINUTE, "hour": 3_600.0, "day": DAY, "month": 30 * DAY}
_BY_SIZE = re.compile(r"(?:x-)?ratelimitbysize-(limit|remaining|reset)(?:-(minute|month))?", re.ASCII)


def _named(reader: _Reader) -> Readings:
    found: dict[tuple[Resource, float], dict[str, float | None]] = {}
    for name in reader.headers:
        lowered = name.lower()
        part = _NAMED.fullmatch(lowered) or _BY_SIZE.fullmatch(lowered)
        if part is None:
            continue
        if part.re is _BY_SIZE:
            resource, window = Resource.TOKENS, _UNITS[part[2] or "minute"]
        else:
            resource = Resource.TOKENS if part[2] == "tokens" else Resource.REQUESTS
            window = _UNITS[part[4]] * int(part[3] or 1)
        if window <= 0:
            reader.ignored += 1
            continue
        value = reader.reset(lowered, Reset.ANY) if part[1] == "reset" else reader.amount(lowered)
        found.setdefault((resource, window), {})[part[1]] = value
    meters: list[MeterReading] = []
    shown: dict[str, Shown] = {}
    for (resource, window), values in sorted(found.items(), key=lambda item: item[0][1]):
        limit, remaining, reset = values.get("limit"), values.get("remaining"), values.get("reset")
        if limit is None and remaining is None:
            continue
        month = window >= 28 * DAY
        label = f"{resource}_month" if month else resource
        shown.setdefault(label, Shown(label, limit, remaining, reset, window))
        if not month:
            meters.append(_reading(resource, window, limit, remaining, reset))
    cost = reader.amount("x-ratelimit-tokens-query-cost") or reader.amount("ratelimitbysize-query-cost")
    return Readings(tuple(meters), reader.ignored, tuple(shown.values()), cost=cost)


_MEMBER = re.compile(r'(?:[^,"]|"[^"]*")+')
_ITEM = re.compile(r"(?:^|[;,\s])([a-z]+)=(\d{1,12})", re.ASCII)
_LONG = {"r": "remaining", "t": "reset", "q": "limit", "w": "window"}


def _members(field: str) -> list[tuple[str, dict[str, float]]]:
    """The items of an IETF draft `RateLimit` or `RateLimit-Policy` field: a name, and its figures."""
    field = field[:1_000]
    # Until draft 7 the figures of the one limit were items of the list themselves.
    members: list[tuple[str, dict[str, float]]] = []
    for part in [field] if "remaining=" in field else _MEMBER.findall(field):
        names: list[str] = re.findall(r'"([^"]*)"', part)
        pairs: list[tuple[str, str]] = _ITEM.findall(part)
        members.append((names[-1] if names else "", {_LONG.get(name, name): float(n) for name, n in pairs}))
    return members


def _structured(reader: _Reader) -> Readings:
    """What is left, seconds to the reset, the quota and the window of each policy; the one with least left is shown."""
    policies = _members(reader.headers.get("ratelimit-policy", ""))
    meters: list[MeterReading] = []
    for name, now in _members(reader.headers.get("ratelimit", "")):
        if "remaining" not in now:
            continue
        policy = next((figures for other, figures in policies if other == name), policies[0][1] if policies else {})
        limit, window = now.get("limit", policy.get("limit")), policy.get("window") or None
        meters.append(_reading(Resource.REQUESTS, window, limit, now["remaining"], now.get("reset")))
    if not meters:
        return Readings()
    least = min(meters, key=_left)
    shown = Shown("requests", least.limit, least.remaining_low, least.reset, least.window)
    return Readings(tuple(meters), 0, (shown,))


def _any_of(rows: tuple[Row, ...], reader: _Reader) -> Readings:
    """Every family that is there; of one resource the family that says more of it."""
    meters: dict[tuple[Resource, float | None], MeterReading] = {}
    shown: dict[str, Shown] = {}
    # Anthropic's own come first: a gateway's pair of tokens is their combined one, which admits nothing.
    families = (_rows(ANTHROPIC.rows, reader), _named(reader), _structured(reader), _rows(rows, reader))
    for family in families:
        known = {resource for resource, _ in meters}
        meters |= {(m.resource, m.window): m for m in family.meters if m.resource not in known}
        shown = {entry.label: entry for entry in family.shown} | shown
    if any(resource in (Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS) for resource, _ in meters):
        meters = {key: meter for key, meter in meters.items() if key[0] is not Resource.TOKENS}
    return Readings(tuple(meters.values()), reader.ignored, tuple(shown.values()), cost=families[1].cost)


def retry_after(headers: Mapping[str, str], date: datetime | None = None) -> float | None:
    """Seconds that the headers ask to wait: the larger of `retry-after` and `retry-after-ms`; None: neither said.

    `retry-after` is seconds, an HTTP date, or what some gateways write: a duration, an instant, an epoch. Dates count
    from `date`, by default the response's Date. Zero and absurd values say nothing.
    """
    reader = _Reader(headers, date)
    millis = (headers.get(name, "").strip() for name in ("retry-after-ms", "x-ms-retry-after-ms"))
    waits = [float(raw) / 1000.0 for raw in millis if _NUMBER.fullmatch(raw)]
    raw = headers.get("retry-after", "").strip()
    instant = parse_http_date(raw) if "," in raw else None
    if instant is not None:
        waits.append((instant - reader.date).total_seconds() if reader.date is not None else 0.0)
    elif raw:
        waits.append(reader.any(raw) or 0.0)
    wait = max(waits, default=0.0)
    return wait if 0.0 < wait <= _MAX_SECONDS else None
