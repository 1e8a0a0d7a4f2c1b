# SPDX-License-Identifier: Apache-2.0
"""What the broker must now do, in order. The union `Effect` is closed; the shell carries each out."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.broker.core.units import MeterKey
from sluicegate.wire.values import FallbackOption
from sluicegate.wire.words import Mitigation, Outcome, Reason


@dataclass(frozen=True, slots=True)
class Party:
    """Whom a call belongs to, as resolved by policy."""

    tenant: str
    tier: str
    task_type: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A slot for `call_id` on `pool`. `model` is set where a fallback changed it; `pool` is empty when unmanaged.

    `trim_to`: it is for the call with its history trimmed to so many input tokens; 0: untouched. `foreign`: the pool is
    not of the account that the app's own key is for. `probe`: the pool's circuit waits for what becomes of it.
    """

    call_id: str
    session: str
    party: Party
    pool: str
    outcome: Outcome
    reason: Reason
    waited: float
    attempt: int
    binding: MeterKey | None = None
    model: str = ""
    trim_to: int = 0
    foreign: bool = False
    probe: bool = False


@dataclass(frozen=True, slots=True)
class FellBack:
    """No slot: the sidecar serves `option` (cached or degraded), else tries `next_options`, else rejects."""

    call_id: str
    session: str
    party: Party
    pool: str
    option: FallbackOption
    next_options: tuple[FallbackOption, ...]
    reason: Reason
    predicted_wait: float
    binding: MeterKey | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """No slot. `retry_after` seconds; None: never. `message` says whose fault and what to do.

    `part_tokens`: the most input tokens of one part, for a divisible call that never fits whole; else 0.
    """

    call_id: str
    session: str
    party: Party
    pool: str
    reason: Reason
    message: str
    retry_after: float | None = None
    binding: MeterKey | None = None
    mitigation: Mitigation = Mitigation.NONE
    fits_now: int = 0
    part_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Requeued:
    """A retriable outcome went back to the queue; a Granted, FellBack or Rejected of the call follows."""

    call_id: str
    session: str
    party: Party
    pool: str
    reason: Reason
    eligible_in: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The record of one decision, for the log, metrics and WatchDecisions. It follows its effect.

    `waiting` counts the eligible calls that waited on the pool at that moment, by tier, this one left out.
    """

    at: float
    call_id: str
    party: Party
    pool: str
    model: str
    outcome: Outcome
    reason: Reason
    waited: float
    attempt: int
    binding: MeterKey | None
    waiting: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A reservation ended: what it held and what was really used, for metrics. Exactly one per grant."""

    call_id: str
    party: Party
    pool: str
    error_class: str
    """As ErrorClass, but quota by its kind (QuotaRejection.kind)."""
    reserved_tokens: float
    used_tokens: int | None
    input_tokens: int
    output_tokens: int
    estimated_input: int = 0
    """Input tokens that were expected, as calibrated."""
    opened: bool = False
    """Whether the pool's circuit opened because of it."""


Effect = Granted | FellBack | Rejected | Requeued | Decision | Settled
