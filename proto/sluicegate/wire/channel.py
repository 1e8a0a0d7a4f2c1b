# SPDX-License-Identifier: Apache-2.0
"""Channel options that both ends must agree on: keepalive, message sizes, retries of unary calls.

Keepalive is a pair. A client that pings more often than its server permits is disconnected (GOAWAY
`too_many_pings`), and gRPC's server permits one ping per five minutes unless told otherwise. The option that tells it
is `grpc.http2.min_ping_interval_without_data_ms`; the name in gRPC's keepalive guide,
`grpc.http2.min_recv_ping_interval_without_data_ms`, is silently ignored. Source: gRPC doc/keepalive.md, and
tests/wire/test_channel.py, which lets an idle stream live through several intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The largest message that either end sends, but for one. Batches are cut well below it."""

MAX_CONFIGURATION_BYTES = 16 * 1024 * 1024
"""The largest ApplyConfig, which holds every document: some thirty thousand policies."""

MAX_BATCH = 512
"""The most items that either end puts into one message of a Session."""

Options = list[tuple[str, int | str]]
SERVER_MINIMUM = "grpc.http2.min_ping_interval_without_data_ms"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Seconds: a ping each `interval`, dead after `timeout` without an answer; the server permits `minimum`."""

    interval: float = 20.0
    timeout: float = 5.0
    minimum: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.interval:
            raise ValueError(f"keepalive minimum {self.minimum} must lie between 0 and the interval {self.interval}")


KEEPALIVE = Keepalive()

# Repeating either is safe: both are idempotent by call_id. Only UNAVAILABLE is repeated (AIP-194).
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "sluicegate.v1.BudgetService", "method": "Acquire"},
                    {"service": "sluicegate.v1.BudgetService", "method": "Settle"},
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def client_options(keepalive: Keepalive = KEEPALIVE, largest: int = MAX_MESSAGE_BYTES) -> Options:
    """Options for `grpc.aio.insecure_channel` and its like. `largest`: bytes of a message to send."""
    return [
        *_pings(keepalive),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", largest),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 3_000),  # in spite of its name what an attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0),  # the proxy of the environment is for providers; it does not know our broker
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]


def server_options(keepalive: Keepalive = KEEPALIVE) -> Options:
    """Options for `grpc.aio.server`. The server pings too, so that it notices a sidecar that vanished."""
    return [
        *_pings(keepalive),
        (SERVER_MINIMUM, _milliseconds(keepalive.minimum)),
        ("grpc.max_receive_message_length", MAX_CONFIGURATION_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),  # a second broker on the port is an error, not a share of the calls
    ]


def _pings(keepalive: Keepalive) -> Options:
    return [
        ("grpc.keepalive_time_ms", _milliseconds(keepalive.interval)),
        ("grpc.keepalive_timeout_ms", _milliseconds(keepalive.timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
