# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them, in Go's form (`800ms`, `1h30m`); seconds inside. Source: Go's time.ParseDuration."""

from __future__ import annotations

import re

PATTERN = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"
"""What documents may say: Go's form without a sign."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_MAX_LENGTH = 64


def parse(text: str) -> float:
    """Seconds of `text`. Raises ValueError that shows the form for anything else, signs and bare numbers included."""
    if text == "0":
        return 0.0
    if 0 < len(text) <= _MAX_LENGTH:
        parts: list[tuple[str, str]] = _PART.findall(text)
        if parts and "".join([number + unit for number, unit in parts]) == text:
            return sum([float(number) * _UNITS[unit] for number, unit in parts])
    raise ValueError(f"{text[:_MAX_LENGTH]!r} is not a duration such as 800ms, 30s, 1m, 1h30m or 24h")


def spell(seconds: float) -> str:
    """`seconds` >= 0 in Go's form, to the millisecond: 5400 -> `1h30m`, 0.8 -> `800ms`."""
    total = round(seconds * 1_000)
    hours, rest = divmod(total, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, millis = divmod(rest, 1_000)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (whole, "s"), (millis, "ms")) if n]
    return "".join(parts) or "0s"
