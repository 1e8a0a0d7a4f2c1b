# SPDX-License-Identifier: Apache-2.0
"""What a session holds: calls that wait or fly, and what the next message to the broker carries."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from sluicegate.sidecar import messages
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.channel import MAX_BATCH
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import ErrorClass, Reason

T = TypeVar("T")
Answer = pb.Grant | pb.Fallback | pb.Reject


@dataclass(slots=True)
class HeldCall:
    """A call that waits (`future` pending) or holds a slot (`pool`, `attempt`)."""

    request: pb.CallRequest
    estimate: Estimate
    since: float
    future: asyncio.Future[Answer]
    held: bool = False
    pool: str = ""
    attempt: int = 0
    requeued: bool = False

    def attachment(self, now: float) -> pb.Attachment:
        """The call as a reconnecting sidecar declares it."""
        return pb.Attachment(
            call=self.request,
            granted=self.held,
            age=convert.to_duration(max(0.0, now - self.since)),
            pool=self.pool,
            attempt=self.attempt,
        )


@dataclass(slots=True)
class Outbox:
    """What the next message carries."""

    acquires: list[pb.CallRequest] = field(default_factory=list[pb.CallRequest])
    cancels: list[str] = field(default_factory=list[str])
    observations: list[pb.Observation] = field(default_factory=list[pb.Observation])
    settlements: deque[pb.Settlement] = field(default_factory=deque[pb.Settlement])
    attachments: deque[pb.Attachment] = field(default_factory=deque[pb.Attachment])

    def __bool__(self) -> bool:
        return bool(self.acquires or self.cancels or self.observations or self.settlements or self.attachments)

    def take(self) -> pb.SessionRequest:
        """The next batch. Attachments go alone and first: what settles them must find them."""
        if self.attachments:
            return pb.SessionRequest(attachments=_cut(self.attachments))
        message = pb.SessionRequest(
            acquires=self.acquires[:MAX_BATCH],
            cancels=self.cancels[:MAX_BATCH],
            observations=self.observations[:MAX_BATCH],
            settlements=_cut(self.settlements),
        )
        del self.acquires[:MAX_BATCH], self.cancels[:MAX_BATCH], self.observations[:MAX_BATCH]
        return message


def _cut(items: deque[T]) -> list[T]:
    return [items.popleft() for _ in range(min(len(items), MAX_BATCH))]


def refusal(call: HeldCall, reason: Reason, message: str, retry_after: float | None = None) -> pb.Reject:
    """A refusal that the sidecar gives in the broker's place."""
    reject = pb.Reject(call_id=call.request.call_id, reason=reason, message=message, pool=call.request.pool)
    if retry_after is not None:
        reject.retry_after.CopyFrom(convert.to_duration(retry_after))
    return reject


def unsent(call_id: str, attempt: int) -> pb.Settlement:
    """Gives a slot back that nobody used."""
    verdict = Verdict(ErrorClass.CANCELLED)
    return messages.settlement(call_id, attempt, verdict, dispatched=False, retriable=False, usage=None)
