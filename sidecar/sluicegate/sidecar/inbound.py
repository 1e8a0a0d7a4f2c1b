# SPDX-License-Identifier: Apache-2.0
"""One request of the app, read and understood: bounded body, parsed JSON, credential, what travels on."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote_plus

import orjson
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from sluicegate.sidecar.core.criticality import BAGGAGE_PREFIX, PREFIX, Asked, baggage_members, strip_baggage
from sluicegate.sidecar.core.errors import Refusal, refuse
from sluicegate.sidecar.core.providers import Api, ErrorShape, Place, ProviderTable, Streams
from sluicegate.sidecar.core.routes import Target
from sluicegate.wire.words import Reason

# RFC 9110 section 7.6.1, and what the client of the next hop writes itself.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)


_PIECE = 1024 * 1024
READABLE = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""The codings of a request body that is inspected; any other passes unmanaged."""


class RefusedError(Exception):
    """A request that is refused before the broker is asked."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


class BufferSpace:
    """Room for request bodies, all of them together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    def take(self, amount: int) -> bool:
        """Takes `amount` bytes, or nothing and says False."""
        if self.used + amount > self.size:
            return False
        self.used += amount
        return True

    def give_back(self, amount: int) -> None:
        """Returns what was taken."""
        self.used -= amount


@dataclass(frozen=True, slots=True)
class Inbound:
    """An inspected call. `key` names request and credential, for repeats. `query`: raw, with its question mark; it may
    hold the credential and is neither logged nor sent to another provider. `shape`: that of errors."""

    target: Target
    place: Place
    path: str
    query: str
    headers: CIMultiDictProxy[str]
    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool
    criticality: Asked
    credential: str
    fingerprint: str
    key: bytes

    shape: ErrorShape = ErrorShape.OPENAI

    @property
    def api(self) -> Api:
        return self.place.api

    @property
    def named_body(self) -> dict[str, Any]:
        """The body with the model in it, wherever the call names it: what a tokenizer is chosen by."""
        return {**self.body, "model": self.model} if self.api.model_in_path else self.body

    @property
    def table(self) -> ProviderTable:
        return self.target.table


async def read_body(request: web.BaseRequest, limit: int, space: BufferSpace, within: float) -> tuple[bytes, int]:
    """The whole body and the bytes of `space` that it holds until given back. Raises RefusedError (413, 503, 400)."""
    declared = request.content_length
    if declared is not None and declared > limit:
        raise _too_large(limit)
    taken = declared or 0
    if not space.take(taken):
        raise _full(space)
    chunks: list[bytes] = []
    size = 0

    def keep(chunk: bytes) -> None:
        nonlocal size, taken
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if size > taken:
            if not space.take(size - taken):
                raise _full(space)
            taken = size
        chunks.append(chunk)

    try:
        if request.content.is_eof():  # most requests are here whole: a time-out would watch over nothing
            keep(request.content.read_nowait())
        else:
            async with asyncio.timeout(within):
                while chunk := await request.content.readany():
                    keep(chunk)
    except TimeoutError:
        space.give_back(taken)
        text = f"the body did not arrive within {within:g} s: {size} of {declared} bytes came"
        raise RefusedError(refuse(400, Reason.INVALID_REQUEST, text)) from None
    except BaseException:
        space.give_back(taken)
        raise
    return b"".join(chunks), taken


def _too_large(limit: int, how: str = "") -> RefusedError:
    text = f"the body is larger than {limit} bytes{how}, the most that is inspected"
    return RefusedError(refuse(413, Reason.INVALID_REQUEST, text))


def _full(space: BufferSpace) -> RefusedError:
    text = f"{space.size} bytes of request bodies are held"
    return RefusedError(refuse(503, Reason.SIDECAR_OVERLOADED, text, retry_after=1.0))


async def decompressed(raw: bytes, limit: int, space: BufferSpace) -> tuple[bytes, int]:
    """The plain bytes of a body of a readable coding, and what of `space` they hold beyond it until given back.
    Raises RefusedError (413, 503, 400)."""
    decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, as its head says
    plain, rest, taken = bytearray(), raw, 0
    try:
        while not decoder.eof and (rest or not plain):
            piece = await asyncio.to_thread(decoder.decompress, rest, _PIECE)
            rest = decoder.unconsumed_tail
            plain += piece
            if len(plain) > limit:
                raise _too_large(limit, " decompressed")
            more = max(0, len(plain) - len(raw)) - taken
            if not space.take(more):
                raise _full(space)
            taken += more
            if not piece:
                break
        if not decoder.eof or decoder.unused_data:
            raise zlib.error("it is not one whole member")
    except zlib.error as problem:
        space.give_back(taken)
        text = f"the body is not what its content-encoding says: {problem}"
        raise RefusedError(refuse(400, Reason.INVALID_REQUEST, text)) from None
    except BaseException:
        space.give_back(taken)
        raise
    return bytes(plain), taken


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body of an inspected call. Raises RefusedError (400) that says where it stops being JSON."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as problem:
        text = f"the body is not valid JSON: {problem.msg} at line {problem.lineno}, column {problem.colno}"
        raise RefusedError(refuse(400, Reason.INVALID_REQUEST, text)) from None
    if not isinstance(body, dict):
        text = f"the body is a JSON {type(body).__name__}; allowed: an object"
        raise RefusedError(refuse(400, Reason.INVALID_REQUEST, text))
    return cast(dict[str, Any], body)


