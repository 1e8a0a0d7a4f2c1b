# SPDX-License-Identifier: Apache-2.0
"""Every metric of the broker. Counters follow the effects; gauges are read from the core when somebody scrapes.

Labels are bounded: pools and tiers by configuration, reasons and outcomes by their enums, tenants and task types by a
cap beyond which they are `other`. Never a call, a pod or a key.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.effects import Decision, Effect, Party, Requeued, Settled
from sluicegate.broker.decisions import DecisionLog
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.sessions import Sessions
from sluicegate.wire.tallies import Count, Counts, Spread, Spreads
from sluicegate.wire.version import VERSION
from sluicegate.wire.words import ErrorClass, Outcome, Reason

OTHER = "other"
_GRANTING = frozenset({Outcome.GRANTED, Outcome.FALLBACK_MODEL, Outcome.FALLBACK_POOL})
_TASK_TYPES = 100
_TOGETHER = 2_000
_ACCOUNTS = 20_000
_QUEUE_SCAN = 5_000
_PARTY = ("pool", "tier", "tenant", "task_type")
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30)
_WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Capped:
    """The first `most` values keep their name as a label; later ones are `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if not value or value in self._known:
            return value
        if len(self._known) < self._most:
            self._known.add(value)
            return value
        return OTHER


class Metrics:
    """A witness of the runtime with a registry of its own."""

    def __init__(
        self,
        runtime: Runtime,
        sessions: Sessions,
        configuration: Configuration,
        decisions: DecisionLog,
        max_tenants: int,
    ) -> None:
        self.registry = CollectorRegistry()
        self.tenant = Capped(max_tenants)
        self.task_type = Capped(_TASK_TYPES)
        self._runtime = runtime
        self._uncounted: list[Sequence[Effect]] = []
        self._waiting = 0
        reg = self.registry
        reg.register(_Before(self.catch_up))  # collected first, as it is registered
        self._requests = Counts(
            "sluicegate_requests", "Calls by what became of them in the end", (*_PARTY, "outcome"), reg
        )
        self._attempts = Counts(
            "sluicegate_attempts", "Grants, those of a call's further attempts included", _PARTY, reg
        )
        self._open: dict[str, tuple[_Account, Count]] = {}  # calls in flight, as they were granted
        self._accounts: dict[tuple[str, str, str, str], _Account] = {}
        self._snapshot = runtime.snapshot
        self._decisions = Counts(
            "sluicegate_decisions", "Decisions by their reason", ("pool", "tier", "outcome", "reason"), reg
        )
        self._waits = Spreads(
            "sluicegate_queue_wait_seconds",
            "Time from a call's arrival to its first decision",
            (*_PARTY, "outcome"),
            _WAITS,
            reg,
        )
        self._retries = Counts("sluicegate_retries", "Attempts that went back to the queue", (*_PARTY, "reason"), reg)
        self._reserved = Counts("sluicegate_tokens_reserved", "Tokens reserved by calls that have settled", _PARTY, reg)
        self._reserved_ratio = Spreads(
            "sluicegate_reserved_ratio", "Tokens reserved / really used, per call", ["pool"], _RATIOS, reg
        )
        self._estimate_ratio = Spreads(
            "sluicegate_estimate_ratio", "Input tokens expected / real, per call", ["pool"], _RATIOS, reg
        )
        self._consumed = Counts(
            "sluicegate_tokens_consumed", "Tokens really used, as providers reported", (*_PARTY, "kind"), reg
        )
        self._responses = Counts(
            "sluicegate_provider_responses", "Attempts by what the provider answered", ("pool", "class"), reg
        )
        self._anomalies = Counts(
            "sluicegate_settlement_anomalies", "Absurd fields of settlements, counted as not said", ("field",), reg
        )
        build = Gauge("sluicegate_build_info", "1, labelled with the version", ("version",), registry=reg)
        build.labels(VERSION).set(1)
        reg.register(_State(self, runtime, sessions, configuration, decisions))

    def witness(self, effects: Sequence[Effect], wall_offset: float) -> None:
        """Keeps them to be counted, many together, which takes a third of the time; before a scrape at the latest."""
        del wall_offset
        if self._runtime.snapshot is not self._snapshot:
            self.catch_up()  # what was before has the labels of then
            self._snapshot = self._runtime.snapshot
            self._accounts.clear()
        if effects:
            self._uncounted.append(effects)
            self._waiting += len(effects)
            if self._waiting >= _TOGETHER:
                self.catch_up()

    def catch_up(self) -> None:
        """Counts what has not been counted."""
        uncounted, self._uncounted, self._waiting = self._uncounted, [], 0
        for effects in uncounted:
            self._count(effects)

    def _count(self, effects: Sequence[Effect]) -> None:
        ended: dict[str, None] = {}
        for effect in effects:
            if isinstance(effect, Decision):
                ended.pop(effect.call_id, None)
                self._decided(effect)
            elif isinstance(effect, Settled):
                ended[effect.call_id] = None
                self._settled(effect)
            elif isinstance(effect, Requeued):
                ended.pop(effect.call_id, None)
                self._retries(*self.party(effect.party, effect.pool), effect.reason).inc()
        for call_id in ended:
            if (found := self._open.pop(call_id, None)) is not None:
                found[1].inc()

    def _account(self, party: Party, pool: str) -> _Account:
        if len(self._accounts) >= _ACCOUNTS:
            self._accounts.clear()
        key = (pool, party.tier, party.tenant, party.task_type)
        account = self._accounts.get(key)
        if account is None:
            labels = self.party(party, pool)
            account = self._accounts[key] = _Account(
                labels,
                self._attempts(*labels),
                self._reserved(*labels),
                self._consumed(*labels, "input"),
                self._consumed(*labels, "output"),
                self._reserved_ratio(labels[0]),
                self._estimate_ratio(labels[0]),
            )
        return account

    def _decided(self, decision: Decision) -> None:
        """A call that was granted is counted when its last attempt has ended, every other one now."""
        outcome = decision.outcome
        account = self._account(decision.party, decision.pool)
        found = account.decided.get((outcome, decision.reason))
        if found is None:
            labels = account.labels
            found = account.decided[outcome, decision.reason] = (
                self._decisions(labels[0], labels[1], outcome, decision.reason),
                self._waits(*labels, outcome),
                self._requests(*labels, outcome),
            )
        decisions, waits, requests = found
        decisions.inc()
        if decision.attempt <= 1 and decision.call_id not in self._open:
            waits.observe(decision.waited)
        if outcome in _GRANTING:
            account.attempts.inc()
            self._open[decision.call_id] = (account, requests)
        else:
            self._open.pop(decision.call_id, None)
            requests.inc()

    def _settled(self, effect: Settled) -> None:
        granted = self._open.get(effect.call_id)
        account = granted[0] if granted is not None else self._account(effect.party, effect.pool)
        answers = account.answers.get(effect.error_class)
        if answers is None:
            answers = account.answers[effect.error_class] = self._responses(account.labels[0], effect.error_class)
        answers.inc()
        account.reserved.inc(effect.reserved_tokens)
        used = effect.used_tokens
        if used is None:
            return
        account.consumed_input.inc(effect.input_tokens)
        account.consumed_output.inc(effect.output_tokens)
        if used and effect.error_class == ErrorClass.NONE:
            account.reserved_ratio.observe(effect.reserved_tokens / used)
            if effect.input_tokens > 0:
                account.estimate_ratio.observe(effect.estimated_input / effect.input_tokens)

    def absurd(self, field: str) -> None:
        """A settlement said nonsense in `field`."""
        self._anomalies(field).inc()

    def party(self, party: Party, pool: str) -> tuple[str, str, str, str]:
        known = pool if pool in self._snapshot.pools else ""
        return known, party.tier, self.tenant(party.tenant), self.task_type(party.task_type)


@dataclass(slots=True)
class _Account:
    """What counts the calls of one party in one pool, looked up once."""

    labels: tuple[str, str, str, str]
    attempts: Count
    reserved: Count
    consumed_input: Count
    consumed_output: Count
    reserved_ratio: Spread
    estimate_ratio: Spread
    decided: dict[tuple[Outcome, Reason], tuple[Count, Spread, Count]] = field(default_factory=dict)
    answers: dict[str, Count] = field(default_factory=dict)


class _Before(Collector):
    """Does something before the others are collected, and has no metric itself."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self._do()
        return ()


class _State(Collector):
    """What is so at this moment."""

    def __init__(
        self,
        metrics: Metrics,
        runtime: Runtime,
        sessions: Sessions,
        configuration: Configuration,
        decisions: DecisionLog,
    ) -> None:
        self._metrics = metrics
        self._runtime = runtime
        self._sessions = sessions
        self._configuration = configuration
        self._decisions = decisions

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._pools()
        yield from self._broker()

    def _pools(self) -> Iterable[Metric]:
        meter_labels = ("pool", "meter")
        gauges = {
            name: GaugeMetricFamily(f"sluicegate_limit_{name}", text, labels=meter_labels)
            for name, text in (
                ("limit", "The limit per window, as learned"),
                ("capacity", "The most that the meter holds"),
                ("available", "What a call could take now"),
                ("reserved", "What granted calls hold"),
                ("pile", "The most that is let pile up: below the capacity where hidden slices were learned"),
                ("foreign_rate", "Estimated use of the key by others, per second"),
            )
        }
        anomalies = CounterMetricFamily(
            "sluicegate_meter_anomalies", "Absurd figures from a provider, by kind", labels=("pool", "meter", "kind")
        )
        depth = GaugeMetricFamily("sluicegate_queue_depth", "Calls that wait", labels=_PARTY)
        oldest = GaugeMetricFamily(
            "sluicegate_oldest_wait_seconds", "How long the oldest waits", labels=("pool", "tier")
        )
        in_flight = GaugeMetricFamily("sluicegate_in_flight", "Granted calls that have not settled", labels=("pool",))
        breaker = GaugeMetricFamily(
            "sluicegate_breaker_state", "1 for the state that the pool's circuit is in", labels=("pool", "state")
        )
        turns = CounterMetricFamily(
            "sluicegate_breaker_transitions", "How often the circuit came to a state", labels=("pool", "state")
        )
        unpaid = GaugeMetricFamily(
            "sluicegate_billing_blocked", "1 while the pool's account cannot pay: alert on it", labels=("pool",)
        )
        failovers = CounterMetricFamily(
            "sluicegate_failovers",
            "Calls that went to another pool, by error class",
            labels=("pool", "target", "class"),
        )
        for source, target, error, count in self._runtime.dispatcher.failovers():
            failovers.add_metric((source, target, error), count)
        now = self._runtime.clock()
        for pool in self._runtime.dispatcher.pool_status(now):
            for state, count in pool.breaker.transitions:
                breaker.add_metric((pool.name, state), float(state is pool.breaker.state))
                turns.add_metric((pool.name, state), count)
            unpaid.add_metric((pool.name,), float(pool.breaker.cause is ErrorClass.BILLING))
            for meter in pool.meters:
                for name, gauge in gauges.items():
                    value = meter.limit if name == "limit" else getattr(meter, name)
                    gauge.add_metric((pool.name, str(meter.key)), value)
                for kind, count in meter.anomalies:
                    anomalies.add_metric((pool.name, str(meter.key), kind), count)
            for kind, count in pool.oddities:
                anomalies.add_metric((pool.name, "", kind), count)
            in_flight.add_metric((pool.name,), pool.in_flight)
            waiting = {tier.name: tier.waiting for tier in pool.tiers}
            for labels, count in self._depths(pool.name, waiting, now).items():
                depth.add_metric(labels, count)
            for tier in pool.tiers:
                oldest.add_metric((pool.name, tier.name), tier.oldest_wait)
        yield from (*gauges.values(), anomalies, depth, oldest, in_flight, breaker, turns, unpaid, failovers)

    def _depths(self, pool: str, waiting: dict[str, int], now: float) -> Tally[tuple[str, str, str, str]]:
        """By tenant and task type for the first of the queue; the rest as `other`, so that sums are right."""
        depths: Tally[tuple[str, str, str, str]] = Tally()
        seen: Tally[str] = Tally()
        for call in self._runtime.dispatcher.queue(pool, now, _QUEUE_SCAN):
            depths[pool, call.tier, self._metrics.tenant(call.tenant), self._metrics.task_type(call.task_type)] += 1
            seen[call.tier] += 1
        for tier, count in waiting.items():
            if count > seen[tier]:
                depths[pool, tier, OTHER, OTHER] += count - seen[tier]
            elif not count and not seen[tier]:
                depths[pool, tier, "", ""] = 0
        return depths

    def _broker(self) -> Iterable[Metric]:
        sessions = GaugeMetricFamily("sluicegate_sessions", "Sidecars by state", labels=("state",))
        sessions.add_metric(("connected",), len(self._sessions))
        sessions.add_metric(("away",), self._sessions.away)
        yield sessions
        config = GaugeMetricFamily(
            "sluicegate_config_version_info", "1, labelled with the version", labels=("version",)
        )
        config.add_metric((self._runtime.snapshot.version,), 1)
        yield config
        findings = GaugeMetricFamily("sluicegate_config_findings", "Findings on the documents", labels=("severity",))
        tally = Tally(str(finding.severity) for finding in self._configuration.compiled.findings)
        for severity in ("warning", "error"):
            findings.add_metric((severity,), tally[severity])
        yield findings
        counters: tuple[tuple[str, str, Callable[[], float]], ...] = (
            (
                "sluicegate_sessions_stuck",
                "Sessions dropped because they read too slowly",
                lambda: self._sessions.stuck,
            ),
            ("sluicegate_sessions_lost", "Sessions that did not come back", lambda: self._sessions.lost),
            (
                "sluicegate_decisions_dropped",
                "Decisions that the log was too slow for",
                lambda: self._decisions.dropped,
            ),
            (
                "sluicegate_stray_messages",
                "Settlements, observations and cancels of another session's calls, ignored",
                lambda: self._runtime.dispatcher.strays,
            ),
            (
                "sluicegate_grants_expired",
                "Grants of unary callers that were never settled",
                lambda: self._runtime.dispatcher.expired,
            ),
            ("sluicegate_core_faults", "Events that the core failed on: a defect", lambda: self._runtime.faults),
        )
        for name, text, read in counters:
            yield CounterMetricFamily(name, text, value=read())
