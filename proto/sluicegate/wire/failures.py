# SPDX-License-Identifier: Apache-2.0
"""Failures of providers in a log: each pool and class apart, a storm as one line every ten seconds."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from sluicegate.wire.words import ErrorClass

_EVERY = 10.0
_ERRORS = frozenset({ErrorClass.BILLING, ErrorClass.AUTH})
_CALLS_OWN = frozenset({ErrorClass.INVALID, ErrorClass.CONTEXT_LENGTH, ErrorClass.CONTENT_POLICY})

SILENT = frozenset({ErrorClass.NONE, ErrorClass.CANCELLED})
"""Classes that are no failure."""


class Spaced:
    """Says when a line about a pool and class is due. Bounded by pools x classes. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when it was told last, and how many since

    def due(self, pool: str, error_class: str) -> int | None:
        """How many have failed untold since the last line; None: it is too early for another."""
        now = self._clock()
        last, more = self._told.get((pool, error_class), (-math.inf, 0))
        if now - last < _EVERY:
            self._told[pool, error_class] = (last, more + 1)
            return None
        self._told[pool, error_class] = (now, 0)
        return more


def level_of(error_class: str) -> int:
    """Classes that need a person (billing, auth) are errors; what the fleet takes as it comes (quota, overload, server,
    network) are warnings; a call's own fault is information."""
    if error_class in _ERRORS:
        return logging.ERROR
    return logging.INFO if error_class in _CALLS_OWN else logging.WARNING
