# SPDX-License-Identifier: Apache-2.0
"""What all calls of a sidecar share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sluicegate.sidecar.broker_client import BrokerClient
from sluicegate.sidecar.cache import ResponseCache
from sluicegate.sidecar.core.repeat import RefusedCalls
from sluicegate.sidecar.metrics import Metrics
from sluicegate.sidecar.upstream import Transport
from sluicegate.wire.failures import Spaced

if TYPE_CHECKING:
    from sluicegate.sidecar.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Services:
    """One of each per sidecar. `credentials`: keys by pool. `failures`: when the log tells of the next.

    `tracing` None: no spans, and no cost of them.
    """

    broker: BrokerClient
    transport: Transport
    metrics: Metrics
    refused: RefusedCalls
    cache: ResponseCache
    credentials: Mapping[str, str]
    failures: Spaced = field(default_factory=Spaced)
    tracing: Tracing | None = None
