# SPDX-License-Identifier: Apache-2.0
"""A clock that moves when told."""

from __future__ import annotations

import math


class FakeClock:
    """Seconds that only the test advances. Call it to read it: `FakeClock()` fits wherever `time.monotonic` does.

    `now` starts at `start` (default 0) and never goes back: `advance` refuses a negative step and `set` an earlier
    time, both with `ValueError`, because a monotonic clock that went back would test something that cannot happen.
    """

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        if not math.isfinite(start):
            raise ValueError(f"start must be a finite number of seconds, not {start!r}")
        self._now = float(start)

    def __call__(self) -> float:
        return self._now

    @property
    def now(self) -> float:
        """The current time in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move `seconds` forward (0 or more) and return the new time."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a monotonic clock advances by 0 seconds or more, not {seconds!r}")
        self._now += seconds
        return self._now

    def set(self, now: float) -> float:
        """Move to `now`, which must not lie in the past, and return it."""
        if not (math.isfinite(now) and now >= self._now):
            raise ValueError(f"a monotonic clock at {self._now!r} cannot be set to {now!r}")
        self._now = float(now)
        return self._now

    def __repr__(self) -> str:
        return f"FakeClock({self._now!r})"
