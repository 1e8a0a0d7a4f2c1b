# SPDX-License-Identifier: Apache-2.0
"""An embeddings call that is too large for one request, sent as several, each with its own slot, and merged again.

A part is a call of its own to the broker (`<id>.1`, `<id>.2`, ...), which counts it, queues it and says when a failed
one goes again; none may fall back to another model, since vectors of two models cannot stand in one answer. A few are
under way at a time, the largest first: where that can never fit, little has been spent on the others. The first that
fails for good fails the whole with its own error, and the others are cancelled.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, replace

import orjson
from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar.books import Books
from sluicegate.sidecar.core.classify import classify
from sluicegate.sidecar.core.errors import Refusal, refuse
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.plan import Step
from sluicegate.sidecar.core.split import Inputs, UnmergeableError, merge, part_of
from sluicegate.sidecar.core.usage import reader_for
from sluicegate.sidecar.core.verdict import NETWORK, NOT_SENT, SUCCESS
from sluicegate.sidecar.ending import Ending, Failure
from sluicegate.sidecar.inbound import Inbound, backward_headers
from sluicegate.sidecar.relay import content_of, decoder_for
from sluicegate.sidecar.services import Services
from sluicegate.sidecar.trimming import Size
from sluicegate.sidecar.upstream import UpstreamError, UpstreamResponse
from sluicegate.sidecar.way import Way, way_of
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import convert
from sluicegate.wire.words import Reason

AT_ONCE = 4
_MAX_ANSWER = 256 * 1024 * 1024
_MAX_ERROR_BODY = 1024 * 1024

Answer = tuple[bytes, CIMultiDict[str]]


class PartFailedError(Exception):
    """A part failed for good: the word that says so, if it is not its provider's, and the last failed attempt."""

    def __init__(self, books: Books, answer: pb.Fallback | pb.Reject | Refusal | None, failure: Failure | None) -> None:
        self.books = books
        self.answer = answer
        self.failure = failure
        super().__init__("a part of a call failed")


@dataclass(frozen=True, slots=True)
class Whole:
    """A call that is sent in parts, and the message that would have asked for it at once."""

    inbound: Inbound
    inputs: Inputs
    parts: list[range]
    message: pb.CallRequest


