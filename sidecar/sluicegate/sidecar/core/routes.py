# SPDX-License-Identifier: Apache-2.0
"""Where calls go: the path an app used, and the pools that the broker told of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sluicegate.sidecar.core.providers import MOUNTED, ProviderTable, table_of
from sluicegate.wire.words import OnBrokerUnavailable, Provider

POOLS = "/pools/"


@dataclass(frozen=True, slots=True)
class Route:
    """One pool: where its calls go and which models it claims (names or globs)."""

    pool: str
    provider: Provider
    endpoint: str
    models: tuple[str, ...] = ()
    allow_plaintext: bool = False
    dialect: str = ""

    @property
    def table(self) -> ProviderTable:
        """Its provider's."""
        return table_of(self.provider, self.dialect)

    def holds(self, model: str) -> bool:
        """Whether the pool claims `model`, by name or glob."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class Routes:
    """All pools, as of `version` (empty: the broker has not been heard yet)."""

    pools: dict[str, Route]
    version: str = ""
    on_unavailable: OnBrokerUnavailable = OnBrokerUnavailable.SAFE_SHARE

    def claiming(self, provider: Provider, model: str) -> tuple[Route, ...]:
        """The pools of `provider` that claim `model`: by exact name if any does, else by glob."""
        same = [route for route in self.pools.values() if route.provider is provider]
        exact = tuple(route for route in same if model in route.models)
        return exact or tuple(r for r in same if r.holds(model))

    def endpoint_of(self, table: ProviderTable) -> str:
        """Where calls go that no pool claims: where the provider's pools are, if all are in one place, else its
        public endpoint."""
        places = {route.endpoint for route in self.pools.values() if route.provider is table.provider}
        return places.pop() if len(places) == 1 else table.endpoint


@dataclass(frozen=True, slots=True)
class Target:
    """What a request path means: the provider, the pool that it names (or empty), and the path below the base, in the
    form that the provider's table has."""

    table: ProviderTable
    pool: str
    rest: str


_VERSION = re.compile(r"/v\d+((alpha|beta)\d*)?(?=/)")
_SHAPES = (
    (re.compile(r"/openai/(deployments|v1|responses)\b"), Provider.AZURE_OPENAI),
    (re.compile(r"(/v\w+)?/(projects|publishers)/"), Provider.GOOGLE_VERTEX),
    (re.compile(r"/v\w+/(models/[^/]+:|openai/)"), Provider.GOOGLE_GEMINI),
    (re.compile(r"/v1/messages\b"), Provider.ANTHROPIC),
)


def target_of(path: str, routes: Routes) -> Target | None:
    """Reads a raw request path; None: no base path of ours. A pool that is not known keeps the shape of its path."""
    if path.startswith(POOLS):
        pool, slash, rest = path[len(POOLS) :].partition("/")
        if not pool:
            return None
        return _pool_target(pool, slash + rest, routes)
    for table in MOUNTED:
        if path.startswith(table.mount) and path[len(table.mount) :][:1] in ("", "/"):
            return Target(table, "", _own_form(table, path[len(table.mount) :]))
    return None


def _pool_target(pool: str, rest: str, routes: Routes) -> Target:
    route = routes.pools.get(pool)
    table = route.table if route is not None else None
    if table is None or table.provider is not Provider.AZURE_OPENAI:
        # An SDK whose base URL is that of a mount, with the pool in front of it. (Azure's own paths look like one.)
        for mounted in MOUNTED:
            if rest.startswith(mounted.mount + "/"):
                table = table or mounted
                return Target(table, pool, _own_form(table, rest[len(mounted.mount) :]))
    elif rest.startswith(table.mount + "/"):
        rest = rest[len(table.mount) :]
    if table is None:
        provider = next((p for shape, p in _SHAPES if shape.match(rest)), Provider.OPENAI)
        table = table_of(provider)
    return Target(table, pool, _own_form(table, rest))


def _own_form(table: ProviderTable, rest: str) -> str:
    """The path as the table's templates have it, whether or not the SDK's base URL had the version in it."""
    if table.version:
        while rest.startswith(table.version + "/"):
            rest = rest[len(table.version) :]
    elif table.provider is Provider.GOOGLE_VERTEX and rest.startswith(("/projects/", "/publishers/")):
        return "/v1" + rest
    elif table.provider is Provider.AZURE_OPENAI and rest.startswith(("/deployments/", "/v1/")):
        return "/openai" + rest
    return rest


def join(table: ProviderTable, endpoint: str, rest: str) -> str:
    """The URL of `rest`, a path below the provider's base, at an endpoint that may have a path of its own.

    OpenAI, Mistral and OpenAI-compatible: an endpoint is what an SDK has as base URL, and `rest` follows it; for the
    first two one without a path gets their `/v1`. The others' paths carry their version, resource or project: such a
    tail of the endpoint gives way to the call's own, except that an endpoint's project stands in where the call has
    none. What is before that tail (a gateway's prefix) stays.
    """
    endpoint = endpoint.rstrip("/")
    scheme, _, place = endpoint.partition("://")
    host, slash, path = place.partition("/")
    path = slash + path
    if table.version:
        if not path and table.provider is not Provider.OPENAI_COMPATIBLE:
            path = table.version
        return f"{scheme}://{host}{path}{rest}"
    found = re.search(f"(?:{table.tail})$", path) if table.tail else None
    if found is not None:
        tail = found.group()
        if "/projects/" in tail and "/projects/" not in rest:
            return f"{scheme}://{host}{path}{_VERSION.sub('', rest, count=1)}"
        path = path[: found.start()]
    return f"{scheme}://{host}{path}{rest}"
