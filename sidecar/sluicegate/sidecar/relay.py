# SPDX-License-Identifier: Apache-2.0
"""The way back: a provider's body to the app as it arrives, read on the way, with back-pressure."""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar.core.usage import STREAMS, JsonReader, OpaqueReader, Reader
from sluicegate.sidecar.upstream import UpstreamError, UpstreamResponse

_PIECE = 1024 * 1024
_COMMENTS_HELD = 2.0  # seconds
_COMMENTS = re.compile(rb"(?:(?::[^\r\n]*+)?[\r\n]++)*+(?::[^\r\n]*+)?")
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')


class ClientGoneError(Exception):
    """The app's connection is gone."""


class Response(web.StreamResponse):
    """A response that says nothing of the server between."""

    async def _prepare_headers(self) -> None:
        named = "Server" in self.headers
        await super()._prepare_headers()
        if not named:
            self.headers.popall("Server", None)


class WholeResponse(web.Response):
    """The same, of a body that is at hand."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


def gone(request: web.BaseRequest) -> bool:
    """Whether the app's connection is closed or closing."""
    return request.transport is None or request.transport.is_closing()


def decoder_for(coding: str) -> zlib._Decompress | None:
    """A decoder for a content coding that can be read; None otherwise."""
    return zlib.decompressobj(wbits=47) if coding.strip().lower() in ("gzip", "x-gzip", "deflate") else None


@dataclass(slots=True)
class Kept:
    """A copy of what the app got, until it grows too large."""

    limit: int
    chunks: list[bytes] = field(default_factory=list[bytes])
    size: int = 0
    whole: bool = True

    def add(self, data: bytes) -> None:
        if not self.whole:
            return
        self.size += len(data)
        if self.size > self.limit:
            self.whole = False
            self.chunks.clear()
        else:
            self.chunks.append(data)


@dataclass(slots=True)
class Body:
    """A provider's body with its reader. `alters`: the bytes may change, so the length header cannot stay."""

    upstream: UpstreamResponse
    reader: Reader
    decoder: zlib._Decompress | None = None
    alters: bool = False
    ended: bool = False

    async def next(self) -> bytes:
        """The next bytes for the app; empty is not the end, `ended` is. Raises UpstreamError."""
        data = await self.upstream.next_chunk()
        if not data:
            self.ended = True
            return self.reader.receive_end().data
        if self.decoder is None:
            return self.reader.receive_data(data).data
        return self._decoded(data)

    def _decoded(self, data: bytes) -> bytes:
        """Reads a compressed body; hands on the plain bytes where they are altered, else the bytes as they came."""
        assert self.decoder is not None
        given: list[bytes] = []
        rest = data
        try:
            while rest:
                plain = self.decoder.decompress(rest, _PIECE)
                given.append(self.reader.receive_data(plain).data)
                rest = self.decoder.unconsumed_tail
        except zlib.error:
            if self.alters:
                raise UpstreamError("garbage", "the body is not what its coding says", dispatched=True) from None
            self.reader = OpaqueReader()
            self.decoder = None
            return data
        return b"".join(given) if self.alters else data


def content_of(data: bytes, coding: str) -> object:
    """What an error body says: its JSON, or its text where it is none; None where its coding cannot be read."""
    if coding.strip().lower() not in ("", "identity"):
        decoder = decoder_for(coding)
        try:
            data = decoder.decompress(data, _PIECE) if decoder is not None else b""
        except zlib.error:
            data = b""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "replace") or None


async def relay(
    request: web.BaseRequest,
    upstream: UpstreamResponse,
    headers: CIMultiDict[str],
    first: bytes,
    body: Body,
    kept: Kept | None,
) -> web.StreamResponse:
    """Sends the response to its end. Raises ClientGoneError, or UpstreamError after cutting the app's connection off
    (a clean end would pass a broken answer for a whole one)."""
    if body.alters:
        headers.popall("content-length", None)
        if body.decoder is not None:
            headers.popall("content-encoding", None)
    response = Response(status=upstream.status, reason=upstream.reason or None, headers=headers)
    try:
        await response.prepare(request)
        if first:
            await response.write(first)
            if kept is not None:
                kept.add(first)
        while not body.ended:
            data = await body.next()
            if data:
                await response.write(data)
                if kept is not None:
                    kept.add(data)
        await response.write_eof()
    except UpstreamError:
        if request.transport is not None:
            request.transport.abort()
        raise
    except (ConnectionError, RuntimeError):
        if gone(request):
            raise ClientGoneError from None
        raise
    return response


async def first_bytes(body: Body) -> bytes:
    """Reads until there is something for the app, so that an error at the head of a stream is seen before anything
    is sent. Only streams wait, and a body that begins with an error, until it is whole; others give what they have.

    Comments before the first event, by which OpenRouter and DeepSeek keep a connection alive, are held for a moment:
    what comes after them may be an error."""
    data, until = b"", time.monotonic() + _COMMENTS_HELD
    while not body.ended and len(data) <= _PIECE:
        if data and not (time.monotonic() < until and _COMMENTS.fullmatch(data)):
            break
        data += await body.next()
        if not isinstance(body.reader, STREAMS):
            break
    while not body.ended and isinstance(body.reader, JsonReader) and len(data) <= _PIECE and _ERROR.match(data):
        data += await body.next()
    return data
