# SPDX-License-Identifier: Apache-2.0
"""What each provider charges at admission, what it corrects later, and how it refills: the one table of such facts.

Where documents and measurements disagree the largest plausible charge stands here; `ratio` learns the truth. What a
declared limit counts follows from it:

| provider | Requests | Tokens | InputTokens, OutputTokens | minute limits |
| --- | --- | --- | --- | --- |
| OpenAI, xAI, Together, no dialect | 1 | input + cap x choices at admission; never returned | the two parts | bucket |
| Azure | 1, over slices of 1 s | the same (its `best_of` is a choice) | the two parts | bucket |
| Groq | 1, by the day | the same, but what was cached is returned | the two parts | bucket |
| Anthropic | 1 | input + output | fresh input, corrected; output as it is produced | bucket |
| Gemini, Vertex | 1 | input only, corrected | input; output is nobody's limit but yours | window |
| Mistral | 1 | real usage less cached input, once the call has ended | the two parts, corrected | window |
| Fireworks | 1 | prompt, all of it | prompt that was not cached; output as it is produced | bucket |
| DeepSeek, OpenRouter, vLLM | 1 | have no such limit: yours counts real usage | the two parts, corrected | bucket |

OpenAI's documents say max(max_tokens, characters / 4), its headers said the sum until 2025 and input alone since: the
sum is the largest; a request without a cap was charged as 16. Gemini's 429s say to wait tens of seconds for a quota of
which a bucket would give a call's worth back in a few, and Mistral's headers name a window and no reset: windows both.
DeepSeek limits the calls at a time only, which is no meter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from sluicegate.broker.core.units import DAY, MINUTE, Charge
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import Algorithm, Dialect, Provider, Resource

UNCAPPED_OUTPUT = 16
"""Output tokens that OpenAI charges a choice when the request names no cap."""

IMAGE_TOKENS = 765
"""What OpenAI's admission charges an image, whatever it is billed (providers.md 2b, measured)."""

_OVERHEAD = 4  # "about 1-2" tokens beyond the characters, and one per message, were measured
_LARGEST = 1e12


class Counts(Enum):
    """What a limit of Tokens counts."""

    CAP = "cap"  # input, and the cap on output of every choice
    REAL = "real"  # input, and the output that comes
    INPUT = "input"


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """How one provider limits.

    `counts`: what Tokens are. `cached`: whether cached input counts, for Tokens and InputTokens. `returns_cached`: the
    admission charge stays, but what of it was cached is given back.
    `burst`: seconds of the rate that a bucket of at most an hour's window holds, per resource (absent: the window).
    `slices`: seconds over which minute limits are documented to be enforced as well, per resource: such a meter
    is paced from the first call, not only once a quota 429 has taught it.
    `on_completion`: resources charged when or while the answer is produced, not at admission.
    `corrected`: resources whose charge becomes the real usage. `learned`: resources whose admission rule is uncertain.
    `day`: the algorithm of windows of more than an hour. `blur`: seconds by which a reset may be off by rounding.
    """

    counts: Counts = Counts.CAP
    cached: frozenset[Resource] = frozenset()
    returns_cached: bool = False
    minute: Algorithm = Algorithm.BUCKET
    day: Algorithm = Algorithm.BUCKET
    burst: tuple[tuple[Resource, float], ...] = ()
    slices: tuple[tuple[Resource, float], ...] = ()
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

    def slice_of(self, resource: Resource, window: float) -> float:
        """Seconds of the slices over which a limit of `window` is enforced as well; 0: none is documented."""
        return dict(self.slices).get(resource, 0.0) if window == MINUTE else 0.0


_TOKENS = frozenset({Resource.TOKENS})
_SPLIT = frozenset({Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS})
_INPUT = _TOKENS | {Resource.INPUT_TOKENS}
_ALL = _TOKENS | _SPLIT
_OPENAI = ProviderRule(learned=_TOKENS)
_GOOGLE = ProviderRule(
    counts=Counts.INPUT,
    cached=_INPUT,
    corrected=_ALL,
    minute=Algorithm.FIXED_WINDOW,
    day=Algorithm.FIXED_WINDOW,
)
_OWN = ProviderRule(counts=Counts.REAL, cached=_INPUT, corrected=_ALL)
"""Of providers without token limits: what is declared is the operator's own bound on real usage."""

