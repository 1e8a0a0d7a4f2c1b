# SPDX-License-Identifier: Apache-2.0
"""Where one attempt goes and with what: endpoint, path, key and body.

The app's own key goes to its own provider only. A call that fails over to another pool takes that pool's key, which is
mounted here, and nothing that names the app's own account; to another provider it goes through that provider's
OpenAI-compatible endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
from multidict import CIMultiDict

from sluicegate.sidecar.core.errors import Refusal, refuse
from sluicegate.sidecar.core.providers import OPENAI_WIRE, PERSONAL, Api, ErrorShape, ProviderTable, Wire
from sluicegate.sidecar.core.routes import Route, Routes, join
from sluicegate.sidecar.inbound import Inbound, onward_headers, without_credentials
from sluicegate.sidecar.upstream import check_endpoint
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import Outcome, Provider, Reason, camel


@dataclass(frozen=True, slots=True)
class Way:
    """One attempt, ready to send. `hides`: usage was asked for on the app's behalf and is not shown to it."""

    provider: Provider
    url: str
    headers: CIMultiDict[str]
    data: bytes
    hides: bool
    dialect: str = ""


@dataclass(frozen=True, slots=True)
class _Aim:
    """Where an attempt goes below its endpoint: the API there, path and query."""

    api: Api
    rest: str
    query: str


def way_of(inbound: Inbound, grant: pb.Grant, routes: Routes, credentials: Mapping[str, str]) -> Way | Refusal:
    """The way of `grant`; a refusal where the call must not go. `credentials`: keys by pool."""
    route = routes.pools.get(grant.pool) if grant.pool else None
    if grant.pool and route is None:
        return refuse(503, Reason.UNKNOWN_POOL, f"pool {grant.pool!r} has no route here", pool=grant.pool)
    table = route.table if route else inbound.table
    endpoint = route.endpoint if route else routes.endpoint_of(table)
    if not endpoint:
        text = f"no pool says where {camel(table.provider)} is: its pools have no one endpoint"
        return refuse(404, Reason.UNKNOWN_POOL, text)
    problem = check_endpoint(endpoint, allow_plaintext=route.allow_plaintext if route else False)
    if problem is not None:
        return refuse(503, Reason.INVALID_REQUEST, problem, pool=grant.pool)
    aim = _aim(inbound, table, endpoint, grant)
    if isinstance(aim, Refusal):
        return aim
    headers = onward_headers(inbound.headers, identity=True)
    if route is not None:
        elsewhere = convert.OUTCOME.from_proto(grant.outcome) is Outcome.FALLBACK_POOL
        if elsewhere or grant.pool_credential or not _akin(table.provider, inbound.table.provider):
            key = credentials.get(route.pool, "")
            own = not grant.pool_credential and _at_home(inbound, route, routes)
            refusal = _change_key(route, key, headers, own=own)
            if refusal is not None:
                return refusal
            if key:
                aim = replace(aim, query=without_credentials(inbound.table, aim.query))
                _carry(table, aim, key, headers)
    data, hides = body_of(inbound, aim.api, grant.model)
    dialect = route.dialect if route else ""
    return Way(table.provider, join(table, endpoint, aim.rest) + aim.query, headers, data, hides, dialect)


def _akin(one: Provider, other: Provider) -> bool:
    """Whether a call to `one` that the app itself aimed at a pool of `other` was meant with its own key."""
    return one is other or (one in OPENAI_WIRE and other in OPENAI_WIRE)


def _aim(inbound: Inbound, table: ProviderTable, endpoint: str, grant: pb.Grant) -> _Aim | Refusal:
    if table.provider is inbound.table.provider:
        found = inbound.place if table is inbound.table else table.find(inbound.target.rest)
        return _Aim(found.api if found else inbound.api, inbound.place.with_model(grant.model), inbound.query)
    found = table.find(table.compatible.get(inbound.api.wire, ""))
    if found is None:
        text = f"pool {grant.pool!r} cannot take this API: its provider has no compatible endpoint for it"
        return refuse(400, Reason.INVALID_REQUEST, text, pool=grant.pool)
    if table.provider is Provider.GOOGLE_VERTEX and "/projects/" not in endpoint:
        text = f"pool {grant.pool!r} cannot take this API: its endpoint names no project (/v1/projects/P/locations/L)"
        return refuse(400, Reason.INVALID_REQUEST, text, pool=grant.pool)
    return _Aim(found.api, found.path, "")


