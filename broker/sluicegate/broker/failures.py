# SPDX-License-Identifier: Apache-2.0
"""What providers refused, in the log: one line for each pool and class, and at most one of them every ten seconds.

Classes that need a person (billing, auth) are errors; what the fleet takes as it comes (quota, overload, server,
network) are warnings; a call's own fault is information. A circuit that opens is always told.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from sluicegate.broker.core.effects import Effect, Settled
from sluicegate.wire.words import ErrorClass

log = logging.getLogger(__name__)

_EVERY = 10.0
_SILENT = frozenset({ErrorClass.NONE, ErrorClass.CANCELLED})
_ERRORS = frozenset({ErrorClass.BILLING, ErrorClass.AUTH})
_CALLS_OWN = frozenset({ErrorClass.INVALID, ErrorClass.CONTEXT_LENGTH, ErrorClass.CONTENT_POLICY})


class FailureLog:
    """A witness of the broker's effects. Bounded by pools x classes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when it was told last, and how many since

    def witness(self, effects: Sequence[Effect], wall_offset: float) -> None:
        for effect in effects:
            if isinstance(effect, Settled) and effect.error_class not in _SILENT:
                self._failed(effect)

    def _failed(self, effect: Settled) -> None:
        told = {"pool": effect.pool, "error_class": effect.error_class, "tenant": effect.party.tenant}
        if effect.opened:
            log.warning("the circuit opened", extra=told)
        key = (effect.pool, effect.error_class)
        now = self._clock()
        last, more = self._told.get(key, (-math.inf, 0))
        if now - last < _EVERY:
            self._told[key] = (last, more + 1)
            return
        self._told[key] = (now, 0)
        log.log(_level(effect.error_class), "the provider refused a call", extra={**told, "others_since": more})


def _level(error_class: str) -> int:
    if error_class in _ERRORS:
        return logging.ERROR
    return logging.INFO if error_class in _CALLS_OWN else logging.WARNING