def model_of(table: ProviderTable, place: Place, body: dict[str, Any]) -> str:
    """The model that a call names, in its path or its body. Raises RefusedError (400)."""
    model = place.model if place.api.model_in_path else body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256:
        given = orjson.dumps(model).decode()[:100] if model is not None else "absent"
        text = f"model: {given} is not allowed; allowed: the name of a model, 1 to 256 characters"
        raise RefusedError(refuse(400, Reason.INVALID_REQUEST, text))
    return table.bare(model)


def streams(api: Api, body: dict[str, Any]) -> bool:
    """Whether a call asks for a stream."""
    match api.streams:
        case Streams.ALWAYS:
            return True
        case Streams.NEVER:
            return False
        case Streams.FIELD:
            return body.get("stream") is True


def shape_of(table: ProviderTable, api: Api | None, query: str) -> ErrorShape:
    """The shape of a call's errors: a stream of Google's that is no event stream is an array, and so are its errors."""
    shape = (api.shape if api is not None else None) or table.shape
    if shape is ErrorShape.GOOGLE and api is not None and api.streams is Streams.ALWAYS and "alt=sse" not in query:
        return ErrorShape.GOOGLE_ARRAY
    return shape


def credential_of(table: ProviderTable, headers: CIMultiDictProxy[str], query: str = "") -> str:
    """The caller's key, or empty. `query`: raw, with or without its question mark."""
    for name in table.credentials:
        value = headers.get(name, "")
        if value:
            return value[7:].strip() if value[:7].lower() == "bearer " else value.strip()
    if table.query_credentials:
        for pair in query.removeprefix("?").split("&"):
            name, _, value = pair.partition("=")
            if value and unquote_plus(name) in table.query_credentials:
                return unquote_plus(value)
    return ""


def without_credentials(table: ProviderTable, query: str) -> str:
    """A raw query, with its question mark or empty, less the parameters that hold a key."""
    if not query or not table.query_credentials:
        return query
    pairs = query.removeprefix("?").split("&")
    kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) not in table.query_credentials]
    return "?" + "&".join(kept) if kept else ""


def fingerprint_of(credential: str, salt: str) -> str:
    """The salted hash of a key: what the broker may know of it. 16 hex digits; empty for none."""
    if not credential:
        return ""
    return hashlib.sha256(f"{salt}:{credential}".encode()).hexdigest()[:16]


def request_key(path: str, headers: CIMultiDictProxy[str], raw: bytes, fingerprint: str) -> bytes:
    """Names a request: a repeat has the same path, body, key and wishes."""
    digest = hashlib.sha256(f"{path}\0{fingerprint}\0".encode())
    for name, value in headers.items():
        if name.lower().startswith(PREFIX):
            digest.update(f"{name.lower()}\0{value}\0".encode())
        elif name.lower() == "baggage":
            ours = [member for member in baggage_members(value) if member[0].startswith(BAGGAGE_PREFIX)]
            digest.update(repr(ours).encode())
    digest.update(raw)
    return digest.digest()


def onward_headers(headers: CIMultiDictProxy[str], *, identity: bool) -> CIMultiDict[str]:
    """The request's headers for the provider: neither hop-by-hop ones nor any of ours. `identity`: no compression, of
    the request or the response."""
    dropped = _named_in_connection(headers)
    onward: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered in _HOP_BY_HOP or lowered in dropped or lowered in ("host", "content-length", "expect"):
            continue
        if lowered.startswith(PREFIX):
            continue
        if lowered == "baggage":
            value = strip_baggage(value)
            if not value:
                continue
        if identity and lowered in ("accept-encoding", "content-encoding"):
            continue
        onward.add(name, value)
    if identity:
        onward.add("accept-encoding", "identity")
    return onward


def backward_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The response's headers for the app: all but hop-by-hop ones."""
    dropped = _named_in_connection(headers)
    backward: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered not in _HOP_BY_HOP and lowered not in dropped and not lowered.startswith(PREFIX):
            backward.add(name, value)
    return backward


def _named_in_connection(headers: CIMultiDictProxy[str]) -> frozenset[str]:
    if "connection" not in headers:
        return frozenset()
    return frozenset(
        name.strip().lower() for value in headers.getall("connection") for name in value.split(",") if name.strip()
    )
