# SPDX-License-Identifier: Apache-2.0
"""A client of the Session stream for tests: sends what it is told, files what it hears by call_id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import grpc.aio

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc, types_pb2
from sluicegate.wire.channel import client_options


def call(call_id: str, model: str = "gpt-4o", tokens: int = 10, **fields: object) -> pb.CallRequest:
    request = pb.CallRequest(call_id=call_id, provider=types_pb2.PROVIDER_OPENAI, model=model, **fields)  # type: ignore[arg-type]
    request.estimate.input_tokens = tokens
    return request


class SessionClient:
    """Use as an async context manager."""

    def __init__(self, port: int, session_id: str = "s1", namespace: str = "acme", account: str = "chat") -> None:
        self.messages: list[pb.SessionResponse] = []
        self.ended: grpc.aio.AioRpcError | None = None
        self.done = asyncio.Event()
        self._hello = pb.Hello(
            session_id=session_id, namespace=namespace, service_account=account, pod="p", version="1"
        )
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=client_options())
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self.stream = budget_service_pb2_grpc.BudgetServiceStub(self._channel).Session()
        await self.send(hello=self._hello)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stream.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def send(self, **fields: object) -> None:
        await self.stream.write(pb.SessionRequest(**fields))  # type: ignore[arg-type]

    async def _read(self) -> None:
        try:
            async for message in self.stream:
                self.messages.append(message)
                async with self._heard:
                    self._heard.notify_all()
        except grpc.aio.AioRpcError as error:
            self.ended = error
        self.done.set()
        async with self._heard:
            self._heard.notify_all()

    async def until(self, happened: Callable[[], bool], within: float = 5.0) -> None:
        async with asyncio.timeout(within), self._heard:
            await self._heard.wait_for(happened)

    @property
    def grants(self) -> dict[str, pb.Grant]:
        return {grant.call_id: grant for message in self.messages for grant in message.grants}

    @property
    def rejects(self) -> dict[str, pb.Reject]:
        return {reject.call_id: reject for message in self.messages for reject in message.rejects}

    @property
    def version(self) -> str:
        return next((m.config_version for m in reversed(self.messages) if m.config_version), "")

    async def grant(self, call_id: str) -> pb.Grant:
        await self.until(lambda: call_id in self.grants)
        return self.grants[call_id]

    async def rejection(self, call_id: str) -> pb.Reject:
        await self.until(lambda: call_id in self.rejects)
        return self.rejects[call_id]


def settled(call_id: str, **fields: object) -> pb.Settlement:
    settlement = pb.Settlement(call_id=call_id, error_class=types_pb2.ERROR_CLASS_NONE, dispatched=True, **fields)  # type: ignore[arg-type]
    if not settlement.HasField("usage"):
        settlement.usage.input_tokens = 10
        settlement.usage.output_tokens = 5
    return settlement
