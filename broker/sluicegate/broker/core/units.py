# SPDX-License-Identifier: Apache-2.0
"""The quantities that the core computes with. Time is float seconds, monotonic; amounts are floats >= 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, assert_never

from sluicegate.wire.words import Resource

MINUTE = 60.0
DAY = 86_400.0
# Until Python 3.12 a look-up of an enum's member costs as much as the rest of `Charge.of`.
_REQUESTS: Final = Resource.REQUESTS
_TOKENS: Final = Resource.TOKENS
_INPUT_TOKENS: Final = Resource.INPUT_TOKENS
_OUTPUT_TOKENS: Final = Resource.OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class MeterKey:
    """Names one meter of a pool: what it counts over which window (seconds)."""

    resource: Resource
    window: float

    def __str__(self) -> str:
        """Such as `tokens/1m`: the spelling of headers, metrics and logs."""
        seconds = int(self.window)
        for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
            if seconds >= size and seconds % size == 0:
                return f"{self.resource}/{seconds // size}{unit}"
        return f"{self.resource}/{self.window:g}s"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call costs on each meter by the provider's admission rule, in the resource's own unit.

    `kind`: the kind of call (such as its model) whose ratio is learned; the budget sets it.
    """

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    kind: str = ""

    def of(self, resource: Resource) -> float:
        if resource is _REQUESTS:
            return self.requests
        if resource is _TOKENS:
            return self.tokens
        if resource is _INPUT_TOKENS:
            return self.input_tokens
        if resource is _OUTPUT_TOKENS:
            return self.output_tokens
        assert_never(resource)


@dataclass(frozen=True, slots=True)
class SafeShare:
    """What one sidecar may spend alone on one meter of a pool, per window, while the broker is away."""

    pool: str
    meter: MeterKey
    amount: float


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks: the namespace and ServiceAccount of the pod, proven by its token (or trusted, without a cluster)."""

    namespace: str = "default"
    service_account: str = "default"
    labels: tuple[tuple[str, str], ...] = field(default=())
