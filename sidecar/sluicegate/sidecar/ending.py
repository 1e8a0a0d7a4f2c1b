# SPDX-License-Identifier: Apache-2.0
"""How a call ends that no provider's success ended: refused, failed, or answered here (cached, degraded)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar.books import Books
from sluicegate.sidecar.cache import CachedAnswer, answer_key
from sluicegate.sidecar.core.degraded import degraded_answer
from sluicegate.sidecar.core.errors import Explanation, Original, Refusal, status_of
from sluicegate.sidecar.core.plan import Step
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.sidecar.inbound import Inbound
from sluicegate.sidecar.relay import ClientGoneError, Response
from sluicegate.sidecar.services import Services
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.words import Outcome, Reason

_GRACE = 1.0
_MOST_REPEATED = 4096  # bytes of a provider's response that a repeat gets again


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt of which nothing reached the app: the provider's response, or why there was none.

    `final`: it must not go again. `reason`: the phrase after the status.
    """

    verdict: Verdict
    dispatched: bool
    status: int = 0
    headers: CIMultiDict[str] | None = None
    body: bytes = b""
    message: str = ""
    final: bool = False
    reason: str = ""


def _unreachable(failure: Failure, refusal: Refusal) -> Refusal:
    status = 504 if "within" in failure.message or "nothing for" in failure.message else 502
    text = f"the provider could not be reached: {failure.message}"
    return Refusal(status, text, refusal.explanation, refusal.retry_after)


def _repeatable(failure: Failure, refusal: Refusal) -> Refusal:
    """What the app got for a failed call, so that its repeat gets the same."""
    if failure.headers is None:
        return _unreachable(failure, refusal)
    if len(failure.body) > _MOST_REPEATED:
        return refusal
    ours = ("content-length", "x-should-retry", "retry-after", "retry-after-ms")
    kept = tuple((name, value) for name, value in failure.headers.items() if name.lower() not in ours)
    return replace(refusal, original=Original(failure.status, kept, failure.body))


