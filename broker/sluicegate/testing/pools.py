# SPDX-License-Identifier: Apache-2.0
"""One emulated pool while it runs: its limits with their accounts, its faults, its pace, and who else draws on it."""

from __future__ import annotations

import math
import random
import zlib

from sluicegate.testing.config import LimitChange, PoolConfig
from sluicegate.testing.faults import FaultPlan
from sluicegate.testing.foreign import ForeignConfig, ForeignUse
from sluicegate.testing.truth import AccountedLimits


class Pool:
    """The state of one pool. `now` is seconds since the emulator started, everywhere."""

    def __init__(self, config: PoolConfig, seed: int) -> None:
        self.config = config
        self.pace = config.pace
        self.accounts = AccountedLimits(config.limits)
        self._seed = seed ^ zlib.crc32(config.name.encode())
        self.random = random.Random(self._seed)
        self.plan = FaultPlan(config.faults, config.episodes, self._seed + 1)
        self.active = 0
        self._changes: list[LimitChange] = sorted(config.changes, key=lambda change: change.at)
        self._foreign: ForeignUse | None = None
        if config.foreign is not None:
            self.set_foreign(config.foreign)

    def set_foreign(self, config: ForeignConfig) -> None:
        """Let others draw on this pool as `config` says, in place of what was."""
        self._foreign = ForeignUse(config, self.accounts, self._seed + 2)

    def add_change(self, change: LimitChange) -> None:
        """Change a limit when its time comes."""
        self._changes = sorted([*self._changes, change], key=lambda item: item.at)

    def run(self, now: float) -> None:
        """Do what was due by `now`, each thing at its own time."""
        while self._changes and self._changes[0].at <= now:
            change = self._changes.pop(0)
            if self._foreign is not None:
                self._foreign.run(change.at)
            self.accounts.set_limit(change.at, change.resource, change.limit, window=change.window)
        if self._foreign is not None:
            self._foreign.run(now)

    @property
    def next_at(self) -> float:
        """When `run` has something to do next; inf for never."""
        foreign = math.inf if self._foreign is None else self._foreign.next_at
        return min(foreign, self._changes[0].at if self._changes else math.inf)
