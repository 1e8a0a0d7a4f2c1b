# SPDX-License-Identifier: Apache-2.0
"""From a response's headers over the wire into the broker's meters: every window that a provider names or implies."""

from __future__ import annotations

import pytest

from sluicegate.broker import requests
from sluicegate.broker.core.budget import Budget
from sluicegate.broker.core.config import PoolConfig
from sluicegate.broker.core.units import Charge
from sluicegate.sidecar import messages
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.wire.words import LearnLimits, Provider

DATE = {"date": "Mon, 05 Jan 2026 10:00:00 GMT"}
COMPATIBLE = Provider.OPENAI_COMPATIBLE


def triple(name: str, limit: int, left: int, reset: str = "", start: str = "x-ratelimit") -> dict[str, str]:
    headers = {f"{start}-limit-{name}": str(limit), f"{start}-remaining-{name}": str(left)}
    return headers | ({f"{start}-reset-{name}": reset} if reset else {})


def claude(name: str, limit: int, left: int, second: int) -> dict[str, str]:
    start = f"anthropic-ratelimit-{name}"
    reset = f"2026-01-05T10:00:{second:02}Z"
    return {f"{start}-limit": str(limit), f"{start}-remaining": str(left), f"{start}-reset": reset}


TOKENS = triple("tokens", 60_000, 30_000, "30s")
ROWS = [
    (
        Provider.OPENAI,
        "",
        triple("requests", 10_000, 9_997, "22.564s") | TOKENS,
        {"requests/1d": 9_997, "tokens/1m": 30_000},
    ),
    (
        Provider.OPENAI,
        "",
        triple("requests", 10_000, 9_000, "6s") | TOKENS,
        {"requests/1m": 9_000, "tokens/1m": 30_000},
    ),
    (
        Provider.OPENAI,
        "",
        triple("requests", 10_000, 9_000, "6s") | triple("project-requests", 500, 100, "48s") | TOKENS,
        {"requests/1m": 100, "tokens/1m": 30_000},
    ),
    (
        Provider.OPENAI,
        "",
        triple("requests", 500, 100, "48s")
        | triple("project-requests", 10_000, 9_000, "6s")
        | triple("project-tokens", 6_000, 3_000, "30s"),
        {"requests/1m": 100, "tokens/1m": 3_000},
    ),
    (
        Provider.AZURE_OPENAI,
        "",
        triple("requests", 9_000, 8_000, "1")
        | {"x-ratelimit-renewalperiod-requests": "10"}
        | triple("tokens", 60_000, 30_000, "30000"),
        {"requests/10s": 8_000, "tokens/1m": 30_000},
    ),
    (
        Provider.ANTHROPIC,
        "",
        DATE
        | claude("requests", 50, 25, 30)
        | claude("input-tokens", 50_000, 25_000, 30)
        | claude("output-tokens", 80_000, 40_000, 30),
        {"requests/1m": 25, "input_tokens/1m": 25_000, "output_tokens/1m": 40_000},
    ),
    (
        Provider.MISTRAL,
        "",
        triple("req-10-second", 60, 50)
        | triple("tokens-minute", 2_000, 1_000)
        | triple("tokens-month", 90_000, 80_000),
        {"requests/10s": 50, "tokens/1m": 1_000},
    ),
    (Provider.MISTRAL, "", triple("req-second", 6, 5), {"requests/1s": 5}),
    (
        COMPATIBLE,
        "groq",
        triple("requests", 14_400, 14_000, "40m0s") | TOKENS,
        {"requests/1d": 14_000, "tokens/1m": 30_000},
    ),
    (
        COMPATIBLE,
        "xai",
        triple("requests", 1_800, 900) | triple("tokens", 60_000, 30_000),
        {"requests/1m": 900, "tokens/1m": 30_000},
    ),
    (
        COMPATIBLE,
        "together",
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "5",
            "x-tokenlimit-limit": "900",
            "x-tokenlimit-remaining": "500",
        },
        {"requests/1s": 5, "tokens/1m": 500},
    ),
    (
        COMPATIBLE,
        "fireworks",
        triple("requests", 600, 300) | triple("tokens-prompt", 6_000, 3_000) | triple("tokens-generated", 6_000, 3_000),
        {"requests/1m": 300, "tokens/1m": 3_000, "output_tokens/1m": 3_000},
    ),
    (
        COMPATIBLE,
        "openrouter",
        DATE | {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "5", "x-ratelimit-reset": "1767607245000"},
        {"requests/1m": 5},
    ),
    (
        COMPATIBLE,
        "",
        triple("requests-day", 1_000, 500, "43200.25") | triple("tokens-minute", 6_000, 3_000, "30.5"),
        {"requests/1d": 500, "tokens/1m": 3_000},
    ),
    (COMPATIBLE, "", {"ratelimit": '"api";r=5;t=150', "ratelimit-policy": '"api";q=10;w=300'}, {"requests/5m": 5}),
]


@pytest.mark.parametrize(("provider", "dialect", "headers", "wanted"), ROWS)
def test_every_window_becomes_a_meter(
    provider: Provider, dialect: str, headers: dict[str, str], wanted: dict[str, float]
):
    readings = read_meters(provider, headers, dialect)
    assert readings.ignored == 0
    event = requests.observe(messages.observation("c", readings.meters, accepted=True), "s")
    pool = PoolConfig("pool", provider, "https://provider", ("m",), (), LearnLimits.FOLLOW, dialect=dialect)
    budget = Budget(pool, 0.0)
    for number in range(6):  # a window that figures merely imply must be implied by several answers
        budget.adopt(f"c{number}", Charge(0.0), 0.0, 0.0)
        budget.observe(f"c{number}", event.readings, 0.0)
    found = {str(status.key): status.available for status in budget.status(0.0)}
    assert found == pytest.approx(wanted, rel=0.03, abs=1.0)
