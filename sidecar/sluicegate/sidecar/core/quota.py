# SPDX-License-Identifier: Apache-2.0
"""Which meter a quota rejection means, and when the call would fit.

Hints are wrong in both directions: Azure says one second while the minute is empty, or a day for a minute's limit;
Gemini says half a minute for a day's quota; a request that never fits gets one, too. `Ruling.hint` is what was said,
`Ruling.wait` what is believed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sluicegate.sidecar.core.dialects import Speech
from sluicegate.sidecar.core.dialects.api import DAY, MINUTE, Phrase
from sluicegate.sidecar.core.fault import Fault
from sluicegate.sidecar.core.headers import Readings, implied_window, parse_epoch, parse_http_date, read
from sluicegate.sidecar.core.headers import retry_after as header_wait
from sluicegate.sidecar.core.verdict import SUCCESS, Verdict
from sluicegate.wire.durations import parse as parse_duration
from sluicegate.wire.values import MeterReading, QuotaRejection
from sluicegate.wire.words import ErrorClass, Resource

_QUOTA = ErrorClass.QUOTA
DAY_PHRASES = (
    Phrase("requests per day", _QUOTA, Resource.REQUESTS, DAY),
    Phrase("(rpd)", _QUOTA, Resource.REQUESTS, DAY),
    Phrase("tokens per day", _QUOTA, Resource.TOKENS, DAY),
    Phrase("(tpd)", _QUOTA, Resource.TOKENS, DAY),
    Phrase("per day", _QUOTA, None, DAY),
    Phrase("per-day", _QUOTA, None, DAY),
    Phrase("daily rate limit", _QUOTA, None, DAY),
)
LIMIT_PHRASES = (
    Phrase("input tokens per min", _QUOTA, Resource.INPUT_TOKENS, MINUTE),
    Phrase("output tokens per min", _QUOTA, Resource.OUTPUT_TOKENS, MINUTE),
    Phrase("tokens per min", _QUOTA, Resource.TOKENS, MINUTE),
    Phrase("(tpm)", _QUOTA, Resource.TOKENS, MINUTE),
    Phrase("requests per min", _QUOTA, Resource.REQUESTS, MINUTE),
    Phrase("(rpm)", _QUOTA, Resource.REQUESTS, MINUTE),
    Phrase("requests per second", _QUOTA, Resource.REQUESTS, 1.0),
    Phrase("queries per min", _QUOTA, Resource.REQUESTS, MINUTE),
    Phrase("queries per second", _QUOTA, Resource.REQUESTS, 1.0),
    Phrase("token rate limit", _QUOTA, Resource.TOKENS),
    Phrase("too many tokens", _QUOTA, Resource.TOKENS),
    Phrase("call rate limit", _QUOTA, Resource.REQUESTS),
    Phrase("requests rate limit", _QUOTA, Resource.REQUESTS),
    Phrase("request rate limit", _QUOTA, Resource.REQUESTS),
)
# `type: requests` is OpenAI's; the others are those of Cerebras and Perplexity.
_LIMIT_CODES = {
    "requests": Resource.REQUESTS,
    "tokens": Resource.TOKENS,
    "request_quota_exceeded": Resource.REQUESTS,
    "token_quota_exceeded": Resource.TOKENS,
    "request_rate_limit_exceeded": Resource.REQUESTS,
}
# The header of Azure that names the axis, as it is in 2025 and as it was in 2023.
_AXES = {
    "tokens": Resource.TOKENS,
    "requests": Resource.REQUESTS,
    "deploymentratelimit-token": Resource.TOKENS,
    "deploymentratelimit-call": Resource.REQUESTS,
}

_NUMBER = r"~?(\d{1,3}(?:,\d{3})+|\d{1,12})"
_LIMIT = re.compile(rf"\bLimit:? ?{_NUMBER}", re.ASCII)
_USED = re.compile(rf"\bUsed:? ?{_NUMBER}", re.ASCII)
_REQUESTED = re.compile(rf"\bRequested:? ?{_NUMBER}", re.ASCII)
_ACTUAL = re.compile(r"\(actual/limit\): ?(\d{1,12})/(\d{1,12})", re.ASCII)
_GOOGLE_LIMIT = re.compile(r"\blimit: ?(\d{1,12})\b", re.ASCII)
_TRY_AGAIN = re.compile(
    r"(?:try again|retry|resets|available) (?:in|after) (?:about |~)?"
    r"((?:\d{1,9}(?:\.\d{1,12})?(?:ms|s|m|h|d)(?![a-z]))+|(\d{1,9}(?:\.\d{1,12})?) (millisecond|second|minute|hour)s?)",
    re.ASCII | re.IGNORECASE,
)
_WORD_UNITS = {"millisecond": 0.001, "second": 1.0, "minute": 60.0, "hour": 3_600.0}
REGAIN = re.compile(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) UTC", re.ASCII)
_TOO_LARGE = "request too large for"
_LONGEST = 40 * DAY
_PACIFIC_MIDNIGHT = 8  # o'clock UTC; an hour late in summer, which waits rather than fails


@dataclass(frozen=True, slots=True)
class Ruling:
    """A response, judged, with what led to it. `rule`: in words, for people.

    `hint`: seconds that the provider names, believed or not, and `hint_from` where (header, message, body).
    `wait`: seconds after which the call has a chance; None: not known, or never. Quota fields as QuotaRejection.
    """

    error_class: ErrorClass
    rule: str
    resource: Resource | None = None
    window: float | None = None
    never_fits: bool = False
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    hint: float | None = None
    hint_from: str = ""
    body_hint: float | None = None
    wait: float | None = None
    reset_at: str = ""
    concurrency: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.error_class is ErrorClass.NONE:
            return SUCCESS
        if self.error_class is not ErrorClass.QUOTA:
            return Verdict(self.error_class, retry_after=self.wait)
        quota = QuotaRejection(self.resource, self.window, self.wait, self.never_fits, self.limit, self.requested)
        return Verdict(self.error_class, quota=quota)


def quota_ruling(speech: Speech, status: int, headers: Mapping[str, str], fault: Fault, rule: str) -> Ruling:
    limit, used, requested = _figures(fault.message)
    told = fault.headers
    readings = read(speech, {"date": headers.get("date", ""), **told} if told else headers)
    until = parse_epoch(told.get("x-ratelimit-reset", ""))
    resource, window, why = _meter(speech, headers, fault, readings)
    if speech.google and _no_quota(fault):
        limit = 0.0
    never = too_large(fault) or limit == 0
    hint, hint_from = hint_of(headers, fault)
    wait = None if never else _wait(speech, headers, readings, fault, resource, window, hint)
    if wait is None and not never and limit and used is not None and requested is not None:
        wait = max(0.0, (used + requested - limit) / limit * (window or MINUTE))
    return Ruling(
        ErrorClass.QUOTA,
        f"{rule}; {why}" if why else rule,
        resource,
        window,
        never,
        limit,
        used,
        requested,
        hint,
        hint_from,
        fault.retry_delay,
        wait,
        f"{until:%Y-%m-%dT%H:%M:%SZ}" if until else "",
        concurrency="concurrent connections" in fault.text,
    )


def _meter(
    speech: Speech, headers: Mapping[str, str], fault: Fault, readings: Readings
) -> tuple[Resource | None, float | None, str]:
    """The meter that rejected: by google's quota id, the header that names the axis, the text, `type`, then the meter
    of the headers that is empty."""
    if fault.violations:
        return _violated(fault)
    text = fault.text
    for name in ("x-ratelimit-type", "policy-id"):
        axis = headers.get(name, "").strip().lower()
        if axis in _AXES:
            return _AXES[axis], None, f"header {name}: {axis}"
    known = next((phrase for phrase in (*DAY_PHRASES, *speech.phrases, *LIMIT_PHRASES) if phrase.text in text), None)
    if known is not None and known.error_class is ErrorClass.QUOTA:
        return known.resource or _by_code(fault) or _counted(speech, text), known.window, f"text {known.text!r}"
    if "concurrent connections" in text:
        return Resource.REQUESTS, None, "text 'concurrent connections'"
    named = _by_code(fault)
    if empty := [meter for meter in _empty(readings) if named in (None, meter.resource)]:
        slowest = max(empty, key=lambda meter: meter.reset or 0.0)
        return slowest.resource, slowest.window or implied_window(slowest), "its meter is empty by the headers"
    return named, None, f"it names {named}" if named else "it does not say which limit"


def _empty(readings: Readings) -> list[MeterReading]:
    return [meter for meter in readings.meters if meter.remaining_low is not None and meter.remaining_low < 1]


def _by_code(fault: Fault) -> Resource | None:
    return next((_LIMIT_CODES[code] for code in sorted(fault.codes) if code in _LIMIT_CODES), None)


def _counted(speech: Speech, text: str) -> Resource | None:
    """What a text counts that names a window only."""
    phrases = (*speech.phrases, *LIMIT_PHRASES)
    return next((phrase.resource for phrase in phrases if phrase.resource and phrase.text in text), None)


def _violated(fault: Fault) -> tuple[Resource | None, float | None, str]:
    """Of several violations the one of the longest window."""

    def window(quota_id: str) -> float:
        return DAY if "PerDay" in quota_id or "per_day" in quota_id else MINUTE

    slowest = max(fault.violations, key=lambda violation: window(violation.quota_id or violation.metric))
    name = f"{slowest.quota_id} {slowest.metric}"
    lowered = name.lower()
    resource: Resource | None = None
    if "inputtoken" in lowered or "input_token" in lowered:
        resource = Resource.INPUT_TOKENS
    elif "outputtoken" in lowered or "output_token" in lowered:
        resource = Resource.OUTPUT_TOKENS
    elif "token" in lowered:
        resource = Resource.TOKENS
    elif "request" in lowered:
        resource = Resource.REQUESTS
    return resource, window(slowest.quota_id or slowest.metric), f"quota {slowest.quota_id or slowest.metric}"


def too_large(fault: Fault) -> bool:
    if _TOO_LARGE in fault.text:
        return True
    limit, _, requested = _figures(fault.message)
    return limit is not None and requested is not None and requested > limit


def _no_quota(fault: Fault) -> bool:
    """`limit: 0`: the model has no quota in this tier, and never will by waiting."""
    if any(violation.value == "0" for violation in fault.violations):
        return True
    found = _GOOGLE_LIMIT.search(fault.message)
    return found is not None and int(found[1]) == 0


def _figures(message: str) -> tuple[float | None, float | None, float | None]:
    """Limit, used, requested, as the message says them."""
    both = _ACTUAL.search(message)
    if both:
        return float(both[2]), float(both[1]), None

    def number(pattern: re.Pattern[str]) -> float | None:
        found = pattern.search(message)
        return float(found[1].replace(",", "")) if found else None

    return number(_LIMIT), number(_USED), number(_REQUESTED)


def hint_of(headers: Mapping[str, str], fault: Fault) -> tuple[float | None, str]:
    """What the provider says to wait and where: headers, then the message (it has the fraction), then RetryInfo."""
    if (wait := header_wait(headers)) is not None:
        return wait, "header"
    if (wait := _message_wait(fault.message)) is not None:
        return wait, "message"
    if fault.retry_delay is not None:
        return fault.retry_delay, "body"
    return None, ""


def _message_wait(message: str) -> float | None:
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    if found[2] is not None:
        return min(_LONGEST, float(found[2]) * _WORD_UNITS[found[3].lower()])
    days = re.fullmatch(r"(\d{1,4})d(.*)", found[1].lower())
    try:
        rest = (days[2] if days else found[1].lower()) or "0"
        return min(_LONGEST, (int(days[1]) * DAY if days else 0.0) + parse_duration(rest))
    except ValueError:
        return None


def _wait(
    speech: Speech,
    headers: Mapping[str, str],
    readings: Readings,
    fault: Fault,
    resource: Resource | None,
    window: float | None,
    hint: float | None,
) -> float | None:
    """Seconds until the call may fit; None: nothing tells."""
    daily = window is not None and window > 3_600.0
    if speech.google and daily:
        return _until_pacific_midnight(headers)
    empty = [meter for meter in _empty(readings) if resource in (None, meter.resource)]
    if hint is not None and not (hint > speech.hint_ends and not daily):
        if _is_short(speech, hint) and empty:
            # Azure says 1 s while the minute is empty and its reset is cut to 0.
            return max(hint, max(meter.window or MINUTE for meter in empty))
        # A hint without a fraction was cut: RetryInfo 48s stood for 48.94.
        return hint + 1.0 if fault.retry_delay == hint and speech.google else hint
    resets = [meter.reset for meter in empty if meter.reset is not None]
    # What a rejection says of a limit without its figures (Azure in 2023).
    bare = [one for one in readings.shown if one.limit is None and one.remaining is None and one.label == resource]
    resets += [one.reset for one in bare if one.reset]
    if resets:
        return max(resets)
    return MINUTE if hint is not None else None


def _is_short(speech: Speech, hint: float) -> bool:
    """Is it one of Azure's hints that are measured to be too short?"""
    return speech.name == "azure" and hint <= 1.0


def _until_pacific_midnight(headers: Mapping[str, str]) -> float | None:
    date = parse_http_date(headers.get("date", ""))
    if date is None:
        return None
    midnight = date.replace(hour=_PACIFIC_MIDNIGHT, minute=0, second=0, microsecond=0)
    if midnight <= date:
        midnight += timedelta(days=1)
    return math.ceil((midnight - date).total_seconds())
