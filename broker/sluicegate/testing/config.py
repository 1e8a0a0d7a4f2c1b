# SPDX-License-Identifier: Apache-2.0
"""The emulator's configuration, from plain data or YAML, with every problem reported at once.

    seed: 1
    keys: {sk-batch: batch}            # credential -> account; a key that is not here belongs to `unknownKeys`
    unknownKeys: default               # an account, or null: answer 401
    pools:
    - name: gpt-4o
      wire: OpenAI                     # OpenAI | Anthropic | AzureOpenAI | GoogleGemini | GoogleVertex | Mistral | Groq
      account: default                 # whose calls; "*" (the default): one pool for every account together
      models: [gpt-4o, "gpt-4o-2024-*"]
      limits:
      - {resource: Requests, limit: 500, window: 1m}
      - {resource: Tokens, limit: 30000, window: 1m, algorithm: Bucket, burst: 1m, slice: 1s, inHeaders: true}
      admission: sum                   # sum | max | chars (OpenAI, Azure, Groq)
      chargeRejected: requests         # requests | none | all; default: requests on OpenAI, Azure and Groq, else none
      retryAfter: true                 # OpenAI, Azure, Groq: retry-after (and retry-after-ms, not Groq's) on a 429
      rateLimitKey: false              # Azure: x-ratelimit-key is sent, and resets are truncated seconds; else ms
      responsesStreamHeaders: false    # OpenAI: rate-limit headers on a stream of /v1/responses
      retryAfterOnSuccess: 0.25        # Anthropic: the share of 200s that carry a (meaningless) retry-after
      maxConcurrent: 0                 # Anthropic: connections at a time; 0: no limit
      outputTokens: 120                # or {median: 120, sigma: 0.5, max: 2000}
      pace: {latency: 200ms, latencySigma: 0.3, latencyMax: 10s, tokensPerSecond: 80}
      faults: {overload: 0.01, stream-break: 0.005}
      episodes: [{fault: overload, at: 20s, for: 10s, rate: 1.0}]
      foreign: {percent: 30, callTokens: 500, outputShare: 0.2, start: 10s, stop: 1m}
      changes: [{at: 30s, resource: Tokens, limit: 15000}]

A limit's `algorithm` is Bucket unless said otherwise; on GoogleGemini, GoogleVertex and Mistral, which name windows,
it is FixedWindow. Durations are seconds or strings (`250ms`, `10s`, `1m`, `24h`). Names are read without regard to
case, `-` and `_`.
`ProviderPool` documents (`kind: ProviderPool`) are taken too, each as a pool of the same name, models and limits.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.testing.charges import AdmissionRule
from sluicegate.testing.faults import Episode, Fault, Pace
from sluicegate.testing.foreign import ForeignConfig
from sluicegate.testing.limits import LimitsConfig
from sluicegate.testing.meters import Resource
from sluicegate.testing.text import OutputLength
from sluicegate.testing.wires import Wire


class ConfigError(ValueError):
    """The configuration cannot be used. `problems`: every finding, each naming field, value and what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class LimitChange:
    """At `at` seconds the limit of `resource` (over `window`, else its first meter) becomes `limit`."""

    at: float
    resource: Resource
    limit: float
    window: float | None = None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One upstream quota. The fields are those of the YAML form in the text of this module."""

    name: str
    models: tuple[str, ...]
    limits: LimitsConfig
    account: str = "*"
    admission: AdmissionRule = "sum"
    retry_after: bool = True
    rate_limit_key: bool = False
    responses_stream_headers: bool = False
    retry_after_on_success: float = 0.25
    max_concurrent: int = 0
    output: OutputLength = field(default_factory=OutputLength)
    pace: Pace = field(default_factory=Pace)
    faults: Mapping[Fault, float] = field(default_factory=dict)
    episodes: tuple[Episode, ...] = ()
    foreign: ForeignConfig | None = None
    changes: tuple[LimitChange, ...] = ()

    @property
    def wire(self) -> Wire:
        return self.limits.wire

    def serves(self, model: str) -> bool:
        """Whether `model` shares this pool's limits: by exact name or by glob."""
        return any(pattern == model or fnmatch.fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """Everything that the emulator is told. Build it, or use `from_data` or `from_file`."""

    pools: tuple[PoolConfig, ...]
    seed: int = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    unknown_keys: str | None = "default"

    @staticmethod
    def from_data(data: object) -> EmulatorConfig:
        """From plain data: a mapping as above, or a list of such and of ProviderPool documents. Raises ConfigError."""
        from sluicegate.testing.reading import read_config

        return read_config(data)

    @staticmethod
    def from_file(path: str | Path) -> EmulatorConfig:
        """From a YAML file of one or more documents. Raises ConfigError, also where the file cannot be read."""
        from sluicegate.testing.reading import read_file

        return read_file(path)
