# SPDX-License-Identifier: Apache-2.0
"""Every decision, to a file of JSON lines and to those who watch. Neither may hold up the broker: both drop and count.

A line has `time` (RFC 3339, UTC), `call`, `tenant`, `tier`, `pool`, `model`, `task_type`, `outcome`, `reason`,
`waited` (seconds), `attempt`, `binding_limit`, and `waiting`: how many eligible calls waited, by tier.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sluicegate.broker.core.effects import Decision, Effect

log = logging.getLogger(__name__)

_BUFFER = 200_000
_EVERY = 0.2
WATCHER_BUFFER = 10_000
MESSAGE = 256

Timed = tuple[Decision, float]
"""A decision and when it was taken, seconds since the epoch."""


class Watcher:
    """One reader of decisions; what it is too slow for is counted in `missed`."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._waiting: deque[Timed] = deque()
        self._missed = 0
        self._wake = asyncio.Event()

    def offer(self, item: Timed) -> None:
        if self.pool and item[0].pool != self.pool:
            return
        if len(self._waiting) >= WATCHER_BUFFER:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(item)
        self._wake.set()

    async def take(self) -> tuple[list[Timed], int]:
        """At least one decision, up to MESSAGE, oldest first, and how many were missed before them."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        items = [self._waiting.popleft() for _ in range(min(MESSAGE, len(self._waiting)))]
        missed, self._missed = self._missed, 0
        return items, missed


class DecisionLog:
    """Fan-out of decisions. With a `path`, `run` appends to that file; `dropped` counts lines it was too slow for."""

    def __init__(self, path: Path | None = None) -> None:
        self.dropped = 0
        self._path = path
        self._lines: deque[Timed] = deque()
        self._watchers: set[Watcher] = set()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a", encoding="utf-8").close()  # a path that cannot be written fails at the start

    def witness(self, effects: list[Effect], wall_offset: float) -> None:
        if self._path is None and not self._watchers:
            return
        for effect in effects:
            if isinstance(effect, Decision):
                item = (effect, effect.at + wall_offset)
                if self._path is not None:
                    if len(self._lines) < _BUFFER:
                        self._lines.append(item)
                    else:
                        self.dropped += 1
                for watcher in self._watchers:
                    watcher.offer(item)

    def watch(self, pool: str) -> Watcher:
        watcher = Watcher(pool)
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    async def run(self) -> None:
        """Write what has come together every now and then, until cancelled; `flush` writes the rest."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.flush()

    async def flush(self) -> None:
        if self._path is None or not self._lines:
            return
        items, self._lines = self._lines, deque()
        try:
            await asyncio.to_thread(_append, self._path, items)
        except OSError as error:
            self.dropped += len(items)
            log.error("the decision log cannot be written", extra={"path": str(self._path), "error": str(error)})


def _append(path: Path, items: Sequence[Timed] | deque[Timed]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line(decision, at)}\n" for decision, at in items)


def line(decision: Decision, at: float) -> str:
    """One decision as JSON."""
    return json.dumps(
        {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "call": decision.call_id,
            "tenant": decision.party.tenant,
            "tier": decision.party.tier,
            "pool": decision.pool,
            "model": decision.model,
            "task_type": decision.party.task_type,
            "outcome": decision.outcome,
            "reason": decision.reason,
            "waited": round(decision.waited, 6),
            "attempt": decision.attempt,
            "binding_limit": "" if decision.binding is None else str(decision.binding),
            "waiting": dict(decision.waiting),
        },
        separators=(",", ":"),
    )
