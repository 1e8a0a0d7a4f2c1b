# SPDX-License-Identifier: Apache-2.0
"""Estimates that follow what calls really used."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace

from hypothesis import given
from hypothesis import strategies as st

from sluicegate.broker.core.calibrate import Calibration
from sluicegate.wire.values import Estimate, Usage


def asked(tokens: int = 1000, **more: int | bool | None) -> Estimate:
    return Estimate(tokens, 256, **more)  # type: ignore[arg-type]


def taught(pairs: list[tuple[int, int]], task: str = "chat") -> Calibration:
    calibration = Calibration()
    for estimated, real in pairs:
        calibration.learn(asked(estimated), Usage(real, 50), "p", "m", task)
    return calibration


def test_nothing_changes_before_anything_is_known():
    estimate = asked()
    assert Calibration().correct(estimate, "p", "m", "chat") is estimate
    assert taught([(1000, 1400)] * 2).correct(estimate, "p", "m", "chat") is estimate


def test_after_twenty_calls_an_estimate_is_within_a_tenth():
    # Prompts of all sizes whose tokenizer gives about 1.4 tokens for each of ours, more or less by a fifth.
    pairs = [(100 + 37 * i, int((100 + 37 * i) * (1.4 + 0.2 * math.sin(i)))) for i in range(20)]
    assert abs(taught(pairs).correct(asked(), "p", "m", "chat").input_tokens - 1400) <= 140


def test_an_exact_estimate_stays_and_only_its_output_is_learned():
    corrected = taught([(1000, 1400)] * 20).correct(asked(exact=True), "p", "m", "chat")
    assert (corrected.input_tokens, corrected.output_tokens) == (1000, 50)


def test_a_correction_touches_what_was_learned_and_nothing_else():
    estimate = Estimate(
        input_tokens=1000,
        output_tokens=256,
        max_output_tokens=300,
        characters=4000,
        choices=3,
        least_input_tokens=600,
        images=2,
        image_tokens=400,
    )
    corrected = taught([(1000, 1500)] * 20).correct(estimate, "p", "m", "chat")
    learned = {"input_tokens": 1501, "output_tokens": 50, "least_input_tokens": 901, "image_tokens": 601}  # rounded up
    assert asdict(corrected) == {**asdict(estimate), **learned}
    unsaid = [f.name for f in fields(estimate) if getattr(estimate, f.name) == f.default]
    assert unsaid == ["exact"]  # a field that is new here must be in this test, and in `correct`
    exact = replace(estimate, exact=True)
    assert taught([(1000, 1500)] * 20).correct(exact, "p", "m", "chat") == replace(exact, output_tokens=50)


def test_the_narrowest_key_that_knows_enough_speaks():
    calibration = taught([(1000, 2000)] * 20, "long")
    for _ in range(20):
        calibration.learn(asked(), Usage(500, 10), "p", "m", "short")
    assert calibration.correct(asked(), "p", "m", "long").input_tokens == 2000
    assert calibration.correct(asked(), "p", "m", "short").input_tokens == 500
    assert 500 < calibration.correct(asked(), "p", "m", "unseen").input_tokens < 2000
    assert calibration.correct(asked(), "p", "another", "long").input_tokens != 1000
    assert calibration.correct(asked(), "elsewhere", "m", "long").input_tokens == 1000


def test_one_absurd_call_moves_little():
    calibration = taught([(1000, 1000)] * 20)
    calibration.learn(asked(), Usage(10**9, 50), "p", "m", "chat")
    assert calibration.correct(asked(), "p", "m", "chat").input_tokens < 1250


def test_expected_output_is_what_nine_of_ten_answers_stayed_below_and_never_above_the_cap():
    calibration = Calibration()
    for answer in range(1, 51):
        calibration.learn(asked(), Usage(1000, answer), "p", "m", "chat")
    assert 44 <= calibration.correct(asked(), "p", "m", "chat").output_tokens <= 50
    assert calibration.correct(asked(max_output_tokens=20), "p", "m", "chat").output_tokens == 20
    embeddings = Estimate(1000, 0, 0)
    assert calibration.correct(embeddings, "p", "m", "chat").output_tokens == 0


def test_output_of_several_choices_is_learned_for_one():
    calibration = Calibration()
    for _ in range(5):
        calibration.learn(asked(choices=4), Usage(1000, 400), "p", "m", "chat")
    assert calibration.correct(asked(), "p", "m", "chat").output_tokens == 100


def test_keys_are_bounded():
    calibration = Calibration()
    for i in range(10_000):
        calibration.learn(asked(), Usage(1, 1), "p", f"m{i}", "chat")
    assert len(calibration) <= 4_096


amounts = st.integers(-5, 10**12)


@given(st.lists(st.tuples(amounts, amounts, amounts), max_size=30), amounts, st.none() | st.integers(0, 10**9))
def test_whatever_was_said_an_estimate_is_never_negative_nor_beyond_its_cap(
    said: list[tuple[int, int, int]], tokens: int, cap: int | None
):
    calibration = Calibration()
    for estimated, real, output in said:
        calibration.learn(asked(estimated), Usage(real, output), "p", "m", "chat")
    corrected = calibration.correct(asked(max(0, tokens), max_output_tokens=cap), "p", "m", "chat")
    assert corrected.input_tokens >= 0
    assert corrected.output_tokens >= 0
    assert cap is None or corrected.output_tokens <= max(cap, 256)
