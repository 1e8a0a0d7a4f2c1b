# SPDX-License-Identifier: Apache-2.0
"""The one task that brings the broker and the statuses to what the custom resources ask.

Level-triggered: `mark` only says that something may have changed. Each round reads everything, compiles it, keeps
the documents in effect in a ConfigMap, pushes them to the broker, and writes the statuses that say something new.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sluicegate.broker.core import saved
from sluicegate.broker.core.documents import Identity
from sluicegate.kube.client import ApiError, Client, KubeError, ObjectRef
from sluicegate.kube.client import Object as Json
from sluicegate.operator.core.compile import (
    Object,
    Programme,
    compile_programme,
    identity_of,
    listed,
)
from sluicegate.operator.core.conditions import Delivery, status_of

log = logging.getLogger(__name__)

GROUP = "/apis/sluicegate.dev/v1alpha1"
_PLURALS = {"ProviderPool": "providerpools", "TenantPolicy": "tenantpolicies"}
_MANAGER = "sluicegate-operator"
_STATUS_WRITERS = 8
_AGAIN = (1.0, 30.0)


class Metrics:
    """What the operator counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rounds = Counter(
            "sluicegate_operator_reconciles", "Rounds, by result.", ["result"], registry=self.registry
        )
        self.seconds = Histogram("sluicegate_operator_reconcile_seconds", "Length of a round.", registry=self.registry)
        self.resources = Gauge(
            "sluicegate_operator_resources",
            "Custom resources, by kind and acceptance.",
            ["kind", "accepted"],
            registry=self.registry,
        )
        self.delivered = Gauge(
            "sluicegate_operator_last_delivery_timestamp_seconds",
            "When the broker last took the configuration.",
            registry=self.registry,
        )


class Reconciler:
    """Runs in one task; `mark` may be called from anywhere in its loop. `ready` after the first round."""

    def __init__(
        self,
        client: Client,
        apply: Callable[[Programme], Awaitable[Delivery]],
        snapshot: ObjectRef | None,
        metrics: Metrics,
    ) -> None:
        self.ready = False
        self._client = client
        self._apply = apply
        self._snapshot = snapshot
        self._metrics = metrics
        self._dirty = asyncio.Event()
        self._in_effect: Mapping[Identity, Object] | None = None
        self._stored = ""

    def mark(self) -> None:
        """Something may have changed."""
        self._dirty.set()

    async def run(self, debounce: float, resync: float) -> None:
        """Rounds until cancelled: `debounce` seconds after a mark, and at least every `resync` seconds."""
        pause, (first, longest) = _AGAIN[0], _AGAIN
        while True:
            self._dirty.clear()
            try:
                with self._metrics.seconds.time():
                    delivery = await self.round()
            except KubeError as error:
                log.warning("the custom resources cannot be brought into effect: %s", error)
                delivery = Delivery(failure=str(error))
            except Exception as error:
                # Without this task nothing would come into effect any more, and nobody would be told.
                log.exception("a round failed")
                delivery = Delivery(failure=repr(error))
            self._metrics.rounds.labels("failure" if delivery.failure else "success").inc()
            wait = pause if delivery.failure else resync
            pause = min(longest, pause * 2) if delivery.failure else first
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), wait)
                await asyncio.sleep(debounce)

    async def round(self) -> Delivery:
        """One round. Raises KubeError while the API server cannot be asked; then nothing was half done."""
        resources = [resource for plural in _PLURALS.values() for resource in await self._list(f"{GROUP}/{plural}")]
        namespaces = {
            namespace["metadata"]["name"]: namespace["metadata"].get("labels") or {}
            for namespace in await self._list("/api/v1/namespaces")
        }
        if self._in_effect is None:
            self._in_effect = await self._restore()
        programme = compile_programme(resources, namespaces, self._in_effect)
        await self._store(programme)
        self._in_effect = programme.documents
        delivery = await self._apply(programme)
        if not delivery.failure:
            self._metrics.delivered.set_to_current_time()
            self.ready = True
        self._count(resources, programme)
        await self._write_statuses(resources, programme, delivery)
        return delivery

    async def _list(self, path: str) -> list[Json]:
        items: list[Json] = (await self._client.get(path)).get("items") or []
        return items

    # ---- the documents in effect, kept

    async def _restore(self) -> Mapping[Identity, Object]:
        if self._snapshot is None:
            return {}
        try:
            held = await self._client.get(self._snapshot.config_map)
        except ApiError as error:
            if error.status != 404:
                raise
            log.error("ConfigMap %s is gone, and what it kept with it; `helm upgrade` makes it anew", self._snapshot)
            return {}
        try:
            documents = {identity_of(document): document for document in saved.unpack(held) or []}
            self._stored = (held.get("data") or {}).get("version", "")
            return documents
        except (ValueError, KeyError, TypeError) as error:
            log.error("ConfigMap %s cannot be read, and is written anew: %s", self._snapshot, error)
            return {}

    async def _store(self, programme: Programme) -> None:
        """What cannot be kept is no reason to keep it from the broker; the next round tries again."""
        if self._snapshot is None or programme.version == self._stored:
            return
        body = {
            "binaryData": {saved.KEY: saved.pack(listed(programme.documents))},
            "data": {"version": programme.version},
        }
        try:
            await self._client.patch(self._snapshot.config_map, body)
        except ApiError as error:
            log.error("ConfigMap %s cannot be written, for a broker that starts: %s", self._snapshot, error)
            return
        self._stored = programme.version

    # ---- statuses

    async def _write_statuses(self, resources: Iterable[Json], programme: Programme, delivery: Delivery) -> None:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        writers = asyncio.Semaphore(_STATUS_WRITERS)

        async def write(resource: Json) -> None:
            identity = identity_of(resource)
            findings = programme.findings.get(identity, ())
            status = status_of(resource, findings, delivery, now, kept=identity in programme.kept)
            if status is None:
                return
            metadata = {"name": identity.name, **({"namespace": identity.namespace} if identity.namespace else {})}
            body = {"apiVersion": resource["apiVersion"], "kind": identity.kind, "metadata": metadata, "status": status}
            scope = f"/namespaces/{identity.namespace}" if identity.namespace else ""
            path = f"{GROUP}{scope}/{_PLURALS[identity.kind]}/{identity.name}/status"
            async with writers:
                try:
                    await self._client.apply(path, body, manager=_MANAGER)
                except ApiError as error:
                    if error.status != 404:  # deleted meanwhile
                        raise

        results = await asyncio.gather(*(write(resource) for resource in resources), return_exceptions=True)
        for failure in (result for result in results if isinstance(result, BaseException)):
            if not isinstance(failure, KubeError):
                raise failure
            log.warning("a status cannot be written: %s", failure)

    def _count(self, resources: Iterable[Json], programme: Programme) -> None:
        counts = {(kind, accepted): 0 for kind in _PLURALS for accepted in ("true", "false")}
        for resource in resources:
            identity = identity_of(resource)
            good = identity in programme.documents and identity not in programme.kept
            counts[identity.kind, str(good).lower()] += 1
        for (kind, accepted), count in counts.items():
            self._metrics.resources.labels(kind, accepted).set(count)
