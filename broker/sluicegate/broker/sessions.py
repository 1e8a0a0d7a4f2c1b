# SPDX-License-Identifier: Apache-2.0
"""The sidecars that are connected, those that may come back, and what they are told unasked.

A session outlives its stream by the grace period: a sidecar that comes back with its session_id in time keeps its
calls, after it the core is told that the session is lost. A second stream of one session takes the first one's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sluicegate.broker import answers
from sluicegate.broker.core.config import EMPTY, Snapshot
from sluicegate.broker.core.events import Acquire, SessionLost
from sluicegate.broker.core.resolve import Refusal, Resolver
from sluicegate.broker.core.units import Workload
from sluicegate.broker.outbox import Outbox
from sluicegate.broker.runtime import Answer, Runtime
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import OnBrokerUnavailable

log = logging.getLogger(__name__)

_SHARES_EVERY = 2.0
_AT_ONCE = 20
_APART = 0.01
"""Seconds between two so many sessions that are told something: a message of all pools for each of a thousand sidecars
would keep every call waiting for an eighth of a second."""


@dataclass(slots=True, eq=False)
class Session:
    """One connected sidecar."""

    session_id: str
    workload: Workload
    pools: frozenset[str]
    hang_up: Callable[[], None]
    outbox: Outbox = field(default_factory=Outbox)
    shares: bytes = b""
    """The message of safe shares that it was told last."""
    tell_first: Callable[[Session], None] | None = None
    """Tells it what is configured since, before its next answer, whose pool may be new to it."""

    def deliver(self, answer: Answer) -> None:
        if self.tell_first is not None:
            self.tell_first(self)
        self.outbox.deliver(answer)
        if self.outbox.stuck:
            self.hang_up()


class Sessions:
    """All sessions of one broker. `grace`: seconds that a session may be away."""

    def __init__(self, runtime: Runtime, grace: float) -> None:
        self.stuck = 0
        self.lost = 0
        self._runtime = runtime
        self._grace = grace
        self._live: dict[str, Session] = {}
        self._away: dict[str, asyncio.TimerHandle] = {}
        self._routes = pb.SessionResponse()
        self._shares: dict[int, tuple[bytes, pb.SessionResponse]] = {}  # by the number of sharers, of one pass
        self._snapshot = EMPTY
        self._resolver = Resolver(EMPTY, trust_claims=False)
        self._changed = asyncio.Event()
        self._stopping = False
        self._reconnect_after = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def away(self) -> int:
        return len(self._away)

    def open(self, session: Session) -> None:
        """Take in a session whose Hello was good, and tell it routes and shares."""
        timer = self._away.pop(session.session_id, None)
        if timer is not None:
            timer.cancel()
        former = self._live.get(session.session_id)
        if former is not None:
            former.hang_up()
        self._live[session.session_id] = session
        self._idle.clear()
        self._runtime.attach(session.session_id, session)
        self._tell_configured(session)
        if self._stopping:
            self._tell_reconnect(session)

    def close(self, session: Session) -> None:
        """Its stream ended; its grace begins unless another stream took its place."""
        self._runtime.detach(session.session_id, session)
        if session.outbox.stuck:
            self.stuck += 1
            log.warning("a session was dropped because it read too slowly", extra={"session": session.session_id})
        session.outbox.close()
        if self._live.get(session.session_id) is not session:
            return
        del self._live[session.session_id]
        if not self._live:
            self._idle.set()
        if not self._stopping:
            loop = asyncio.get_running_loop()
            self._away[session.session_id] = loop.call_later(self._grace, self._lose, session.session_id)

    def _lose(self, session_id: str) -> None:
        self._away.pop(session_id, None)
        self.lost += 1
        self._runtime.submit(SessionLost(session_id))
        log.info("a session did not come back", extra={"session": session_id})

    def configured(self, snapshot: Snapshot) -> None:
        """Every session is to hear the new routes, version and shares: before its next answer, and soon (`keep_told`).
        Call it when the core has the snapshot."""
        self._shares.clear()
        for session in self._live.values():
            session.tell_first = self._tell_configured
        self._changed.set()

    async def keep_told(self) -> None:
        """Tell the sessions, a few at a time, until cancelled: what is configured, and shares whenever they changed,
        which depend on learned limits and on who is connected."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHARES_EVERY):
                    await self._changed.wait()
            self._changed.clear()
            self._shares.clear()
            sessions = iter(list(self._live.values()))
            while some := list(itertools.islice(sessions, _AT_ONCE)):
                told = [self._tell(session) for session in some]
                await asyncio.sleep(_APART if any(told) else 0)

    async def dismiss(self, reconnect_after: float, within: float) -> None:
        """The broker stops: ask all to reconnect later, and wait up to `within` seconds until they hung up."""
        self._stopping = True
        self._reconnect_after = reconnect_after
        for timer in self._away.values():
            timer.cancel()
        for session in self._live.values():
            self._tell_reconnect(session)
            session.outbox.close()
        try:
            await asyncio.wait_for(self._idle.wait(), within)
        except TimeoutError:
            for session in list(self._live.values()):
                session.hang_up()

    def _tell_reconnect(self, session: Session) -> None:
        session.outbox.tell(pb.SessionResponse(reconnect_after=convert.to_duration(self._reconnect_after)))

    def _tell(self, session: Session) -> bool:
        """What is new to it; whether anything was."""
        if session.tell_first is None:
            return self._tell_shares(session)
        session.tell_first(session)
        return True

    def _tell_configured(self, session: Session) -> None:
        session.tell_first = None
        self._tell_routes(session)
        self._tell_shares(session)

    def _tell_routes(self, session: Session) -> None:
        snapshot = self._runtime.snapshot
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._resolver = Resolver(snapshot, trust_claims=False)
            self._routes = pb.SessionResponse(
                config_version=snapshot.version, routes=[answers.route(pool) for pool in snapshot.pools.values()]
            )
        message = pb.SessionResponse()
        message.CopyFrom(self._routes)
        message.on_broker_unavailable = convert.ON_BROKER_UNAVAILABLE.to_proto(self._when_away(session.workload))
        session.outbox.tell(message)

    def _when_away(self, workload: Workload) -> OnBrokerUnavailable:
        tenant = self._resolver.tenant(Acquire("", "", workload, None, "", Estimate(0)))
        return OnBrokerUnavailable.SAFE_SHARE if isinstance(tenant, Refusal) else tenant.on_broker_unavailable

    def _tell_shares(self, session: Session) -> bool:
        """Whether they had changed."""
        dispatcher = self._runtime.dispatcher
        sharers = dispatcher.sharers(session.session_id)
        found = self._shares.get(sharers)
        if found is None:
            message = pb.SessionResponse(safe_shares=map(answers.safe_share, dispatcher.safe_shares(sharers)))
            found = self._shares[sharers] = message.SerializeToString(), message
        shares, message = found
        if shares == session.shares:
            return False
        session.shares = shares
        session.outbox.tell(message)
        return True
