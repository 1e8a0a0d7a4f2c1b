# SPDX-License-Identifier: Apache-2.0
"""The server that apps reach: aiohttp's, but for what it says of requests that it cannot read, and for how it stops.

A request that does not parse may hold a key in the very part that is wrong, and a parser's message quotes it. So
neither our answer nor our log has any of its text: a refusal in our own words, one line, one metric.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import ERROR, RequestHandler

from sluicegate.sidecar.core.errors import refuse
from sluicegate.sidecar.core.providers import ErrorShape
from sluicegate.sidecar.metrics import Metrics
from sluicegate.sidecar.relay import WholeResponse
from sluicegate.wire.words import Reason

log = logging.getLogger(__name__)
_UNWIND = 0.5  # seconds for handlers to pay their debts once they are ended
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """One connection of an app."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be read or served, and closes the connection."""
        del message
        manager = self._manager
        assert isinstance(manager, Listener)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if isinstance(exc, LineTooLong):
            status, kind = 431, "too_large"
            text = f"a header, or the request line, is longer than {manager.longest} bytes"
        elif status < 500:
            kind, text = "malformed", "the request is no valid HTTP/1.1: its request line or a header is malformed"
        else:
            kind, text = "failed", "the sidecar failed on this request"
        manager.metrics.unreadable(kind).inc()
        log.warning("a request was refused before it was read: %s (%s)", kind, type(exc).__name__)
        refusal = refuse(status, Reason.INVALID_REQUEST if status < 500 else Reason.SIDECAR_OVERLOADED, text)
        response = WholeResponse(status=status, headers=dict(refusal.headers()), body=refusal.body(ErrorShape.OPENAI))
        response.content_type = "application/json"
        response.force_close()
        return response

    def log_exception(self, *args: Any, **more: Any) -> None:
        """What a server says of an exception may quote a request: its kind is all that is kept."""
        log.error("a connection failed: %s", type(more.get("exc_info")).__name__)


class Listener(web.Server):
    """Serves `handler`. `longest`: bytes of a request line or header."""

    def __init__(self, handler: Handler, metrics: Metrics, longest: int, **options: Any) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            access_log=None,
            max_line_size=longest,
            max_field_size=longest,
            **options,
        )
        self.metrics = metrics
        self.longest = longest

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def _request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        if message is ERROR:
            message = message._replace(version=HttpVersion11)
        return self._make_request(message, *rest)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's name
        """Lets handlers end within `timeout` seconds, then ends them: aiohttp would wait as long again."""
        grace = 0.0 if timeout is None else timeout
        connections = list(self._connections)
        ends = [asyncio.create_task(connection.shutdown(grace + _UNWIND)) for connection in connections]
        if not ends:
            return
        try:
            await asyncio.wait(ends, timeout=grace)
            for connection in connections:
                task = connection._task_handler
                if task is not None and not task.done():
                    task.cancel()
            await asyncio.wait(ends, timeout=_UNWIND)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        self._connections.clear()
