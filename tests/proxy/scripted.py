# SPDX-License-Identifier: Apache-2.0
"""A broker and a provider that do what the test says: a real gRPC server, and a real TCP server with raw HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from sluicegate.sidecar.main import RunningSidecar, start_sidecar
from sluicegate.sidecar.settings import Settings
from sluicegate.sidecar.tracing import Tracing
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc, types_pb2
from sluicegate.wire import convert
from sluicegate.wire.channel import server_options
from sluicegate.wire.words import Outcome, Provider, Reason

Answer = pb.Grant | pb.Fallback | pb.Reject | pb.RetryDirective | None
Policy = Callable[[pb.CallRequest, int], Answer]


def granted(call: pb.CallRequest, attempt: int, pool: str = "gpt", **more: object) -> pb.Grant:
    values: dict[str, object] = {
        "call_id": call.call_id,
        "pool": pool,
        "outcome": convert.OUTCOME.to_proto(Outcome.GRANTED),
        "reason": Reason.ROOM.value,
        "attempt": attempt,
        "tenant": "acme/acme",
        "tier": "Premium",
    }
    return pb.Grant(**{**values, **more})  # type: ignore[arg-type]


def rejected(call: pb.CallRequest, reason: Reason, retry_after: float | None = None, **more: object) -> pb.Reject:
    reject = pb.Reject(call_id=call.call_id, reason=reason.value, message=f"refused: {reason}", **more)  # type: ignore[arg-type]
    if retry_after is not None:
        reject.retry_after.CopyFrom(convert.to_duration(retry_after))
    return reject


@dataclass
class ScriptedBroker(budget_service_pb2_grpc.BudgetServiceServicer):
    """Answers each acquire and each retriable settlement by `policy(call, attempt)`, and remembers all it was told."""

    routes: list[pb.Route]
    policy: Policy = granted
    on_unavailable: types_pb2.OnBrokerUnavailable.ValueType = types_pb2.ON_BROKER_UNAVAILABLE_SAFE_SHARE
    shares: list[pb.SafeShare] = field(default_factory=list)
    acquires: list[pb.CallRequest] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    observations: list[pb.Observation] = field(default_factory=list)
    settlements: list[pb.Settlement] = field(default_factory=list)
    attachments: list[pb.Attachment] = field(default_factory=list)
    hellos: list[pb.Hello] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    calls: dict[str, pb.CallRequest] = field(default_factory=dict)
    late: list[pb.Grant] = field(default_factory=list)
    port: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.server = grpc.aio.server(options=server_options())
        budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.stop(0)

    async def Acquire(self, request, context):  # noqa: N802 - gRPC's name
        raise NotImplementedError

    async def Settle(self, request, context):  # noqa: N802 - gRPC's name
        raise NotImplementedError

    async def Session(self, request_iterator, context):  # noqa: N802 - gRPC's name
        async for message in request_iterator:
            answer = pb.SessionResponse()
            if message.HasField("hello"):
                self.hellos.append(message.hello)
                answer.welcome.epoch = "1"
                answer.config_version = "v1"
                answer.routes.extend(self.routes)
                answer.safe_shares.extend(self.shares)
                answer.on_broker_unavailable = self.on_unavailable
            self.attachments.extend(message.attachments)
            self.acquires.extend(message.acquires)
            self.cancels.extend(message.cancels)
            self.observations.extend(message.observations)
            for call in message.acquires:
                self.calls[call.call_id] = call
                self._decide(answer, call)
            for attachment in message.attachments:
                self.calls[attachment.call.call_id] = attachment.call
                if not attachment.granted:
                    self._decide(answer, attachment.call)
            for settlement in message.settlements:
                self.settlements.append(settlement)
                if settlement.retriable:
                    self._decide(answer, self.calls[settlement.call_id])
            answer.grants.extend(self.late)
            self.late.clear()
            self.changed.set()
            yield answer

    def _decide(self, answer: pb.SessionResponse, call: pb.CallRequest) -> None:
        attempt = self.attempts[call.call_id] = self.attempts.get(call.call_id, 0) + 1
        match self.policy(call, attempt):
            case pb.Grant() as grant:
                answer.grants.append(grant)
            case pb.Fallback() as fallback:
                answer.fallbacks.append(fallback)
            case pb.Reject() as reject:
                answer.rejects.append(reject)
            case pb.RetryDirective() as retry:
                answer.retries.append(retry)
            case None:
                self.attempts[call.call_id] -= 1

    async def until(self, what: Callable[[], bool]) -> None:
        """Waits until `what()` holds, at most five seconds."""
        async with asyncio.timeout(5):
            while not what():
                self.changed.clear()
                await self.changed.wait()

    @property
    def ends(self) -> list[pb.Settlement]:
        """The final settlements."""
        return [s for s in self.settlements if not s.retriable]


async def eventually(what: Callable[[], bool]) -> None:
    """Waits until `what()` holds, at most ten seconds."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - what is waited for belongs to the code under test
            await asyncio.sleep(0.01)


Script = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request as it came, and the raw connection to answer on."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body: bytes, status: str = "200 OK", headers: str = "content-type: application/json") -> None:
        head = f"HTTP/1.1 {status}\r\n{headers}\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def stream_head(self, more: str = "") -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{more}\r\n"
        await self.send(head.encode())


class ScriptedProvider:
    """Serves each request by `script`; HTTP parsing is by hand, so that anything can be sent back."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Exchange] = []
        self.gone = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.rstrip("\r\n").split("\r\n")
                headers = [(n.lower(), v.strip()) for n, _, v in (h.partition(":") for h in rest)]
                lengths = [v for n, v in headers if n == "content-length"]
                body = b""
                if lengths:
                    body = await reader.readexactly(int(lengths[0]))
                elif ("transfer-encoding", "chunked") in headers:
                    while size := int(await reader.readline(), 16):
                        body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readline()
                exchange = Exchange(line, headers, body, reader, writer)
                self.requests.append(exchange)
                await self.script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@dataclass
class Stand:
    """Sidecar, broker and provider, wired together."""

    sidecar: RunningSidecar
    broker: ScriptedBroker
    provider: ScriptedProvider

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.sidecar.port}"

    def sample(self, name: str, **labels: str) -> float:
        return self.sidecar.metrics.registry.get_sample_value(name, labels) or 0.0


def route(pool: str, provider: Provider, endpoint: str, *models: str) -> pb.Route:
    return pb.Route(pool=pool, provider=convert.PROVIDER.to_proto(provider), endpoint=endpoint, models=models)


@asynccontextmanager
async def stand(
    script: Script, policy: Policy = granted, traces: Tracing | None = None, **settings: object
) -> AsyncIterator[Stand]:
    provider = ScriptedProvider(script)
    await provider.start()
    base = f"http://127.0.0.1:{provider.port}"
    broker = ScriptedBroker(
        [
            route("gpt", Provider.OPENAI, base + "/v1", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small"),
            route("claude", Provider.ANTHROPIC, base, "claude-*"),
        ],
        policy,
    )
    await broker.start()
    values: dict[str, object] = {
        "port": 0,
        "admin_port": 0,
        "broker": f"127.0.0.1:{broker.port}",
        "grace": 1.0,
        "broker_patience": 0.3,
    }
    sidecar = await start_sidecar(Settings(**{**values, **settings}), traces)  # type: ignore[arg-type]
    try:
        assert await sidecar.broker.ready(5)
        yield Stand(sidecar, broker, provider)
    finally:
        await sidecar.stop()
        await broker.stop()
        await provider.stop()
