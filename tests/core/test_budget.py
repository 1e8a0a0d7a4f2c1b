# SPDX-License-Identifier: Apache-2.0
"""The rules of budget arithmetic, one test each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.config import LimitConfig, PoolConfig
from sluicegate.broker.core.units import DAY, Charge, MeterKey
from sluicegate.wire.values import Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import Algorithm, LearnLimits, Provider, Resource

TOKENS = MeterKey(Resource.TOKENS, 60.0)
REQUESTS = MeterKey(Resource.REQUESTS, 60.0)
INPUT = MeterKey(Resource.INPUT_TOKENS, 60.0)
OUTPUT = MeterKey(Resource.OUTPUT_TOKENS, 60.0)


def limit(resource: Resource, amount: float, window: float = 60.0, algorithm: Algorithm | None = None, burst=None):
    return LimitConfig(resource, amount, window, algorithm, burst)


def pool(*limits: LimitConfig, provider: Provider = Provider.OPENAI, learn: LearnLimits = LearnLimits.FOLLOW):
    return PoolConfig("pool", provider, "https://provider", ("m",), limits, learn)


def openai(**more) -> Budget:
    return Budget(pool(limit(Resource.REQUESTS, 600), limit(Resource.TOKENS, 60_000), **more), 0.0)


def anthropic() -> Budget:
    limits = (limit(Resource.INPUT_TOKENS, 60_000), limit(Resource.OUTPUT_TOKENS, 6_000))
    return Budget(pool(*limits, provider=Provider.ANTHROPIC), 0.0)


def tokens(remaining: float, high: float | None = None, of: float | None = 60_000, reset: float | None = None):
    high = remaining + 1 if high is None else high
    return MeterReading(Resource.TOKENS, None, of, remaining, high, reset)


def call(amount: float) -> Charge:
    return Charge(1.0, amount, amount, 0.0)


def observed(budget: Budget, remaining: float, now: float = 0.0, key: MeterKey = TOKENS) -> Budget:
    """Let one free call bring `remaining` at `now`."""
    budget.adopt("first", Charge(0.0), 0.0, now)
    reading = MeterReading(key.resource, 60.0, None, remaining, remaining)
    budget.observe("first", [reading], now)
    budget.settle("first", dispatched=True, usage=None, now=now)
    return budget


# ---- before anything was observed


def test_an_unobserved_meter_starts_with_a_second_of_its_rate():
    budget = openai()
    assert budget.available(0.0) == {REQUESTS: 10.0, TOKENS: 1000.0}
    budget.reserve("a", call(600), 0.0)
    lack = budget.lack(call(600), 0.0)
    assert lack is not None
    assert lack.meter == TOKENS
    assert lack.ready_at == pytest.approx(0.2, abs=1e-5)
    assert lack.fits_now == 400


def test_the_first_call_always_goes_if_it_can_ever_fit():
    budget = openai()
    assert budget.lack(call(50_000), 0.0) is None
    budget.reserve("a", call(50_000), 0.0)
    assert budget.available(0.0)[TOKENS] == 0
    lack = budget.lack(call(100), 0.0)
    assert lack is not None
    assert lack.ready_at == pytest.approx(49.1, abs=0.01)  # the debt is paid by refill first


def test_a_call_that_never_fits_is_told_what_would():
    budget = openai()
    assert budget.never_fits(call(60_001)) == (TOKENS, 60_000)
    assert budget.never_fits(call(60_000)) is None
    lack = budget.lack(call(60_001), 0.0)
    assert lack is not None
    assert lack.ready_at == math.inf


# ---- reservations


def test_reserve_refuses_what_does_not_fit_and_takes_nothing():
    budget = observed(openai(), 500)
    with pytest.raises(ValueError, match="tokens/1m of pool 'pool' lacks room for 501"):
        budget.reserve("a", call(501), 0.0)
    assert budget.outstanding == 0
    assert budget.available(0.0)[REQUESTS] == 10
    budget.reserve("a", call(500), 0.0)
    with pytest.raises(ValueError, match="already holds"):
        budget.reserve("a", call(1), 0.0)


def test_the_binding_meter_is_the_one_that_is_ready_last():
    budget = observed(openai(), 0)
    for n in range(10):
        budget.reserve(f"c{n}", Charge(1.0), 0.0)
    lack = budget.lack(call(1000), 0.0)
    assert lack is not None
    assert lack.meter == TOKENS
    lack = budget.lack(call(50), 0.0)
    assert lack is not None
    assert lack.meter == REQUESTS


def test_openai_returns_nothing_on_settlement():
    budget = observed(openai(), 10_000)
    budget.reserve("a", call(4000), 0.0)
    final = budget.settle("a", dispatched=True, usage=Usage(10, 10), now=0.0)
    assert final == call(4000)
    assert budget.available(0.0)[TOKENS] == 6000


def test_a_call_that_was_never_sent_comes_back_whole():
    budget = observed(openai(), 10_000)
    budget.reserve("a", call(4000), 0.0)
    assert budget.settle("a", dispatched=False, usage=None, now=0.0) == Charge(0.0)
    assert budget.available(0.0) == {REQUESTS: 10.0, TOKENS: 10_000}
    assert budget.settle("a", dispatched=False, usage=None, now=0.0) is None


def test_anthropic_corrects_input_and_output():
    budget = observed(observed(anthropic(), 10_000, key=INPUT), 2000, key=OUTPUT)
    budget.reserve("a", Charge(1.0, 3000, 2000, 1000), 0.0)
    assert budget.available(0.0) == {INPUT: 8000, OUTPUT: 1000}
    budget.settle("a", dispatched=True, usage=Usage(1500, 1200, 1000), now=0.0)
    assert budget.available(0.0) == {INPUT: 9500, OUTPUT: 800}


def test_what_ends_without_usage_stays_charged_as_reserved():
    budget = observed(observed(anthropic(), 10_000, key=INPUT), 2000, key=OUTPUT)
    charge = Charge(1.0, 3000, 2000, 1000)
    budget.reserve("a", charge, 0.0)
    assert budget.settle("a", dispatched=True, usage=None, now=0.0) == charge
    assert budget.available(0.0) == {INPUT: 8000, OUTPUT: 1000}


def test_an_upward_correction_beyond_what_is_there_is_paid_by_refill():
    budget = observed(anthropic(), 1000, key=OUTPUT)
    budget.reserve("a", Charge(1.0, 0, 0, 1000), 0.0)
    budget.settle("a", dispatched=True, usage=Usage(0, 1500), now=0.0)
    assert budget.available(0.0)[OUTPUT] == 0
    lack = budget.lack(Charge(1.0, 0, 0, 100), 0.0)
    assert lack is not None
    assert lack.ready_at == pytest.approx(6.0, abs=1e-4)


def test_adopted_calls_are_taken_off_even_without_room():
    budget = observed(openai(), 100)
    budget.adopt("a", call(5000), age=3.0, now=0.0)
    budget.adopt("a", call(5000), age=3.0, now=0.0)
    assert budget.available(0.0)[TOKENS] == 0
    assert budget.outstanding == 1


# ---- observations bound


def test_a_call_sent_after_the_observed_one_is_not_in_its_figure():
    budget = observed(openai(), 50_000)
    budget.reserve("a", call(1000), 0.0)
    budget.reserve("b", call(2000), 0.5)
    budget.observe("a", [tokens(49_000)], 1.0)
    assert budget.available(1.0)[TOKENS] == pytest.approx(48_000)  # the local account lies inside and stays


def test_overlapping_calls_count_as_missing_below_and_as_included_above():
    budget = observed(openai(), 1000)
    budget.reserve("a", call(100), 0.0)
    budget.reserve("b", call(200), 0.0)
    budget.observe("a", [tokens(40_000)], 0.0)
    assert budget.available(0.0)[TOKENS] == 40_000 - 200  # lifted to the lower bound
    budget.observe("b", [tokens(30_000)], 2.0)
    upper = 30_001 + 2 * 1000  # refill from dispatch on
    lump = 39_800 + 2 * 1000 - upper  # what others took of the account stays away as a margin
    assert budget.available(2.0)[TOKENS] == upper - lump


def test_a_late_observation_cannot_undo_a_newer_one():
    budget = observed(openai(), 50_000)
    budget.reserve("old", call(1000), 0.0)
    for n in range(10):
        budget.reserve(f"c{n}", call(4000), 1.0)
        budget.observe(f"c{n}", [tokens(49_000 - 4000 * (n + 1))], 2.0)
    before = budget.available(3.0)[TOKENS]
    budget.observe("old", [tokens(49_000)], 3.0)
    assert budget.available(3.0)[TOKENS] == before


def test_a_rounded_figure_never_lifts_above_its_low_end():
    budget = observed(anthropic(), 100, key=INPUT)
    budget.adopt("x", Charge(0.0), 0.0, 0.0)
    budget.observe("x", [MeterReading(Resource.INPUT_TOKENS, None, 60_000, 19_500, 20_500)], 0.0)
    assert budget.available(0.0)[INPUT] == 19_500


def test_output_charged_as_produced_is_missing_until_it_settles():
    budget = observed(anthropic(), 5000, key=OUTPUT)
    budget.reserve("a", Charge(1.0, 0, 0, 1000), 0.0)
    budget.observe("a", [MeterReading(Resource.OUTPUT_TOKENS, None, 6000, 5000, 5000)], 0.0)
    assert budget.available(0.0)[OUTPUT] == 4000  # its own output is still to come


def test_readings_of_unknown_calls_are_counted():
    budget = openai()
    budget.observe("ghost", [tokens(5)], 0.0)
    assert budget.anomalies["unknown_call"] == 1
    assert budget.available(0.0)[TOKENS] == 1000


def test_the_output_share_starts_conservative():
    charge = openai().charge(Estimate(100, 0, 1000), "m")
    assert (charge.tokens, charge.kind) == (1104, "m")
    assert anthropic().charge(Estimate(100, 10, 20), "m").kind == "m"


# ---- limits and meters are learned


@pytest.mark.parametrize(
    ("learn", "reported", "expected"),
    [
        (LearnLimits.FOLLOW, 30_000, 30_000),
        (LearnLimits.FOLLOW, 90_000, 90_000),
        (LearnLimits.LOWER_ONLY, 30_000, 30_000),
        (LearnLimits.LOWER_ONLY, 90_000, 60_000),
        (LearnLimits.OFF, 30_000, 60_000),
        (LearnLimits.OFF, 90_000, 60_000),
        (LearnLimits.FOLLOW, 0, 60_000),
        (LearnLimits.FOLLOW, math.nan, 60_000),
        (LearnLimits.FOLLOW, 1e300, 60_000),
    ],
)
def test_learned_limits(learn: LearnLimits, reported: float, expected: float):
    budget = openai(learn=learn)
    budget.reserve("a", call(10), 0.0)
    budget.observe("a", [tokens(20_000, of=reported)], 0.0)
    status = budget.status(0.0)[1]
    assert (status.limit, status.capacity) == (expected, expected)
    assert status.available <= expected
    assert ("limit_out_of_range" in budget.anomalies) is (reported in (0, 1e300) or math.isnan(reported))


def test_a_declared_limit_below_the_providers_is_kept_by_our_own_account():
    budget = openai(learn=LearnLimits.LOWER_ONLY)
    budget.reserve("a", call(1000), 0.0)
    budget.observe("a", [tokens(500_000, of=600_000)], 0.0)
    assert budget.available(0.0)[TOKENS] == 0  # what others' headroom shows does not lift us
    assert budget.available(10.0)[TOKENS] == 10_000


def test_an_older_limit_that_arrives_late_is_ignored():
    budget = openai()
    budget.reserve("old", call(10), 0.0)
    budget.reserve("new", call(10), 0.5)
    budget.observe("new", [tokens(20_000, of=30_000)], 1.0)
    budget.observe("old", [tokens(50_000, of=60_000)], 2.0)
    assert budget.status(2.0)[1].limit == 30_000


def test_the_bucket_size_is_remaining_plus_reset_times_rate():
    budget = openai()
    budget.reserve("a", call(10), 0.0)
    budget.observe("a", [tokens(5000, reset=5.0)], 0.0)
    assert budget.status(0.0)[1].capacity == pytest.approx(10_000, rel=0.01)
    budget.adopt("b", Charge(0.0), 0.0, 0.0)
    budget.observe("b", [tokens(50_000, reset=10.0)], 0.0)
    assert budget.status(0.0)[1].capacity == 60_000


def test_a_configured_burst():
    budget = Budget(pool(limit(Resource.TOKENS, 60_000, burst=10.0)), 0.0)
    assert budget.never_fits(call(10_001)) == (TOKENS, 10_000)


def test_figures_that_imply_a_day_make_a_day_meter_once_they_agree():
    budget = openai()
    for n in range(3):
        budget.reserve(f"c{n}", call(10), float(n))
        used = 10.0 + n
        reading = MeterReading(Resource.REQUESTS, None, 10_000, 10_000 - used, 10_001 - used, used * 8.64)
        budget.observe(f"c{n}", [reading], float(n))
        assert (MeterKey(Resource.REQUESTS, DAY) in budget.available(float(n))) is (n == 2)
    assert budget.status(2.0)[0].limit == 600


def test_a_named_window_that_was_not_declared_is_learned():
    budget = openai()
    budget.reserve("a", call(10), 0.0)
    budget.observe("a", [MeterReading(Resource.TOKENS, DAY, 1_000_000, 900_000, 900_000)], 0.0)
    assert budget.available(0.0)[MeterKey(Resource.TOKENS, DAY)] == 900_000
    budget.reconfigure(pool(limit(Resource.REQUESTS, 600), limit(Resource.TOKENS, 60_000)), 1.0)
    assert MeterKey(Resource.TOKENS, DAY) in budget.available(1.0)


def test_undeclared_meters_that_make_no_sense_or_may_not_be_learned_are_ignored():
    budget = openai()
    budget.reserve("a", call(10), 0.0)
    budget.observe("a", [MeterReading(Resource.TOKENS, 1e-9, 5, 1, 1), MeterReading(Resource.INPUT_TOKENS)], 0.0)
    budget.observe("a", [MeterReading(Resource.OUTPUT_TOKENS, 60, 0.5, 1, 1)], 0.0)
    assert len(budget.status(0.0)) == 2
    assert budget.anomalies["undeclared_meter_invalid"] == 2
    strict = openai(learn=LearnLimits.OFF)
    strict.reserve("a", call(10), 0.0)
    strict.observe("a", [MeterReading(Resource.TOKENS, DAY, 1_000_000, 9, 9)], 0.0)
    assert len(strict.status(0.0)) == 2


def test_of_several_windows_the_one_with_the_nearest_limit_is_meant():
    budget = Budget(pool(limit(Resource.REQUESTS, 500), limit(Resource.REQUESTS, 10_000, DAY)), 0.0)
    budget.reserve("a", call(0), 0.0)
    budget.observe("a", [MeterReading(Resource.REQUESTS, None, 9_000, 400, 400)], 0.0)
    minute, day = budget.status(0.0)
    assert (minute.limit, day.limit) == (500, 9_000)
    budget.observe("a", [MeterReading(Resource.REQUESTS, None, None, 40, 40)], 0.0)
    assert budget.available(0.0)[REQUESTS] == 40


def test_anthropics_combined_tokens_are_no_meter():
    budget = anthropic()
    budget.reserve("a", Charge(), 0.0)
    budget.observe("a", [MeterReading(Resource.TOKENS, None, 66_000, 1, 1)], 0.0)
    assert len(budget.status(0.0)) == 2


# ---- quota 429


def test_a_429_says_when_this_call_fits_and_still_costs_a_request():
    budget = observed(openai(), 50_000)
    budget.reserve("a", call(10_000), 0.0)
    fits_at = budget.reject("a", QuotaRejection(Resource.TOKENS, None, 4.0), 0.0)
    assert fits_at >= 4.0
    assert budget.available(0.0)[REQUESTS] == 9
    assert budget.outstanding == 0
    assert budget.lack(call(10_000), fits_at) is None or budget.lack(call(10_000), fits_at + 30) is None


def test_a_429s_own_figures_lack_its_charge_and_do_not_bring_it_back_twice():
    budget = observed(openai(), 5000)
    budget.reserve("a", call(3000), 0.0)
    budget.observe("a", [tokens(20_000, 20_000)], 0.5)
    budget.reject("a", QuotaRejection(Resource.REQUESTS, None, 1.0), 0.5)
    assert budget.available(0.5)[TOKENS] == 20_000


def test_a_429_never_raises_the_account():
    budget = observed(openai(), 1000)
    budget.reserve("a", call(500), 0.0)
    budget.reject("a", QuotaRejection(Resource.TOKENS, None, 0.001), 0.0)
    assert budget.available(0.0)[TOKENS] <= 1000


@pytest.mark.parametrize("told", [None, 0.0, -5.0, math.nan, math.inf, 86_400.0])
def test_absurd_hints_are_clamped_to_the_window(told: float | None):
    budget = observed(openai(), 50_000)
    budget.reserve("a", call(10_000), 0.0)
    fits_at = budget.reject("a", QuotaRejection(Resource.TOKENS, None, told), 0.0)
    assert 0.0 < fits_at <= 130.0


def test_a_429_that_names_no_meter_is_the_emptiest_ones():
    budget = observed(openai(), 1000)
    budget.reserve("a", call(900), 0.0)
    budget.reject("a", QuotaRejection(None, None, 5.0), 0.0)
    assert budget.available(0.0)[TOKENS] == 0
    assert budget.available(0.0)[REQUESTS] == 9


def test_a_429_of_a_named_window():
    budget = Budget(pool(limit(Resource.TOKENS, 60_000), limit(Resource.TOKENS, 1_000_000, DAY)), 0.0)
    budget.reserve("a", call(500), 0.0)
    fits_at = budget.reject("a", QuotaRejection(Resource.TOKENS, DAY, 600.0), 0.0)
    assert fits_at >= 600
    assert budget.lack(call(500), 1.0).meter.window == DAY  # type: ignore[union-attr]


def test_tokens_may_mean_input_tokens():
    budget = observed(anthropic(), 50_000, key=INPUT)
    budget.reserve("a", Charge(1.0, 0, 40_000, 0), 0.0)
    fits_at = budget.reject("a", QuotaRejection(Resource.TOKENS, None, 10.0), 0.0)
    assert fits_at >= 10


def test_too_large_teaches_the_limit():
    budget = observed(openai(), 60_000)
    budget.reserve("a", call(40_000), 0.0)
    rejection = QuotaRejection(Resource.TOKENS, None, None, never_fits=True, limit=30_000, requested=40_000)
    assert budget.reject("a", rejection, 0.0) == math.inf
    assert budget.never_fits(call(40_000)) == (TOKENS, 30_000)


def test_a_model_without_quota_and_a_request_too_large_do_not_stop_the_others_of_the_pool():
    for rejection in (
        QuotaRejection(Resource.REQUESTS, None, None, never_fits=True, limit=0),
        QuotaRejection(Resource.TOKENS, None, None, never_fits=True, limit=0),
        QuotaRejection(Resource.REQUESTS, None, None, never_fits=True),
        QuotaRejection(Resource.TOKENS, 86_400.0, None, never_fits=True, limit=20_000, requested=30_000),
    ):
        budget = observed(openai(), 60_000)
        budget.reserve("a", call(10), 0.0)
        assert budget.reject("a", rejection, 0.0) == math.inf
        assert budget.never_fits(call(40_000)) is None


def test_rejections_of_unknown_calls_and_of_pools_without_meters():
    assert openai().reject("ghost", QuotaRejection(retry_after=7.0), 100.0) == 107.0
    empty = Budget(pool(), 0.0)
    empty.reserve("a", call(10), 0.0)
    assert empty.reject("a", QuotaRejection(retry_after=None), 0.0) == 1.0
    assert empty.lack(call(10), 0.0) is None


def test_a_429_while_there_was_plenty_shrinks_what_may_pile_up():
    budget = openai()
    budget.reserve("a", call(10), 0.0)
    plenty = MeterReading(Resource.REQUESTS, None, 600, 500, 501)
    budget.observe("a", [plenty], 0.0)
    assert budget.available(0.0)[REQUESTS] == 500
    sizes = []
    for n in range(4):
        now = 1.0 + n * 20
        budget.reserve(f"c{n}", call(10), now)
        budget.observe(f"c{n}", [plenty], now)
        budget.reject(f"c{n}", QuotaRejection(Resource.REQUESTS, None, 0.5), now)
        sizes.append(round(max(budget.available(now + 19)[REQUESTS], 1)))
    assert sizes[-1] == 1
    assert budget.rates(80.0)[REQUESTS] < 10
    assert budget.never_fits(call(10)) is None
    assert budget.available(1400.0)[REQUESTS] == pytest.approx(1, abs=0.01)  # never forgotten
    status = next(meter for meter in budget.status(1400.0) if meter.key == REQUESTS)
    assert (status.pile, status.capacity) == (1, 600)


def test_learned_slices_survive_another_configuration():
    budget = openai()
    for n in range(3):
        budget.reserve(f"c{n}", call(10), n * 20.0)
        budget.observe(f"c{n}", [MeterReading(Resource.REQUESTS, None, 600, 500, 501)], n * 20.0)
        budget.reject(f"c{n}", QuotaRejection(Resource.REQUESTS, None, 0.5), n * 20.0)
    limits = tuple(replace(limit, limit=2 * limit.limit) for limit in budget._config.limits)
    budget.reconfigure(replace(budget._config, limits=limits), 100.0)
    status = next(meter for meter in budget.status(100.0) if meter.key == REQUESTS)
    assert (status.pile, status.capacity) == (1, 1200)


# ---- headroom


def test_headroom_held_back():
    budget = observed(openai(), 8000)
    assert budget.lack(call(2000), 0.0, 0.1) is None
    lack = budget.lack(call(2001), 0.0, 0.1)
    assert lack is not None
    assert lack.headroom
    assert lack.fits_now == 2000
    assert not budget.lack(call(8001), 0.0, 0.1).headroom  # type: ignore[union-attr]
    assert budget.lack(call(60_000), 100.0, 0.5) is None  # a full bucket lets through what it can hold


# ---- fixed windows


def windowed() -> Budget:
    return Budget(pool(limit(Resource.TOKENS, 1000, 60.0, Algorithm.FIXED_WINDOW)), 0.0)


def test_a_window_is_full_again_at_its_end_and_not_before():
    budget = windowed()
    budget.reserve("a", call(900), 10.0)
    budget.observe("a", [tokens(100, 100, of=1000)], 10.5)
    lack = budget.lack(call(200), 69.0)
    assert lack is not None
    assert lack.ready_at == pytest.approx(70.0, abs=1e-4)
    assert budget.available(71.0)[TOKENS] == 1000
    assert budget.rates(71.0) == {}


def test_a_reset_header_aligns_the_window():
    budget = windowed()
    budget.reserve("a", call(900), 10.0)
    budget.observe("a", [tokens(100, 100, of=1000, reset=20.5)], 10.5)
    assert budget.lack(call(200), 11.0).ready_at == pytest.approx(31.0, abs=1e-4)  # type: ignore[union-attr]
    assert budget.lack(call(200), 31.5) is None
    assert budget.available(200.0)[TOKENS] == 1000


def test_calls_unanswered_at_the_end_are_charged_to_the_new_window():
    budget = windowed()
    budget.reserve("a", call(900), 10.0)
    assert budget.available(71.0)[TOKENS] == 100


def test_a_figure_of_the_window_before_says_nothing_about_this_one():
    budget = windowed()
    budget.reserve("a", call(300), 10.0)
    budget.reserve("b", call(300), 10.0)
    budget.observe("a", [tokens(400, 400, of=1000)], 10.5)
    budget.observe("b", [tokens(400, 400, of=1000)], 71.0)
    assert budget.available(71.0)[TOKENS] == 700


def test_a_429_empties_the_window_until_its_end():
    budget = windowed()
    budget.reserve("a", call(300), 10.0)
    assert budget.reject("a", QuotaRejection(Resource.TOKENS, None, 15.0), 11.0) == pytest.approx(26.0, abs=1e-4)
    assert budget.available(25.0)[TOKENS] == 0
    fresh = windowed()
    fresh.adopt("a", call(300), 0.0, 0.0)
    fresh.available(60.0)
    assert fresh.reject("a", QuotaRejection(Resource.TOKENS), 60.0) == pytest.approx(120.0, abs=1e-4)


def test_a_window_whose_limit_changes():
    budget = windowed()
    budget.reserve("a", call(300), 10.0)
    budget.observe("a", [tokens(200, 200, of=500)], 10.0)
    assert budget.status(10.0)[0].limit == 500
    assert budget.available(10.0)[TOKENS] == 200


# ---- configuration and reports


def test_reconfigure_keeps_accounts_of_unchanged_meters():
    budget = observed(openai(), 5000)
    budget.reserve("a", call(1000), 0.0)
    budget.observe("a", [tokens(4000)], 0.0)
    budget.reserve("b", call(500), 0.0)
    budget.reconfigure(pool(limit(Resource.TOKENS, 60_000), limit(Resource.REQUESTS, 1200)), 0.0)
    assert budget.available(0.0)[TOKENS] == 3500
    requests = budget.status(0.0)[1]
    assert (requests.limit, requests.reserved, requests.observed) == (1200, 2, False)
    budget.settle("a", dispatched=True, usage=None, now=0.0)
    budget.settle("b", dispatched=True, usage=None, now=0.0)
    assert all(status.reserved == 0 for status in budget.status(0.0))


def test_reconfigure_to_another_provider_starts_anew():
    budget = observed(openai(), 5000)
    limits = (limit(Resource.REQUESTS, 600), limit(Resource.TOKENS, 60_000))
    budget.reconfigure(pool(*limits, provider=Provider.MISTRAL), 0.0)
    assert not any(status.observed for status in budget.status(0.0))


def test_status_and_repr():
    budget = observed(openai(), 5000)
    budget.reserve("a", call(1000), 0.0)
    status = budget.status(0.0)[1]
    assert status.key == TOKENS
    assert status.algorithm is Algorithm.BUCKET
    assert (status.available, status.reserved, status.foreign_rate, status.observed) == (4000, 1000, 0, True)
    assert "1 outstanding" in repr(budget)
    assert "tokens/1m: <Bucket 4000 of 60000, 1000 reserved>" in repr(budget)
    assert budget.rates(0.0) == {REQUESTS: 10, TOKENS: 1000}


# ---- what no header ever names


def served(budget: Budget, name: str, now: float, readings: tuple[MeterReading, ...] = ()) -> None:
    """One small call that succeeds."""
    budget.reserve(name, call(10), now)
    if readings:
        budget.observe(name, readings, now)
    budget.settle(name, dispatched=True, usage=Usage(5, 5), now=now)


def with_a_day(now: float = 0.0) -> Budget:
    day = limit(Resource.REQUESTS, 10_000, DAY)
    return Budget(pool(limit(Resource.REQUESTS, 500), limit(Resource.TOKENS, 30_000), day), now)


REQUESTS_A_DAY = MeterKey(Resource.REQUESTS, DAY)


def test_a_days_limit_holds_what_is_declared_less_our_own_calls():
    budget = with_a_day()
    minute = MeterReading(Resource.REQUESTS, None, 500, 499, 500, 0.12)
    for n in range(30):
        assert budget.lack(call(10), n * 1.0) is None
        served(budget, f"c{n}", n * 1.0, (minute,))
    assert budget.available(30.0)[REQUESTS_A_DAY] == pytest.approx(9_970 + 30 * 10_000 / DAY, abs=0.2)


def test_after_a_restart_a_header_or_a_429_corrects_the_days_limit():
    told = with_a_day()
    served(told, "a", 0.0, (MeterReading(Resource.REQUESTS, DAY, 10_000, 3, 4, None),))
    assert told.available(0.0)[REQUESTS_A_DAY] <= 4

    refused = with_a_day()
    refused.reserve("a", call(10), 0.0)
    ready = refused.reject("a", QuotaRejection(Resource.REQUESTS, DAY, 8.64), 0.0)
    assert ready == pytest.approx(8.64, abs=0.01)
    assert refused.available(0.0)[REQUESTS_A_DAY] == 0
    day = next(meter for meter in refused.status(0.0) if meter.key == REQUESTS_A_DAY)
    assert day.pile == 10_000  # what it may hold again one day has not shrunk


def test_a_meter_that_no_answer_names_is_believed_after_some():
    budget = openai()
    for n in range(4):
        served(budget, f"c{n}", 0.0)
    assert budget.available(0.0)[TOKENS] == 960
    served(budget, "c4", 0.0)
    assert budget.available(0.0) == {REQUESTS: 575, TOKENS: 57_950}  # two seconds' worth stay untouched


def test_a_meter_that_a_429_or_a_header_named_is_not_believed_blindly():
    budget = openai()
    budget.reserve("refused", call(10), 0.0)
    budget.reject("refused", QuotaRejection(Resource.TOKENS, 60.0, 1.0), 0.0)
    for n in range(9):
        served(budget, f"c{n}", 2.0 + n, (MeterReading(Resource.REQUESTS, 60.0, 600, 40, 41, None),))
    assert budget.available(11.0)[TOKENS] < 15_000
    assert budget.available(11.0)[REQUESTS] <= 41


# ---- figures that are wrong


def sized(amount: int = 100_000) -> Budget:
    return Budget(pool(limit(Resource.TOKENS, amount)), 0.0)


def said(budget: Budget, now: float, name: str, *readings: MeterReading) -> None:
    """A call that is answered at once, and what its headers say."""
    budget.adopt(name, Charge(0.0), 0.0, now)
    budget.observe(name, list(readings), now)
    budget.settle(name, dispatched=True, usage=None, now=now)


@pytest.mark.parametrize(
    "figures",
    [
        MeterReading(Resource.TOKENS, None, 150, 120, 121, 12.0),
        MeterReading(Resource.TOKENS, None, 1, 1, 2, 1.0),
        MeterReading(Resource.TOKENS, None, 100_000, 1, 2, 1.0),
    ],
)
def test_one_wrong_figure_shrinks_nothing(figures: MeterReading):
    budget = sized()
    said(budget, 0.0, "wrong", figures)
    assert budget.never_fits(call(50_000)) is None
    status = budget.status(0.0)[0]
    assert (status.limit, status.capacity) == (100_000, 100_000)
    assert sum(budget.anomalies.values()) >= 1


def test_a_steep_fall_that_a_second_call_confirms_is_believed():
    budget = sized()
    for n in range(2):
        said(budget, float(n), f"c{n}", MeterReading(Resource.TOKENS, None, 150, 120, 121, 12.0))
    assert budget.status(1.0)[0].limit == 150


def test_what_a_learned_limit_bars_may_try_when_no_figure_has_come_for_a_while():
    budget = sized()
    for n in range(2):
        said(budget, float(n), f"c{n}", MeterReading(Resource.TOKENS, None, 150, 150, 151, None))
    large = call(400)
    assert budget.never_fits(large) is None
    assert not budget.relax(large, 2.0)  # a fresh figure holds: the call waits for a full bucket
    assert budget.relax(large, 30.0)
    assert budget.status(30.0)[0].limit == 100_000
    lack = budget.lack(large, 30.0)
    assert lack is not None
    assert lack.ready_at < 31.0
    budget.reserve("probe", large, lack.ready_at)
    budget.observe("probe", [tokens(99_000, of=100_000)], 31.0)
    assert budget.status(31.0)[0].limit == 100_000


def test_what_the_provider_calls_too_large_never_fits_until_its_limit_rises():
    budget = sized()
    budget.reserve("huge", call(50_000), 0.0)
    assert budget.reject("huge", QuotaRejection(Resource.TOKENS, None, None, True, 30_000, 50_000), 0.0) == math.inf
    assert budget.never_fits(call(50_000)) == (TOKENS, 30_000)
    assert budget.never_fits(call(29_000)) is None
    assert not budget.relax(call(50_000), 100.0)
    said(budget, 100.0, "raised", tokens(80_000, of=90_000))
    assert budget.never_fits(call(50_000)) is None
