# SPDX-License-Identifier: Apache-2.0
"""The broker's certificate, changed while it serves: each handshake takes the present one, streams go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc

from sluicegate.kube.certificates import Keyring, Pair
from sluicegate.kube.client import Client, KubeError, ObjectRef
from sluicegate.kube.tls_secret import follow

log = logging.getLogger(__name__)

_FILES_EVERY = 10.0
_PUBLISH_EVERY = 60.0


@dataclass(slots=True)
class Served:
    """The pair that handshakes use."""

    pair: Pair

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; asked again at each handshake."""
        given = self.pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self.pair:
                return None  # unchanged
            given = self.pair
            return _configuration(given)

        # None is allowed and means unchanged, which the stubs do not know.
        ask = cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
        return grpc.dynamic_ssl_server_credentials(_configuration(given), ask, require_client_authentication=False)


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)])


@contextlib.asynccontextmanager
async def from_secret(
    client: Client, secret: ObjectRef, hosts: tuple[str, ...], publish: ObjectRef | None
) -> AsyncIterator[Served]:
    """A certificate for `hosts` kept in `secret`; its authorities are published in the ConfigMap `publish`.

    Waits until there is one; ends with the block.
    """
    served: Served | None = None
    first = asyncio.Event()

    async def held(ring: Keyring) -> None:
        nonlocal served
        # Published first: whoever reads the bundle trusts what is served next.
        if publish is not None:
            await _published(client, publish, ring.bundle.decode())
        if served is None:
            served = Served(ring.served)
        elif served.pair != ring.served:
            served.pair = ring.served
            log.info("the certificate was renewed", extra={"until": ring.served.ends.isoformat()})
        first.set()

    async with _task(follow(client, secret, hosts[0], hosts, held)):
        await first.wait()
        assert served is not None
        yield served


@contextlib.asynccontextmanager
async def from_files(certificate: Path, key: Path) -> AsyncIterator[Served]:
    """The user's own certificate, read again when the files change. Raises OSError, ValueError."""

    def load() -> Pair:
        pair = Pair(certificate.read_bytes(), key.read_bytes())
        _ = pair.ends  # a file that is no certificate is found out here
        return pair

    served = Served(load())

    async def reread() -> None:
        while True:
            await asyncio.sleep(_FILES_EVERY)
            try:
                pair = await asyncio.to_thread(load)
            except (OSError, ValueError) as error:
                log.warning("%s cannot be read, the former certificate stays: %s", certificate, error)
                continue
            if pair != served.pair:
                served.pair = pair
                log.info("the certificate was read again", extra={"until": pair.ends.isoformat()})

    async with _task(reread()):
        yield served


@contextlib.asynccontextmanager
async def publishing(client: Client, bundle: Path, config_map: ObjectRef) -> AsyncIterator[None]:
    """The authorities of the user's own certificate stand in `config_map`, those of the file as it is now.

    Raises OSError, KubeError where that cannot be done at first.
    """
    await _published(client, config_map, await asyncio.to_thread(bundle.read_text))

    async def again() -> None:
        while True:
            await asyncio.sleep(_PUBLISH_EVERY)
            try:
                await _published(client, config_map, await asyncio.to_thread(bundle.read_text))
            except (KubeError, OSError, ValueError) as error:
                log.warning("the authorities of %s cannot be published: %s", bundle, error)

    async with _task(again()):
        yield


async def _published(client: Client, config_map: ObjectRef, bundle: str) -> None:
    present = await client.get(config_map.config_map)
    if (present.get("data") or {}).get("ca.crt") != bundle:
        await client.patch(config_map.config_map, {"data": {"ca.crt": bundle}})


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
