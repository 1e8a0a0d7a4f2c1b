# SPDX-License-Identifier: Apache-2.0
"""WebSocket connections pass through message by message, unmanaged: their use shows up only as foreign use."""

from __future__ import annotations

import asyncio
from typing import cast

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from sluicegate.sidecar.core.errors import refuse
from sluicegate.sidecar.inbound import RefusedError
from sluicegate.sidecar.upstream import Transport
from sluicegate.wire.words import Reason

_MAX_MESSAGE = 16 * 1024 * 1024
# The handshake's own headers are made anew on each side.
_HANDSHAKE = ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol")

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


def wants_websocket(request: web.BaseRequest) -> bool:
    """Whether this is a WebSocket handshake."""
    return (
        "upgrade" in request.headers.get("connection", "").lower()
        and request.headers.get("upgrade", "").lower() == "websocket"
    )


async def pass_websocket(
    request: web.BaseRequest, transport: Transport, url: str, headers: CIMultiDict[str]
) -> web.StreamResponse:
    """Joins the app's socket with one to `url` until either closes. Raises RefusedError when the provider refuses."""
    for name in _HANDSHAKE:
        headers.popall(name, None)
    asked = request.headers.get("sec-websocket-protocol", "")
    protocols = tuple(part.strip() for part in asked.split(",") if part.strip())
    try:
        theirs = await transport.session.ws_connect(
            url, headers=headers, protocols=protocols, max_msg_size=_MAX_MESSAGE, proxy=transport.proxy_of(url)
        )
    except aiohttp.WSServerHandshakeError as problem:
        text = f"the provider refused the WebSocket with status {problem.status}"
        status = problem.status if 400 <= problem.status < 600 else 502
        raise RefusedError(refuse(status, Reason.UNMANAGED, text)) from None
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        text = f"the provider could not be reached: {type(problem).__name__}"
        raise RefusedError(refuse(502, Reason.UNMANAGED, text)) from None
    chosen = (theirs.protocol,) if theirs.protocol else ()
    ours = web.WebSocketResponse(protocols=chosen, max_msg_size=_MAX_MESSAGE, autoping=True)
    try:
        # It needs no more of the request than the base class has.
        await ours.prepare(cast("web.Request", request))
        pumps = [asyncio.create_task(_pump(ours, theirs)), asyncio.create_task(_pump(theirs, ours))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        code = theirs.close_code or ours.close_code or aiohttp.WSCloseCode.OK
        await ours.close(code=code)
    finally:
        await theirs.close()
    return ours


async def _pump(source: Socket, sink: Socket) -> None:
    """Hands messages on, with the back-pressure of `sink`, until `source` closes."""
    async for message in source:
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)
            case aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            case _:
                return
