# SPDX-License-Identifier: Apache-2.0
"""`sluicegate-injector`: the webhook in the foreground, until SIGTERM or SIGINT.

Three tasks keep what injection needs fresh: the webhook's certificate with the caBundle that the API server trusts,
the authorities of the broker, and the Secrets that pools name for failover. It is ready when all have been read once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from sluicegate.injector.patch import Credential, Injection
from sluicegate.injector.server import Metrics, Servers, Webhook
from sluicegate.injector.settings import Settings, read_settings
from sluicegate.kube.certificates import Keyring, Pair
from sluicegate.kube.client import Client, KubeError, Object, access, connect
from sluicegate.kube.follow import collections
from sluicegate.kube.tls_secret import follow
from sluicegate.wire import logs
from sluicegate.wire.environment import SettingsError
from sluicegate.wire.version import VERSION

log = logging.getLogger(__name__)

_POOLS = "/apis/sluicegate.dev/v1alpha1/providerpools"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_FILES_EVERY = 30.0
_AUTHORITIES_EVERY = 60.0
_AGAIN = 3.0


class Injector:
    """A running injector. `port` and `admin_port` are known after `start`."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.port = 0
        self.admin_port = 0
        self._settings = settings
        self._client = client
        self._injection = Injection(
            image=settings.image,
            broker=settings.broker,
            audience=settings.audience,
            pull_policy=settings.pull_policy,
            pull_secrets=settings.pull_secrets,
            run_as_user=settings.run_as_user,
            cpu_request=settings.cpu_request,
            memory_request=settings.memory_request,
            memory_limit=settings.memory_limit,
            cpu_limit=settings.cpu_limit,
            environment=settings.environment,
            version=VERSION,
        )
        self._lacks = {"certificate", "broker authorities", "provider pools"}
        webhook = Webhook(
            lambda: None if self._lacks else self._injection, frozenset(settings.excluded_namespaces), Metrics()
        )
        self._servers = Servers(webhook, self._why_not_ready)
        self._served: Pair | None = None
        self._leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    def _why_not_ready(self) -> str:
        if self._leaving:
            return "stopping"
        return f"not read yet: {', '.join(sorted(self._lacks))}" if self._lacks else ""

    async def start(self) -> None:
        """Serves the admin port at once, the webhook as soon as there is a certificate. Raises OSError."""
        settings = self._settings
        self.admin_port = await self._servers.start_admin(settings.admin_host, settings.admin_port)
        works = (self._keep_certificate, self._follow_broker_authorities, self._follow_pools)
        self._tasks = [asyncio.create_task(_kept_up(work)) for work in works]

    async def leave(self) -> None:
        """Is ready no more, and serves on for `drain` seconds: until the API server has heard of it, it calls here, and
        a review that finds nobody is a pod without its sidecar."""
        self._leaving = True
        await asyncio.sleep(self._settings.drain)

    async def stop(self) -> None:
        """Ends the tasks and the servers."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._servers.stop()

    # ---- the webhook's own certificate

    async def _keep_certificate(self) -> None:
        settings = self._settings
        if settings.tls_secret is not None:
            await follow(self._client, settings.tls_secret, settings.hosts[0], settings.hosts, self._certified)
            return
        assert settings.tls_cert is not None
        assert settings.tls_key is not None
        while True:
            try:
                await self._serve(Pair(settings.tls_cert.read_bytes(), settings.tls_key.read_bytes()))
            except (OSError, ValueError, ssl.SSLError) as error:
                log.warning("the webhook's certificate cannot be read: %s", error)
            await asyncio.sleep(_FILES_EVERY if self._served else _AGAIN)

    async def _certified(self, ring: Keyring) -> None:
        # The bundle is published first: the API server trusts what it will meet.
        if self._settings.webhook:
            await self._publish(ring.bundle)
        await self._serve(ring.served)

    async def _serve(self, pair: Pair) -> None:
        if pair == self._served:
            return
        self._servers.serve_with(pair)
        if not self.port:
            self.port = await self._servers.start_webhook(self._settings.host, self._settings.port)
            log.info("serving", extra={"port": self.port, "admin_port": self.admin_port})
        self._served = pair
        self._lacks.discard("certificate")

    async def _publish(self, bundle: bytes) -> None:
        path = f"{_WEBHOOKS}/{self._settings.webhook}"
        configuration = await self._client.get(path)
        operations = caught_up(configuration, bundle)
        if operations:
            await self._client.patch(path, operations)

    # ---- what sidecars get

    async def _follow_broker_authorities(self) -> None:
        settings, known = self._settings, ""
        while True:
            try:
                pem = ""
                if settings.broker_ca is not None:
                    pem = settings.broker_ca.read_text()
                elif settings.broker_ca_config_map is not None:
                    published = await self._client.get(settings.broker_ca_config_map.config_map)
                    pem = (published.get("data") or {}).get("ca.crt", "")
                    if not pem:
                        raise KubeError(f"ConfigMap {settings.broker_ca_config_map} has no ca.crt yet")
                if pem != known:
                    self._injection = replace(self._injection, broker_ca=pem)
                    known = pem
                self._lacks.discard("broker authorities")
            except (KubeError, OSError) as error:
                log.warning("the broker's authorities cannot be read: %s", error)
            await asyncio.sleep(_AGAIN if "broker authorities" in self._lacks else _AUTHORITIES_EVERY)

    async def _follow_pools(self) -> None:
        async for pools in collections(self._client, _POOLS):
            credentials = tuple(credentials_of(pools))
            if credentials != self._injection.credentials:
                self._injection = replace(self._injection, credentials=credentials)
            self._lacks.discard("provider pools")


async def _kept_up(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """`work`, which never ends, again after what nobody foresaw: without it, certificates would run out unnoticed."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed, and begins anew", work.__name__.strip("_"))
        await asyncio.sleep(_AGAIN)


