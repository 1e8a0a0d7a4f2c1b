# SPDX-License-Identifier: Apache-2.0
"""The control API: change a running emulator, and ask it for the truth. JSON in, JSON out.

    GET  /_emulator/health                 {"ready": true, "now": seconds}
    GET  /_emulator/stats[?from=S&to=S][&series=1]
                                           per pool: counts, meters, use of the limit over the interval (default: all
                                           of the remembered past), and with series=1 the per-second figures
    GET  /_emulator/calls[?last=N]         the last N calls (default 100)
    POST /_emulator/faults                 {"pool", "rates": {fault: rate}, "next": [fault], "episode": {}, "clear"}
    POST /_emulator/limits                 {"pool", "resource", "limit", "window"?, "in"?: duration from now}
    POST /_emulator/foreign                {"pool", "percent", "callTokens"?, ...}; percent 0 ends it
    POST /_emulator/pace                   {"pool", "latency"?, "latencySigma"?, "tokensPerSecond"?}

`pool` left out means every pool. An episode's `at`, and foreign use's `start` and `stop`, count from now. A request
that cannot be carried out gets 400 and {"error": what is wrong and what is allowed}, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from sluicegate.testing import reading as settings
from sluicegate.testing import values
from sluicegate.testing.pools import Pool

if TYPE_CHECKING:
    from sluicegate.testing.emulator import Emulator

_BODY_LIMIT = 1024 * 1024


async def handle(emulator: Emulator, request: web.BaseRequest) -> web.Response:
    """Answer a request below /_emulator/."""
    name = request.path.removeprefix("/_emulator/")
    try:
        if request.method == "GET" and name in _READS:
            return _json(200, _READS[name](emulator, request.query))
        if request.method == "POST" and name in _WRITES:
            raw = await request.content.read(_BODY_LIMIT)
            data = orjson.loads(raw)
            if not isinstance(data, dict):
                raise ValueError("the body must be a JSON object")
            fields = {key: value for key, value in data.items() if key != "pool"}
            pools = emulator.pools if data.get("pool") is None else (emulator.pool(str(data["pool"])),)
            for action in [_WRITES[name](pool, fields, emulator.now()) for pool in pools]:
                action()
            emulator.changed()
            return _json(200, {"ok": True, "now": emulator.now(), "pools": [pool.config.name for pool in pools]})
    except (ValueError, LookupError) as error:
        return _json(400, {"error": str(error)})
    known = ", ".join([f"GET {item}" for item in _READS] + [f"POST {item}" for item in _WRITES])
    return _json(404, {"error": f"no {request.method} {name!r} here; there are {known}"})


def _json(status: int, value: object) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(status=status, body=body, content_type="application/json")


def stats(emulator: Emulator, query: Mapping[str, str]) -> dict[str, Any]:
    """The truth about every pool. Raises ValueError for an interval that is none."""
    now = emulator.now()
    since = _seconds(query, "from", 0.0)
    until = min(_seconds(query, "to", now), now)
    pools: dict[str, Any] = {}
    for pool in emulator.pools:
        pool.run(now)
        accounts = pool.accounts
        snapshot = accounts.snapshot(now)
        oldest = max(float(accounts.series(index)[0].at) for index in range(len(accounts.limits.meters)))
        first = max(since, oldest) if "from" not in query else since
        use = [
            {**asdict(item), "ratio": item.ratio, "ours_ratio": item.ours_ratio}
            for item in accounts.utilization(first, max(until, first + 1e-9))
        ]
        pools[pool.config.name] = {**snapshot, "active": pool.active, "utilization": use}
        if query.get("series"):
            pools[pool.config.name]["series"] = [
                [asdict(second) for second in accounts.series(index, since=since)] for index in range(len(use))
            ]
    return {"now": now, "from": since, "to": until, "pools": pools}


def _seconds(query: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(query.get(name, default))
    except ValueError:
        raise ValueError(f"{name} must be seconds since the start, not {query[name]!r}") from None


def _health(emulator: Emulator, query: Mapping[str, str]) -> dict[str, Any]:
    return {"ready": True, "now": emulator.now()}


def _calls(emulator: Emulator, query: Mapping[str, str]) -> dict[str, Any]:
    records = emulator.calls.records
    last = max(0, int(_seconds(query, "last", 100)))
    return {"calls": [asdict(record) for record in list(records)[max(0, len(records) - last) :]]}


def _faults(pool: Pool, fields: Mapping[str, Any], now: float) -> Callable[[], None]:
    unknown = sorted(set(fields) - {"rates", "next", "episode", "clear"})
    if unknown:
        raise ValueError(f"{', '.join(unknown)} not known here; allowed are pool, rates, next, episode, clear")
    rates = settings.parse_faults(fields.get("rates", {}))
    pending = fields.get("next", [])
    if not isinstance(pending, list):
        raise ValueError(f"next must be a list of faults, not {pending!r}")
    queue = [values.parse_fault(item) for item in pending]
    episode = settings.parse_episode(fields["episode"]) if "episode" in fields else None

    def act() -> None:
        if fields.get("clear") is True:
            pool.plan.clear()
        pool.plan.set_rates(rates)
        pool.plan.push(queue)
        if episode is not None:
            pool.plan.add_episode(replace(episode, at=now + episode.at))

    return act


def _limits(pool: Pool, fields: Mapping[str, Any], now: float) -> Callable[[], None]:
    renamed = {("at" if key == "in" else key): value for key, value in fields.items()}
    change = settings.parse_change(renamed, [meter.config for meter in pool.accounts.limits.meters])

    def act() -> None:
        pool.add_change(replace(change, at=now + change.at))
        pool.run(now)

    return act


def _foreign(pool: Pool, fields: Mapping[str, Any], now: float) -> Callable[[], None]:
    foreign = settings.parse_foreign(fields)
    return lambda: pool.set_foreign(replace(foreign, start=now + foreign.start, stop=now + foreign.stop))


def _pace(pool: Pool, fields: Mapping[str, Any], now: float) -> Callable[[], None]:
    pace = settings.parse_pace(fields, pool.pace)

    def act() -> None:
        pool.pace = pace

    return act


_READS: dict[str, Callable[[Emulator, Mapping[str, str]], dict[str, Any]]] = {
    "health": _health,
    "stats": stats,
    "calls": _calls,
}
_WRITES: dict[str, Callable[[Pool, Mapping[str, Any], float], Callable[[], None]]] = {
    "faults": _faults,
    "limits": _limits,
    "foreign": _foreign,
    "pace": _pace,
}
