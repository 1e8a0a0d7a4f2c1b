# SPDX-License-Identifier: Apache-2.0
"""A provider on loopback, on the wire of each: limits as they really behave, faults, and the truth about it.

    config = EmulatorConfig.from_data({"pools": [{"name": "gpt-4o", "wire": "OpenAI", "models": ["gpt-4o"],
        "limits": [{"resource": "Requests", "limit": 500, "window": "1m"},
                   {"resource": "Tokens", "limit": 30000, "window": "1m"}]}]})
    async with await serve(config) as emulator:
        client = openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="sk-any")     # .../v1
        other = anthropic.AsyncAnthropic(base_url=emulator.anthropic_url, api_key="any")
        ...
        emulator.pool("gpt-4o").accounts.utilization(0, emulator.now())

Served: POST /v1/chat/completions, /v1/responses, /v1/embeddings, GET /v1/models, POST /v1/messages and
/v1/messages/count_tokens; the other providers below a path each (see `faces`); and for whoever runs it /_emulator/*
(see `control`). The order of a call: credential, model,
fault, admission by the limits, wait for the first byte, answer. Rate-limit figures in headers are those of the moment
of admission. `config` describes all settings, `limits` the rules, `truth` the accounting, `faults` what can go wrong.
A request header `x-emulator-output-tokens: N` fixes the length of one completion.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from types import TracebackType
from typing import Any

from aiohttp import web

from sluicegate.testing import control, tokens
from sluicegate.testing.config import ConfigError, EmulatorConfig
from sluicegate.testing.exchange import Exchange
from sluicegate.testing.pools import Pool
from sluicegate.testing.truth import CallLog
from sluicegate.testing.wires import Wire

__all__ = ["ConfigError", "Emulator", "EmulatorConfig", "serve"]

_KEYS_REMEMBERED = 10_000


class Emulator:
    """A running emulator. Made by `serve`; an async context manager that closes it."""

    def __init__(self, config: EmulatorConfig) -> None:
        self.config = config
        self.calls = CallLog()
        self.host, self.port = "", 0
        self.pools: tuple[Pool, ...] = tuple(Pool(pool, config.seed) for pool in config.pools)
        self._start = time.monotonic()
        self._number = 0
        self._routes: dict[tuple[str, Wire, str], Pool | None] = {}
        self._fingerprints: dict[str, str] = {}
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._runner: web.ServerRunner | None = None
        self._background: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """What an OpenAI SDK takes as `base_url`."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """What an Anthropic SDK takes as `base_url`; with `/v1`, an OpenAI SDK."""
        return f"{self.url}/anthropic"

    @property
    def azure_url(self) -> str:
        """What AzureOpenAI takes as `azure_endpoint`."""
        return f"{self.url}/azure"

    @property
    def gemini_url(self) -> str:
        """What google-genai takes as `http_options.base_url`."""
        return f"{self.url}/gemini"

    @property
    def vertex_url(self) -> str:
        """The same with `vertexai=True`."""
        return f"{self.url}/vertex"

    @property
    def mistral_url(self) -> str:
        """What mistralai takes as `server_url`."""
        return f"{self.url}/mistral"

    @property
    def groq_url(self) -> str:
        """What an OpenAI SDK takes as `base_url` for Groq."""
        return f"{self.url}/groq/openai/v1"

    def now(self) -> float:
        """Seconds since the emulator started: the clock of all its accounts."""
        return time.monotonic() - self._start

    def pool(self, name: str) -> Pool:
        """The pool called `name`. Raises LookupError that names the pools there are."""
        for pool in self.pools:
            if pool.config.name == name:
                pool.run(self.now())
                return pool
        raise LookupError(f"no pool {name!r}; there are {', '.join(pool.config.name for pool in self.pools)}")

    def stats(self, since: float = 0.0) -> dict[str, Any]:
        """What GET /_emulator/stats?from=`since` answers."""
        return control.stats(self, {"from": str(since)} if since > 0 else {})

    def changed(self) -> None:
        """Tell the background that a pool's foreign use or planned changes are others now."""
        self._changed.set()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError when that cannot be done."""
        wanted = [name for pool in self.pools if pool.config.wire == "openai" for name in pool.config.models]
        await asyncio.get_running_loop().run_in_executor(None, tokens.preload, wanted)
        self._start = time.monotonic()
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        await site.start()
        self.host, self.port = self._runner.addresses[0][:2]
        self._background = asyncio.create_task(self._run_background())

    async def close(self) -> None:
        """Stop listening and cut what is still open."""
        if self._background is not None:
            self._background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._background
            self._background = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Emulator:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run_background(self) -> None:
        while True:
            now = self.now()
            for pool in self.pools:
                pool.run(now)
            due = min((pool.next_at for pool in self.pools), default=math.inf)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(max(due - self.now(), 0.01), 3600.0))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/_emulator/"):
            return await control.handle(self, request)
        exchange = Exchange(self, request)
        try:
            return await exchange.run()
        finally:
            exchange.record()

    def route(self, account: str, wire: Wire, model: str) -> Pool | None:
        """The pool that serves `model` to `account`: of that account before one for all, exact name before glob."""
        key = (account, wire, model)
        if key not in self._routes:
            if len(self._routes) >= _KEYS_REMEMBERED:
                self._routes.clear()
            fitting = [
                pool
                for pool in self.pools
                if pool.config.wire == wire and pool.config.account in (account, "*") and pool.config.serves(model)
            ]
            fitting.sort(key=lambda pool: (pool.config.account == "*", model not in pool.config.models))
            self._routes[key] = fitting[0] if fitting else None
        return self._routes[key]

    def fingerprint(self, credential: str) -> str:
        """What a record says in place of a credential."""
        if credential not in self._fingerprints:
            if len(self._fingerprints) >= _KEYS_REMEMBERED:
                self._fingerprints.clear()
            self._fingerprints[credential] = hashlib.sha256(credential.encode()).hexdigest()[:8]
        return self._fingerprints[credential]

    def number(self) -> int:
        self._number += 1
        return self._number


async def serve(config: EmulatorConfig, host: str = "127.0.0.1", port: int = 0) -> Emulator:
    """Start an emulator; it serves when this returns. Port 0 takes a free one. Raises OSError when it cannot listen."""
    emulator = Emulator(config)
    try:
        await emulator.start(host, port)
    except BaseException:
        await emulator.close()
        raise
    return emulator
