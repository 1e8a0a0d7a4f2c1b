# SPDX-License-Identifier: Apache-2.0
"""Gives the broker its configuration, whole and idempotent, over a channel of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from sluicegate.kube.client import Client, KubeError
from sluicegate.operator.core.compile import Programme, canonical
from sluicegate.operator.core.conditions import Delivery
from sluicegate.operator.settings import Settings
from sluicegate.v1 import config_service_pb2 as pb
from sluicegate.v1 import config_service_pb2_grpc
from sluicegate.wire.channel import MAX_CONFIGURATION_BYTES, client_options

log = logging.getLogger(__name__)

_TIMEOUT = 20.0


class Broker:
    """The broker as the operator sees it. `returned` is awaited when it can be reached (again)."""

    def __init__(self, settings: Settings, client: Client, returned: Callable[[], Awaitable[None]]) -> None:
        self._settings = settings
        self._client = client
        self._returned = returned
        self._authorities: bytes | None = None
        self._channel: grpc.aio.Channel | None = None
        self._watch: asyncio.Task[None] | None = None

    async def apply(self, programme: Programme) -> Delivery:
        """Pushes `programme`; what prevents it is said in the Delivery. Never raises for a broker that is away."""
        request = pb.ApplyConfigRequest(
            documents=[
                pb.Document(source=str(identity), json=canonical(programme.documents[identity]))
                for identity in sorted(programme.documents)
            ]
        )
        try:
            stub = config_service_pb2_grpc.ConfigServiceStub(await self._connected())
            answer = await stub.ApplyConfig(request, timeout=_TIMEOUT, metadata=await self._identity())
        except grpc.aio.AioRpcError as error:
            log.warning("the broker did not take the configuration: %s: %s", error.code().name, error.details())
            return Delivery(failure=_said(error))
        except (KubeError, OSError) as error:
            log.warning("the broker cannot be reached: %s", error)
            return Delivery(failure=f"the broker cannot be reached: {error}")
        for finding in answer.findings:
            if finding.severity == pb.SEVERITY_ERROR:
                # Both sides run the same checks, so this means that their versions differ.
                log.error("the broker refused a document that this operator holds valid: %s", finding.message)
        return Delivery(version=answer.config_version)

    async def close(self) -> None:
        """Ends the channel."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._channel is not None:
            await self._channel.close()
        self._channel = self._watch = None

    async def _connected(self) -> grpc.aio.Channel:
        authorities = await self._read_authorities()
        if self._channel is None or authorities != self._authorities:
            await self.close()
            options = client_options(largest=MAX_CONFIGURATION_BYTES)
            if authorities:
                credentials = grpc.ssl_channel_credentials(root_certificates=authorities)
                self._channel = grpc.aio.secure_channel(self._settings.broker, credentials, options=options)
            else:
                self._channel = grpc.aio.insecure_channel(self._settings.broker, options=options)
            self._authorities = authorities
            self._watch = asyncio.create_task(self._tell_of_returns(self._channel))
        return self._channel

    async def _read_authorities(self) -> bytes:
        """PEM, empty for plain text."""
        settings = self._settings
        if settings.broker_ca is not None:
            return await asyncio.to_thread(settings.broker_ca.read_bytes)
        if settings.broker_ca_config_map is None:
            return b""
        published = await self._client.get(settings.broker_ca_config_map.config_map)
        pem = (published.get("data") or {}).get("ca.crt", "")
        if not pem:
            raise KubeError(f"ConfigMap {settings.broker_ca_config_map} has no ca.crt yet")
        return str(pem).encode()

    async def _identity(self) -> tuple[tuple[str, str], ...]:
        if self._settings.token_file is None:
            return ()
        token = await asyncio.to_thread(self._settings.token_file.read_text)
        return (("authorization", f"Bearer {token.strip()}"),)

    async def _tell_of_returns(self, channel: grpc.aio.Channel) -> None:
        """A broker that comes back has what its ConfigMap said; it is given the present state at once."""
        state = channel.get_state(try_to_connect=True)
        while True:
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                await self._returned()


def _said(error: grpc.aio.AioRpcError) -> str:
    """For conditions: of a broker that is away it says the same at each attempt, so that no status is written anew."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return "the broker cannot be reached; the operator's log says why"
    return f"the broker did not take the configuration: {error.code().name}: {error.details()}"
