# SPDX-License-Identifier: Apache-2.0
"""Figures as the providers write them in headers and messages."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def thousands(remaining: float) -> int:
    """`remaining` to the nearest thousand, never below 0, as Anthropic shows token figures."""
    return max(0, math.floor(remaining / 1000 + 0.5) * 1000)


def rfc3339(wall: float) -> str:
    """Unix seconds as RFC 3339 in UTC with second precision, truncated."""
    return datetime.fromtimestamp(math.floor(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def go_duration(seconds: float, *, up: bool = False) -> str:
    """`seconds` as OpenAI writes them: Go's Duration.String in milliseconds (`0s`, `9ms`, `1.182s`, `20m52.666s`).

    Truncated to a millisecond, with `up` rounded up (a wait that is too short is no wait). Hours are written too
    (`24h0m0s`), as Go does. Negative counts as 0. Raises OverflowError for infinity.
    """
    exact = max(0.0, seconds) * 1000
    millis = math.ceil(exact - 1e-6) if up else math.floor(exact + 1e-6)
    if millis == 0:
        return "0s"
    if millis < 1000:
        return f"{millis}ms"
    whole, fraction = divmod(millis, 1000)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    text = f"{secs}.{fraction:03d}".rstrip("0").rstrip(".") + "s" if fraction else f"{secs}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def fine_duration(seconds: float) -> str:
    """`seconds` as Groq writes them: as `go_duration`, with up to six digits of a millisecond below one second."""
    if not 0 < seconds < 1:
        return go_duration(seconds)
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"