_RULES = {
    Provider.OPENAI: _OPENAI,
    # Azure evaluates requests over slices of 1 or 10 s: "600 RPM = 10 per second".
    Provider.AZURE_OPENAI: replace(
        _OPENAI, burst=((Resource.REQUESTS, 10.0),), slices=((Resource.REQUESTS, 1.0),), blur=1.0
    ),
    Provider.OPENAI_COMPATIBLE: _OPENAI,
    Provider.ANTHROPIC: ProviderRule(
        counts=Counts.REAL,
        day=Algorithm.FIXED_WINDOW,
        on_completion=frozenset({Resource.OUTPUT_TOKENS, Resource.TOKENS}),
        corrected=_ALL,
        blur=1.5,
    ),
    Provider.GOOGLE_GEMINI: _GOOGLE,
    Provider.GOOGLE_VERTEX: _GOOGLE,
    Provider.MISTRAL: ProviderRule(
        counts=Counts.REAL,
        minute=Algorithm.FIXED_WINDOW,
        day=Algorithm.FIXED_WINDOW,
        on_completion=_TOKENS,
        corrected=_ALL,
    ),
}
_DIALECTS = {
    Dialect.GROQ: replace(_OPENAI, returns_cached=True),
    Dialect.DEEPSEEK: _OWN,
    Dialect.OPENROUTER: _OWN,
    Dialect.VLLM: _OWN,
    Dialect.FIREWORKS: ProviderRule(
        counts=Counts.INPUT,
        cached=_TOKENS,
        on_completion=frozenset({Resource.OUTPUT_TOKENS}),
        corrected=_ALL,
    ),
}


def rule(provider: Provider, dialect: str = "") -> ProviderRule:
    """The facts about `provider`. `dialect`: of an OpenAI-compatible one; one without facts of its own is as OpenAI."""
    if provider is Provider.OPENAI_COMPATIBLE:
        for name, facts in _DIALECTS.items():
            if name == dialect:
                return facts
    return _RULES[provider]


def sane(value: float | None, low: float = 0.0, high: float = _LARGEST) -> float | None:
    """`value` clamped to low..high; None for what is no number (None, NaN, infinity) or lies below zero."""
    if value is None or not math.isfinite(value) or value < 0:
        return None
    return min(max(value, low), high)


def _count(value: float | None) -> float:
    if value is not None and 0 <= value <= _LARGEST:  # what is usual, at once; NaN is in no range
        return value
    return sane(value) or 0.0


def admission(provider: Provider, estimate: Estimate, dialect: str = "", kind: str = "", share: float = 1.0) -> Charge:
    """The charge of a call of `kind`: the largest plausible, but for `share`, the part of the cap on output that Tokens
    turned out to count where they count the cap. Absurd estimates (negative, not finite) count as 0, never as credit.
    """
    characters = math.ceil(_count(estimate.characters) / 4)
    given = _count(estimate.input_tokens)
    images = _count(estimate.images) * IMAGE_TOKENS
    expected = _count(estimate.output_tokens)
    cap = None if estimate.max_output_tokens is None else _count(estimate.max_output_tokens)
    choices = max(1.0, _count(estimate.choices))
    bounded = expected if cap is None else min(expected, cap) if expected else cap
    match rule(provider, dialect).counts:
        case Counts.CAP:
            given = max(given - min(given, _count(estimate.image_tokens)), characters) + images + _OVERHEAD
            if cap is None and expected == 0:  # embeddings and their like: input only
                output = 0.0
            else:
                output = (max(expected, UNCAPPED_OUTPUT) if cap is None else cap) * choices
            return Charge(1.0, given + share * output, given, output, kind)
        case Counts.REAL:
            return Charge(1.0, given + bounded * choices, given, bounded * choices, kind)
        case Counts.INPUT:
            return Charge(1.0, given, given, bounded * choices, kind)


def corrected(provider: Provider, charge: Charge, usage: Usage, dialect: str = "") -> Charge:
    """`charge` after the provider has corrected it by the real usage; unchanged where it corrects nothing."""
    facts = rule(provider, dialect)
    if not facts.corrected and not facts.returns_cached:
        return charge
    given, output = _count(usage.input_tokens), _count(usage.output_tokens)
    cached = min(given, _count(usage.cached_input_tokens))
    if facts.returns_cached:
        kept = max(0.0, charge.input_tokens - cached)
        return replace(charge, tokens=max(0.0, charge.tokens - cached), input_tokens=kept)
    tokens = given if Resource.TOKENS in facts.cached else given - cached
    if facts.counts is not Counts.INPUT:
        tokens += output
    fresh = given if Resource.INPUT_TOKENS in facts.cached else given - cached
    return replace(
        charge,
        tokens=tokens if Resource.TOKENS in facts.corrected else charge.tokens,
        input_tokens=fresh if Resource.INPUT_TOKENS in facts.corrected else charge.input_tokens,
        output_tokens=output if Resource.OUTPUT_TOKENS in facts.corrected else charge.output_tokens,
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
