# SPDX-License-Identifier: Apache-2.0
"""What the dispatcher tells people about itself: views for introspection, no part of any decision."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.broker.core.breaker import BreakerState
from sluicegate.broker.core.budget import MeterStatus
from sluicegate.broker.core.units import MeterKey
from sluicegate.wire.words import ErrorClass, Latency, Provider, Reason


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier of a pool. `waiting` counts all its calls, parked and delayed ones too; `oldest_wait` seconds."""

    name: str
    waiting: int
    tenants_waiting: int
    oldest_wait: float


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A pool's circuit. `cause`: the class of error that opened it; `ready_in`: seconds until a probe may go.

    `transitions`: how often it came to each state since the start.
    """

    state: BreakerState = BreakerState.CLOSED
    cause: ErrorClass = ErrorClass.NONE
    ready_in: float = 0.0
    transitions: tuple[tuple[BreakerState, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One pool. `binding`: the meter that the head of the order waits for; None when nothing waits for a meter.

    `oddities`: absurd things that came from outside and belong to no meter, by kind, since the start.
    """

    name: str
    provider: Provider
    endpoint: str
    models: tuple[str, ...]
    meters: tuple[MeterStatus, ...]
    tiers: tuple[TierStatus, ...]
    in_flight: int
    binding: MeterKey | None
    oddities: tuple[tuple[str, int], ...] = ()
    breaker: BreakerStatus = BreakerStatus()


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """One tenant over all pools since the broker started (or since the tenant was last forgotten)."""

    name: str
    tier: str
    weight: int
    waiting: int
    in_flight: int
    granted: int
    rejected: int
    tokens_used: int


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """One waiting call. `waited` and `predicted_wait` are seconds; `binding` is the meter that the pool waits for."""

    call_id: str
    tenant: str
    tier: str
    task_type: str
    latency: Latency
    waited: float
    predicted_wait: float
    waits_for: Reason
    binding: MeterKey | None
    attempt: int
    chain_id: str
