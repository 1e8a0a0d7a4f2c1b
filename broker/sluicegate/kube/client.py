# SPDX-License-Identifier: Apache-2.0
"""The API server, spoken to in plain JSON over aiohttp.

The official client is about 40 MB of generated modules for the six verbs that are needed here, and typed models drop
fields that they do not know. Objects are dicts as the API server sends them.

    async with connect(in_cluster()) as client:
        pod = await client.get("/api/v1/namespaces/acme/pods/chat-0")
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import json
import os
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 20.0
_WATCH = 300.0
_MAX_LINE = 8 * 1024 * 1024


class KubeError(Exception):
    """The API server could not be asked; the message says why. A later attempt may work."""


class ApiError(KubeError):
    """The API server refused. `status` is HTTP's, `reason` Kubernetes' word (NotFound, Conflict, Forbidden, ...)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server and as whom. `token_file` is read again for each request, since tokens rotate."""

    url: str
    ca: Path | None = None
    token_file: Path | None = None
    token: str = ""
    certificate: Path | None = None
    key: Path | None = None
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Names a namespaced object; `secret` and `config_map` are its paths as one of these."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ObjectRef:
        """`namespace/name`. Raises ValueError."""
        namespace, slash, name = text.partition("/")
        if not (slash and namespace and name) or "/" in name:
            raise ValueError("namespace/name of an object")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def secret(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.name}"

    @property
    def config_map(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{self.name}"


def in_cluster(environment: Mapping[str, str] = os.environ) -> Access:
    """The access that a pod has. Raises KubeError outside of a cluster."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeError("KUBERNETES_SERVICE_HOST is not set: this is not a pod; give a kubeconfig")
    host = f"[{host}]" if ":" in host else host
    try:
        namespace = (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        namespace = environment.get("POD_NAMESPACE", "default")
    return Access(f"https://{host}:{port}", _ACCOUNT / "ca.crt", _ACCOUNT / "token", namespace=namespace)


Plugin = Callable[[Mapping[str, Any], Path], Mapping[str, str]]
"""Runs a user's `exec` entry of the kubeconfig at a path; answers fields of a user. Raises KubeError."""


def from_kubeconfig(path: Path, context: str = "", plugin: Plugin | None = None) -> Access:
    """The access of a kubeconfig's context, by default its current one. Raises KubeError that names what is wrong.

    Tokens and client certificates are supported, `exec` entries where `plugin` runs them, auth providers are not.
    """
    try:
        config = yaml.safe_load(path.read_text())
        name = context or config["current-context"]
        chosen = _named(config["contexts"], name)["context"]
        cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
        user = _named(config.get("users") or [], chosen["user"]).get("user") or {}
    except OSError as error:
        raise KubeError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise KubeError(f"{path} is no usable kubeconfig: {error}") from None
    if "exec" in user and plugin is not None:
        user = {**user, **plugin(user["exec"], path)}
    elif "exec" in user or "auth-provider" in user:
        raise KubeError(f"{path}: user {chosen['user']!r} needs a plugin, which is not supported; use `kubectl proxy`")

    def file(kind: str, holder: Mapping[str, str]) -> Path | None:
        if f"{kind}-data" in holder:
            return _written(base64.b64decode(holder[f"{kind}-data"]))
        return path.parent / holder[kind] if kind in holder else None

    token_file = user.get("tokenFile")
    return Access(
        cluster["server"].rstrip("/"),
        file("certificate-authority", cluster),
        path.parent / token_file if token_file else None,
        user.get("token", ""),
        file("client-certificate", user),
        file("client-key", user),
        chosen.get("namespace", "default"),
    )


def access(
    environment: Mapping[str, str] = os.environ, kubeconfig: str = "", context: str = "", plugin: Plugin | None = None
) -> Access:
    """What kubectl would use: `kubeconfig`, else the pod's own access, else $KUBECONFIG, else ~/.kube/config."""
    if kubeconfig:
        return from_kubeconfig(Path(kubeconfig), context, plugin)
    if environment.get("KUBERNETES_SERVICE_HOST") and not context:
        return in_cluster(environment)
    first = environment.get("KUBECONFIG", "").split(os.pathsep)[0]
    return from_kubeconfig(Path(first) if first else Path.home() / ".kube" / "config", context, plugin)


def _named(entries: Sequence[Any], name: str) -> Any:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(f"no entry named {name!r}")


def _written(content: bytes) -> Path:
    # ssl reads certificates from files only.
    descriptor, name = tempfile.mkstemp(prefix="sluicegate-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)


class Client:
    """Requests to one API server. Made by `connect`."""

    def __init__(self, access: Access, session: aiohttp.ClientSession) -> None:
        self.access = access
        self._session = session

    async def get(self, path: str, **query: str) -> Object:
        """The object, or the list, at `path`. Raises ApiError, KubeError, as all below do."""
        return await self.request("GET", path, query=query)

    async def create(self, path: str, body: Object, **query: str) -> Object:
        """Posts `body` to the collection at `path`."""
        return await self.request("POST", path, body, query=query)

    async def replace(self, path: str, body: Object) -> Object:
        """Puts `body`; its resourceVersion, where it has one, must be the present one (ApiError 409)."""
        return await self.request("PUT", path, body)

    async def patch(self, path: str, body: Object | list[Object], **query: str) -> Object:
        """A list is a JSON patch, a dict a JSON merge patch."""
        kind = "application/json-patch+json" if isinstance(body, list) else "application/merge-patch+json"
        return await self.request("PATCH", path, body, query=query, content_type=kind)

    async def apply(self, path: str, body: Object, *, manager: str) -> Object:
        """Server-side apply as field manager `manager`, taking fields over from others."""
        query = {"fieldManager": manager, "force": "true"}
        return await self.request("PATCH", path, body, query=query, content_type="application/apply-patch+yaml")

    async def delete(self, path: str) -> Object:
        """Deletes the object at `path`."""
        return await self.request("DELETE", path)

    async def watch(self, path: str, resource_version: str, **query: str) -> AsyncGenerator[Object, None]:
        """The events (`type`, `object`) of the collection at `path` since `resource_version`, until the server ends.

        Raises ApiError 410 when that version is too old: list again.
        """
        query |= {"watch": "1", "resourceVersion": resource_version, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(int(_WATCH))
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_WATCH + _TIMEOUT)
        async with self._send("GET", path, None, query, "", limits) as response:
            await _refused(response)
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                yield event

    async def request(
        self,
        method: str,
        path: str,
        body: Object | list[Object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request and its parsed answer."""
        limits = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with self._send(method, path, body, query or {}, content_type, limits) as response:
            await _refused(response)
            answer: Object = await response.json()
            return answer

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        body: Object | list[Object] | None,
        query: Mapping[str, str],
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"accept": "application/json"}
        token = self.access.token
        if self.access.token_file is not None:
            try:
                token = self.access.token_file.read_text().strip()
            except OSError as error:
                raise KubeError(f"{self.access.token_file}: {error.strerror}") from None
        if token:
            headers["authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["content-type"] = content_type
        try:
            async with self._session.request(
                method, self.access.url + path, params=query, data=data, headers=headers, timeout=limits
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeError(f"{method} {path}: {str(error) or type(error).__name__}") from error


@contextlib.asynccontextmanager
async def connect(access: Access) -> AsyncIterator[Client]:
    """A client for the block. Raises KubeError where a certificate cannot be read."""
    verify: ssl.SSLContext | bool = True
    if access.url.startswith("https:"):
        try:
            verify = await asyncio.to_thread(_context, access)
        except (OSError, ssl.SSLError) as error:
            raise KubeError(f"{access.url}: its certificates cannot be read: {error}") from error
    connector = aiohttp.TCPConnector(ssl=verify, limit=20)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(access, session)


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
    if access.certificate is not None:
        context.load_cert_chain(access.certificate, access.key)
    return context


async def _refused(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        status = await response.json()
        raise ApiError(response.status, status.get("reason", ""), status.get("message", ""))
    except (aiohttp.ContentTypeError, ValueError, AttributeError):
        raise ApiError(response.status, response.reason or "", "") from None


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > _MAX_LINE:
            raise KubeError(f"an event of more than {_MAX_LINE} bytes")
