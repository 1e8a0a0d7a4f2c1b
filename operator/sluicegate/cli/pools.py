# SPDX-License-Identifier: Apache-2.0
"""The broker's answers as plain values and tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluicegate.broker.core.units import MeterKey
from sluicegate.cli.tables import amount, bar, seconds, table
from sluicegate.v1 import introspection_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import kebab

Value = dict[str, Any]

_NO_END = 1e9


def pool_value(pool: pb.PoolStatus) -> Value:
    """A pool in words and figures; durations are seconds."""
    return {
        "name": pool.name,
        "provider": _word(convert.PROVIDER, pool.provider),
        "endpoint": pool.endpoint,
        "models": list(pool.models),
        "bindingLimit": pool.binding_limit,
        "breaker": pool.breaker,
        "inFlight": pool.in_flight,
        "meters": [_meter_value(meter) for meter in pool.meters],
        "tiers": [
            {
                "name": tier.name,
                "waiting": tier.waiting,
                "tenantsWaiting": tier.tenants_waiting,
                "oldestWaitSeconds": _duration(tier.oldest_wait),
            }
            for tier in pool.tiers
        ],
    }


def _meter_value(meter: pb.MeterStatus) -> Value:
    resource = convert.RESOURCE.from_proto(meter.resource)
    return {
        "meter": "unknown" if resource is None else str(MeterKey(resource, meter.window_seconds)),
        "algorithm": _word(convert.ALGORITHM, meter.algorithm),
        "limit": meter.limit,
        "capacity": meter.capacity,
        "available": meter.available,
        "reserved": meter.reserved,
        "foreignPerSecond": meter.foreign_rate,
        "observed": meter.observed,
    }


def _word(codec: convert.EnumCodec[Any, Any], number: int) -> str:
    """A newer broker may know words that this program does not."""
    try:
        word = codec.from_proto(number)
    except ValueError:
        word = None
    return "unknown" if word is None else kebab(word)


def _duration(value: Any) -> float:
    return float(round(value.seconds + value.nanos / 1e9, 3))


def status_table(pools: Sequence[Value], *, wide: bool) -> str:
    """Pools by their limits. USED is what of the bucket's capacity is not available now."""
    headings = ["POOL", "LIMIT", "OF", "USED", "", "AVAILABLE", "BINDING", "BREAKER", "WAITING", "IN-FLIGHT"]
    headings += ["RESERVED", "FOREIGN/S", "OBSERVED", "ALGORITHM", "ENDPOINT"] if wide else []
    rows: list[list[str]] = []
    for pool in pools:
        first = True
        for meter in pool["meters"]:
            capacity = meter["capacity"] or meter["limit"] or 1.0
            used = min(1.0, max(0.0, 1.0 - meter["available"] / capacity))
            row = [
                pool["name"] if first else "",
                meter["meter"],
                amount(meter["limit"]),
                bar(used),
                f"{used:.0%}",
                amount(meter["available"]),
                "◀ binding" if meter["meter"] == pool["bindingLimit"] else "",
                (pool["breaker"] or "-") if first else "",
                str(sum(tier["waiting"] for tier in pool["tiers"])) if first else "",
                str(pool["inFlight"]) if first else "",
            ]
            if wide:
                row += [
                    amount(meter["reserved"]),
                    amount(meter["foreignPerSecond"]),
                    "yes" if meter["observed"] else "no",
                    meter["algorithm"],
                    pool["endpoint"] if first else "",
                ]
            rows.append(row)
            first = False
    right = frozenset({"OF", "", "AVAILABLE", "WAITING", "IN-FLIGHT", "RESERVED", "FOREIGN/S"})
    return table(headings, rows, right=right)


def tiers_table(pools: Sequence[Value]) -> str:
    """What waits, by pool and tier; empty where nothing does."""
    rows = [
        [
            pool["name"],
            tier["name"],
            str(tier["waiting"]),
            str(tier["tenantsWaiting"]),
            seconds(tier["oldestWaitSeconds"]),
        ]
        for pool in pools
        for tier in pool["tiers"]
        if tier["waiting"]
    ]
    right = frozenset({"WAITING", "TENANTS", "OLDEST"})
    return table(["POOL", "TIER", "WAITING", "TENANTS", "OLDEST"], rows, right=right) if rows else ""


def tenant_value(tenant: pb.TenantStatus) -> Value:
    """A tenant and its totals since the broker started."""
    return {
        "name": tenant.name,
        "tier": tenant.tier,
        "weight": tenant.weight,
        "waiting": tenant.waiting,
        "inFlight": tenant.in_flight,
        "granted": tenant.granted,
        "rejected": tenant.rejected,
        "tokensUsed": tenant.tokens_used,
    }


def tenants_table(tenants: Sequence[Value], *, wide: bool) -> str:
    """Tenants; wide shows exact figures of tokens."""
    headings = ["TENANT", "TIER", "WEIGHT", "WAITING", "IN-FLIGHT", "GRANTED", "REJECTED", "TOKENS"]
    rows = [
        [
            tenant["name"],
            tenant["tier"] or "(lowest)",
            *(str(tenant[name]) for name in ("weight", "waiting", "inFlight", "granted", "rejected")),
            str(tenant["tokensUsed"]) if wide else amount(tenant["tokensUsed"]),
        ]
        for tenant in tenants
    ]
    return table(headings, rows, right=frozenset(headings[2:]))


def call_value(place: int, call: pb.WaitingCall) -> Value:
    """One waiting call; `place` is 1 for the head of the order. No predicted wait: no end is in sight."""
    return {
        "place": place,
        "callId": call.call_id,
        "tenant": call.tenant,
        "tier": call.tier,
        "taskType": call.task_type,
        "latency": _word(convert.LATENCY, call.latency),
        "waitedSeconds": _duration(call.waited),
        "predictedWaitSeconds": predicted if (predicted := _duration(call.predicted_wait)) < _NO_END else None,
        "waitsFor": call.waits_for,
        "attempt": call.attempt,
        "chainId": call.chain_id,
    }


def queue_table(calls: Sequence[Value], *, wide: bool) -> str:
    """Who waits, why, and for how long still."""
    headings = ["#", "TENANT", "TIER", "TASK", "LATENCY", "WAITED", "ETA", "WAITS FOR"]
    headings += ["ATTEMPT", "CHAIN", "CALL"] if wide else []
    rows = [
        [
            str(call["place"]),
            call["tenant"],
            call["tier"],
            call["taskType"] or "-",
            call["latency"],
            seconds(call["waitedSeconds"]),
            seconds(call["predictedWaitSeconds"]),
            call["waitsFor"],
            *([str(call["attempt"]), call["chainId"] or "-", call["callId"]] if wide else []),
        ]
        for call in calls
    ]
    return table(headings, rows, right=frozenset({"#", "WAITED", "ETA", "ATTEMPT"}))
