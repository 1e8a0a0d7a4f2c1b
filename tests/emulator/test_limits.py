# SPDX-License-Identifier: Apache-2.0
"""The laws of the providers' limits, in virtual time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.testing.clock import FakeClock
from sluicegate.testing.limits import (
    Admitted,
    Demand,
    LimitsConfig,
    MeterConfig,
    ProviderLimits,
    Rejected,
    embeddings_charge,
    go_duration,
    openai_charge,
    thousands,
)


def openai(*meters: MeterConfig) -> ProviderLimits:
    return ProviderLimits(LimitsConfig("openai", meters))


def anthropic(*meters: MeterConfig) -> ProviderLimits:
    return ProviderLimits(LimitsConfig("anthropic", meters))


REQUESTS = MeterConfig("requests", 500)
TOKENS = MeterConfig("tokens", 30_000)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20_000)), max_size=60))
def test_reset_is_the_missing_share_of_a_minute(steps: list[tuple[float, int]]) -> None:
    limits, now = openai(REQUESTS, TOKENS), 0.0
    for pause, tokens in steps:
        now += pause
        limits.admit(now, Demand(tokens=tokens))
        for figure in limits.figures(now):
            assert figure.reset == pytest.approx((figure.limit - figure.remaining) / figure.limit * 60, abs=1e-6)
            assert 0 <= figure.remaining <= figure.limit


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20_000)), min_size=1, max_size=60))
def test_a_rejected_call_fits_after_its_wait_and_not_before(steps: list[tuple[float, int]]) -> None:
    limits, now = openai(MeterConfig("tokens", 30_000)), 0.0
    for pause, tokens in steps:
        now += pause
        answer = limits.admit(now, Demand(tokens=tokens))
        if isinstance(answer, Rejected):
            assert answer.kind == "exhausted"
            exact = (tokens - answer.meter.remaining) / 500
            assert exact <= answer.wait <= exact + 1 / 500 + 1e-9
            if exact > 0.01:
                assert isinstance(limits.admit(now + exact - 0.001, Demand(tokens=tokens)), Rejected)
            now += answer.wait
            assert isinstance(limits.admit(now, Demand(tokens=tokens)), Admitted)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 9_000)), max_size=80))
def test_admission_never_exceeds_what_the_bucket_held_and_gained(steps: list[tuple[float, int]]) -> None:
    limits, now, admitted = openai(REQUESTS, TOKENS), 0.0, 0.0
    for pause, tokens in steps:
        now += pause
        if isinstance(answer := limits.admit(now, Demand(tokens=tokens)), Admitted):
            admitted += answer.charged[1]
    assert admitted <= 30_000 + now * 500 + 1e-3


def test_the_wait_formula_of_recorded_messages() -> None:
    limits = openai(MeterConfig("tokens", 30_000))
    limits.admit(0, Demand(tokens=29_937))
    answer = limits.admit(0, Demand(tokens=385))
    assert isinstance(answer, Rejected)
    assert (answer.limit, answer.used, answer.requested) == (30_000, 29_937, 385)
    assert answer.wait == pytest.approx(0.644)
    assert go_duration(answer.wait, up=True) == "644ms"


def test_a_day_of_requests_is_a_rolling_bucket() -> None:
    limits = openai(MeterConfig("requests", 10_000, window=86_400))
    for _ in range(10_000):
        assert isinstance(limits.admit(0, Demand()), Admitted)
    answer = limits.admit(0, Demand())
    assert isinstance(answer, Rejected)
    assert (answer.used, go_duration(answer.wait)) == (10_000, "8.64s")


def test_a_rejected_call_costs_a_request_and_no_tokens() -> None:
    limits = openai(REQUESTS, TOKENS)
    limits.admit(0, Demand(tokens=29_000))
    answer = limits.admit(0, Demand(tokens=2_000))
    assert isinstance(answer, Rejected)
    assert answer.charged == (1, 0)
    assert [figure.remaining for figure in answer.figures] == [498, 1_000]


def test_a_call_larger_than_the_bucket_never_fits() -> None:
    answer = openai(TOKENS).admit(0, Demand(tokens=31_538))
    assert isinstance(answer, Rejected)
    assert (answer.kind, answer.limit, answer.requested, answer.wait) == ("too_large", 30_000, 31_538, math.inf)


def test_remaining_is_floored_and_headers_are_go_durations() -> None:
    limits = openai(REQUESTS, TOKENS)
    limits.admit(0, Demand(tokens=1_000))
    assert limits.headers(0.001) == {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "119ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "29000",
        "x-ratelimit-reset-tokens": "1.999s",
    }


def test_a_small_bucket_shows_in_reset_and_not_in_limit() -> None:
    limits = openai(MeterConfig("tokens", 30_000, capacity=5_000))
    limits.admit(0, Demand(tokens=2_000))
    (figure,) = limits.figures(0)
    assert (figure.limit, figure.remaining, figure.reset) == (30_000, 3_000, 4.0)
    assert figure.remaining + figure.reset * 500 == 5_000
    assert isinstance(limits.admit(0, Demand(tokens=5_001)), Rejected)


def test_a_fixed_window_is_full_at_its_boundary_only() -> None:
    limits = openai(MeterConfig("tokens", 600, algorithm="fixed_window", anchor=5.0))
    assert isinstance(limits.admit(10, Demand(tokens=600)), Admitted)
    answer = limits.admit(64.5, Demand(tokens=1))
    assert isinstance(answer, Rejected)
    assert answer.wait == answer.meter.reset == 0.5
    assert isinstance(limits.admit(65, Demand(tokens=600)), Admitted)


def test_a_slice_rejects_what_headers_do_not_show() -> None:
    limits = openai(MeterConfig("requests", 600, slice=1.0))
    for _ in range(10):
        assert isinstance(limits.admit(0.2, Demand()), Admitted)
    answer = limits.admit(0.3, Demand())
    assert isinstance(answer, Rejected)
    assert (answer.kind, answer.wait) == ("slice", pytest.approx(0.7))
    assert answer.meter.remaining > 580
    assert isinstance(limits.admit(1.0, Demand()), Admitted)


def test_a_slice_lets_one_large_call_through() -> None:
    limits = openai(MeterConfig("tokens", 30_000, slice=1.0))
    assert isinstance(limits.admit(0, Demand(tokens=4_000)), Admitted)
    assert isinstance(limits.admit(0.5, Demand(tokens=10)), Rejected)
    assert isinstance(limits.admit(1, Demand(tokens=4_000)), Admitted)


def test_anthropic_charges_output_as_it_is_produced() -> None:
    limits = anthropic(MeterConfig("input_tokens", 30_000), MeterConfig("output_tokens", 8_000))
    limits.admit(0, Demand(input_tokens=1_000))
    assert [figure.remaining for figure in limits.figures(0)] == [29_000, 8_000]
    limits.produce(0, 9_000)
    limits.adjust_input(0, estimated=1_000, actual=1_600)
    assert [figure.remaining for figure in limits.figures(0)] == [28_400, -1_000]
    answer = limits.admit(0, Demand(input_tokens=10))
    assert isinstance(answer, Rejected)
    assert answer.meter.resource == "output_tokens"
    assert answer.wait == pytest.approx(1_001 / 8_000 * 60)
    assert answer.charged == (0, 0)
    assert isinstance(limits.admit(answer.wait, Demand(input_tokens=10)), Admitted)


def test_anthropic_headers_round_and_the_combined_one_lies() -> None:
    limits = anthropic(
        MeterConfig("requests", 50), MeterConfig("input_tokens", 200_000), MeterConfig("output_tokens", 80_000)
    )
    limits.admit(0, Demand(input_tokens=74_400))
    limits.produce(0, 20_600)
    assert limits.headers(0, wall=1_742_043_479.5) == {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2025-03-15T12:58:00Z",
        "anthropic-ratelimit-input-tokens-limit": "200000",
        "anthropic-ratelimit-input-tokens-remaining": "126000",
        "anthropic-ratelimit-input-tokens-reset": "2025-03-15T12:58:21Z",
        "anthropic-ratelimit-output-tokens-limit": "80000",
        "anthropic-ratelimit-output-tokens-remaining": "59000",
        "anthropic-ratelimit-output-tokens-reset": "2025-03-15T12:58:14Z",
        "anthropic-ratelimit-tokens-limit": "280000",
        "anthropic-ratelimit-tokens-remaining": "185000",
        "anthropic-ratelimit-tokens-reset": "2025-03-15T12:58:14Z",
    }


def test_openai_does_not_return_or_charge_anything_after_admission() -> None:
    limits = openai(TOKENS)
    limits.admit(0, Demand(tokens=5_000))
    assert limits.produce(0, 4_000) == (0.0,)
    assert limits.adjust_input(0, 100, 50) == (0.0,)
    assert limits.figures(0)[0].remaining == 25_000


def test_a_changed_limit_keeps_what_is_left_up_to_the_new_size() -> None:
    limits = openai(REQUESTS, TOKENS)
    limits.admit(0, Demand(tokens=10_000))
    limits.set_limit(0, "tokens", 60_000)
    assert limits.figures(0)[1].remaining == 20_000
    assert limits.figures(1)[1].remaining == 21_000
    limits.set_limit(1, "tokens", 6_000)
    assert limits.figures(1)[1].remaining == 6_000
    with pytest.raises(LookupError, match="no meter input_tokens; this pool has requests over 60 s, tokens over 60 s"):
        limits.set_limit(1, "input_tokens", 5)


@pytest.mark.parametrize(
    ("rule", "chars", "max_tokens", "n", "charge"),
    [
        ("sum", [20, 61], None, 2, 5 + 16 + 2 + 32),
        ("sum", [5_469], 400, 1, 1_768 + 1),
        ("max", [400], 50, 1, 100),
        ("max", [400], 60, 2, 120),
        ("max", [400], None, 1, 100),
        ("chars", [401], 9_999, 1, 102),
    ],
)
def test_the_admission_rules(rule: str, chars: list[int], max_tokens: int | None, n: int, charge: int) -> None:
    assert openai_charge(rule, chars, max_tokens=max_tokens, n=n) == charge  # type: ignore[arg-type]


def test_images_and_embeddings() -> None:
    assert openai_charge("sum", [24], max_tokens=16, images=1) == 6 + 1 + 16 + 765
    assert embeddings_charge([34]) == 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.012, "12ms"),
        (1.182, "1.182s"),
        (8.64, "8.64s"),
        (9.9, "9.9s"),
        (60, "1m0s"),
        (1252.666, "20m52.666s"),
        (864, "14m24s"),
        (86_400, "24h0m0s"),
    ],
)
def test_go_durations(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_thousands() -> None:
    assert [thousands(x) for x in (-5, 499, 500, 1_499, 1_500)] == [0, 0, 1_000, 1_000, 2_000]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"resource": "token", "limit": 1}, "resource must be one of"),
        ({"resource": "tokens", "limit": 0}, "limit must be"),
        ({"resource": "tokens", "limit": 1, "window": -1}, "window must be"),
        ({"resource": "tokens", "limit": math.nan}, "limit must be"),
        ({"resource": "tokens", "limit": 5, "initial": 6}, "initial must lie"),
    ],
)
def test_impossible_meters_are_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeterConfig(**kwargs)  # type: ignore[arg-type]


def test_a_meter_that_starts_low_refills_even_when_its_first_call_is_rejected() -> None:
    limits = anthropic(MeterConfig("input_tokens", 6_000, initial=0))
    assert isinstance(limits.admit(100, Demand(input_tokens=100)), Rejected)
    assert isinstance(limits.admit(101, Demand(input_tokens=100)), Admitted)
    started = ProviderLimits(LimitsConfig("openai", (MeterConfig("tokens", 6_000, initial=0),)), start=0)
    assert isinstance(started.admit(1, Demand(tokens=100)), Admitted)


def test_fake_clock_moves_when_told_and_never_back() -> None:
    clock = FakeClock(10)
    assert clock.advance(2.5) == clock() == clock.now == 12.5
    assert clock.set(20) == 20
    with pytest.raises(ValueError, match="advances by 0"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="cannot be set"):
        clock.set(19)
