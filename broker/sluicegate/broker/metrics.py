# SPDX-License-Identifier: Apache-2.0
"""Every metric of the broker. Counters are what the accounts say; gauges are read from the core when somebody scrapes.

Labels are bounded: pools and tiers by configuration, reasons and outcomes by their enums, tenants and task types by a
cap beyond which they are `other`. Never a call, a pod or a key.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core.accounts import Account, Accounts, Labels
from sluicegate.broker.core.effects import Effect, Party
from sluicegate.broker.decisions import DecisionLog
from sluicegate.broker.runtime import Runtime
from sluicegate.broker.sessions import Sessions
from sluicegate.wire.tallies import Counts, show
from sluicegate.wire.version import VERSION
from sluicegate.wire.words import ErrorClass

OTHER = "other"
_TASK_TYPES = 100
_QUEUE_SCAN = 5_000
_PIECE = 10
"""Accounts whose samples are made at once, some hundreds."""
_PARTY = ("pool", "tier", "tenant", "task_type")


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
        self.registry = reg = CollectorRegistry()
        self.tenant = Capped(max_tenants)
        self.task_type = Capped(_TASK_TYPES)
        self._runtime = runtime
        self._snapshot = runtime.snapshot
        self._accounts = Accounts(self._party)
        reg.register(_Calls(self._accounts))
        self._anomalies = Counts(
            "sluicegate_settlement_anomalies", "Absurd fields of settlements, counted as not said", ("field",), reg
        )
        build = Gauge("sluicegate_build_info", "1, labelled with the version", ("version",), registry=reg)
        build.labels(VERSION).set(1)
        reg.register(_State(self, runtime, sessions, configuration, decisions))

    def witness(self, effects: list[Effect], wall_offset: float) -> None:
        del wall_offset
        if self._runtime.snapshot is not self._snapshot:
            self._snapshot = self._runtime.snapshot
            self._accounts.relabel()
        self._accounts.count(effects)

    def absurd(self, field: str) -> None:
        """A settlement said nonsense in `field`."""
        self._anomalies(field).inc()

    def _party(self, party: Party, pool: str) -> Labels:
        known = pool if pool in self._snapshot.pools else ""
        return known, party.tier, self.tenant(party.tenant), self.task_type(party.task_type)


def _requests(family: CounterMetricFamily, labels: Labels, account: Account) -> None:
    for outcome, came in account.outcomes.items():
        family.add_metric((*labels, outcome), came.ended)


def _waits(family: HistogramMetricFamily, labels: Labels, account: Account) -> None:
    for outcome, came in account.outcomes.items():
        show(family, (*labels, outcome), came.waits)


def _attempts(family: CounterMetricFamily, labels: Labels, account: Account) -> None:
    family.add_metric(labels, account.attempts)


def _retries(family: CounterMetricFamily, labels: Labels, account: Account) -> None:
    for reason, count in account.retries.items():
        family.add_metric((*labels, reason), count)


def _reserved(family: CounterMetricFamily, labels: Labels, account: Account) -> None:
    family.add_metric(labels, account.reserved)


def _consumed(family: CounterMetricFamily, labels: Labels, account: Account) -> None:
    family.add_metric((*labels, "input"), account.input_tokens)
    family.add_metric((*labels, "output"), account.output_tokens)


_COUNTER, _HISTOGRAM = CounterMetricFamily, HistogramMetricFamily
_BY_ACCOUNT: tuple[tuple[Callable[..., Metric], str, str, tuple[str, ...], Callable[..., None]], ...] = (
    (_COUNTER, "sluicegate_requests", "Calls by what became of them in the end", ("outcome",), _requests),
    (
        _HISTOGRAM,
        "sluicegate_queue_wait_seconds",
        "Time from a call's arrival to its first decision",
        ("outcome",),
        _waits,
    ),
    (_COUNTER, "sluicegate_attempts", "Grants, those of a call's further attempts included", (), _attempts),
    (_COUNTER, "sluicegate_retries", "Attempts that went back to the queue", ("reason",), _retries),
    (_COUNTER, "sluicegate_tokens_reserved", "Tokens reserved by calls that have settled", (), _reserved),
    (_COUNTER, "sluicegate_tokens_consumed", "Tokens really used, as providers reported", ("kind",), _consumed),
)
"""Families that have samples of each account: kind, name, text, labels beside the party's, what adds an account's."""


class _Calls(Collector):
    """What the accounts say, in pieces of a few accounts each: between two of them the accounts may change."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for kind, name, text, more, add in _BY_ACCOUNT:
            accounts = list(self._accounts.by_labels.items())
            for start in range(0, max(1, len(accounts)), _PIECE):
                piece = kind(name, text, labels=(*_PARTY, *more))
                for labels, account in accounts[start : start + _PIECE]:
                    add(piece, labels, account)
                yield piece
        yield from self._by_pool()

    def _by_pool(self) -> Iterable[Metric]:
        tally: Tally[tuple[str, ...]] = Tally()
        for (pool, tier, *_), account in self._accounts.by_labels.items():
            for (outcome, reason), decided in account.decided.items():
                tally[pool, tier, outcome, reason] += decided.count
        decisions = CounterMetricFamily(
            "sluicegate_decisions", "Decisions by their reason", labels=("pool", "tier", "outcome", "reason")
        )
        for labels, count in tally.items():
            decisions.add_metric(labels, count)
        yield decisions
        responses = CounterMetricFamily(
            "sluicegate_provider_responses", "Attempts by what the provider answered", labels=("pool", "class")
        )
        used = HistogramMetricFamily(
            "sluicegate_reserved_ratio", "Tokens reserved / really used, per call", labels=("pool",)
        )
        expected = HistogramMetricFamily(
            "sluicegate_estimate_ratio", "Input tokens expected / real, per call", labels=("pool",)
        )
        for pool, settlements in self._accounts.settlements.items():
            for answer, count in settlements.answers.items():
                responses.add_metric((pool, answer), count)
            show(used, (pool,), settlements.reserved)
            show(expected, (pool,), settlements.expected)
        yield from (responses, used, expected)


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
