# SPDX-License-Identifier: Apache-2.0
"""What waits to be sent to one session: bounded, and coalesced into one message per turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

from sluicegate.broker import answers
from sluicegate.broker.core.effects import FellBack, Granted, Rejected, Requeued
from sluicegate.broker.runtime import Answer
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire.channel import MAX_BATCH

CAPACITY = 20_000
"""Answers that may wait for a slow session before it counts as stuck."""

T = TypeVar("T")


class Outbox:
    """One session's outgoing queue. `stuck` is set when more than `capacity` answers waited: the session is dropped."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.stuck = False
        self._capacity = capacity
        self._answers: deque[Answer] = deque()
        self._rejects: deque[pb.Reject] = deque()
        self._head: pb.SessionResponse | None = None
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._answers) + len(self._rejects)

    def deliver(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._grown()

    def reject(self, message: pb.Reject) -> None:
        """A request that never reached the core."""
        self._rejects.append(message)
        self._grown()

    def tell(self, message: pb.SessionResponse) -> None:
        """Welcome, routes, shares, reconnect: sent before any answer that waits. The newest of each field wins."""
        if self._head is None:
            self._head = pb.SessionResponse()
        if message.config_version:
            self._head.ClearField("routes")
        if message.safe_shares:
            self._head.ClearField("safe_shares")
        self._head.MergeFrom(message)
        self._wake.set()

    def close(self) -> None:
        """No more is taken; `next` gives what is left, then None."""
        self._closed = True
        self._wake.set()

    async def next(self) -> pb.SessionResponse | None:
        """Everything that waits, up to MAX_BATCH answers; None when it is closed and empty."""
        while not len(self) and self._head is None:
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()
            await asyncio.sleep(0)  # let this turn's other answers join
        message, self._head = self._head or pb.SessionResponse(), None
        for reject in _take(self._rejects, MAX_BATCH):
            message.rejects.append(reject)
        for answer in _take(self._answers, MAX_BATCH):
            match answer:
                case Granted():
                    message.grants.append(answers.grant(answer))
                case FellBack():
                    message.fallbacks.append(answers.fallback(answer))
                case Rejected():
                    message.rejects.append(answers.reject(answer))
                case Requeued():
                    message.retries.append(answers.retry(answer))
        return message

    def _grown(self) -> None:
        if len(self) > self._capacity:
            self.stuck = True
            self._answers.clear()
            self._rejects.clear()
            self._closed = True
        self._wake.set()


def _take(items: deque[T], most: int) -> list[T]:
    return [items.popleft() for _ in range(min(most, len(items)))]
