# SPDX-License-Identifier: Apache-2.0
"""The sidecar's metrics, all of them, in a registry of their own. No label holds a key, a prompt or free text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sluicegate.wire.tallies import Counts, Spreads

_WAITS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One instance per sidecar."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.calls = Counts(
            "sluicegate_sidecar_calls",
            "Calls of the app by what became of them.",
            ("provider", "outcome", "reason"),
            registry,
        )
        self.attempts = Counts(
            "sluicegate_sidecar_attempts",
            "Attempts at the provider by what the response was, a quota by which.",
            ("provider", "pool", "error_class"),
            registry,
        )
        self.wait = Spreads(
            "sluicegate_sidecar_wait_seconds",
            "From a call's arrival to its last slot.",
            ("provider",),
            _WAITS,
            registry,
        )
        self.in_flight = Gauge("sluicegate_sidecar_in_flight", "Requests being served.", registry=registry)
        self.buffered = Gauge("sluicegate_sidecar_buffered_bytes", "Request bodies held.", registry=registry)
        self.unreadable = Counts(
            "sluicegate_sidecar_unreadable_requests",
            "Requests that were refused before they were read.",
            ("kind",),
            registry,
        )
        self.ignored_headers = Counts(
            "sluicegate_sidecar_ignored_header_values",
            "Rate-limit header values that could not be read or were absurd.",
            ("provider",),
            registry,
        )
        self.faults = Counts(
            "sluicegate_sidecar_response_faults",
            "Provider responses that broke their own rules.",
            ("provider", "fault"),
            registry,
        )
        self.tokens = Counts(
            "sluicegate_sidecar_tokens",
            "Tokens really used, as responses said.",
            ("provider", "pool", "kind"),
            registry,
        )
        self.estimated = Counts(
            "sluicegate_sidecar_estimated_input_tokens",
            "Input tokens estimated, of calls whose use became known.",
            ("provider", "pool"),
            registry,
        )
        self.connected = Gauge("sluicegate_sidecar_broker_connected", "1 with a session.", registry=registry)
        self.sessions = Counter("sluicegate_sidecar_broker_sessions", "Sessions opened.", registry=registry)
        self.session_failures = Counts(
            "sluicegate_sidecar_broker_session_failures", "Sessions lost or refused.", ("code",), registry
        )
        self.dropped = Counts(
            "sluicegate_sidecar_dropped_messages",
            "Messages for a broker that was away for too long.",
            ("kind",),
            registry,
        )
        self.alone = Counts(
            "sluicegate_sidecar_decided_alone", "Calls decided without the broker.", ("reason",), registry
        )