class Parts:
    """One call in parts; `run` once. `books` and `ending` are those of the whole call."""

    def __init__(self, services: Services, whole: Whole, books: Books, ending: Ending, size: Size) -> None:
        self._s = services
        self._whole = whole
        self._books = books
        self._ending = ending
        self._size = size
        self._room = asyncio.Semaphore(AT_ONCE)
        self._done: dict[int, tuple[Answer, Books]] = {}
        self._held = 0

    async def run(self) -> web.StreamResponse:
        """Serves the call. Raises ClientGoneError or CancelledError when the app went away, all debts paid."""
        whole, books, ending = self._whole, self._books, self._ending
        failed: PartFailedError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                sizes = [sum(whole.inputs.sizes[part.start : part.stop]) for part in whole.parts]
                for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
                    group.create_task(self._one(number))
        except* PartFailedError as problems:
            failed = next(problem for problem in problems.exceptions if isinstance(problem, PartFailedError))
        if failed is not None:
            return await self._fail(failed)
        ordered = [self._done[number] for number in range(len(whole.parts))]
        try:
            data = await asyncio.to_thread(self._merged, [answer for (answer, _), _ in ordered])
        except (UnmergeableError, orjson.JSONDecodeError) as problem:
            return await ending.refuse(refuse(502, Reason.INVALID_REQUEST, f"the parts cannot be merged: {problem}"))
        grants = [_grant(part) for _, part in ordered]
        books.attempts = sum(part.attempts for _, part in ordered)
        books.notes = [("x-sluicegate-parts", str(len(ordered)))]
        headers = ordered[0][0][1]
        longest = max(grants, key=lambda grant: convert.from_duration(grant.waited))
        books.explain(headers, longest)
        if all(grant.pool and not grant.model for grant in grants):
            ending.remember(longest.tenant, headers.get("content-type", ""), data)
        return await ending.send(200, headers, data)

    def _merged(self, answers: list[bytes]) -> bytes:
        return orjson.dumps(merge(self._whole.inputs, self._whole.parts, [orjson.loads(data) for data in answers]))

    async def _fail(self, problem: PartFailedError) -> web.StreamResponse:
        books, ending, failure = self._books, self._ending, problem.failure
        books.attempts = problem.books.attempts
        books.grant = problem.books.grant
        books.notes = [("x-sluicegate-parts", str(len(self._whole.parts)))]
        match problem.answer:
            case pb.Reject() as reject:
                return await ending.reject(reject, failure)
            case pb.Fallback() as fallback:
                done = await ending.fall_back(fallback, failure, last=True)
                assert isinstance(done, web.StreamResponse)
                return done
            case Refusal() as refusal:
                return await ending.refuse(refusal)
            case None:
                assert failure is not None
                if failure.headers is not None:
                    return await ending.original(failure)
                return await ending.fail(failure, refuse(502, Reason.UNMANAGED, failure.message))

    async def _one(self, number: int) -> None:
        whole = self._whole
        async with self._room:
            body = part_of(whole.inbound.body, whole.inputs, whole.parts[number])
            inbound = replace(whole.inbound, body=body, raw=orjson.dumps(body))
            estimate = await self._size(inbound)
            books = Books(self._s, inbound, f"{whole.message.call_id}.{number + 1}", estimate, self._books.trace)
            message = pb.CallRequest()
            message.CopyFrom(whole.message)
            message.call_id = books.call_id
            message.estimate.CopyFrom(
                types_pb2.Estimate(
                    input_tokens=estimate.input_tokens,
                    output_tokens=estimate.output_tokens,
                    max_output_tokens=estimate.max_output_tokens,
                    characters=estimate.characters,
                )
            )
            message.divisible, message.part = False, True
            message.cached.SetInParent()
            message.cached.Clear()
            if message.criticality.HasField("deadline"):
                left = convert.from_duration(message.criticality.deadline) - self._books.waited
                message.criticality.deadline.CopyFrom(convert.to_duration(max(0.0, left)))
            try:
                answer = await self._served(inbound, books, message)
            except BaseException:
                books.client_gone(counts=False)  # whatever broke it, the broker learns that the part is over
                raise
            self._held += len(answer[0])
            self._done[number] = (answer, books)

    async def _served(self, inbound: Inbound, books: Books, message: pb.CallRequest) -> Answer:
        """The part's answer. Raises PartFailedError."""
        books.plan.advance(Step.ASK)
        answer = await self._s.broker.acquire(message, books.estimate)
        failure: Failure | None = None
        while isinstance(answer, pb.Grant):
            result = await self._attempt(inbound, books, answer)
            if not isinstance(result, Failure):
                return result
            failure = result
            if not answer.pool or failure.final:
                books.finish(Step.UNSENDABLE, failure.verdict, dispatched=failure.dispatched)
                raise PartFailedError(books, None, failure)
            answer = await books.ask_again(failure.verdict, dispatched=failure.dispatched)
        books.plan.advance(Step.REJECT)
        raise PartFailedError(books, answer, failure)

    async def _attempt(self, inbound: Inbound, books: Books, grant: pb.Grant) -> Answer | Failure:
        books.granted(grant)
        way = way_of(inbound, grant, self._s.broker.routes, self._s.credentials)
        if isinstance(way, Refusal):
            books.finish(Step.UNSENDABLE, NOT_SENT, dispatched=False)
            raise PartFailedError(books, way, None)
        books.carry_trace(way.headers)
        provider = way.provider
        try:
            upstream = await self._s.transport.send("POST", way.url, way.headers, way.data)
        except UpstreamError as problem:
            books.count_fault(provider, problem.fault)
            return Failure(NETWORK, problem.dispatched, message=str(problem), final=problem.final)
        try:
            return await self._receive(inbound, books, grant, way, upstream)
        except UpstreamError as problem:
            books.count_fault(provider, problem.fault)
            return Failure(NETWORK, True, message=str(problem), final=problem.final)
        finally:
            upstream.close()

    async def _receive(
        self, inbound: Inbound, books: Books, grant: pb.Grant, way: Way, upstream: UpstreamResponse
    ) -> Answer | Failure:
        provider = way.provider
        readings = read_meters(provider, upstream.headers, way.dialect)
        if readings.meters and grant.pool:
            self._s.broker.observe(books.call_id, readings.meters)
        headers = backward_headers(upstream.headers)
        headers.popall("content-length", None)
        coding = headers.popall("content-encoding", ["identity"])[0]
        failed = upstream.status >= 400
        data = await _read(upstream, _MAX_ERROR_BODY if failed else _MAX_ANSWER - self._held)
        if coding.lower() != "identity":
            decoder = decoder_for(coding)
            try:
                data = decoder.decompress(data, _MAX_ANSWER) if decoder is not None else data
            except zlib.error:
                raise UpstreamError("garbage", "a part is not what its coding says", dispatched=True) from None
        reader = reader_for(inbound.api.wire, "application/json")
        if not failed:
            reader.receive_data(data)
            reader.receive_end()
        if failed or reader.error is not None:
            # An error inside a success is judged as one, whatever its status.
            verdict = classify(provider, upstream.status, upstream.headers, content_of(data, ""), way.dialect)
            failure = Failure(verdict, True, upstream.status, headers, data, reason=upstream.reason)
            if verdict.retriable and grant.pool:
                return failure
            books.plan.advance(Step.ACCEPTED)
            books.finish(Step.ENDED, verdict)
            raise PartFailedError(books, None, failure)
        books.reader = reader
        books.plan.advance(Step.ACCEPTED)
        books.finish(Step.ENDED, SUCCESS)
        return data, headers


async def _read(upstream: UpstreamResponse, most: int) -> bytes:
    data = bytearray()
    while chunk := await upstream.next_chunk():
        data += chunk
        if len(data) > most:
            raise UpstreamError("too_large", f"the parts' answers are larger than {_MAX_ANSWER} bytes", dispatched=True)
    return bytes(data)


def _grant(books: Books) -> pb.Grant:
    assert books.grant is not None
    return books.grant
