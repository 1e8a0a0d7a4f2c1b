# SPDX-License-Identifier: Apache-2.0
"""The client and the shared keyring against a real API server."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from sluicegate.kube.certificates import LIFE
from sluicegate.kube.client import ApiError, Client, KubeError, ObjectRef, connect, from_kubeconfig
from sluicegate.kube.tls_secret import keep
from tests.cluster.control_plane import ControlPlane

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRETS = "/api/v1/namespaces/default/secrets"
MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_objects_are_made_read_changed_and_watched(plane: ControlPlane):
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        made = await client.create(MAPS, config_map("a", x="1"))
        since = made["metadata"]["resourceVersion"]
        await client.patch(f"{MAPS}/a", {"data": {"x": "2"}})
        await client.patch(f"{MAPS}/a", [{"op": "add", "path": "/data/y", "value": "3"}])
        await client.apply(f"{MAPS}/a", config_map("a", z="4"), manager="test")
        assert (await client.get(f"{MAPS}/a"))["data"] == {"x": "2", "y": "3", "z": "4"}
        seen = []
        async for event in client.watch(MAPS, since, fieldSelector="metadata.name=a"):
            if event["type"] == "MODIFIED":
                seen.append(event["object"]["data"])
            if len(seen) == 3:
                break
        assert seen == [{"x": "2"}, {"x": "2", "y": "3"}, {"x": "2", "y": "3", "z": "4"}]
        await client.delete(f"{MAPS}/a")
        with pytest.raises(ApiError) as refused:
            await client.get(f"{MAPS}/a")
        assert (refused.value.status, refused.value.reason) == (404, "NotFound")
        made["metadata"].pop("resourceVersion")
        with pytest.raises(ApiError) as refused:
            await client.replace(f"{MAPS}/other", made)
        assert refused.value.status == 400


async def test_whoever_has_no_right_is_told_so_and_nobody_at_the_address_is_an_error(plane: ControlPlane):
    stranger = plane.write_kubeconfig("stranger", pair=plane.authority.issue("stranger"))
    async with connect(from_kubeconfig(stranger)) as client:
        with pytest.raises(ApiError) as refused:
            await client.get(MAPS)
        assert refused.value.reason == "Forbidden"
        nowhere = Client(from_kubeconfig(stranger).__class__("http://127.0.0.1:9"), client._session)
        with pytest.raises(KubeError):
            await nowhere.get(MAPS)


async def test_replicas_that_start_together_end_with_one_keyring_and_renew_it_once(plane: ControlPlane):
    secret = ObjectRef.parse("default/tls")
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        await client.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}})
        rings = await asyncio.gather(*(keep(client, secret, "broker", ["broker.svc"], NOW) for _ in range(4)))
        assert len({ring.served.certificate for ring in rings}) == 1
        later = NOW + LIFE * 0.7
        renewed = await asyncio.gather(*(keep(client, secret, "broker", ["broker.svc"], later) for _ in range(4)))
        assert len({ring.served.certificate for ring in renewed}) == 1
        assert renewed[0].served != rings[0].served
        assert renewed[0].authority == rings[0].authority


async def test_a_secret_that_cannot_be_read_is_named_and_not_written_over(plane: ControlPlane):
    secret = ObjectRef.parse("default/garbled")
    data = dict.fromkeys(("ca.crt", "ca.key", "bundle.crt", "tls.crt", "tls.key"), "Z2FyYmxlZA==")
    async with connect(from_kubeconfig(plane.kubeconfig)) as client:
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret.name}, "data": data}
        await client.create(SECRETS, made)
        with pytest.raises(KubeError, match=r"Secret default/garbled holds certificates or keys that cannot be read"):
            await keep(client, secret, "broker", ["broker.svc"], NOW)
        assert (await client.get(secret.secret))["data"] == data
