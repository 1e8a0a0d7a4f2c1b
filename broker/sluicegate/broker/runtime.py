# SPDX-License-Identifier: Apache-2.0
"""The asyncio driver of the core: events in, effects out to whoever they belong to.

Events that arrive in one turn of the event loop are handled together, at its end and at one `now`, so that their
answers leave in one message for each session. The core decides and the effects are delivered without an await in
between. A turn handles at most `_TURN` events, so that a flood does not keep the sockets waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sluicegate.broker.core.config import Snapshot
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Effect, FellBack, Granted, Party, Rejected, Requeued, Settled
from sluicegate.broker.core.events import Acquire, Attach, Configure, Event, Tick
from sluicegate.wire.words import Reason

Answer = Granted | FellBack | Rejected | Requeued
Then = Callable[[Sequence[Effect]], None]

_TURN = 1_000
_FOR_WITNESSES = (Decision, Settled)
_SHORTEST_SLEEP = 0.0005
_LONGEST_SLEEP = 3_600.0
log = logging.getLogger(__name__)


class Recipient(Protocol):
    """Takes the answers to the calls of one session. It must not block and not raise."""

    def deliver(self, answer: Answer) -> None: ...


class Witness(Protocol):
    """Sees every event's effects, for metrics and the decision log. It must not block and not raise."""

    def witness(self, effects: list[Effect], wall_offset: float) -> None: ...


class Runtime:
    """One dispatcher and its timer. Use it from one event loop only.

    `clock` is monotonic seconds, `wall` seconds since the epoch.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        trust_claims: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.snapshot = snapshot
        self.dispatcher = Dispatcher(snapshot, clock(), trust_claims=trust_claims)
        self.faults = 0
        self._wall = wall
        self._recipients: dict[str, Recipient] = {}
        self._witnesses: list[Witness] = []
        self._pending: deque[tuple[Event, Then | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.Handle | None = None
        self._stopped = False

    def add_witness(self, witness: Witness) -> None:
        self._witnesses.append(witness)

    def attach(self, session: str, recipient: Recipient) -> None:
        """From now on `recipient` gets the answers of `session`; one that had them before gets none."""
        self._recipients[session] = recipient

    def detach(self, session: str, recipient: Recipient) -> None:
        """`recipient` is gone; answers to its session's calls are dropped until it attaches again."""
        if self._recipients.get(session) is recipient:
            del self._recipients[session]

    def submit(self, event: Event, then: Then | None = None) -> None:
        """Handle `event` at the end of this turn; `then` gets its effects before any session gets an answer from them,
        so that what they rest on can be told first. It must not raise. After `stop` nothing happens."""
        if self._stopped:
            return
        if isinstance(event, Configure):
            self.snapshot = event.snapshot
        self._pending.append((event, then))
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._run)

    def stop(self) -> None:
        """Take no more decisions."""
        self._stopped = True
        self._pending.clear()
        for handle in (self._timer, self._scheduled):
            if handle is not None:
                handle.cancel()

    def _run(self) -> None:
        self._scheduled = None
        if self._stopped:
            return
        now = self.clock()
        offset = self._wall() - now
        for _ in range(min(_TURN, len(self._pending))):
            event, then = self._pending.popleft()
            self._handle(event, then, now, offset)
        wakeup = self.dispatcher.next_wakeup()
        if wakeup is not None and wakeup <= now:
            self._handle(Tick(), None, now, offset)
            wakeup = self.dispatcher.next_wakeup()
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            self._scheduled = loop.call_soon(self._run)
        elif wakeup is not None:
            self._timer = loop.call_later(min(_LONGEST_SLEEP, max(_SHORTEST_SLEEP, wakeup - now)), self._run)

    def _handle(self, event: Event, then: Then | None, now: float, offset: float) -> None:
        try:
            effects = self.dispatcher.handle(event, now)
        except Exception:
            self.faults += 1
            log.exception("the core failed on an event", extra={"event": type(event).__name__})
            effects = _apology(event)
        if then is not None:
            then(effects)
        # A repeated call_id gets its first answer again, which names the session of then.
        asker: tuple[str, str] | None = None
        if isinstance(event, Acquire):
            asker = (event.call_id, event.session)
        elif isinstance(event, Attach):
            asker = (event.acquire.call_id, event.acquire.session)
        for effect in effects:
            if isinstance(effect, _FOR_WITNESSES):
                continue
            session = asker[1] if asker is not None and asker[0] == effect.call_id else effect.session
            recipient = self._recipients.get(session)
            if recipient is not None:
                recipient.deliver(effect)
        for witness in self._witnesses:
            witness.witness(effects, offset)


def _apology(event: Event) -> list[Effect]:
    """So that a call which the core failed on does not wait for ever."""
    match event:
        case (
            Acquire(call_id=call_id, session=session)
            | Attach(acquire=Acquire(call_id=call_id, session=session), granted=False)
        ):
            message = "the broker failed on this call; the fault is in its log"
            return [Rejected(call_id, session, Party("", "", ""), "", Reason.BROKER_UNAVAILABLE, message)]
        case _:
            return []
