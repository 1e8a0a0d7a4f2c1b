# SPDX-License-Identifier: Apache-2.0
"""A closed world in virtual time: calls that wait on one Budget, and a provider's limits that admit them or not.

The provider is `sluicegate.testing`'s arithmetic, which shares no code with the budget. Calls wait in one line, always
enough of them (a load far over the limit); the head goes as soon as `lack` says that it fits. Everything is drawn from
one seed, so a run can be repeated exactly.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.config import LimitConfig, PoolConfig
from sluicegate.broker.core.units import Charge
from sluicegate.testing.foreign import ForeignConfig, ForeignUse
from sluicegate.testing.limits import (
    AdmissionRule,
    Admitted,
    Demand,
    LimitsConfig,
    MeterConfig,
    MeterFigures,
    openai_charge,
)
from sluicegate.testing.truth import AccountedLimits
from sluicegate.wire.values import Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import Algorithm, Provider, Resource


@dataclass(frozen=True, slots=True)
class Setup:
    """One world. `rule`: how OpenAI charges; `latency`: seconds from grant to headers; `stream`: from there to the end.

    `network`: seconds from grant to admission. `headers`: share of responses that have any. `lost`: share of calls that
    never leave. `mixed`: two kinds of calls. `provider`: whose table the budget goes by (default: the wire's).
    """

    meters: tuple[MeterConfig, ...]
    wire: str = "openai"
    rule: AdmissionRule = "sum"
    latency: tuple[float, float] = (0.5, 2.0)
    network: tuple[float, float] = (0.005, 0.05)
    stream: tuple[float, float] = (0.0, 3.0)
    sampled_at_answer: bool = False
    chars: tuple[int, int] = (400, 4000)
    max_tokens: tuple[int, int] = (100, 800)
    foreign: ForeignConfig | None = None
    headers: float = 1.0
    declared: dict[str, float] = field(default_factory=dict)
    lost: float = 0.0
    mixed: bool = False
    provider: Provider | None = None


@dataclass(slots=True)
class Call:
    name: str
    estimate: Estimate
    chars: int
    kind: str
    output: int
    ready: float = 0.0


class World:
    def __init__(self, setup: Setup, seed: int) -> None:
        self.setup = setup
        self.random = random.Random(seed)
        self.provider = AccountedLimits(LimitsConfig(setup.wire, setup.meters), start=0.0)  # type: ignore[arg-type]
        self.foreign = ForeignUse(setup.foreign, self.provider, seed) if setup.foreign else None
        provider = setup.provider or (Provider.ANTHROPIC if setup.wire == "anthropic" else Provider.OPENAI)
        limits = tuple(
            LimitConfig(
                Resource(m.resource),
                setup.declared.get(m.resource, m.limit),
                m.window,
                Algorithm(m.algorithm) if m.algorithm == "fixed_window" else None,
            )
            for m in setup.meters
        )
        self.pool = PoolConfig("pool", provider, "https://provider", ("m",), limits)
        self.budget = Budget(self.pool, 0.0)
        self.now = 0.0
        self.granted = 0
        self.rejected: list[tuple[float, str]] = []
        self.trace: list[tuple[float, str]] = []
        self.watch: Callable[[World], None] | None = None
        self._number = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._again: list[tuple[float, int, Call]] = []
        self._head: Call | None = None

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what))

    def run(self, until: float) -> None:
        while True:
            self._grant_all()
            wake = self._wake
            foreign = self.foreign.next_at if self.foreign else math.inf
            when = min(wake, foreign, self._events[0][0] if self._events else math.inf)
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            if self.foreign and foreign <= self.now:
                self.foreign.run(self.now)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def _next_call(self) -> Call:
        if self._again and self._again[0][0] <= self.now:
            return heapq.heappop(self._again)[2]
        self._number += 1
        r, s = self.random, self.setup
        chars = r.randint(*s.chars)
        cap = r.randint(*s.max_tokens)
        output = r.randint(1, cap)
        kind = f"m{self._number % 2}" if s.mixed else "m"
        estimate = Estimate(round(chars / r.uniform(3.8, 5.0)), output // 2 + cap // 4, cap, chars)
        return Call(f"c{self._number}", estimate, chars, kind, output)

    def _grant_all(self) -> None:
        for _ in range(10_000):
            if self._head is None:
                self._head = self._next_call()
            call = self._head
            charge = self.budget.charge(call.estimate, call.kind)
            lack = self.budget.lack(charge, self.now)
            if lack is not None:
                assert lack.ready_at > self.now
                self._wake = lack.ready_at
                return
            self._head = None
            self.budget.reserve(call.name, charge, self.now)
            self.granted += 1
            self.trace.append((self.now, call.name))
            self._dispatch(call, charge)
            if self.watch:
                self.watch(self)
        raise AssertionError("no end of grants at one moment")

    def _dispatch(self, call: Call, charge: Charge) -> None:
        r, s = self.random, self.setup
        admitted_at = self.now + r.uniform(*s.network)
        headers_at = max(admitted_at, self.now + r.uniform(*s.latency))
        end = headers_at + r.uniform(*s.stream)
        if r.random() < s.lost:
            self.at(admitted_at, lambda: self._settle(call, dispatched=False))
            return
        self.at(admitted_at, lambda: self._admit(call, headers_at, end))

    def _settle(self, call: Call, *, dispatched: bool = True, usage: Usage | None = None) -> None:
        self.budget.settle(call.name, dispatched=dispatched, usage=usage, now=self.now)
        if self.watch:
            self.watch(self)

    def _admit(self, call: Call, headers_at: float, end: float) -> None:
        s = self.setup
        input_estimate = 0
        if s.wire == "openai":
            cap = call.estimate.max_output_tokens
            demand = Demand(tokens=openai_charge(s.rule, [call.chars], max_tokens=cap))
        else:
            input_estimate = round(call.estimate.input_tokens * self.random.uniform(0.9, 1.0))
            demand = Demand(input_tokens=input_estimate)
        answer = self.provider.admit(self.now, demand)
        figures = answer.figures
        if not isinstance(answer, Admitted):
            readings = self._readings(figures)
            rejection = QuotaRejection(Resource(answer.meter.resource), None, answer.wait)
            reject_at = self.now + self.random.uniform(*s.network)
            self.rejected.append((self.now, f"{answer.kind} {answer.meter.resource}"))
            self.at(reject_at, lambda: self._rejected(call, readings, rejection))
            return
        self.at(headers_at, lambda: self._headers(call, figures))
        usage = Usage(call.estimate.input_tokens, call.output)
        if s.wire == "anthropic":
            self.provider.adjust_input(self.now, input_estimate, call.estimate.input_tokens)
            parts = 5
            for part in range(parts):
                when = headers_at + (end - headers_at) * (part + 1) / parts
                self.at(when, lambda: self.provider.produce(self.now, call.output / parts))
        self.at(end, lambda: self._settle(call, usage=usage))

    def _rejected(self, call: Call, readings: list[MeterReading], rejection: QuotaRejection) -> None:
        self.budget.observe(call.name, readings, self.now)
        call.ready = self.budget.reject(call.name, rejection, self.now)
        call.name += "'"
        self._order += 1
        heapq.heappush(self._again, (call.ready, self._order, call))

    def _headers(self, call: Call, figures: tuple[MeterFigures, ...]) -> None:
        if self.random.random() < self.setup.headers:
            shown = self.provider.limits.figures(self.now) if self.setup.sampled_at_answer else figures
            self.budget.observe(call.name, self._readings(shown), self.now)
            if self.watch:
                self.watch(self)

    def _readings(self, figures: tuple[MeterFigures, ...]) -> list[MeterReading]:
        readings = []
        for figure in figures:
            resource = Resource(figure.resource)
            if self.setup.wire == "openai":
                low, high = float(figure.shown), float(figure.shown + 1)
                reset = math.floor(figure.reset * 1000) / 1000
            elif resource is Resource.REQUESTS:
                low, high, reset = float(figure.shown), float(figure.shown + 1), math.floor(figure.reset)
            else:
                middle = max(0, math.floor(figure.remaining / 1000 + 0.5) * 1000)
                low, high, reset = max(0.0, middle - 500), middle + 500, math.floor(figure.reset)
            readings.append(MeterReading(resource, None, figure.limit, low, high, float(reset)))
        return readings

    def utilization(self, start: float, end: float) -> float:
        """Of the binding limit, by everybody on the key."""
        return max(u.ratio for u in self.provider.utilization(start, end))
