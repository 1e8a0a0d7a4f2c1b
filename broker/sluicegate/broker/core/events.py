# SPDX-License-Identifier: Apache-2.0
"""What can happen to the broker. The union `Event` is closed; `Dispatcher.handle(event, now)` takes each."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from sluicegate.broker.core.config import Snapshot
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import Criticality, Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import ErrorClass, Provider


@dataclass(frozen=True, slots=True)
class Acquire:
    """A call asks for a slot. A repeat of an outstanding or recently answered call_id gets the same answer; one of
    another session's is refused.

    `lease`: seconds after which a grant that was not settled counts as a lost call.

    `cached_age`: seconds since the client cached an answer to it; inf: it has none; None: not said. `divisible`: it can
    be sent in parts. `part`: it is one, and no fallback may change its model. `taken_by`: the providers that take its
    API, its own with them; empty: not said.
    """

    call_id: str
    session: str
    workload: Workload
    provider: Provider | None
    model: str
    estimate: Estimate
    criticality: Criticality = Criticality()
    pool: str = ""
    tenant: str = ""
    key_fingerprint: str = ""
    authenticated_pools: frozenset[str] = frozenset()
    lease: float = inf
    cached_age: float | None = None
    divisible: bool = False
    part: bool = False
    taken_by: frozenset[Provider] = frozenset()


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of a waiting or granted call went away; a granted one is settled by its sidecar as well.

    `session`, here and below: who says so; "": the broker itself. Another session's call is left alone.
    """

    call_id: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class Observe:
    """A response's headers arrived for a granted call. `accepted`: it is a success, and its body has begun."""

    call_id: str
    readings: tuple[MeterReading, ...]
    session: str = ""
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """One attempt of a granted call ended.

    `dispatched` False: the provider never got it, the charge comes back whole. `usage` None: unknown, the
    estimate stands. `retriable`: nothing reached the app yet. `retry_after`: seconds the provider asked for.
    """

    call_id: str
    error_class: ErrorClass = ErrorClass.NONE
    attempt: int = 0
    dispatched: bool = True
    retriable: bool = False
    usage: Usage | None = None
    quota: QuotaRejection | None = None
    retry_after: float | None = None
    session: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    """A reconnecting sidecar re-declares a call: waiting (`granted` False) or in flight with `attempt`."""

    acquire: Acquire
    granted: bool
    age: float
    attempt: int


@dataclass(frozen=True, slots=True)
class SessionLost:
    """A sidecar did not come back: its waiting calls go, its granted ones settle as unknown."""

    session: str


@dataclass(frozen=True, slots=True)
class Configure:
    """A new configuration, whole. State of meters and queues that still exist is kept."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went on to `next_wakeup()`."""


Event = Acquire | Cancel | Observe | Settle | Attach | SessionLost | Configure | Tick
