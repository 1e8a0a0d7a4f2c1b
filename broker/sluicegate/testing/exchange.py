# SPDX-License-Identifier: Apache-2.0
"""One call at the emulator, from request to record."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from sluicegate.testing import text, wire_openai
from sluicegate.testing.calls import Answer, BadRequestError, Call
from sluicegate.testing.face import Place
from sluicegate.testing.faces import face_of
from sluicegate.testing.faults import Fault, spoil_headers
from sluicegate.testing.limits import Demand, MeterFigures, Rejected, format_headers
from sluicegate.testing.pools import Pool
from sluicegate.testing.truth import CallRecord

if TYPE_CHECKING:
    from sluicegate.testing.emulator import Emulator

_BODY_LIMIT = 32 * 1024 * 1024
_HANG_LIMIT = 600.0
_STEP = 0.05  # seconds between chunks of a paced stream: what a reader sees as flowing
_CHUNK_AT_ONCE = 16  # tokens in a chunk of an unpaced stream
_SLOWNESS = 10.0
_SLOW_RATE = 20.0  # tokens per second of a slow stream whose pace is "at once"
_BROKEN = b'data: {"id": "chatcmpl-broken", "choi\n\nevent: nonsense\ndata: not json\n\n'


class Exchange:
    """One call from request to record."""

    def __init__(self, emulator: Emulator, request: web.BaseRequest) -> None:
        self._emulator = emulator
        self._request = request
        self._began = emulator.now()
        self._wall = time.time()
        self._face, self._path = face_of(request.path)
        self._place: Place | None = None
        self._number = emulator.number()
        self._pool: Pool | None = None
        self._call: Call | None = None
        self._account, self._credential = "", ""
        self._status, self._outcome = 0, "cancelled"
        self._output = 0
        self._billed = False
        self._endpoint = self._path.removeprefix("/v1/")[:40]
        self._model = ""

    def record(self) -> None:
        """Write the call down, whatever became of it."""
        pool, call = self._pool, self._call
        if pool is not None:
            prompt = call.prompt_tokens if call is not None and self._outcome in ("ok", "broken", "cancelled") else 0
            if self._status == 200 and call is not None:
                pool.accounts.used(prompt, self._output)
            if self._outcome == "overloaded":
                pool.accounts.counts.overloaded += 1
            elif self._outcome in ("server_error", "broken"):
                pool.accounts.counts.failed += 1
        self._emulator.calls.add(
            CallRecord(
                at=self._began,
                key=self._emulator.fingerprint(self._credential) if self._credential else "",
                account=self._account,
                pool="" if pool is None else pool.config.name,
                model=self._model,
                endpoint=self._endpoint,
                stream=call is not None and call.stream,
                status=self._status,
                outcome=self._outcome,
                charge=0.0 if call is None else call.charge,
                input_tokens=0 if call is None else call.prompt_tokens,
                output_tokens=self._output,
                user=None if call is None else call.user,
                seconds=self._emulator.now() - self._began,
            )
        )

    async def run(self) -> web.StreamResponse:
        request, face = self._request, self._face
        body = await self._read_body()
        account = self._authenticate()
        self._place = place = face.place(self._path, request.query) if request.method == "POST" else None
        if account is None:
            return await self._fail(face.auth())
        if request.method == "GET" and request.path == "/v1/models":
            return await self._answer(Answer(200, wire_openai.models(self._model_names()), "ok"))
        if place is None:
            return await self._fail(face.not_found(request.method, request.path))
        self._endpoint = place.api
        try:
            data = orjson.loads(body) if body is not None else None
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            return await self._fail(face.bad_json())
        model = data.get("model") if place.model is None else place.model
        self._model = str(model)[:100]
        pool = self._emulator.route(account, face.wire, model) if isinstance(model, str) else None
        if pool is None:
            return await self._fail(face.unknown_model(model))
        self._pool = pool
        try:
            self._call = call = face.parse(place, data, self._model, pool.config)
        except BadRequestError as error:
            return await self._refuse(pool, place, error.answer)
        if place.counts:
            return await self._answer(Answer(200, face.count(call), "ok"))
        return await self._serve(pool, place, call)

    async def _serve(self, pool: Pool, place: Place, call: Call) -> web.StreamResponse:
        face = self._face
        now = self._emulator.now()
        fault = pool.plan.draw(now)
        if fault is Fault.HANG:
            self._outcome = "broken"
            await asyncio.sleep(_HANG_LIMIT)
            return self._cut(web.StreamResponse())
        if fault is Fault.AUTH:
            return await self._fail(face.auth())
        if fault is Fault.BILLING:
            return await self._fail(face.billing())
        refusal = face.refusals.get(fault) if fault else None
        if refusal is not None:
            return await self._refuse(pool, place, refusal)
        overloaded = fault is Fault.OVERLOAD or (fault is Fault.STREAM_OVERLOAD and not call.stream)
        if overloaded and face.overloads_first:
            return await self._fail(face.overloaded())
        if 0 < pool.config.max_concurrent <= pool.active:
            return await self._fail(face.too_many_connections())
        pool.run(now)
        verdict = pool.accounts.admit(now, call.demand)
        if isinstance(verdict, Rejected):
            headers = self._limit_headers(pool, place, fault, verdict.figures, 429, stream=call.stream)
            return await self._fail(face.quota(verdict, call, pool.config), headers)
        headers = self._limit_headers(pool, place, fault, verdict.figures, 200, stream=call.stream)
        pool.active += 1
        try:
            await asyncio.sleep(pool.pace.first_byte(pool.random))
            if overloaded:
                return await self._fail(face.overloaded())
            if fault is Fault.SERVER_ERROR:
                return await self._fail(face.server_error())
            if face.live:
                pool.accounts.adjust_input(self._emulator.now(), call.charge, call.prompt_tokens)
            if call.stream:
                return await self._stream(pool, call, fault, headers)
            return await self._whole(pool, place, call, fault, headers)
        finally:
            pool.active -= 1
            self._bill(pool, call)

    async def _whole(
        self, pool: Pool, place: Place, call: Call, fault: Fault | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        live = self._face.live
        length, cut = self._length(pool, call) if call.generates else (0, False)
        rate = self._rate(pool, fault)
        done = 0
        while done < length and (rate > 0 or live):
            step = min(length - done, max(1, math.ceil(rate * 0.25))) if rate > 0 else length
            if rate > 0:
                await asyncio.sleep(step / rate)
            done += step
            self._produced(pool, step)
        self._output = length * call.copies
        content = "".join(text.pieces(self._number, length))
        self._status = 200
        if self._face.bills_afterwards:
            cost = self._bill(pool, call)
            figures = pool.accounts.limits.figures(self._emulator.now())
            headers = self._limit_headers(pool, place, fault, figures, 200, stream=False)
            if headers:
                headers["x-ratelimit-tokens-query-cost"] = str(cost)
        elif not live and call.generates:
            self._produced_at_end(pool)
        body = self._face.whole(call, self._number, int(self._wall), content, self._output, cut=cut)
        return await self._answer(Answer(200, body, "ok"), headers, fault)

    async def _stream(self, pool: Pool, call: Call, fault: Fault | None, headers: dict[str, str]) -> web.StreamResponse:
        stream = self._face.frames(call, self._number, int(self._wall))
        length, cut = self._length(pool, call)
        pieces = text.pieces(self._number, length)
        rate = self._rate(pool, fault)
        size = max(1, round(rate * _STEP)) if rate > 0 else _CHUNK_AT_ONCE
        mime = "text/html" if fault is Fault.WRONG_CONTENT_TYPE else stream.mime
        self._status = 200
        response = web.StreamResponse(headers={**self._head(), **headers, "content-type": mime})
        if fault is Fault.WRONG_CONTENT_LENGTH:
            response.content_length = 10_000_000
        await response.prepare(self._request)
        await response.write(stream.opening())
        begun = self._emulator.now()
        for at in range(0, length, size):
            chunk = pieces[at : at + size]
            if rate > 0:
                await asyncio.sleep(max(0.0, begun + (at + len(chunk)) / rate - self._emulator.now()))
            if at + len(chunk) > length // 2:
                if fault is Fault.STREAM_BREAK:
                    self._outcome = "broken"
                    return self._cut(response)
                if fault is Fault.STREAM_OVERLOAD:
                    self._outcome = "overloaded"
                    await response.write(stream.overload())
                    await response.write_eof()
                    return response
                if fault is Fault.BROKEN_SSE:
                    fault, self._outcome = None, "broken"
                    await response.write(_BROKEN)
            self._output += len(chunk) * call.copies
            self._produced(pool, len(chunk))
            await response.write(stream.delta("".join(chunk), len(chunk)))
        if not self._face.live:
            self._produced_at_end(pool)
        await response.write(stream.closing(self._output, cut=cut))
        if self._outcome == "cancelled":
            self._outcome = "ok"
        if fault is Fault.WRONG_CONTENT_LENGTH:
            self._outcome = "broken"
            return self._cut(response)
        await response.write_eof()
        return response

    async def _fail(self, answer: Answer, headers: dict[str, str] | None = None) -> web.StreamResponse:
        return await self._answer(self._face.dress(answer, self._place), headers)

    async def _answer(
        self, answer: Answer, headers: dict[str, str] | None = None, fault: Fault | None = None
    ) -> web.StreamResponse:
        """Send a whole body, as `fault` leaves it."""
        self._status, self._outcome = answer.status, answer.outcome
        mime = "text/html" if fault is Fault.WRONG_CONTENT_TYPE else "application/json"
        head = {**self._head(), **(headers or {}), **answer.headers, "content-type": mime}
        if fault not in (Fault.STREAM_BREAK, Fault.WRONG_CONTENT_LENGTH):
            return web.Response(status=answer.status, body=answer.body, headers=head)
        response = web.StreamResponse(status=answer.status, headers=head)
        response.content_length = len(answer.body) + (100 if fault is Fault.WRONG_CONTENT_LENGTH else 0)
        await response.prepare(self._request)
        await response.write(
            answer.body if fault is Fault.WRONG_CONTENT_LENGTH else answer.body[: len(answer.body) // 2]
        )
        self._outcome = "broken"
        return self._cut(response)

    async def _refuse(self, pool: Pool, place: Place, answer: Answer) -> web.StreamResponse:
        """An invalid request, which costs a request on most wires."""
        if not self._face.refusal_costs:
            return await self._fail(answer)
        now = self._emulator.now()
        pool.run(now)
        pool.accounts.draw(now, Demand())
        figures = pool.accounts.limits.figures(now)
        return await self._fail(answer, self._limit_headers(pool, place, None, figures, answer.status, stream=False))

    def _cut(self, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection under a response that is not finished."""
        transport = self._request.transport
        if transport is not None:
            transport.close()
        return response

    def _limit_headers(
        self,
        pool: Pool,
        place: Place,
        fault: Fault | None,
        figures: tuple[MeterFigures, ...],
        status: int,
        *,
        stream: bool,
    ) -> dict[str, str]:
        face, config = self._face, pool.config
        if not face.shows_limits(place, status, stream=stream, config=config):
            return {}
        key = self._model if config.rate_limit_key else ""
        headers = spoil_headers(fault, format_headers(face.wire, figures, self._wall, key=key))
        share = config.retry_after_on_success
        if face.wire == "anthropic" and share > 0 and pool.random.random() < share:
            headers["retry-after"] = str(60 - int(self._wall) % 60)
        return headers

    def _head(self) -> dict[str, str]:
        return self._face.head(self._number, self._emulator.now() - self._began)

    async def _read_body(self) -> bytes | None:
        """The body; None when it is larger than providers take."""
        length = self._request.content_length
        if length is not None and length > _BODY_LIMIT:
            return None
        parts: list[bytes] = []
        total = 0
        async for part in self._request.content.iter_any():
            total += len(part)
            if total > _BODY_LIMIT:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _authenticate(self) -> str | None:
        credential = self._face.credential(self._request.headers, self._request.query)
        self._credential = credential
        if not credential:
            return None
        account = self._emulator.config.keys.get(credential, self._emulator.config.unknown_keys)
        self._account = account or ""
        return account

    def _length(self, pool: Pool, call: Call) -> tuple[int, bool]:
        wanted = self._request.headers.get("x-emulator-output-tokens", "")
        if wanted.isdecimal() and len(wanted) < 7:
            fixed = int(wanted)
            return (call.bound, True) if call.bound is not None and call.bound < fixed else (fixed, False)
        return pool.config.output.draw(pool.random, call.bound)

    def _produced(self, pool: Pool, count: int) -> None:
        if self._face.live:
            pool.accounts.produce(self._emulator.now(), count)

    def _produced_at_end(self, pool: Pool) -> None:
        """A pool with limits of output counts them when the call ends."""
        if not self._face.bills_afterwards:
            pool.accounts.produce(self._emulator.now(), self._output)

    def _bill(self, pool: Pool, call: Call) -> int:
        """Charge the real usage of a call that was answered, where that is done afterwards, and once; returns it."""
        if not self._face.bills_afterwards or self._status != 200 or self._billed:
            return 0
        self._billed = True
        cost = call.prompt_tokens + self._output
        pool.accounts.produce(self._emulator.now(), cost)
        return cost

    @staticmethod
    def _rate(pool: Pool, fault: Fault | None) -> float:
        rate = pool.pace.tokens_per_second
        if fault is not Fault.SLOW_STREAM:
            return rate
        return rate / _SLOWNESS if rate > 0 else _SLOW_RATE

    def _model_names(self) -> list[str]:
        named = [name for pool in self._emulator.pools if pool.config.wire == "openai" for name in pool.config.models]
        return sorted({name for name in named if "*" not in name})
