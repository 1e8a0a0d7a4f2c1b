# SPDX-License-Identifier: Apache-2.0
"""The broker's introspection, reached from where a person sits.

Without a cluster: plain text to `--broker`. In a cluster: `kubectl port-forward` to the broker's Deployment, ended with
the command (kubectl must be on PATH; `--via` takes another way); TLS against the authorities that the broker publishes,
for a name of its certificate; and a token for the viewer's ServiceAccount by TokenRequest, ten minutes long. Rights
needed beyond those of `sluicegate.cli.cluster`, all in the release's namespace: `create` on `serviceaccounts/token` of
the viewer, `get`/`list` Pods, `create` on `pods/portforward`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import grpc
import grpc.aio

from sluicegate.cli.cluster import Installation, UsageError, authorities, installed, reached
from sluicegate.kube.client import Client, KubeError, ObjectRef
from sluicegate.v1 import introspection_service_pb2 as pb
from sluicegate.v1 import introspection_service_pb2_grpc
from sluicegate.wire.channel import client_options
from sluicegate.wire.errors import from_rpc_error

_CALL = 10.0
_FORWARD = 15.0
_TOKEN_SECONDS = 600
_PAGE = 1_000
_MAX_ROWS = 100_000


class BrokerError(Exception):
    """The broker cannot be reached or refuses; the message says why."""


class Views:
    """The introspection calls. Each raises BrokerError."""

    def __init__(self, channel: grpc.aio.Channel, token: str = "") -> None:
        self._stub = introspection_service_pb2_grpc.IntrospectionServiceStub(channel)
        self._identity = (("authorization", f"Bearer {token}"),) if token else None

    async def pools(self, pool: str = "") -> pb.ListPoolsResponse:
        """Every pool, or one."""
        answer: pb.ListPoolsResponse = await self._call(self._stub.ListPools, pb.ListPoolsRequest(pool=pool))
        return answer

    async def tenants(self) -> list[pb.TenantStatus]:
        """Every tenant that had a call."""
        found: list[pb.TenantStatus] = []
        token = ""
        while len(found) < _MAX_ROWS:
            request = pb.ListTenantsRequest(page_size=_PAGE, page_token=token)
            page: pb.ListTenantsResponse = await self._call(self._stub.ListTenants, request)
            found.extend(page.tenants)
            token = page.next_page_token
            if not token:
                break
        return found

    async def queue(self, pool: str, limit: int) -> tuple[list[pb.WaitingCall], bool]:
        """The first `limit` calls that wait, and whether there are more."""
        request = pb.ListQueueRequest(pool=pool, page_size=min(limit, _PAGE))
        page: pb.ListQueueResponse = await self._call(self._stub.ListQueue, request)
        return list(page.calls), bool(page.next_page_token)

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return await method(request, timeout=_CALL, metadata=self._identity)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            said = f"{refusal.reason}: {refusal.message}" if refusal else f"{error.code().name}: {error.details()}"
            raise BrokerError(f"the broker: {said}") from error


@contextlib.asynccontextmanager
async def views(options: argparse.Namespace) -> AsyncIterator[Views]:
    """The views of the broker that the flags name. Raises BrokerError, KubeError, UsageError."""
    if options.broker:
        async with grpc.aio.insecure_channel(options.broker, options=client_options()) as channel:
            yield Views(channel)
        return
    async with reached(options) as client:
        found = await installed(client, options)
        async with cluster_views(client, found, options) as seen:
            yield seen


@contextlib.asynccontextmanager
async def cluster_views(client: Client, found: Installation, options: argparse.Namespace) -> AsyncIterator[Views]:
    """The views of an installation's broker. Raises BrokerError, KubeError."""
    broker = found.parts.get("broker")
    if broker is None:
        raise BrokerError(f"namespace {found.namespace} has no broker")
    told = broker.environment
    pem = await authorities(client, broker, "SLUICEGATE_BROKER_CA_CONFIG_MAP")
    token = await _token(client, told) if told.get("SLUICEGATE_BROKER_AUDIENCE") else ""
    async with contextlib.AsyncExitStack() as stack:
        address = options.via or await stack.enter_async_context(
            _forwarded(found.namespace, broker.name, told, options)
        )
        if pem:
            # The name stands in the certificate; the address at this end of the tunnel does not.
            name = told.get("SLUICEGATE_BROKER_TLS_HOSTS", "").split(",")[0] or f"{broker.name}.{found.namespace}.svc"
            credentials = grpc.ssl_channel_credentials(pem.encode())
            more = [*client_options(), ("grpc.ssl_target_name_override", name)]
            channel = grpc.aio.secure_channel(address, credentials, options=more)
        else:
            channel = grpc.aio.insecure_channel(address, options=client_options())
        yield Views(await stack.enter_async_context(channel), token)


async def _token(client: Client, told: Mapping[str, str]) -> str:
    """A token of the first viewer that the broker heeds."""
    viewers = told.get("SLUICEGATE_BROKER_VIEWERS") or told.get("SLUICEGATE_BROKER_OPERATORS", "")
    try:
        viewer = ObjectRef.parse(viewers.split(",")[0])
    except ValueError:
        raise BrokerError("the broker's Deployment names no viewer (SLUICEGATE_BROKER_VIEWERS)") from None
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [told["SLUICEGATE_BROKER_AUDIENCE"]], "expirationSeconds": _TOKEN_SECONDS},
    }
    path = f"/api/v1/namespaces/{viewer.namespace}/serviceaccounts/{viewer.name}/token"
    return str((await client.create(path, body))["status"]["token"])


@contextlib.asynccontextmanager
async def _forwarded(
    namespace: str, deployment: str, told: Mapping[str, str], options: argparse.Namespace
) -> AsyncIterator[str]:
    """The address at this end of a `kubectl port-forward`, which lives as long as the block."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise UsageError("kubectl is not on PATH: it carries the connection to the broker; --via takes another way")
    port = told.get("SLUICEGATE_BROKER_PORT", "15051")
    command = [kubectl, "port-forward", f"deployment/{deployment}", f":{port}", "-n", namespace]
    command += ["--address=127.0.0.1", "--pod-running-timeout=5s"]
    command += [f"--kubeconfig={options.kubeconfig}"] if options.kubeconfig else []
    command += [f"--context={options.context}"] if options.context else []
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _FORWARD)
        except TimeoutError:
            raise BrokerError(f"kubectl port-forward was not ready in {_FORWARD:g} s") from None
        match = re.search(r"Forwarding from (127\.0\.0\.1:\d+)", line.decode(errors="replace"))
        if match is None:
            said = (await asyncio.wait_for(process.stderr.read(4_096), 5.0)).decode(errors="replace").strip()
            # It is ending by itself; asyncio would write of a child that a signal's own look reaped before.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
            raise BrokerError(f"kubectl port-forward: {said or 'ended without a word'}")
        yield match[1]
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                process.kill()
                await process.wait()


def bounded(command: str, work: Coroutine[Any, Any, int]) -> int:
    """Runs `work`; what cannot be reached or done is said on standard error. Exit code."""
    try:
        return asyncio.run(work)
    except UsageError as problem:
        sys.stderr.write(f"{command}: {problem}\n")
        return 2
    except (BrokerError, KubeError, OSError) as problem:
        sys.stderr.write(f"{command}: {problem}\n")
        return 1
    except KeyboardInterrupt:
        return 130
