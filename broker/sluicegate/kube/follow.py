# SPDX-License-Identifier: Apache-2.0
"""A collection of the API server as a whole, again after each change: level-triggered, so that a missed event is
made good by the next list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from sluicegate.kube.client import ApiError, Client, KubeError, Object

log = logging.getLogger(__name__)

_SETTLE = 0.2
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


async def collections(client: Client, path: str, resync: float = 300.0) -> AsyncIterator[Sequence[Object]]:
    """The items of the collection at `path` now, and again after changes and every `resync` seconds. Never ends.

    While the API server cannot be asked, nothing is yielded, and the pauses between attempts grow to 30 s.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            listed = await client.get(path)
            yield listed["items"]
            pause = _FIRST_PAUSE
            await _change(client, path, listed["metadata"]["resourceVersion"], resync)
        except KubeError as error:
            if isinstance(error, ApiError) and error.status == 410:
                continue
            log.warning("%s cannot be followed: %s", path, error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)


async def _change(client: Client, path: str, version: str, resync: float) -> None:
    """Returns shortly after the first change since `version`, at the latest after `resync` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(resync), contextlib.aclosing(client.watch(path, version)) as events:
            async for event in events:
                if event["type"] != "BOOKMARK":
                    await asyncio.sleep(_SETTLE)
                    return
