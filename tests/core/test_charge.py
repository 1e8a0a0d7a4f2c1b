# SPDX-License-Identifier: Apache-2.0
"""What providers charge: a table per provider, and the windows that figures imply."""

from __future__ import annotations

import math

import pytest

from sluicegate.broker.core.charge import admission, corrected, rule, sane, window_of
from sluicegate.broker.core.units import DAY, MINUTE, Charge
from sluicegate.testing.limits import openai_charge
from sluicegate.wire.values import Estimate, Usage
from sluicegate.wire.words import Algorithm, Dialect, Provider, Resource

CALL = Estimate(input_tokens=900, output_tokens=200, max_output_tokens=1000, characters=4000, choices=2)


@pytest.mark.parametrize(
    ("provider", "tokens", "given", "output"),
    [
        (Provider.OPENAI, 3004, 1004, 2000),  # characters / 4 is the larger input; the whole cap, each choice
        (Provider.AZURE_OPENAI, 3004, 1004, 2000),
        (Provider.OPENAI_COMPATIBLE, 3004, 1004, 2000),
        (Provider.ANTHROPIC, 1300, 900, 400),
        (Provider.MISTRAL, 1300, 900, 400),
        (Provider.GOOGLE_GEMINI, 900, 900, 400),
        (Provider.GOOGLE_VERTEX, 900, 900, 400),
    ],
)
def test_admission(provider: Provider, tokens: float, given: float, output: float):
    charge = admission(provider, CALL)
    assert (charge.requests, charge.tokens, charge.input_tokens, charge.output_tokens) == (1, tokens, given, output)


@pytest.mark.parametrize(
    ("estimate", "output"),
    [
        (Estimate(100, 0, None), 0),  # embeddings
        (Estimate(100, 5, None), 16),
        (Estimate(100, 300, None, choices=3), 900),
        (Estimate(100, 300, 50), 50),
        (Estimate(100, 0, 0), 0),
    ],
)
def test_openai_output_without_or_with_a_cap(estimate: Estimate, output: float):
    assert admission(Provider.OPENAI, estimate).output_tokens == output


def test_openai_is_never_charged_less_than_measured():
    for characters in range(0, 5000, 7):
        estimate = Estimate(characters // 5, 100, 256, characters)
        charge = admission(Provider.OPENAI, estimate)
        assert charge.tokens >= max(
            openai_charge("sum", [characters], max_tokens=256),
            openai_charge("max", [characters], max_tokens=256),
            openai_charge("chars", [characters]),
        )


def test_anthropic_output_is_what_is_expected_within_the_cap():
    assert admission(Provider.ANTHROPIC, Estimate(10, 500, 100)).output_tokens == 100
    assert admission(Provider.ANTHROPIC, Estimate(10, 500, None)).output_tokens == 500
    assert admission(Provider.ANTHROPIC, Estimate(10, 0, 64)).output_tokens == 64  # nothing expected: all of the cap


def test_absurd_estimates_give_no_credit():
    charge = admission(Provider.OPENAI, Estimate(-5, -7, -9, -11, -3))
    assert charge.tokens >= 0
    assert charge.output_tokens == 0


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        (Provider.OPENAI, Charge(1, 50, 40, 10, "m")),
        (Provider.AZURE_OPENAI, Charge(1, 50, 40, 10, "m")),
        (Provider.GOOGLE_GEMINI, Charge(1, 100, 100, 25, "m")),  # cached input counts, output does not
        (Provider.GOOGLE_VERTEX, Charge(1, 100, 100, 25, "m")),
        (Provider.ANTHROPIC, Charge(1, 95, 70, 25, "m")),
        (Provider.MISTRAL, Charge(1, 95, 70, 25, "m")),
    ],
)
def test_only_what_the_provider_corrects_is_corrected(provider: Provider, expected: Charge):
    assert corrected(provider, Charge(1, 50, 40, 10, "m"), Usage(100, 25, 30)) == expected


