# SPDX-License-Identifier: Apache-2.0
"""The way to a provider: a transport behind a protocol, so that the HTTP client can change.

Bytes come as they arrive, chunk by chunk and not decompressed; redirects are handed back, never followed (a key would
travel with them). An egress proxy is taken from the environment (`https_proxy`, `http_proxy`, `no_proxy`), and nothing
else: a `.netrc` would replace the app's key. What is on this machine goes without. Time-outs: to connect, to the
first byte of the response, between chunks.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

Body = bytes | AsyncIterator[bytes] | None
_CHUNK = 64 * 1024


_FINAL = frozenset({"garbage", "url", "too_large"})


class UpstreamError(Exception):
    """The provider gave no (whole) response. `dispatched`: whether it may have got the request. `fault`: one word.

    `final`: another attempt would end the same way, and might be billed as well.
    """

    def __init__(self, fault: str, message: str, *, dispatched: bool) -> None:
        self.fault = fault
        self.dispatched = dispatched
        self.final = fault in _FINAL
        super().__init__(message)


class UpstreamResponse(Protocol):
    """A response whose body has not been read yet."""

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> str:
        """The phrase after the status."""
        ...

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """With their names as they came."""
        ...

    async def next_chunk(self) -> bytes:
        """The next bytes as they arrived; empty at the end. Raises UpstreamError."""
        ...

    def close(self) -> None:
        """Gives the connection up; it is not used again unless the body was read to its end."""
        ...


class Transport(Protocol):
    """Sends requests."""

    async def send(self, method: str, url: str, headers: CIMultiDict[str], body: Body) -> UpstreamResponse:
        """Returns once the response's headers are there. Raises UpstreamError."""
        ...

    async def close(self) -> None: ...

    @property
    def session(self) -> aiohttp.ClientSession:
        """For WebSocket connections."""
        ...

    def proxy_of(self, url: str) -> URL | None:
        """The egress proxy on the way to `url`, for WebSocket connections; None: no proxy."""
        ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float
    first_byte: float
    idle: float


@functools.lru_cache(maxsize=256)
def is_loopback(host: str | None) -> bool:
    """Whether plain text to `host` stays on this machine."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.lru_cache(maxsize=256)
def check_endpoint(endpoint: str, *, allow_plaintext: bool) -> str | None:
    """What is wrong with sending a key to `endpoint`, or None."""
    try:
        url = URL(endpoint)
    except ValueError:
        return f"the endpoint {endpoint!r} is not a URL"
    if url.scheme == "https" and url.host:
        return None
    if url.scheme == "http" and url.host:
        if allow_plaintext or is_loopback(url.host):
            return None
        return f"the endpoint {endpoint!r} is plain http beyond loopback; set allowPlaintext on the pool or use https"
    return f"the endpoint {endpoint!r} is not an http or https URL"


class _Response:
    def __init__(self, response: aiohttp.ClientResponse, idle: float) -> None:
        self._response = response
        self._idle = idle
        # The client's own mapping spells the names that it knows in its own way.
        self._headers = CIMultiDict(
            [
                (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
                for name, value in response.raw_headers
            ]
        )

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def reason(self) -> str:
        return self._response.reason or ""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return CIMultiDictProxy(self._headers)

    async def next_chunk(self) -> bytes:
        content = self._response.content
        try:
            if content.is_eof():  # all of it is here: a time-out would watch over nothing
                return content.read_nowait()
            async with asyncio.timeout(self._idle):
                return await content.readany()
        except TimeoutError:
            raise UpstreamError("idle", f"the provider sent nothing for {self._idle:g} s", dispatched=True) from None
        except (aiohttp.ClientError, OSError) as problem:
            raise UpstreamError("broken", f"the response broke off: {_name(problem)}", dispatched=True) from None

    def close(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _name(problem: BaseException) -> str:
    """The kind of a failure; its text may quote headers, so it stays out."""
    return type(problem).__name__


class HttpTransport:
    """aiohttp's client: no cookies, no decompression, no redirects, connections kept open and reused."""

    def __init__(self, timeouts: Timeouts, extra_ca: Path | None = None) -> None:
        self._timeouts = timeouts
        self._proxies = getproxies()
        context: ssl.SSLContext | bool = True  # aiohttp's own, which verifies as the default context does
        if extra_ca is not None:
            context = ssl.create_default_context()
            context.load_verify_locations(cafile=str(extra_ca))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=30, ttl_dns_cache=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=_CHUNK,
            max_line_size=16_384,
            max_field_size=16_384,
        )

    async def send(self, method: str, url: str, headers: CIMultiDict[str], body: Body) -> UpstreamResponse:
        """See Transport."""
        try:
            async with asyncio.timeout(self._timeouts.first_byte):
                response = await self._session.request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    proxy=self.proxy_of(url),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            raise UpstreamError("connect", f"no connection: {_name(problem)}", dispatched=False) from None
        except aiohttp.ClientHttpProxyError as problem:
            text = f"the egress proxy refused with status {problem.status}"
            raise UpstreamError("proxy", text, dispatched=False) from None
        except TimeoutError:
            text = f"no response within {self._timeouts.first_byte:g} s"
            raise UpstreamError("first_byte", text, dispatched=True) from None
        except (aiohttp.InvalidURL, ValueError) as problem:
            raise UpstreamError("url", f"cannot be sent: {_name(problem)}", dispatched=False) from None
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as problem:
            raise UpstreamError("garbage", f"not an HTTP response: {_name(problem)}", dispatched=True) from None
        except (aiohttp.ClientError, OSError) as problem:
            raise UpstreamError("network", f"no response: {_name(problem)}", dispatched=True) from None
        return _Response(response, self._timeouts.idle)

    def proxy_of(self, url: str) -> URL | None:
        """See Transport. ValueError where the environment names a proxy that is no URL."""
        if not self._proxies:
            return None
        to = URL(url, encoded=True)
        named = self._proxies.get({"ws": "http", "wss": "https"}.get(to.scheme, to.scheme)) or self._proxies.get("all")
        if not named or not to.host or is_loopback(to.host):
            return None
        if proxy_bypass(f"{to.host}:{to.port}", self._proxies):
            return None
        return URL(named if "://" in named else f"http://{named}")

    @property
    def session(self) -> aiohttp.ClientSession:
        """See Transport."""
        return self._session

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()
