# SPDX-License-Identifier: Apache-2.0
"""What each provider charges at admission, what it corrects later, and how it refills: the one table of such facts.

Where documents and measurements disagree the largest plausible charge stands here; `ratio` learns the truth.

- OpenAI, Azure: input + (max_tokens, else 16) x choices, at admission, nothing returned but through refill. Documents
  say max(max_tokens, characters / 4), headers said the sum until 2025 and input alone since: the sum is the largest.
- Anthropic: input at admission by an estimate that is corrected (cache reads are free); output as it is produced.
- Gemini, Vertex: input only. Mistral: the real usage less cached input, once the call has ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sluicegate.broker.core.units import DAY, MINUTE, Charge
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import Algorithm, Provider, Resource

UNCAPPED_OUTPUT = 16
"""Output tokens that OpenAI charges a choice when the request names no cap."""

_OVERHEAD = 4  # "about 1-2" tokens beyond the characters, and one per message, were measured
_LARGEST = 1e12


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """How one provider limits.

    `burst`: seconds of the rate that a bucket of at most an hour's window holds, per resource (absent: the window).
    `on_completion`: resources charged when or while the answer is produced, not at admission.
    `corrected`: resources whose charge becomes the real usage. `learned`: resources whose admission rule is uncertain.
    `day`: the algorithm of windows of more than an hour. `blur`: seconds by which a reset may be off by rounding.
    """

    minute: Algorithm = Algorithm.BUCKET
    day: Algorithm = Algorithm.BUCKET
    burst: tuple[tuple[Resource, float], ...] = ()
    on_completion: frozenset[Resource] = frozenset()
    corrected: frozenset[Resource] = frozenset()
    learned: frozenset[Resource] = frozenset()
    blur: float = 0.01

    def algorithm(self, window: float) -> Algorithm:
        return self.day if window > 60 * MINUTE else self.minute

    def burst_of(self, resource: Resource, window: float) -> float:
        """Seconds of the rate that the bucket holds."""
        if window > 60 * MINUTE:
            return window
        return min(window, dict(self.burst).get(resource, window))


_TOKENS = frozenset({Resource.TOKENS})
_SPLIT = frozenset({Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS})
_OPENAI = ProviderRule(learned=_TOKENS)
_GEMINI = ProviderRule(minute=Algorithm.FIXED_WINDOW, day=Algorithm.FIXED_WINDOW)

_RULES = {
    Provider.OPENAI: _OPENAI,
    # Azure evaluates requests over slices of 1 or 10 s.
    Provider.AZURE_OPENAI: replace(_OPENAI, burst=((Resource.REQUESTS, 10.0),), blur=1.0),
    Provider.OPENAI_COMPATIBLE: _OPENAI,
    Provider.ANTHROPIC: ProviderRule(
        day=Algorithm.FIXED_WINDOW,
        on_completion=frozenset({Resource.OUTPUT_TOKENS, Resource.TOKENS}),
        corrected=_SPLIT | _TOKENS,
        blur=1.5,
    ),
    Provider.GOOGLE_GEMINI: _GEMINI,
    Provider.GOOGLE_VERTEX: _GEMINI,
    Provider.MISTRAL: ProviderRule(day=Algorithm.FIXED_WINDOW, on_completion=_TOKENS, corrected=_TOKENS),
}


def rule(provider: Provider) -> ProviderRule:
    """The facts about `provider`."""
    return _RULES[provider]


def sane(value: float | None, low: float = 0.0, high: float = _LARGEST) -> float | None:
    """`value` clamped to low..high; None for what is no number (None, NaN, infinity) or lies below zero."""
    if value is None or not math.isfinite(value) or value < 0:
        return None
    return min(max(value, low), high)


def _count(value: float | None) -> float:
    return sane(value) or 0.0


def admission(provider: Provider, estimate: Estimate) -> Charge:
    """The largest plausible charge of a call. Absurd estimates (negative, not finite) count as 0, never as credit."""
    characters = math.ceil(_count(estimate.characters) / 4)
    given = _count(estimate.input_tokens)
    expected = _count(estimate.output_tokens)
    cap = None if estimate.max_output_tokens is None else _count(estimate.max_output_tokens)
    choices = max(1.0, _count(estimate.choices))
    bounded = expected if cap is None else min(expected, cap) if expected else cap
    match provider:
        case Provider.OPENAI | Provider.AZURE_OPENAI | Provider.OPENAI_COMPATIBLE:
            given = max(given, characters) + _OVERHEAD
            if cap is None and expected == 0:  # embeddings and their like: input only
                output = 0.0
            else:
                output = (max(expected, UNCAPPED_OUTPUT) if cap is None else cap) * choices
            return Charge(1.0, given + output, given, output)
        case Provider.ANTHROPIC | Provider.MISTRAL:
            return Charge(1.0, given + bounded * choices, given, bounded * choices)
        case Provider.GOOGLE_GEMINI | Provider.GOOGLE_VERTEX:
            return Charge(1.0, given, given, bounded * choices)


def corrected(provider: Provider, charge: Charge, usage: Usage) -> Charge:
    """`charge` after the provider has corrected it by the real usage; unchanged where it corrects nothing."""
    resources = rule(provider).corrected
    fresh = max(0.0, _count(usage.input_tokens) - _count(usage.cached_input_tokens))
    output = _count(usage.output_tokens)
    return replace(
        charge,
        tokens=fresh + output if Resource.TOKENS in resources else charge.tokens,
        input_tokens=fresh if Resource.INPUT_TOKENS in resources else charge.input_tokens,
        output_tokens=output if Resource.OUTPUT_TOKENS in resources else charge.output_tokens,
    )


def window_of(limit: float, low: float, high: float, reset: float) -> float | None:
    """The window that a bucket's figures imply, `reset x limit / (limit - remaining)`: a minute, a day, or None.

    `remaining` is floored, which biases the quotient low (providers.md 2a: 64,835 to 86,400 for a day).
    """
    used_most, used_least = limit - low, limit - high
    if reset <= 0 or used_most <= 0:
        return None
    shortest = reset * limit / used_most
    longest = reset * limit / used_least if used_least > 0 else math.inf
    if shortest <= 1.05 * DAY and longest >= 0.95 * DAY and shortest >= 0.7 * DAY:
        return DAY
    if longest >= 0.95 * MINUTE and 0.6 * MINUTE <= shortest <= 1.1 * MINUTE:
        return MINUTE
    return None
