# SPDX-License-Identifier: Apache-2.0
"""Rate-limit headers, as each provider writes them."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.testing.formats import fine_duration, go_duration, rfc3339, thousands
from sluicegate.testing.meters import MeterFigures, Resource
from sluicegate.testing.wires import Wire

_DAY = 3600.0  # a window of more than an hour is a day to those who know but two
_PERIODS = {1.0: "second", 60.0: "minute", 86_400.0: "day", 2_592_000.0: "month"}
_PAIR: tuple[Resource, ...] = ("requests", "tokens")


def format_headers(wire: Wire, figures: Iterable[MeterFigures], wall: float, *, key: str = "") -> dict[str, str]:
    """The headers that state `figures` on `wire`; none on Gemini and Vertex. `wall`: now, in Unix seconds.

    Of several meters of a resource the first `in_headers` is shown; on Groq the first of requests that is over a day
    and of tokens that is not; on Mistral, where the window stands in the name, all of them. `key`: on Azure what
    `x-ratelimit-key` says; without it resets are milliseconds there, with it truncated seconds.
    """
    known = [figure for figure in figures if figure.in_headers]
    shown: dict[Resource, MeterFigures] = {}
    for figure in known:
        if wire != "groq" or (figure.window > _DAY) == (figure.resource == "requests"):
            shown.setdefault(figure.resource, figure)
    match wire:
        case "openai" | "groq":
            return _openai_headers(shown, fine=wire == "groq")
        case "anthropic":
            return _anthropic_headers(shown, wall)
        case "azure":
            return _azure_headers(shown, key)
        case "mistral":
            return _mistral_headers(known)
        case "gemini" | "vertex":
            return {}


def _openai_headers(shown: dict[Resource, MeterFigures], *, fine: bool) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name in _PAIR:
        if (figure := shown.get(name)) is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(round(figure.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(figure.shown)
            headers[f"x-ratelimit-reset-{name}"] = fine_duration(figure.reset) if fine else go_duration(figure.reset)
    return headers


def _azure_headers(shown: dict[Resource, MeterFigures], key: str) -> dict[str, str]:
    headers: dict[str, str] = {"x-ratelimit-abusepenalty-active": "False"}
    if key:
        headers["x-ratelimit-key"] = key
    for name in _PAIR:
        if (figure := shown.get(name)) is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(round(figure.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(figure.shown)
            headers[f"x-ratelimit-renewalperiod-{name}"] = str(round(figure.window))
            headers[f"x-ratelimit-reset-{name}"] = str(int(figure.reset if key else figure.reset * 1000))
    return headers


def _mistral_headers(known: Iterable[MeterFigures]) -> dict[str, str]:
    headers = {"x-max-retry-attempts-reached": "false"}
    for figure in known:
        period = _PERIODS.get(figure.window, f"{figure.window:g}-second")
        name = f"{'req' if figure.resource == 'requests' else 'tokens'}-{period}"
        headers[f"x-ratelimit-limit-{name}"] = str(round(figure.limit))
        headers[f"x-ratelimit-remaining-{name}"] = str(figure.shown)
    return headers


def _anthropic_headers(shown: dict[Resource, MeterFigures], wall: float) -> dict[str, str]:
    headers: dict[str, str] = {}

    def put(name: str, limit: float, remaining: int, reset: float) -> None:
        headers[f"anthropic-ratelimit-{name}-limit"] = str(round(limit))
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(remaining)
        headers[f"anthropic-ratelimit-{name}-reset"] = rfc3339(wall + reset)

    if (requests := shown.get("requests")) is not None:
        put("requests", requests.limit, requests.shown, requests.reset)
    names: tuple[Resource, ...] = ("input_tokens", "output_tokens")
    pair = [shown[name] for name in names if name in shown]
    for figure in pair:
        put(figure.resource.replace("_", "-"), figure.limit, thousands(figure.remaining), figure.reset)
    if (combined := shown.get("tokens")) is not None:
        put("tokens", combined.limit, thousands(combined.remaining), combined.reset)
    elif pair:
        put(
            "tokens",
            sum(figure.limit for figure in pair),
            sum(thousands(figure.remaining) for figure in pair),
            min(figure.reset for figure in pair),
        )
    return headers
