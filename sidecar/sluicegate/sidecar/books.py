# SPDX-License-Identifier: Apache-2.0
"""The books of one call: its place in the table of `core.plan`, what it owes the broker, and what is counted of it.

Every way out pays what the table says is owed: a waiting call is cancelled, each sent attempt is settled exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from sluicegate.sidecar import messages
from sluicegate.sidecar.core.errors import Explanation
from sluicegate.sidecar.core.plan import Duty, Plan, State, Step
from sluicegate.sidecar.core.usage import STREAMS, OpaqueReader, Reader
from sluicegate.sidecar.core.verdict import Verdict
from sluicegate.sidecar.held import Answer
from sluicegate.sidecar.inbound import Inbound
from sluicegate.sidecar.services import Services
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.failures import SILENT, level_of
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import ErrorClass, Outcome, Reason

if TYPE_CHECKING:
    from sluicegate.sidecar.tracing import AttemptTrace, CallTrace

log = logging.getLogger(__name__)

_CANCELLED = Verdict(ErrorClass.CANCELLED)


class Books:
    """One call's. `arrived` in monotonic seconds; `reader` and `estimate` are those of the attempt under way; `notes`:
    headers that explain the answer further; `trace`: the call's spans, where it is traced."""

    def __init__(
        self,
        services: Services,
        inbound: Inbound,
        call_id: str,
        estimate: Estimate,
        trace: CallTrace | None = None,
    ) -> None:
        self.call_id = call_id
        self.plan = Plan()
        self.grant: pb.Grant | None = None
        self.reader: Reader = OpaqueReader()
        self.attempts = 0
        self.arrived = time.monotonic()
        self._s = services
        self._provider = inbound.table.provider
        self.estimate = estimate
        self.notes: list[tuple[str, str]] = []
        self._whole = estimate
        self.trace = trace
        self._attempt: AttemptTrace | None = None

    @property
    def waited(self) -> float:
        """Seconds since the call came."""
        return time.monotonic() - self.arrived

    @property
    def pool(self) -> str:
        """The pool of the last attempt; empty before one, and for an unmanaged call."""
        return self.grant.pool if self.grant is not None else ""

    def granted(self, grant: pb.Grant) -> None:
        """An attempt begins."""
        self.plan.advance(Step.GRANT)
        self.grant = grant
        self.attempts += 1
        self.reader = OpaqueReader()
        self.estimate = self._whole
        self.notes = []
        if self.trace is not None:
            self._attempt = self.trace.attempt(grant, self.attempts, self._s.broker.routes.pools.get(grant.pool))

    def carry_trace(self, headers: MutableMapping[str, str]) -> None:
        """Lets the attempt's span stand for the app's own in what travels on."""
        if self._attempt is not None:
            self._attempt.carry(headers)

    def explain(self, headers: CIMultiDict[str], grant: pb.Grant) -> None:
        """Counts the call under the grant's outcome and says it in `headers`."""
        outcome = convert.OUTCOME.from_proto(grant.outcome) or Outcome.GRANTED
        waited = convert.from_duration(grant.waited)
        self._s.metrics.wait(self._provider).observe(waited)
        self.count_call(outcome, grant.reason)
        explanation = Explanation(outcome, grant.reason, grant.pool, waited, self.attempts, grant.binding_limit)
        for name, value in (*explanation.headers(), *self.notes):
            headers[name] = value

    def count_call(self, outcome: Outcome, reason: str) -> None:
        """Counts the call once, under what became of it."""
        self._s.metrics.calls(self._provider, outcome, reason).inc()
        if self.trace is not None:
            self.trace.became(outcome, reason, self.attempts, self.waited)

    def count_fault(self, provider: str, fault: str, times: float = 1.0) -> None:
        """Counts something that a provider did wrong."""
        self._s.metrics.faults(provider, fault).inc(times)

    def ask_again(self, verdict: Verdict, *, dispatched: bool) -> asyncio.Future[Answer]:
        """Settles a failed attempt of which nothing reached the app, and waits for the broker's word."""
        assert self.grant is not None
        self._ended(verdict, None)
        self.plan.advance(Step.RETRIABLE)
        settlement = messages.settlement(
            self.call_id, self.grant.attempt, verdict, dispatched=dispatched, retriable=True, usage=None
        )
        return self._s.broker.settle_and_wait(settlement)

    def client_gone(self, *, counts: bool = True) -> None:
        """The app went away, wherever the call is: pays what is owed. `counts`: False for a part of a call."""
        if self.plan.state is State.DONE:
            return
        duty = self.plan.advance(Step.CLIENT_GONE)
        if counts:
            self.count_call(Outcome.CANCELLED, Reason.CANCELLED)
        if duty is Duty.CANCEL:
            self._s.broker.cancel(self.call_id)
        elif duty is Duty.SETTLE:
            usage = self.reader.usage
            if usage is not None and isinstance(self.reader, STREAMS):
                # What had been produced by then: an event bears about a token.
                usage = Usage(
                    usage.input_tokens, max(usage.output_tokens, self.reader.events), usage.cached_input_tokens
                )
            self._settle(_CANCELLED, dispatched=True, usage=usage)

    def finish(self, step: Step, verdict: Verdict, *, dispatched: bool = True) -> None:
        """The last attempt ended."""
        self.plan.advance(step)
        self._settle(verdict, dispatched=dispatched, usage=self.reader.usage)

    def _ended(self, verdict: Verdict, usage: Usage | None) -> None:
        """An attempt ended."""
        provider, pool, kind = self._provider, self.pool, verdict.kind
        self._s.metrics.attempts(provider, pool, kind).inc()
        if self._attempt is not None:
            self._attempt.end(verdict, usage)
            self._attempt = None
        others = None if verdict.error_class in SILENT else self._s.failures.due(pool, kind)
        if others is not None:
            message = "an attempt failed: %s, provider %s, pool %s, call %s; %d others since the last such line"
            log.log(level_of(kind), message, kind, provider, pool or "none", self.call_id, others)

    def _settle(self, verdict: Verdict, *, dispatched: bool, usage: Usage | None) -> None:
        assert self.grant is not None
        self._ended(verdict, usage)
        settlement = messages.settlement(
            self.call_id, self.grant.attempt, verdict, dispatched=dispatched, retriable=False, usage=usage
        )
        self._s.broker.settle(settlement)
        if usage is None:
            return
        provider, pool = self._provider, self.grant.pool
        tokens = self._s.metrics.tokens
        tokens(provider, pool, "input").inc(usage.input_tokens)
        tokens(provider, pool, "output").inc(usage.output_tokens)
        self._s.metrics.estimated(provider, pool).inc(self.estimate.input_tokens)