class Ending:
    """The ends of one call. Each sends the whole response; ClientGoneError where nobody takes it.

    `held`: what the cache held for it when the broker was asked.
    """

    def __init__(self, services: Services, request: web.BaseRequest, inbound: Inbound, books: Books) -> None:
        self._s = services
        self._request = request
        self._in = inbound
        self._books = books
        self._key = answer_key(inbound)
        self.held: CachedAnswer | None = None if self._key is None else services.cache.find(self._key)

    def remember(self, tenant: str, content_type: str, body: bytes) -> None:
        """Keeps a success that the app got, for the same request when it cannot be served."""
        if self._key is not None:
            self._s.cache.store(self._key, tenant, content_type, body, self._books.arrived)

    async def reject(self, reject: pb.Reject, failure: Failure | None) -> web.StreamResponse:
        """The broker's no; after a failed attempt the app gets the provider's own response."""
        self._books.plan.advance(Step.REJECT)
        retry_after = convert.from_duration(reject.retry_after) if reject.HasField("retry_after") else None
        books = self._books
        unpaid = reject.reason == Reason.BILLING  # no wait of the app's and no smaller call would help
        binding = "" if unpaid else reject.binding_limit
        refusal = Refusal(
            status_of(reject.reason, self._in.shape),
            reject.message or f"refused: {reject.reason}",
            Explanation(Outcome.REJECTED, reject.reason, reject.pool, books.waited, books.attempts, binding),
            None if unpaid else retry_after,
            reject.reason,
            "" if unpaid else reject.mitigation,
            0 if unpaid else reject.fits_now,
        )
        if retry_after is not None:
            known = refusal if failure is None else _repeatable(failure, refusal)
            version = self._s.broker.routes.version
            self._s.refused.remember(self._in.key, known, retry_after, time.monotonic(), version)
        if failure is not None:
            return await self.fail(failure, refusal)
        return await self.refuse(refusal)

    async def fail(self, failure: Failure, refusal: Refusal) -> web.StreamResponse:
        """The provider's own response, or where there was none a refusal that says so."""
        if failure.headers is not None:
            return await self.original(failure, refusal)
        return await self.refuse(_unreachable(failure, refusal))

    async def original(self, failure: Failure, refusal: Refusal | None = None) -> web.StreamResponse:
        """The provider's own response; no SDK shall repeat it by itself."""
        assert failure.headers is not None
        books = self._books
        headers = failure.headers
        headers.popall("content-length", None)
        self.final(headers)
        if refusal is not None:
            books.count_call(refusal.explanation.outcome, refusal.explanation.reason)
            for name, value in (*refusal.headers(), *books.notes):
                headers[name] = value
        elif books.grant is not None:
            books.explain(headers, books.grant)
        return await self.send(failure.status, headers, failure.body, failure.reason)

    def final(self, headers: CIMultiDict[str]) -> None:
        """Says in the headers of a provider's error that no SDK shall repeat a managed call by itself."""
        if self._books.pool:
            headers.popall("x-should-retry", None)
            headers["x-should-retry"] = "false"

    async def fall_back(
        self, fallback: pb.Fallback, failure: Failure | None, *, last: bool
    ) -> web.StreamResponse | list[types_pb2.FallbackOption]:
        """The first option that has an answer here, else a rejection; or what is left of the options, where the next
        one is the broker's to decide, which is asked again unless this is the `last` word."""
        books = self._books
        options = [fallback.option, *fallback.next]
        for at, option in enumerate(options):
            if option.WhichOneof("kind") not in ("cached_max_age", "degrade_message"):
                if last:
                    continue
                return options[at:]
            answer = self._stand_in(option, fallback.tenant)
            if answer is None:
                continue
            outcome, content_type, data, more = answer
            books.plan.advance(Step.ANSWER_HERE)
            reason = Reason.CACHE_HIT if outcome is Outcome.CACHED else Reason.DEGRADED
            explanation = Explanation(
                outcome,
                fallback.reason or reason,
                fallback.pool,
                books.waited,
                books.attempts,
                fallback.binding_limit,
            )
            books.count_call(outcome, explanation.reason)
            headers: CIMultiDict[str] = CIMultiDict([*explanation.headers(), *more])
            headers["content-type"] = content_type
            return await self.send(200, headers, data)
        reject = pb.Reject(
            call_id=books.call_id,
            reason=fallback.reason,
            message=f"refused: {fallback.reason}; no fallback had an answer",
            pool=fallback.pool,
            binding_limit=fallback.binding_limit,
        )
        if fallback.HasField("predicted_wait"):
            reject.retry_after.CopyFrom(fallback.predicted_wait)
        return await self.reject(reject, failure)

    def _stand_in(
        self, option: types_pb2.FallbackOption, tenant: str
    ) -> tuple[Outcome, str, bytes, list[tuple[str, str]]] | None:
        inbound, held = self._in, self.held
        match option.WhichOneof("kind"):
            case "cached_max_age":
                # The broker knew its age; what has passed since is not held against it.
                age = 0.0 if held is None else time.monotonic() - held.stored
                if held is None or held.tenant != tenant or age > convert.from_duration(option.cached_max_age) + _GRACE:
                    return None
                return Outcome.CACHED, held.content_type, held.body, [("age", str(int(age)))]
            case "degrade_message":
                made = degraded_answer(
                    inbound.api.wire,
                    option.degrade_message,
                    inbound.body,
                    model=inbound.model,
                    call_id=self._books.call_id,
                    created=int(time.time()),
                    stream=inbound.stream,
                    query=inbound.query,
                )
                return None if made is None else (Outcome.DEGRADED, *made, [])
            case _:
                return None

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """A refusal in the provider's shape."""
        self._books.count_call(refusal.explanation.outcome, refusal.explanation.reason)
        headers: CIMultiDict[str] = CIMultiDict([*refusal.headers(), *self._books.notes])
        headers["content-type"] = "application/json"
        return await self.send(refusal.status, headers, refusal.body(self._in.shape))

    async def send(self, status: int, headers: CIMultiDict[str], data: bytes, reason: str = "") -> web.StreamResponse:
        """A whole response."""
        response = Response(status=status, reason=reason or None, headers=headers)
        response.content_length = len(data)
        try:
            await response.prepare(self._request)
            if data:
                await response.write(data)
            await response.write_eof()
        except ConnectionError:
            raise ClientGoneError from None
        return response
