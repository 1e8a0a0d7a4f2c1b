# SPDX-License-Identifier: Apache-2.0
"""Who calls: proven by a Kubernetes token, which the API server reviews.

Theory of operation. Every call but health carries a bearer token for our audience. The API server says whose it is
(TokenReview), so namespace and ServiceAccount come from it and never from what a caller claims. Answers are kept for
`_GOOD` seconds, never past the token's own end, refusals for `_BAD`, by the token's SHA-256; at most `_MAX_KEPT` of
each, the oldest first to go, so that a flood of bad tokens drives out no good one. Calls that bring one token at once
wait for one review. While the API server is away, what is kept holds, and a token that is not known is UNAVAILABLE
rather than refused.

    BudgetService           any proven workload
    ConfigService           the operators
    IntrospectionService    the operators and the viewers
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from sluicegate.kube.client import Client, KubeError
from sluicegate.wire import errors
from sluicegate.wire.errors import Refusal
from sluicegate.wire.words import Reason

log = logging.getLogger(__name__)

_GOOD = 300.0
_BAD = 10.0
_MAX_KEPT = 20_000
_MAX_TOKEN = 16_384
_MAX_REVIEWS = 32
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCOUNT = "system:serviceaccount:"
_POD = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True, slots=True)
class Principal:
    """A proven workload."""

    namespace: str
    service_account: str
    pod: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"


CALLER: ContextVar[Principal | None] = ContextVar("caller", default=None)
"""The principal of the call that is being served; None where nothing is proven (no cluster)."""


class TokenReviews:
    """Reviews tokens for `audience`, and remembers. `clock`: monotonic seconds; `wall`: seconds since 1970."""

    def __init__(self, client: Client, audience: str, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.asked = 0
        self._client = client
        self._audience = audience
        self._clock = clock
        self._wall = wall
        self._kept: OrderedDict[bytes, tuple[Principal | None, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[Principal | None, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._slots = asyncio.Semaphore(_MAX_REVIEWS)

    async def principal(self, token: str) -> Principal | None:
        """Whose token it is, None for nobody's. Raises KubeError while that cannot be found out."""
        key = hashlib.sha256(token.encode()).digest()
        kept = self._kept.get(key) or self._refused.get(key)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, token))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: bytes, token: str) -> Principal | None:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        async with self._slots:
            self.asked += 1
            status = (await self._client.create(_REVIEWS, body)).get("status", {})
        principal = _principal(status, self._audience)
        life = _BAD if principal is None else min(_GOOD, max(0.0, _ends(token) - self._wall()))
        self._kept.pop(key, None)
        self._refused.pop(key, None)
        answers = self._refused if principal is None else self._kept
        answers[key] = (principal, self._clock() + life)
        if len(answers) > _MAX_KEPT:
            answers.popitem(last=False)
        return principal


def _principal(status: dict[str, Any], audience: str) -> Principal | None:
    user = status.get("user") or {}
    name = str(user.get("username", ""))
    if not status.get("authenticated") or audience not in (status.get("audiences") or []):
        return None
    if not name.startswith(_ACCOUNT):
        return None
    namespace, _, account = name.removeprefix(_ACCOUNT).partition(":")
    pod = ((user.get("extra") or {}).get(_POD) or [""])[0]
    return Principal(namespace, account, str(pod))


def _ends(token: str) -> float:
    """When a JWT says that it ends; far away where it says nothing. It only shortens what the API server said."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return float("inf")


class Gate(grpc.aio.ServerInterceptor):
    """Lets proven callers through to what they may call. `operators` and `viewers`: `namespace/serviceaccount`."""

    def __init__(self, reviews: TokenReviews, operators: frozenset[str], viewers: frozenset[str]) -> None:
        self._reviews = reviews
        self._allowed = {
            "sluicegate.v1.ConfigService": operators,
            "sluicegate.v1.IntrospectionService": operators | viewers,
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called for each call before its handler, in the handler's own task."""
        handler = await continuation(handler_call_details)
        service = str(handler_call_details.method).split("/")[1]
        if handler is None or service == "grpc.health.v1.Health":
            return handler
        refusal = await self._refusal(service, dict(handler_call_details.invocation_metadata))
        return handler if refusal is None else _refusing(handler, refusal)

    async def _refusal(self, service: str, metadata: dict[str, Any]) -> Refusal | None:
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            return Refusal(Reason.UNAUTHENTICATED, "a bearer token of a ServiceAccount is required")
        try:
            principal = await self._reviews.principal(token)
        except KubeError as error:
            log.warning("a token cannot be reviewed: %s", error)
            return Refusal(Reason.BROKER_UNAVAILABLE, "the API server cannot be asked whose token this is", 2.0)
        if principal is None:
            return Refusal(Reason.UNAUTHENTICATED, "the token is not valid for this broker")
        allowed = self._allowed.get(service)
        if allowed is not None and str(principal) not in allowed:
            return Refusal(Reason.ACCESS_DENIED, f"ServiceAccount {principal} may not call {service}")
        CALLER.set(principal)
        return None


def _refusing(handler: grpc.RpcMethodHandler[Any, Any], refusal: Refusal) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        status = rpc_status.to_status(errors.to_status(refusal))
        await context.abort(status.code, status.details or "", status.trailing_metadata)

    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
