# SPDX-License-Identifier: Apache-2.0
"""What providers refused, in the log. A circuit that opens is always told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sluicegate.broker.core.effects import Effect, Settled
from sluicegate.wire.failures import SILENT, Spaced, level_of

log = logging.getLogger(__name__)


class FailureLog:
    """A witness of the broker's effects."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = Spaced(clock)

    def witness(self, effects: list[Effect], wall_offset: float) -> None:
        for effect in effects:
            if isinstance(effect, Settled) and effect.error_class not in SILENT:
                self._failed(effect)

    def _failed(self, effect: Settled) -> None:
        told = {"pool": effect.pool, "error_class": effect.error_class, "tenant": effect.party.tenant}
        if effect.opened:
            log.warning("the circuit opened", extra=told)
        others = self._lines.due(effect.pool, effect.error_class)
        if others is not None:
            log.log(level_of(effect.error_class), "the provider refused a call", extra={**told, "others_since": others})
