# SPDX-License-Identifier: Apache-2.0
"""Where calls go: the path an app used, and the pools that the broker told of."""

from __future__ import annotations

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
        return exact or tuple(r for r in same if any(fnmatchcase(model, pattern) for pattern in r.models))

    def endpoint_of(self, table: ProviderTable) -> str:
        """Where calls go that no pool claims: where the provider's pools are, if all are in one place, else its
        public endpoint."""
        places = {route.endpoint for route in self.pools.values() if route.provider is table.provider}
        return places.pop() if len(places) == 1 else table.endpoint


@dataclass(frozen=True, slots=True)
class Target:
    """What a request path means: the provider, the pool that it names (or empty), and the path below the base."""

    table: ProviderTable
    pool: str
    rest: str


def target_of(path: str, routes: Routes) -> Target | None:
    """Reads a raw request path; None: no base path of ours. A pool that is not known keeps the shape of its path."""
    if path.startswith(POOLS):
        pool, slash, rest = path[len(POOLS) :].partition("/")
        if not pool:
            return None
        return _pool_target(pool, slash + rest, routes)
    for table in MOUNTED:
        if path.startswith(table.mount) and path[len(table.mount) :][:1] in ("", "/"):
            return Target(table, "", path[len(table.mount) :])
    return None


def _pool_target(pool: str, rest: str, routes: Routes) -> Target:
    route = routes.pools.get(pool)
    table = table_of(route.provider) if route is not None else None
    for mounted in MOUNTED:
        if rest.startswith(mounted.mount + "/"):
            return Target(table or mounted, pool, rest[len(mounted.mount) :])
    if table is None:
        table = table_of(Provider.ANTHROPIC if rest.startswith("/v1/messages") else Provider.OPENAI)
    if rest not in table.apis and rest.startswith("/v1/") and table.mount.endswith("/v1"):
        rest = rest[3:]
    return Target(table, pool, rest)