def _at_home(inbound: Inbound, route: Route, routes: Routes) -> bool:
    """Whether `route` leads to the provider and the endpoint that the app's own call was for."""
    named = routes.pools.get(inbound.target.pool)
    home = (named,) if named is not None else routes.claiming(inbound.table.provider, inbound.model)
    places = {other.endpoint for other in home} or {routes.endpoint_of(inbound.table)}
    return route.provider is inbound.table.provider and places == {route.endpoint}


def _change_key(route: Route, key: str, headers: CIMultiDict[str], *, own: bool) -> Refusal | None:
    """Takes the app's key and account out of `headers` where the pool has a key of its own. `own`: else the app's will
    do."""
    if not key and not own:
        text = f"there is no credential for pool {route.pool!r}, and the app's own never goes to another account"
        return refuse(403, Reason.ACCESS_DENIED, text, pool=route.pool)
    if key:
        for name in PERSONAL:
            headers.popall(name, None)
    return None


def _carry(table: ProviderTable, aim: _Aim, key: str, headers: CIMultiDict[str]) -> None:
    """Puts a pool's key where its provider wants it: OpenAI-compatible paths take it as Bearer everywhere but Azure."""
    name = table.credentials[0]
    foreign = aim.api.shape is ErrorShape.OPENAI
    if table.provider is Provider.GOOGLE_VERTEX:
        # A key of express mode; what else a file may hold is an OAuth token.
        name = "x-goog-api-key" if key.startswith(("AIza", "AQ.")) else "authorization"
    if name == "authorization" or foreign:
        headers["authorization"] = f"Bearer {key}"
    else:
        headers[name] = key


def body_of(inbound: Inbound, api: Api, model: str) -> tuple[bytes, bool]:
    """The body to send to `api`, with `model` where a fallback set one, and whether usage was asked for on the app's
    behalf. Unless something has to change, it is the app's, byte for byte."""
    options = inbound.body.get("stream_options")
    asks = api.asks_usage and inbound.stream
    asks = asks and not (isinstance(options, dict) and options.get("include_usage"))
    if asks and not (options is None or isinstance(options, dict)):
        asks = False  # the provider refuses this body by itself
    moves = _demands(api) != _demands(inbound.api)
    if not asks and not model and not moves:
        return inbound.raw, False
    if not model and not moves and "stream_options" not in inbound.body:
        start = inbound.raw.index(b"{") + 1
        more = b"" if not inbound.body else b","
        return inbound.raw[:start] + b'"stream_options":{"include_usage":true}' + more + inbound.raw[start:], True
    body = dict(inbound.body)
    if model or moves:
        _set_model(inbound, api, body, model or inbound.model)
    if moves:
        _fit(api, body)
    if asks:
        body["stream_options"] = {**(options or {}), "include_usage": True}
    return orjson.dumps(body), asks


def _demands(api: Api) -> tuple[object, ...]:
    """What a body has to be fitted to."""
    return api.model_in_path, api.model_prefix, api.takes_stream_options, api.caps


def _set_model(inbound: Inbound, api: Api, body: dict[str, Any], model: str) -> None:
    """Writes the model wherever the body names it, in the form in which it was named."""
    if not api.model_in_path:
        body["model"] = api.model_prefix + model.removeprefix(api.model_prefix)
        return
    if api.wire is not Wire.EMBED:
        return
    full = f"models/{model}"
    if "model" in body:
        body["model"] = full
    requests = body.get("requests")
    if isinstance(requests, list):
        items: list[Any] = requests
        body["requests"] = [
            {**item, "model": full} if isinstance(item, dict) and "model" in item else item for item in items
        ]


def _fit(api: Api, body: dict[str, Any]) -> None:
    """Leaves out or renames what the other provider refuses in an OpenAI request."""
    if not api.takes_stream_options:
        body.pop("stream_options", None)
    if "max_completion_tokens" in body and api.caps and "max_completion_tokens" not in api.caps:
        cap = body.pop("max_completion_tokens")
        body.setdefault(api.caps[0], cap)
