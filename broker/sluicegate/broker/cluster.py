# SPDX-License-Identifier: Apache-2.0
"""What a broker takes from its cluster: a certificate, whose a token is, and the documents to start from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass

import grpc
import grpc.aio

from sluicegate.broker import tls
from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core import saved
from sluicegate.broker.core.manifests import Manifests, RawDocument
from sluicegate.broker.identity import Gate, TokenReviews
from sluicegate.broker.settings import Settings
from sluicegate.kube.client import Client, KubeError, ObjectRef, access, connect

log = logging.getLogger(__name__)

_CERTIFICATE_WITHIN = 60.0
_SNAPSHOT_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """`credentials` None: plain text. `gates`: the interceptors of the server, empty where nothing is proven."""

    credentials: grpc.ServerCredentials | None = None
    gates: tuple[grpc.aio.ServerInterceptor, ...] = ()


async def enter(settings: Settings, configuration: Configuration, stack: contextlib.AsyncExitStack) -> Cluster:
    """What `settings` ask of the cluster, kept fresh until `stack` closes. Raises OSError where it is not to be had."""
    try:
        async with asyncio.timeout(_CERTIFICATE_WITHIN):
            return await _enter(settings, configuration, stack)
    except TimeoutError:
        raise OSError(f"no certificate within {_CERTIFICATE_WITHIN:.0f} s; the warnings say why") from None
    except (KubeError, ValueError) as error:
        raise OSError(str(error)) from error


async def _enter(settings: Settings, configuration: Configuration, stack: contextlib.AsyncExitStack) -> Cluster:
    credentials = None
    gates: tuple[grpc.aio.ServerInterceptor, ...] = ()
    if settings.tls_cert is not None and settings.tls_key is not None:
        served = await stack.enter_async_context(tls.from_files(settings.tls_cert, settings.tls_key))
        credentials = served.credentials()
    publishes = settings.tls_ca is not None and settings.ca_config_map is not None
    if settings.tls_secret is None and settings.snapshot is None and not settings.audience and not publishes:
        return Cluster(credentials)
    client = await stack.enter_async_context(connect(access(os.environ, settings.kubeconfig)))
    if settings.snapshot is not None:
        await _start_from(client, settings.snapshot, configuration)
    if settings.tls_ca is not None and settings.ca_config_map is not None:
        await stack.enter_async_context(tls.publishing(client, settings.tls_ca, settings.ca_config_map))
    if settings.tls_secret is not None:
        kept = tls.from_secret(client, settings.tls_secret, settings.tls_hosts, settings.ca_config_map)
        credentials = (await stack.enter_async_context(kept)).credentials()
    if settings.audience:
        reviews = TokenReviews(client, settings.audience, time.monotonic, time.time)
        gates = (Gate(reviews, frozenset(settings.operators), frozenset(settings.viewers)),)
    return Cluster(credentials, gates)


async def _start_from(client: Client, snapshot: ObjectRef, configuration: Configuration) -> None:
    """The operator pushes what is newer; until then this holds. A snapshot that cannot be had is no reason to stop."""
    try:
        async with asyncio.timeout(_SNAPSHOT_WITHIN):
            documents = saved.unpack(await client.get(snapshot.config_map))
    except (KubeError, ValueError, TimeoutError) as error:
        log.warning("ConfigMap %s gives no configuration to start from: %s", snapshot, str(error) or "too slow")
        return
    if documents is not None:
        sources = [f"{document.get('kind')} {(document.get('metadata') or {}).get('name')}" for document in documents]
        pairs = zip(sources, documents, strict=True)
        configuration.apply(Manifests(tuple(RawDocument(source, data, source) for source, data in pairs)))
