# SPDX-License-Identifier: Apache-2.0
"""Rate-limit headers as recorded from the providers, and as nobody should send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.dialects import ALL
from sluicegate.sidecar.core.headers import Readings, read, read_meters, retry_after
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import Provider, Resource

DATE = "Sat, 15 Mar 2025 12:57:59 GMT"


def openai(kind: str, limit: object, remaining: object, reset: object) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": str(reset),
    }


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("20ms", 0.02), ("0s", 0.0), ("1.182s", 1.182), ("20m52.666s", 1252.666), ("6m0s", 360.0), ("14m24s", 864.0)],
)
def test_openai_figures_are_floored_and_resets_are_go_durations(reset: str, seconds: float):
    readings = read_meters(Provider.OPENAI, openai("tokens", 40000, 39974, reset))
    (meter,) = readings.meters
    assert (meter.resource, meter.limit) == (Resource.TOKENS, 40000)
    assert (meter.remaining_low, meter.remaining_high) == (39974, 39975)
    assert meter.reset == pytest.approx(seconds)
    assert readings.ignored == 0


def test_the_tighter_of_organization_and_project_counts():
    headers = openai("tokens", 1000, 900, "1s") | openai("project-tokens", 500, 20, "50s")
    (meter,) = read_meters(Provider.OPENAI, headers).meters
    assert (meter.limit, meter.remaining_low, meter.reset) == (500, 20, 50)


def test_anthropic_rounds_to_thousands_and_resets_count_from_the_responses_date():
    headers = {"date": DATE}
    for name, limit, remaining, reset in (
        ("input-tokens", 200000, 126000, "2025-03-15T12:58:20Z"),
        ("output-tokens", 80000, 0, "2025-03-15T12:57:00Z"),
        ("requests", 4000, 3999, "2025-03-15T12:57:59Z"),
        ("tokens", 280000, 185000, "2025-03-15T12:58:13Z"),
    ):
        headers |= {
            f"anthropic-ratelimit-{name}-limit": str(limit),
            f"anthropic-ratelimit-{name}-remaining": str(remaining),
            f"anthropic-ratelimit-{name}-reset": reset,
        }
    assert read_meters(Provider.ANTHROPIC, headers).meters == (
        MeterReading(Resource.REQUESTS, None, 4000, 3999, 4000, 0.0),
        MeterReading(Resource.INPUT_TOKENS, None, 200000, 125500, 126500, 21.0),
        MeterReading(Resource.OUTPUT_TOKENS, None, 80000, 0, 500, 0.0),
    )


def anthropic(start: str, reset: str) -> dict[str, str]:
    return {f"{start}-limit": "9000", f"{start}-remaining": "0", f"{start}-reset": reset}


@pytest.mark.parametrize(
    ("provider", "headers"),
    [
        ("openai", openai("input-images", 50, 49, "1.2s")),
        ("openai", openai("tokens_usage_based", 40_000, 10, "59s")),
        ("anthropic", anthropic("anthropic-priority-input-tokens", "2025-03-15T12:58:20Z")),
        ("anthropic", anthropic("anthropic-priority-output-tokens", "2025-03-15T12:58:20Z")),
        ("anthropic", anthropic("anthropic-fast-input-tokens", "2025-03-15T12:58:20Z")),
        ("anthropic", anthropic("anthropic-fast-output-tokens", "2025-03-15T12:58:20Z")),
        (
            "anthropic",
            {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-5h-status": "rejected",
                "anthropic-ratelimit-unified-5h-utilization": "1.08",
                "anthropic-ratelimit-unified-5h-reset": "1742043600",
                "anthropic-ratelimit-unified-7d-utilization": "0.4",
                "anthropic-ratelimit-unified-fallback-percentage": "0.5",
            },
        ),
        (
            "mistral",
            {
                f"x-ratelimit-{part}-{name}-minute": "9"
                for part in ("limit", "remaining")
                for name in ("audio-seconds", "ocr-pages", "input-characters")
            },
        ),
        ("cohere", {"x-endpoint-monthly-call-limit": "1000", "x-trial-endpoint-call-limit": "40"}),
        ("fireworks", {"x-ratelimit-over-limit": "yes"}),
    ],
)
def test_families_that_count_what_no_meter_does_are_left_unread(provider: str, headers: dict[str, str]):
    for names in (headers, {name.title(): value for name, value in headers.items()}):
        assert read(ALL[provider], {"date": DATE, **names}) == Readings()
        assert read(ALL["compatible"], {"date": DATE, **names}) == Readings()


def test_what_is_left_unread_changes_nothing_beside_what_is_read():
    plain = openai("tokens", 40_000, 30_000, "15s") | openai("requests", 500, 499, "120ms")
    more = openai("input-images", 50, 0, "60s") | openai("tokens_usage_based", 40_000, 10, "59s")
    assert read_meters(Provider.OPENAI, plain | more) == read_meters(Provider.OPENAI, plain)


@pytest.mark.parametrize("value", ["-5", "banana", "1e400", "NaN", "", "9" * 40, "1;2", "٣"])
def test_hostile_figures_are_ignored_and_counted(value: str):
    readings = read_meters(Provider.OPENAI, openai("tokens", value, value, value))
    assert readings.meters == ()
    assert readings.ignored == 3


def test_minus_one_means_unknown():
    readings = read_meters(Provider.OPENAI, openai("tokens", -1, -1, "0s"))
    assert (readings.meters, readings.ignored) == ((), 0)


@given(
    st.dictionaries(st.sampled_from([*openai("tokens", 1, 1, 1), "date", "retry-after", "retry-after-ms"]), st.text())
)
def test_any_text_is_survived(headers: dict[str, str]):
    for provider in Provider:
        for meter in read_meters(provider, headers).meters:
            assert meter.remaining_low is None or 0 <= meter.remaining_low <= 1e12
    wait = retry_after(headers)
    assert wait is None or 0 < wait < 1e7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "4"}, 4.0),
        ({"retry-after": "1", "retry-after-ms": "0"}, 1.0),
        ({"retry-after": "1", "retry-after-ms": "2500"}, 2.5),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "99999999"}, None),
        ({"retry-after": "Sat, 15 Mar 2025 12:58:09 GMT", "date": DATE}, 10.0),
        ({"retry-after": "Sat, 15 Mar 2025 12:00:00 GMT", "date": DATE}, None),
    ],
)
def test_the_wait_that_headers_ask_for(headers: dict[str, str], seconds: float | None):
    assert retry_after(headers) == seconds
