# SPDX-License-Identifier: Apache-2.0
"""The webhook's HTTPS server and its admin port. It keeps nothing about pods."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sluicegate.injector.patch import Injection
from sluicegate.injector.review import InvalidReviewError, review
from sluicegate.kube.certificates import Pair

log = logging.getLogger(__name__)

POD_PATH = "/mutate/pods"
NAMESPACE_PATH = "/mutate/pods/by-namespace"
_MAX_BODY = 8 * 1024 * 1024


class Metrics:
    """What the injector counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reviews = Counter(
            "sluicegate_injector_reviews", "Pods seen, by verdict.", ["verdict"], registry=self.registry
        )
        self.invalid = Counter(
            "sluicegate_injector_invalid_reviews", "Requests that were no review of a pod.", registry=self.registry
        )
        self.skipped = Counter(
            "sluicegate_injector_warnings", "Things reported about injected pods.", registry=self.registry
        )
        self.expiry = Gauge(
            "sluicegate_webhook_cert_expiry_timestamp_seconds",
            "When the webhook's certificate ends.",
            registry=self.registry,
        )


@dataclass(slots=True)
class Webhook:
    """The handlers. `injection` says what sidecars get at the moment; None: not known yet."""

    injection: Callable[[], Injection | None]
    excluded: frozenset[str]
    metrics: Metrics

    async def by_pod(self, request: web.Request) -> web.Response:
        return await self._answer(request, by_namespace=False)

    async def by_namespace(self, request: web.Request) -> web.Response:
        return await self._answer(request, by_namespace=True)

    async def _answer(self, request: web.Request, *, by_namespace: bool) -> web.Response:
        injection = self.injection()
        if injection is None:
            return web.Response(status=503, text="starting: what to inject is not known yet\n")
        try:
            body = json.loads(await request.read())
            reviewed = review(
                body if isinstance(body, dict) else {}, injection, self.excluded, by_namespace=by_namespace
            )
        except (InvalidReviewError, ValueError, RecursionError) as problem:
            self.metrics.invalid.inc()
            return web.Response(status=400, text=f"{problem}\n")
        verdict = reviewed.decision.verdict
        self.metrics.reviews.labels(verdict.value).inc()
        warnings = reviewed.patch.warnings if reviewed.patch else ()
        self.metrics.skipped.inc(len(warnings))
        about = {"namespace": reviewed.namespace, "pod": reviewed.name, "verdict": verdict.value}
        log.info("pod reviewed", extra={**about, "warnings": len(warnings)})
        return web.json_response(reviewed.response)


class Servers:
    """Both servers. `serve_with` may be called again at any time: connections made later get the new certificate."""

    def __init__(self, webhook: Webhook, ready: Callable[[], str]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._metrics = webhook.metrics
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([web.post(POD_PATH, webhook.by_pod), web.post(NAMESPACE_PATH, webhook.by_namespace)])
        self._webhook = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        self._ready = ready
        admin = web.Application()
        admin.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._page)]
        )
        self._admin = web.AppRunner(admin, access_log=None, shutdown_timeout=1.0)

    def serve_with(self, pair: Pair) -> None:
        """Serve `pair` from now on. Raises ssl.SSLError, and serves on what it did, where the two do not match."""
        with contextlib.ExitStack() as stack:
            paths = []
            for content in (pair.certificate, pair.key):  # ssl reads files only; mkstemp's are for this user alone
                descriptor, name = tempfile.mkstemp(prefix="sluicegate-")
                stack.callback(Path(name).unlink)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                paths.append(name)
            # A pair that does not match would leave the context with neither the new one nor the old.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)
            self._context.load_cert_chain(*paths)
        self._metrics.expiry.set(pair.ends.timestamp())

    async def start_webhook(self, host: str, port: int) -> int:
        """Begins to serve the webhook; gives its port. Raises OSError."""
        await self._webhook.setup()
        await web.TCPSite(self._webhook, host, port, ssl_context=self._context).start()
        return int(self._webhook.addresses[0][1])

    async def start_admin(self, host: str, port: int) -> int:
        """Begins to serve the admin port; gives it. Raises OSError."""
        await self._admin.setup()
        await web.TCPSite(self._admin, host, port).start()
        return int(self._admin.addresses[0][1])

    async def stop(self) -> None:
        """Ends both; reviews under way are answered."""
        await self._webhook.cleanup()
        await self._admin.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        why_not = self._ready()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