@pytest.mark.parametrize(
    ("dialect", "charge", "final"),
    [
        # input_tokens 900, characters / 4 = 1000, cap 1000 x 2; then 600 given of which 200 cached, 300 produced
        ("", Charge(1, 3004, 1004, 2000), Charge(1, 3004, 1004, 2000)),
        (Dialect.XAI, Charge(1, 3004, 1004, 2000), Charge(1, 3004, 1004, 2000)),
        (Dialect.TOGETHER, Charge(1, 3004, 1004, 2000), Charge(1, 3004, 1004, 2000)),
        (Dialect.GROQ, Charge(1, 3004, 1004, 2000), Charge(1, 2804, 804, 2000)),
        (Dialect.DEEPSEEK, Charge(1, 1300, 900, 400), Charge(1, 900, 600, 300)),
        (Dialect.OPENROUTER, Charge(1, 1300, 900, 400), Charge(1, 900, 600, 300)),
        (Dialect.VLLM, Charge(1, 1300, 900, 400), Charge(1, 900, 600, 300)),
        (Dialect.FIREWORKS, Charge(1, 900, 900, 400), Charge(1, 600, 400, 300)),
    ],
)
def test_dialects(dialect: str, charge: Charge, final: Charge):
    assert admission(Provider.OPENAI_COMPATIBLE, CALL, dialect) == charge
    assert corrected(Provider.OPENAI_COMPATIBLE, charge, Usage(600, 300, 200), dialect) == final


def test_a_dialect_means_nothing_beside_another_provider():
    assert rule(Provider.OPENAI, Dialect.VLLM) is rule(Provider.OPENAI)


def test_more_cached_than_given_counts_as_all_cached():
    assert corrected(Provider.ANTHROPIC, Charge(), Usage(10, 5, 99)).input_tokens == 0


@pytest.mark.parametrize(
    ("limit", "low", "high", "reset", "window"),
    [
        (10_000, 9_997, 9_998, 22.564, DAY),
        (200, 197, 198, 20 * 60 + 52.666, DAY),
        (30_000, 29_000, 29_001, 2.0, MINUTE),
        (500, 499, 500, 0.12, MINUTE),
        (9_000, 1_400, 1_401, 10.0, None),  # a smaller bucket, not a smaller window
        (30_000, 30_000, 30_001, 0.0, None),
        (30_000, 31_000, 31_000, 5.0, None),
        (100_000, 98_500, 98_501, 58.0, None),  # a fixed window that has just begun
    ],
)
def test_window_of(limit: float, low: float, high: float, reset: float, window: float | None):
    assert window_of(limit, low, high, reset) == window


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (math.nan, None), (math.inf, None), (-1.0, None), (0.0, 0.0), (5.0, 5.0), (1e300, 1e12)],
)
def test_sane(value: float | None, expected: float | None):
    assert sane(value) == expected


def test_the_table_of_providers():
    assert rule(Provider.OPENAI).algorithm(MINUTE) is Algorithm.BUCKET
    assert rule(Provider.OPENAI).algorithm(DAY) is Algorithm.BUCKET  # a rolling bucket, measured
    assert rule(Provider.GOOGLE_GEMINI).algorithm(DAY) is Algorithm.FIXED_WINDOW
    assert rule(Provider.GOOGLE_GEMINI).algorithm(MINUTE) is Algorithm.FIXED_WINDOW
    assert rule(Provider.MISTRAL).algorithm(MINUTE) is Algorithm.FIXED_WINDOW
    assert rule(Provider.ANTHROPIC).algorithm(MINUTE) is Algorithm.BUCKET
    assert rule(Provider.AZURE_OPENAI).burst_of(Resource.REQUESTS, MINUTE) == 10
    assert rule(Provider.AZURE_OPENAI).burst_of(Resource.TOKENS, MINUTE) == MINUTE
    assert rule(Provider.AZURE_OPENAI).burst_of(Resource.REQUESTS, DAY) == DAY
    assert Resource.OUTPUT_TOKENS in rule(Provider.ANTHROPIC).on_completion
