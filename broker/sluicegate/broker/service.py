# SPDX-License-Identifier: Apache-2.0
"""BudgetService: converts, submits and waits. It decides nothing.

A bad call never kills a Session: it gets a Reject with reason `invalid_request`. A unary Acquire whose client goes away
frees its place, or gives back a grant that nobody received.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from sluicegate.broker import answers, requests, sessions
from sluicegate.broker.core import events
from sluicegate.broker.core.effects import Effect, FellBack, Granted, Rejected, Requeued, Settled
from sluicegate.broker.core.units import Workload
from sluicegate.broker.identity import CALLER
from sluicegate.broker.runtime import Answer, Runtime
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc
from sluicegate.wire import errors
from sluicegate.wire.errors import Refusal, Violation
from sluicegate.wire.words import ErrorClass, Reason

log = logging.getLogger(__name__)

UNARY = "unary"
"""The session that all unary calls of one caller share; no sidecar may take this session_id."""

_HELLO_WITHIN = 10.0
_ABORT_WITHIN = 1.0
_MAX_WAITING = 20_000
_RETRY_AFTER_STOP = 1.0
_LEASE = 900.0  # seconds after which the grant of a unary caller that never settled counts as lost

Context = grpc.aio.ServicerContext[Any, Any]


async def refuse(context: Context, refusal: Refusal) -> None:
    """End the call with the google.rpc.Status of `refusal`. Raises always."""
    status = rpc_status.to_status(errors.to_status(refusal))
    await context.abort(status.code, status.details or "", status.trailing_metadata)


class Waiters:
    """The unary calls that wait for an answer, by session and call_id; repeats of one call wait together."""

    def __init__(self) -> None:
        self._futures: dict[tuple[str, str], set[asyncio.Future[Answer]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def deliver(self, answer: Answer) -> None:
        if not isinstance(answer, Requeued):
            for future in self._futures.get((answer.session, answer.call_id), ()):
                if not future.done():
                    future.set_result(answer)

    def add(self, session: str, call_id: str) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._futures.setdefault((session, call_id), set()).add(future)
        self._count += 1
        return future

    def remove(self, session: str, call_id: str, future: asyncio.Future[Answer]) -> bool:
        """Whether nobody waits for the call any more."""
        waiting = self._futures[session, call_id]
        waiting.discard(future)
        self._count -= 1
        if not waiting:
            del self._futures[session, call_id]
        return not waiting

    def dismiss(self, refusal: Refusal) -> None:
        for waiting in self._futures.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(Dismissed(refusal))


class Dismissed(Exception):
    """The broker stops; the waiting call may ask again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class BudgetService(budget_service_pb2_grpc.BudgetServiceServicer):
    """Slots over streams and, one at a time, over unary calls. `absurd(field)` counts what settlements said wrongly."""

    def __init__(self, runtime: Runtime, registry: sessions.Sessions, absurd: Callable[[str], None]) -> None:
        self.epoch = uuid.uuid4().hex
        self.waiters = Waiters()
        self._runtime = runtime
        self._sessions = registry
        self._absurd = absurd
        self._stopping = False

    # ---- Session

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: Context
    ) -> None:
        """Reads in a task of its own; this coroutine writes, and its end is the stream's."""
        requests_ = aiter(request_iterator)
        try:
            first = await asyncio.wait_for(anext(requests_), _HELLO_WITHIN)
        except (TimeoutError, StopAsyncIteration):
            await refuse(context, errors.invalid([Violation("hello", "is required in the first message")]))
            return
        violations = requests.hello(first.hello)
        if first.hello.session_id == UNARY:
            violations.append(Violation("hello.session_id", f"{UNARY!r} is taken"))
        if violations:
            await refuse(context, errors.invalid(violations))
        await context.send_initial_metadata(())  # a hang-up during the write that also sends them could not abort
        writer = asyncio.current_task()
        assert writer is not None

        hung_up = False

        def hang_up() -> None:
            nonlocal hung_up
            hung_up = True
            writer.cancel()

        session = sessions.Session(
            _owned(first.hello.session_id),
            _workload(first.hello.namespace, first.hello.service_account),
            frozenset(first.hello.authenticated_pools),
            hang_up,
        )
        session.outbox.tell(pb.SessionResponse(welcome=pb.Welcome(epoch=self.epoch)))
        self._sessions.open(session)
        reader = asyncio.create_task(self._read(session, first, requests_))
        try:
            while (message := await session.outbox.next()) is not None:
                await context.write(message)
                del message  # a quiet session would keep it, and the first has the routes of all pools
        except asyncio.CancelledError:
            if not hung_up:
                raise
            writer.uncancel()
            async with asyncio.timeout(_ABORT_WITHIN):
                why = (
                    "it read too slowly"
                    if session.outbox.stuck
                    else "another stream took its place, or the broker stops"
                )
                await context.abort(grpc.StatusCode.ABORTED, f"the session was dropped: {why}")
        finally:
            reader.cancel()
            self._sessions.close(session)
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(
        self, session: sessions.Session, first: pb.SessionRequest, rest: AsyncIterator[pb.SessionRequest]
    ) -> None:
        try:
            self._take(session, first)
            async for message in rest:
                self._take(session, message)
        except (grpc.aio.AioRpcError, grpc.RpcError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("reading a session failed", extra={"session": session.session_id})
            raise
        finally:
            session.outbox.close()

    def _take(self, session: sessions.Session, message: pb.SessionRequest) -> None:
        """Everything of one message, in the order in which it may depend on itself."""
        for attachment in message.attachments:
            attach, violations = requests.attach(attachment, session.session_id, session.workload, session.pools)
            if violations:
                self._reject(session, attachment.call.call_id, violations)
            else:
                self._runtime.submit(attach)
        for call in message.acquires:
            acquire, violations = requests.acquire(call, session.session_id, session.workload, session.pools)
            if violations:
                self._reject(session, call.call_id, violations)
            else:
                self._runtime.submit(acquire)
        for observation in message.observations:
            self._runtime.submit(requests.observe(observation, session.session_id))
        for settlement in message.settlements:
            self._runtime.submit(self._settlement(settlement, session.session_id))
        for call_id in message.cancels:
            self._runtime.submit(events.Cancel(call_id, session.session_id))

    def _reject(self, session: sessions.Session, call_id: str, violations: Sequence[Violation]) -> None:
        refusal = errors.invalid(violations)
        call = call_id[: requests.MAX_ID]
        session.outbox.reject(pb.Reject(call_id=call, reason=Reason.INVALID_REQUEST, message=refusal.message))

    def _settlement(self, message: pb.Settlement, session: str) -> events.Settle:
        event, absurd = requests.settle(message, session)
        for field in absurd:
            self._absurd(field)
        return event

    # ---- unary

    async def Acquire(  # noqa: N802
        self, request: pb.AcquireRequest, context: Context
    ) -> pb.AcquireResponse:
        """Waits until the broker answers; a client that goes away is cancelled."""
        who = _workload(request.namespace, request.service_account)
        event, violations = requests.acquire(request.call, _owned(UNARY), who, frozenset())
        named = requests.Checked()
        named.text("namespace", request.namespace, requests.MAX_NAME)
        named.text("service_account", request.service_account, requests.MAX_NAME)
        if violations or named.violations:
            await refuse(context, errors.invalid([*violations, *named.violations]))
        if self._stopping:
            await refuse(context, _stopping())
        if len(self.waiters) >= _MAX_WAITING:
            message = f"{_MAX_WAITING} unary calls wait already"
            await refuse(context, Refusal(Reason.BROKER_OVERLOADED, message, 1.0))
        try:
            answer = await self._wait(event)
        except Dismissed as dismissed:
            await refuse(context, dismissed.refusal)
            raise
        match answer:
            case Granted():
                return pb.AcquireResponse(grant=answers.grant(answer))
            case FellBack():
                return pb.AcquireResponse(fallback=answers.fallback(answer))
            case Rejected():
                await refuse(context, answers.refusal(answer))
            case Requeued():
                pass
        raise AssertionError("refuse and deliver let nothing else through")

    async def _wait(self, event: events.Acquire) -> Answer:
        call_id, session = event.call_id, event.session
        future = self.waiters.add(session, call_id)
        self._runtime.attach(session, self.waiters)
        self._runtime.submit(replace(event, lease=_LEASE))
        try:
            return await future
        except asyncio.CancelledError:
            granted = future.done() and not future.cancelled() and isinstance(future.result(), Granted)
            if granted:
                self._runtime.submit(events.Settle(call_id, ErrorClass.CANCELLED, dispatched=False, session=session))
            raise
        finally:
            if self.waiters.remove(session, call_id, future) and (future.cancelled() or not future.done()):
                self._runtime.submit(events.Cancel(call_id, session))

    async def Settle(  # noqa: N802
        self, request: pb.SettleRequest, context: Context
    ) -> pb.SettleResponse:
        """Folds in the observation, then settles; says whether the call was outstanding."""
        call_id, session = request.settlement.call_id, _owned(UNARY)
        if not call_id or len(call_id) > requests.MAX_ID:
            description = f"must have 1 to {requests.MAX_ID} characters"
            await refuse(context, errors.invalid([Violation("settlement.call_id", description)]))
        if self._stopping:
            await refuse(context, _stopping())
        if request.HasField("observation"):
            observation = requests.observe(request.observation, session)
            if observation.call_id in ("", call_id):
                self._runtime.submit(replace(observation, call_id=call_id))
        done: asyncio.Future[Sequence[Effect]] = asyncio.get_running_loop().create_future()

        def then(effects: Sequence[Effect]) -> None:
            if not done.done():
                done.set_result(effects)

        self._runtime.submit(self._settlement(request.settlement, session), then)
        response = pb.SettleResponse()
        for effect in await done:
            if isinstance(effect, Settled) and effect.call_id == call_id:
                response.settled = True
            elif isinstance(effect, Requeued) and effect.call_id == call_id:
                response.settled = True
                response.retry.CopyFrom(answers.retry(effect))
        return response

    def stop(self) -> None:
        """Turn unary waiters away; they may ask again elsewhere."""
        self._stopping = True
        self.waiters.dismiss(_stopping())


def _owned(session_id: str) -> str:
    """The session's name in the core: where callers are proven no one can take another's, and so none of its calls."""
    caller = CALLER.get()
    return session_id if caller is None else f"{caller}:{session_id}"


def _workload(namespace: str, service_account: str) -> Workload:
    """The proven caller; what it says of itself counts only where nothing proves it."""
    caller = CALLER.get()
    if caller is not None:
        return Workload(caller.namespace, caller.service_account)
    return requests.workload(namespace, service_account)


def _stopping() -> Refusal:
    return Refusal(Reason.SHUTTING_DOWN, "the broker is stopping; ask again", _RETRY_AFTER_STOP)