def caught_up(configuration: Object, bundle: bytes) -> list[Object]:
    """The JSON patch that gives every webhook of `configuration` the caBundle `bundle`; empty when they have it."""
    encoded = base64.b64encode(bundle).decode()
    operations: list[Object] = []
    for index, webhook in enumerate(configuration.get("webhooks") or []):
        if webhook["clientConfig"].get("caBundle") != encoded:
            at = f"/webhooks/{index}"
            operations.append({"op": "test", "path": f"{at}/name", "value": webhook["name"]})
            operations.append({"op": "add", "path": f"{at}/clientConfig/caBundle", "value": encoded})
    return operations


def credentials_of(pools: object) -> list[Credential]:
    """The Secrets that ProviderPools name, by pool; what cannot be read is left out (the operator reports it)."""
    found: list[Credential] = []
    for pool in pools if isinstance(pools, list) else []:
        match pool:
            case {
                "metadata": {"name": str(name)},
                "spec": {"credentials": {"secretName": str(secret), "key": str(key)}},
            }:
                found.append(Credential(name, secret, key))
            case _:
                pass
    return sorted(found, key=lambda credential: credential.pool)


async def serve(settings: Settings, environment: Mapping[str, str]) -> None:
    """Runs until a signal asks to stop. Raises KubeError, OSError."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    async with connect(access(environment, settings.kubeconfig)) as client:
        injector = Injector(settings, client)
        await injector.start()
        try:
            await asked.wait()
            await injector.leave()
        finally:
            await injector.stop()


def main() -> None:
    """Entry point. Exits 2 on wrong settings, 1 when it cannot serve."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"sluicegate-injector: {error}\n")
        raise SystemExit(2) from None
    logs.configure(settings.log_level)
    try:
        asyncio.run(serve(settings, os.environ))
    except (KubeError, OSError) as error:
        sys.stderr.write(f"sluicegate-injector: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
