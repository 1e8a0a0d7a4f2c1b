# SPDX-License-Identifier: Apache-2.0
"""Where one attempt goes and with what: endpoint, path, key and body.

The app's own key goes to its own provider only. A call that fails over to another pool takes that pool's key, which is
mounted here, and where the wire differs it goes to the other provider's OpenAI-compatible endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from multidict import CIMultiDict

from sluicegate.sidecar.core.errors import Refusal, refuse
from sluicegate.sidecar.core.providers import Wire, table_of
from sluicegate.sidecar.core.routes import Route, Routes
from sluicegate.sidecar.inbound import Inbound, onward_headers
from sluicegate.sidecar.upstream import check_endpoint
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import Outcome, Provider, Reason


@dataclass(frozen=True, slots=True)
class Way:
    """One attempt, ready to send. `hides`: usage was asked for on the app's behalf and is not shown to it."""

    provider: Provider
    url: str
    headers: CIMultiDict[str]
    data: bytes
    hides: bool


def way_of(inbound: Inbound, grant: pb.Grant, routes: Routes, credentials: Mapping[str, str]) -> Way | Refusal:
    """The way of `grant`; a refusal where the call must not go. `credentials`: keys by pool."""
    table = inbound.table
    route = routes.pools.get(grant.pool) if grant.pool else None
    if grant.pool and route is None:
        return refuse(503, Reason.UNKNOWN_POOL, f"pool {grant.pool!r} has no route here", pool=grant.pool)
    endpoint = route.endpoint if route else routes.endpoint_of(table)
    problem = check_endpoint(endpoint, allow_plaintext=route.allow_plaintext if route else False)
    if problem is not None:
        return refuse(503, Reason.INVALID_REQUEST, problem, pool=grant.pool)
    headers = onward_headers(inbound.headers, identity=True)
    provider, rest = table.provider, inbound.target.rest
    if route is not None:
        provider = route.provider
        elsewhere = convert.OUTCOME.from_proto(grant.outcome) is Outcome.FALLBACK_POOL
        if elsewhere or table_of(provider).shape is not table.shape:
            other = _other_pool(inbound, route, routes, credentials.get(route.pool, ""), headers)
            if isinstance(other, Refusal):
                return other
            rest = other
    data, hides = body_of(inbound, grant.model)
    return Way(provider, endpoint.rstrip("/") + rest + inbound.query, headers, data, hides)


def _other_pool(inbound: Inbound, route: Route, routes: Routes, key: str, headers: CIMultiDict[str]) -> str | Refusal:
    """Readies `headers` for another pool and gives the path there."""
    table = table_of(route.provider)
    rest = inbound.target.rest
    if table.shape is not inbound.table.shape:
        if inbound.api.wire is not Wire.CHAT or not table.openai_path:
            text = f"pool {route.pool!r} cannot take this API: its provider has no compatible endpoint for it"
            return refuse(400, Reason.INVALID_REQUEST, text, pool=route.pool)
        rest = table.openai_path
    home = routes.claiming(inbound.table.provider, inbound.model)
    own = route.provider is inbound.table.provider and all(other.endpoint == route.endpoint for other in home)
    if not key and not own:
        text = f"there is no credential for pool {route.pool!r}, and the app's own never goes to another provider"
        return refuse(403, Reason.ACCESS_DENIED, text, pool=route.pool)
    if key:
        for name in (*inbound.table.credentials, *table.credentials):
            headers.popall(name, None)
        if rest == inbound.target.rest and table.credentials[0] == "x-api-key":
            headers["x-api-key"] = key
        else:
            headers["authorization"] = f"Bearer {key}"
    return rest


def body_of(inbound: Inbound, model: str) -> tuple[bytes, bool]:
    """The body to send, with `model` where a fallback set one, and whether usage was asked for on the app's behalf."""
    options = inbound.body.get("stream_options")
    asks = inbound.api.asks_usage and inbound.stream
    asks = asks and not (isinstance(options, dict) and options.get("include_usage"))
    if asks and not (options is None or isinstance(options, dict)):
        asks = False  # the provider refuses this body by itself
    if not asks and not model:
        return inbound.raw, False
    if not model and "stream_options" not in inbound.body:
        # Everything else stays as it was, byte for byte.
        start = inbound.raw.index(b"{") + 1
        return inbound.raw[:start] + b'"stream_options":{"include_usage":true},' + inbound.raw[start:], True
    body = dict(inbound.body)
    if model:
        body["model"] = model
    if asks:
        body["stream_options"] = {**(options or {}), "include_usage": True}
    return orjson.dumps(body), asks
