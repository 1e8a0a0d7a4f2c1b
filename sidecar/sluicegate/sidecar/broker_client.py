# SPDX-License-Identifier: Apache-2.0
"""The session with the broker: one stream for all calls, batched per turn of the event loop.

A call asks with `acquire` and gets its answer as a future. While the stream is broken, calls that wait are kept and
declared again at the next connection, as are those in flight; after `patience` seconds without a broker the policy that
it left behind decides (safe share, fail open, fail closed). Everything held is bounded. There is no back-off timer
for calls here: only the reconnection has one, with jitter.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from pathlib import Path
from typing import TypeVar

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from sluicegate.sidecar import messages
from sluicegate.sidecar.core.routes import Route, Routes
from sluicegate.sidecar.core.safeshare import SafeShares
from sluicegate.sidecar.held import Answer, HeldCall, Outbox, refusal, unsent
from sluicegate.sidecar.link import SessionStream, connect
from sluicegate.sidecar.metrics import Metrics
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.values import Estimate, MeterReading
from sluicegate.wire.words import OnBrokerUnavailable, Outcome, Reason

log = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_KEPT = 10_000
_ANSWER_WITHIN = 5.0
_BACK_WITHIN = 10.0
_CONNECT_WITHIN = 10.0
_MAX_BACKOFF = 5.0


class BrokerClient:
    """One per sidecar. `start` before use; `stop` flushes what is still to be said."""

    def __init__(
        self,
        address: str,
        hello: pb.Hello,
        metrics: Metrics,
        *,
        ca: Path | None = None,
        ca_pem: str = "",
        token_file: Path | None = None,
        patience: float = 2.0,
        max_pending: int = 10_000,
    ) -> None:
        self.routes = Routes({})
        self.connected = False
        self.epoch = ""
        self._address = address
        self._hello = hello
        self._metrics = metrics
        self._ca = ca
        self._ca_pem = ca_pem
        self._token_file = token_file
        self._patience = patience
        self._max_pending = max_pending
        self._shares = SafeShares()
        self._calls: dict[str, HeldCall] = {}
        self._out = Outbox()
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._away_since: float | None = None
        self._stopping = False
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> None:
        """Opens the session in the background."""
        self._went_away()
        self._task = asyncio.create_task(self._run(), name="broker-session")

    async def ready(self, within: float) -> bool:
        """Waits until the first configuration is there; False if not `within` seconds."""
        try:
            async with asyncio.timeout(within):
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, flush: float = 1.0) -> None:
        """Says what is still to be said and ends the session once the broker has it; at most `flush` seconds.

        A session that breaks meanwhile loses what the broker had not read of it; that is logged.
        """
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            if self.connected:
                _, late = await asyncio.wait([self._task], timeout=flush)
                if late:
                    log.warning("the broker did not end the session within %g s; what was said last may be lost", flush)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for call in list(self._calls.values()):
            if not call.future.done():
                call.future.set_result(refusal(call, Reason.SHUTTING_DOWN, "the sidecar is stopping"))
        self._calls.clear()

    # ---- calls

    def acquire(self, request: pb.CallRequest, estimate: Estimate) -> asyncio.Future[Answer]:
        """Asks for a slot. The future never fails; cancel the call with `cancel`, not the future."""
        loop = asyncio.get_running_loop()
        call = HeldCall(request, estimate, loop.time(), loop.create_future())
        if len(self._calls) >= self._max_pending or self._stopping:
            reason = Reason.SHUTTING_DOWN if self._stopping else Reason.SIDECAR_OVERLOADED
            message = (
                f"the sidecar holds {self._max_pending} calls" if not self._stopping else "the sidecar is stopping"
            )
            call.future.set_result(refusal(call, reason, message, 1.0))
            return call.future
        self._calls[request.call_id] = call
        if self.connected:
            self._out.acquires.append(request)
            self._wake.set()
        elif self._away_since is not None and loop.time() - self._away_since >= self._patience:
            self._decide_alone(call)
        return call.future

    def cancel(self, call_id: str) -> None:
        """The client of a waiting call went away. A slot that had just come is given back."""
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        if call.held:
            self._settle(unsent(call_id, call.attempt))
        elif self.connected:
            self._out.cancels.append(call_id)
            self._wake.set()

    def observe(self, call_id: str, readings: tuple[MeterReading, ...], *, accepted: bool = False) -> None:
        """What a response's headers said, at once, or that its body has begun. Nothing is kept for a broker that is
        away."""
        if self.connected:
            self._out.observations.append(messages.observation(call_id, readings, accepted=accepted))
            self._wake.set()

    def settle(self, settlement: pb.Settlement) -> None:
        """The last attempt of a call ended."""
        call = self._calls.pop(settlement.call_id, None)
        if call is not None and not self.connected:
            self._keep(self._out.attachments, call.attachment(asyncio.get_running_loop().time()), "attachment")
        self._settle(settlement)

    def settle_and_wait(self, settlement: pb.Settlement) -> asyncio.Future[Answer]:
        """An attempt failed and nothing reached the app: the future is the broker's word on what is next.

        A broker that is away is waited for, as long as the call may wait: it hears of the attempt when it is back.
        """
        loop = asyncio.get_running_loop()
        call = self._calls[settlement.call_id]
        if not self.connected:
            self._keep(self._out.attachments, call.attachment(loop.time()), "attachment")
        self._settle(settlement)
        call.future = loop.create_future()
        call.held = False
        self._await_word(call)
        return call.future

    def _await_word(self, call: HeldCall) -> None:
        """Of a call that was sent before: the broker is to say within some time that it has it."""
        within = _ANSWER_WITHIN
        if not self.connected:
            within = _BACK_WITHIN
            if call.request.criticality.HasField("max_wait"):
                within = min(within, convert.from_duration(call.request.criticality.max_wait))
        call.requeued = False
        asyncio.get_running_loop().call_later(within, self._give_up, call, call.future)

    def _give_up(self, call: HeldCall, future: asyncio.Future[Answer]) -> None:
        if future.done() or call.requeued:
            return
        self._calls.pop(call.request.call_id, None)
        if self.connected:
            self._out.cancels.append(call.request.call_id)
            self._wake.set()
            future.set_result(refusal(call, Reason.ATTEMPTS_EXHAUSTED, "the broker said nothing about a retry"))
        else:
            future.set_result(refusal(call, Reason.BROKER_UNAVAILABLE, "the broker is away"))

    def _settle(self, settlement: pb.Settlement) -> None:
        self._keep(self._out.settlements, settlement, "settlement")
        self._wake.set()

    def _keep(self, queue: deque[T], item: T, kind: str) -> None:
        if len(queue) >= _MAX_KEPT:
            queue.popleft()
            self._metrics.dropped(kind).inc()
        queue.append(item)

    # ---- without the broker

    def _went_away(self) -> None:
        loop = asyncio.get_running_loop()
        self.connected = False
        self._metrics.connected.set(0)
        self._away_since = loop.time()
        self._out.acquires.clear()
        self._out.cancels.clear()
        self._out.observations.clear()
        for call in self._calls.values():
            if call.attempt and not call.future.done():
                self._await_word(call)
        loop.call_later(self._patience, self._decide_waiting, self._away_since)

    def _decide_waiting(self, since: float) -> None:
        if self.connected or self._away_since != since:
            return
        for call in list(self._calls.values()):
            if not call.future.done() and not call.attempt:
                self._decide_alone(call)

    def _decide_alone(self, call: HeldCall) -> None:
        request = call.request
        now = asyncio.get_running_loop().time()
        policy = self.routes.on_unavailable
        route = self._route_for(request)
        if route is not None:
            if policy is OnBrokerUnavailable.FAIL_OPEN:
                return self._grant_alone(call, route, Reason.FAIL_OPEN)
            if policy is OnBrokerUnavailable.SAFE_SHARE and self._shares.spend(route.pool, call.estimate, now):
                return self._grant_alone(call, route, Reason.SAFE_SHARE)
        self._metrics.alone(Reason.BROKER_UNAVAILABLE).inc()
        del self._calls[request.call_id]
        message = "the broker is away and the policy allows no more calls without it"
        call.future.set_result(refusal(call, Reason.BROKER_UNAVAILABLE, message, 1.0))
        return None

    def _grant_alone(self, call: HeldCall, route: Route, reason: Reason) -> None:
        self._metrics.alone(reason).inc()
        grant = pb.Grant(
            call_id=call.request.call_id,
            pool=route.pool,
            outcome=convert.OUTCOME.to_proto(Outcome.GRANTED),
            reason=reason,
            attempt=1,
            waited=convert.to_duration(asyncio.get_running_loop().time() - call.since),
            tenant=call.request.tenant,
            task_type=call.request.criticality.task_type,
        )
        self._hold(call, grant)

    def _route_for(self, request: pb.CallRequest) -> Route | None:
        if request.pool:
            return self.routes.pools.get(request.pool)
        try:
            provider = convert.PROVIDER.from_proto(request.provider)
        except ValueError:
            return None
        found = self.routes.claiming(provider, request.model) if provider is not None else ()
        return found[0] if len(found) == 1 else None

    # ---- the stream

    async def _run(self) -> None:
        failures = 0
        while True:
            code = "ended"
            try:
                await self._session()
            except Exception as problem:  # noqa: BLE001 - whatever a peer sends, the next session may be a good one
                if not self._pause:  # else it was asked to come back later
                    code, why = _told(problem)
                    level = logging.WARNING if failures == 0 else logging.DEBUG
                    log.log(level, "no session with the broker at %s: %s (%s)", self._address, code, why)
            if self._stopping:  # a connection that is lost meanwhile takes the place of the cancellation
                return
            self._metrics.session_failures(code).inc()
            failures = 0 if self.connected else failures + 1
            if self.connected:
                self._went_away()
            pause, self._pause = self._pause, 0.0
            ceiling = min(_MAX_BACKOFF, 0.1 * 2 ** min(failures, 10))
            await asyncio.sleep(pause + random.uniform(ceiling / 4, ceiling))

    async def _session(self) -> None:
        async with connect(self._address, await self._roots(), await self._metadata()) as (stream, channel):
            async with asyncio.timeout(_CONNECT_WITHIN):
                await stream.send_message(pb.SessionRequest(hello=self._hello))
                message = await stream.recv_message()
            if message is not None:
                self._arrived()
                writer = asyncio.create_task(self._write(stream, channel), name="broker-writer")
                try:
                    while message is not None:
                        self._read(message)
                        message = None if self._pause and not self._stopping else await stream.recv_message()
                finally:
                    writer.cancel()
                    await asyncio.gather(writer, return_exceptions=True)
                if self._stopping:
                    return  # unless the broker said, at the end, that something is wrong
            raise StreamTerminatedError("it ended")  # which gives way to what the broker said at the end

    async def _roots(self) -> str:
        """The authorities that the broker's certificate is held against; the file may have changed. Raises OSError."""
        if self._ca is None:
            return self._ca_pem
        return f"{self._ca_pem}\n{await asyncio.to_thread(self._ca.read_text)}"

    async def _metadata(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        token = await asyncio.to_thread(self._token_file.read_text)
        return {"authorization": f"Bearer {token.strip()}"}

    def _arrived(self) -> None:
        """A session is there: declare all that is held or waits, then go on."""
        now = asyncio.get_running_loop().time()
        self.connected = True
        self._away_since = None
        self._metrics.connected.set(1)
        self._metrics.sessions.inc()
        declared = {attachment.call.call_id for attachment in self._out.attachments}
        for call in self._calls.values():
            if call.request.call_id in declared:
                continue
            if call.held or call.attempt or self.epoch:
                self._keep(self._out.attachments, call.attachment(now), "attachment")
                call.requeued = not call.held
            else:
                self._out.acquires.append(call.request)
        self._wake.set()

    async def _write(self, stream: SessionStream, channel: Channel) -> None:
        """Sends what is to be said; at the stop it ends its side, and the broker the other when it has read all."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._out:
                    await stream.send_message(self._out.take())
                if self._stopping:
                    return await stream.end()
        except BaseException:
            channel.close()  # a session that nobody writes to is none
            raise

    def _read(self, message: pb.SessionResponse) -> None:
        if message.HasField("welcome"):
            self.epoch = message.welcome.epoch
        if message.config_version:
            self._configure(message)
        for share in message.safe_shares:
            value = messages.share_of(share)
            if value is not None:
                self._shares.grant(share.pool, value, asyncio.get_running_loop().time())
        for retry in message.retries:
            call = self._calls.get(retry.call_id)
            if call is not None:
                call.requeued = True
        for grant in message.grants:
            self._granted(grant)
        for fallback in message.fallbacks:
            self._answered(fallback.call_id, fallback)
        for reject in message.rejects:
            self._answered(reject.call_id, reject)
        if message.HasField("reconnect_after"):
            self._pause = max(0.001, min(60.0, convert.from_duration(message.reconnect_after)))

    def _answered(self, call_id: str, answer: pb.Fallback | pb.Reject) -> None:
        call = self._calls.pop(call_id, None)
        if call is not None and not call.future.done():
            call.future.set_result(answer)

    def _granted(self, grant: pb.Grant) -> None:
        call = self._calls.get(grant.call_id)
        if call is None or call.future.done():
            if call is None or not call.held:
                self._settle(unsent(grant.call_id, grant.attempt))
            return
        self._hold(call, grant)

    def _hold(self, call: HeldCall, grant: pb.Grant) -> None:
        call.held = True
        call.pool = grant.pool
        call.attempt = grant.attempt
        call.since = asyncio.get_running_loop().time()
        call.future.set_result(grant)

    def _configure(self, message: pb.SessionResponse) -> None:
        routes = [route for route in map(messages.route_of, message.routes) if route is not None]
        policy = OnBrokerUnavailable.SAFE_SHARE
        try:
            policy = convert.ON_BROKER_UNAVAILABLE.from_proto(message.on_broker_unavailable) or policy
        except ValueError:
            log.warning("the broker's policy for its absence is of a later version; safe share holds")
        self.routes = Routes({route.pool: route for route in routes}, message.config_version, policy)
        self._shares.forget(frozenset(self.routes.pools))
        self._heard.set()


def _told(problem: Exception) -> tuple[str, str]:
    """What ended a session, as metrics and the log name it. No text of the peer's."""
    if isinstance(problem, GRPCError):
        return problem.status.name.lower(), "the broker's word"
    if isinstance(problem, OSError | StreamTerminatedError):
        return "unavailable", str(problem) or type(problem).__name__
    return "failed", type(problem).__name__
