# SPDX-License-Identifier: Apache-2.0
"""One call at the emulator, from request to record."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from sluicegate.testing import text, wire_anthropic, wire_openai
from sluicegate.testing.calls import Answer, BadRequestError, Call, Stream
from sluicegate.testing.faults import Fault, spoil_headers
from sluicegate.testing.limits import Demand, MeterFigures, Rejected, Wire, format_headers
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
_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)


class Exchange:
    """One call from request to record."""

    def __init__(self, emulator: Emulator, request: web.BaseRequest) -> None:
        self._emulator = emulator
        self._request = request
        self._began = emulator.now()
        self._wall = time.time()
        self._wire: Wire = "anthropic" if request.path.startswith("/v1/messages") else "openai"
        self._number = emulator.number()
        self._pool: Pool | None = None
        self._call: Call | None = None
        self._account, self._credential = "", ""
        self._status, self._outcome = 0, "cancelled"
        self._output = 0
        self._endpoint = request.path.removeprefix("/v1/")[:40]
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
        request = self._request
        body = await self._read_body()
        account = self._authenticate()
        if account is None:
            return await self._answer(self._errors.auth())
        if request.method == "GET" and request.path == "/v1/models":
            return await self._answer(Answer(200, wire_openai.models(self._model_names()), "ok"))
        if request.method != "POST" or request.path not in _PATHS:
            missing = wire_openai.not_found(request.method, request.path)
            return await self._answer(missing if self._wire == "openai" else wire_anthropic.not_found())
        try:
            data = orjson.loads(body) if body is not None else None
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            return await self._answer(self._errors.bad_json())
        model = data.get("model")
        self._model = str(model)[:100]
        pool = self._emulator.route(account, self._wire, model) if isinstance(model, str) else None
        if pool is None:
            return await self._answer(self._errors.unknown_model(model))
        self._pool = pool
        try:
            self._call = call = self._parse(data, self._model, pool)
        except BadRequestError as error:
            return await self._refuse(pool, error.answer)
        if request.path.endswith("count_tokens"):
            return await self._answer(Answer(200, wire_anthropic.count(call), "ok"))
        return await self._serve(pool, call)

    async def _serve(self, pool: Pool, call: Call) -> web.StreamResponse:
        now = self._emulator.now()
        fault = pool.plan.draw(now)
        if fault is Fault.HANG:
            self._outcome = "broken"
            await asyncio.sleep(_HANG_LIMIT)
            return self._cut(web.StreamResponse())
        if fault is Fault.AUTH:
            return await self._answer(self._errors.auth())
        if fault is Fault.BILLING:
            return await self._answer(self._errors.billing())
        overloaded = fault is Fault.OVERLOAD or (fault is Fault.STREAM_OVERLOAD and not call.stream)
        if overloaded and self._wire == "anthropic":
            return await self._answer(wire_anthropic.overloaded())
        if 0 < pool.config.max_concurrent <= pool.active:
            return await self._answer(wire_anthropic.too_many_connections())
        pool.run(now)
        verdict = pool.accounts.admit(now, call.demand)
        headers = self._limit_headers(pool, fault, verdict.figures, stream=call.stream)
        if isinstance(verdict, Rejected):
            return await self._answer(self._quota(pool, call, verdict), headers)
        pool.active += 1
        try:
            await asyncio.sleep(pool.pace.first_byte(pool.random))
            if overloaded:
                return await self._answer(wire_openai.overloaded())
            if fault is Fault.SERVER_ERROR:
                return await self._answer(self._errors.server_error())
            if self._wire == "anthropic":
                pool.accounts.adjust_input(self._emulator.now(), call.charge, call.prompt_tokens)
            if call.stream:
                return await self._stream(pool, call, fault, headers)
            return await self._whole(pool, call, fault, headers)
        finally:
            pool.active -= 1

    async def _whole(self, pool: Pool, call: Call, fault: Fault | None, headers: dict[str, str]) -> web.StreamResponse:
        created = int(self._wall)
        if call.endpoint == "embeddings":
            return await self._answer(Answer(200, wire_openai.embeddings(call, self._number), "ok"), headers, fault)
        length, cut = self._length(pool, call)
        rate = self._rate(pool, fault)
        done = 0
        while done < length and (rate > 0 or self._wire == "anthropic"):
            step = min(length - done, max(1, math.ceil(rate * 0.25))) if rate > 0 else length
            if rate > 0:
                await asyncio.sleep(step / rate)
            done += step
            self._produced(pool, step)
        self._output = length * call.copies
        content = "".join(text.pieces(self._number, length))
        if self._wire == "anthropic":
            body = wire_anthropic.message(call, self._number, content, self._output, cut=cut)
        else:
            render = wire_openai.chat if call.endpoint == "chat" else wire_openai.response
            body = render(call, self._number, created, content, self._output, cut=cut)
            self._produced_at_end(pool)
        return await self._answer(Answer(200, body, "ok"), headers, fault)

    async def _stream(self, pool: Pool, call: Call, fault: Fault | None, headers: dict[str, str]) -> web.StreamResponse:
        stream = self._frames(call)
        length, cut = self._length(pool, call)
        pieces = text.pieces(self._number, length)
        rate = self._rate(pool, fault)
        size = max(1, round(rate * _STEP)) if rate > 0 else _CHUNK_AT_ONCE
        mime = "text/html" if fault is Fault.WRONG_CONTENT_TYPE else "text/event-stream; charset=utf-8"
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
        if self._wire == "openai":
            self._produced_at_end(pool)
        await response.write(stream.closing(self._output, cut=cut))
        if self._outcome == "cancelled":
            self._outcome = "ok"
        if fault is Fault.WRONG_CONTENT_LENGTH:
            self._outcome = "broken"
            return self._cut(response)
        await response.write_eof()
        return response

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

    async def _refuse(self, pool: Pool, answer: Answer) -> web.StreamResponse:
        """An invalid request: it costs a request on OpenAI, and chat shows so in its headers."""
        now = self._emulator.now()
        if self._wire == "anthropic":
            return await self._answer(answer)
        pool.run(now)
        pool.accounts.draw(now, Demand())
        chat = self._request.path == "/v1/chat/completions"
        headers = self._limit_headers(pool, None, pool.accounts.limits.figures(now), stream=False) if chat else {}
        return await self._answer(answer, headers)

    def _cut(self, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection under a response that is not finished."""
        transport = self._request.transport
        if transport is not None:
            transport.close()
        return response

    def _limit_headers(
        self, pool: Pool, fault: Fault | None, figures: tuple[MeterFigures, ...], *, stream: bool
    ) -> dict[str, str]:
        if stream and self._endpoint == "responses" and not pool.config.responses_stream_headers:
            return {}
        headers = spoil_headers(fault, format_headers(self._wire, figures, self._wall))
        share = pool.config.retry_after_on_success
        if self._wire == "anthropic" and share > 0 and pool.random.random() < share:
            headers["retry-after"] = str(60 - int(self._wall) % 60)
        return headers

    def _quota(self, pool: Pool, call: Call, verdict: Rejected) -> Answer:
        if self._wire == "anthropic":
            return wire_anthropic.quota(verdict)
        return wire_openai.quota(verdict, call.model, retry_after=pool.config.retry_after)

    def _head(self) -> dict[str, str]:
        if self._wire == "anthropic":
            return {
                "request-id": f"req_emulated{self._number:012d}",
                "anthropic-organization-id": "00000000-0000-0000-0000-000000000000",
            }
        return {
            "x-request-id": f"req_emulated{self._number:012d}",
            "openai-organization": "org-emulated",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(int((self._emulator.now() - self._began) * 1000)),
        }

    @property
    def _errors(self) -> Any:
        return wire_anthropic if self._wire == "anthropic" else wire_openai

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
        headers = self._request.headers
        bearer = headers.get("authorization", "")
        credential = headers.get("x-api-key") or (bearer[7:] if bearer[:7].lower() == "bearer " else "")
        self._credential = credential
        if not credential:
            return None
        account = self._emulator.config.keys.get(credential, self._emulator.config.unknown_keys)
        self._account = account or ""
        return account

    def _parse(self, data: dict[str, Any], model: str, pool: Pool) -> Call:
        match self._request.path:
            case "/v1/chat/completions":
                self._endpoint = "chat"
                return wire_openai.parse_chat(data, model, pool.config.admission)
            case "/v1/responses":
                return wire_openai.parse_responses(data, model, pool.config.admission)
            case "/v1/embeddings":
                return wire_openai.parse_embeddings(data, model)
            case path:
                return wire_anthropic.parse_messages(data, model, counting=path.endswith("count_tokens"))

    def _frames(self, call: Call) -> Stream:
        if self._wire == "anthropic":
            return wire_anthropic.MessagesStream(call, self._number)
        if call.endpoint == "chat":
            return wire_openai.ChatStream(call, self._number, int(self._wall))
        return wire_openai.ResponsesStream(call, self._number, int(self._wall))

    def _length(self, pool: Pool, call: Call) -> tuple[int, bool]:
        wanted = self._request.headers.get("x-emulator-output-tokens", "")
        if wanted.isdecimal() and len(wanted) < 7:
            fixed = int(wanted)
            return (call.bound, True) if call.bound is not None and call.bound < fixed else (fixed, False)
        return pool.config.output.draw(pool.random, call.bound)

    def _produced(self, pool: Pool, count: int) -> None:
        if self._wire == "anthropic":
            pool.accounts.produce(self._emulator.now(), count)

    def _produced_at_end(self, pool: Pool) -> None:
        """An OpenAI pool with limits of output counts them when the call ends."""
        pool.accounts.produce(self._emulator.now(), self._output)

    @staticmethod
    def _rate(pool: Pool, fault: Fault | None) -> float:
        rate = pool.pace.tokens_per_second
        if fault is not Fault.SLOW_STREAM:
            return rate
        return rate / _SLOWNESS if rate > 0 else _SLOW_RATE

    def _model_names(self) -> list[str]:
        named = [name for pool in self._emulator.pools if pool.config.wire == "openai" for name in pool.config.models]
        return sorted({name for name in named if "*" not in name})
