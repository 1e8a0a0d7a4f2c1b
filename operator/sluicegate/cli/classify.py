# SPDX-License-Identifier: Apache-2.0
"""`sluicegate classify`: what a provider's response means, read from lines of JSON, answered in lines of JSON.

In: `provider`, `status`, `headers`, `body`, optional `stream_event` (an event or a list of them) and `request`, which
is for the reader of the line: what a response means does not depend on it.
Out: `class`, `limit_dimension`, `retry_after_s`, `remaining_*`, `reset_*_s`, `never_fits`, `reason`, and what else the
response said. A line that cannot be read is answered with `error`; the exit code then is 1 at the end.
"""

from __future__ import annotations

import argparse
import json
import reprlib
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

from multidict import CIMultiDict

from sluicegate.sidecar.core.classify import OK, judge
from sluicegate.sidecar.core.dialects import ALL, Speech
from sluicegate.sidecar.core.fault import called, fault_of
from sluicegate.sidecar.core.headers import Readings, Shown, read
from sluicegate.sidecar.core.quota import Ruling
from sluicegate.wire.words import ErrorClass, Resource

_MAX_LINE = 8 * 1024 * 1024
_ALIASES = {
    "azureopenai": "azure",
    "azureai": "azure",
    "azureaifoundry": "azure",
    "claude": "anthropic",
    "google": "gemini",
    "googleai": "gemini",
    "googleaistudio": "gemini",
    "googlegemini": "gemini",
    "googlegenai": "gemini",
    "googlevertex": "vertex",
    "googlevertexai": "vertex",
    "vertexai": "vertex",
    "amazonbedrock": "bedrock",
    "awsbedrock": "bedrock",
    "fireworksai": "fireworks",
    "grok": "xai",
    "hf": "huggingface",
    "litellm": "compatible",
    "mistralai": "mistral",
    "openaicompatible": "compatible",
    "togetherai": "together",
}
_CLASSES = {
    ErrorClass.NONE: "ok",
    ErrorClass.OVERLOAD: "overloaded",
    ErrorClass.SERVER: "server_error",
    ErrorClass.NETWORK: "network",
}


class LineError(ValueError):
    """A line that cannot be answered; the message names field, value and what is allowed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none: lines come on standard input."""
    parser.epilog = 'example: echo \'{"provider": "openai", "status": 429, "headers": {}, "body": null}\' | %(prog)s'


def run(options: argparse.Namespace) -> int:
    """Answers line by line until the end of the input. Exit code 1 when a line could not be read."""
    del options
    failed = 0
    for answer in answers(sys.stdin.buffer):
        failed |= "error" in answer
        sys.stdout.write(json.dumps(answer, allow_nan=False) + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


def answers(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    """One answer for each line that is not empty. Lines of more than 8 MiB are refused without being kept."""
    number = 0
    while line := lines.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE and not line.endswith(b"\n"):
            while (rest := lines.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield {"line": number, "error": f"line: more than {_MAX_LINE} bytes; allowed: at most that"}
            continue
        if not line.strip():
            continue
        try:
            yield answer(_parsed(line))
        except LineError as problem:
            yield {"line": number, "error": str(problem)}


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise LineError(f"line: not JSON ({problem}); allowed: one JSON object a line") from None
    if not isinstance(value, dict):
        raise LineError(f"line: {_quoted(value)} is no object; allowed: one JSON object a line")
    return cast("Mapping[str, Any]", value)


def answer(case: Mapping[str, Any]) -> dict[str, Any]:
    """What the response in `case` means. Raises LineError."""
    speech = _speech(case.get("provider"))
    status = _status(case.get("status"))
    headers = _headers(case.get("headers"))
    body = case.get("body")
    event = case.get("stream_event")
    readings = read(speech, headers)
    ruling = _ruling(speech, status, headers, body, event)
    shown = {entry.label: entry for entry in (*readings.shown, *_told_in_events(event))}
    if told := fault_of(body).headers:
        shown |= {entry.label: entry for entry in read(speech, {"date": headers.get("date", ""), **told}).shown}
    return _answer(speech, ruling, readings, shown)


def _ruling(speech: Speech, status: int, headers: Mapping[str, str], body: object, event: object) -> Ruling:
    if event is not None:
        for one in event if isinstance(event, list) else [event]:
            ruling = judge(speech, 200, headers, _of_event(one))
            if ruling.error_class is not ErrorClass.NONE:
                return ruling
        if status < 400:
            return OK
    if status == 0 and body is None:
        return OK
    return judge(speech, status, headers, body)


def _of_event(event: object) -> object:
    """The data of an event that is given with its name."""
    if not isinstance(event, dict) or "data" not in event:
        return event
    name, data = event.get("event"), event["data"]
    if isinstance(data, str):
        lines = "\n".join(f"data: {line}" for line in data.splitlines())
        return f"event: {name}\n{lines}\n" if isinstance(name, str) else data
    return called(name if isinstance(name, str) else "", data)


def _answer(speech: Speech, ruling: Ruling, readings: Readings, shown: Mapping[str, Shown]) -> dict[str, Any]:
    quota = ruling.error_class is ErrorClass.QUOTA
    google_day = quota and speech.google and _class(ruling) == "quota_daily"
    # On a success a hint means something else; where no wait helps, or a day's quota is told to come back in
    # seconds, it is wrong.
    helpless = ruling.error_class in (ErrorClass.NONE, ErrorClass.BILLING) or ruling.never_fits or google_day
    believed = not helpless
    out: dict[str, Any] = {
        "class": _class(ruling),
        "limit_dimension": _dimension(ruling) if quota else "none",
        "retry_after_s": _number(ruling.hint) if believed else None,
        "retry_after_from": ruling.hint_from or None if believed else None,
    }
    for label in ("requests", "tokens", "input_tokens", "output_tokens", "tokens_month"):
        entry = shown.get(label)
        always = label in ("requests", "tokens")
        if entry is not None or always:
            out[f"remaining_{label}"] = _number(entry.remaining if entry else None)
            out[f"reset_{label}_s"] = _number(entry.reset if entry else None)
    out["never_fits"] = ruling.never_fits
    out["reason"] = ruling.rule
    undetermined = quota and not ruling.concurrency and _dimension(ruling) is None
    extra = {
        "class_any_of": ["quota_requests", "quota_tokens"] if undetermined else None,
        "limit": _number(ruling.limit),
        "used": _number(ruling.used),
        "requested": _number(ruling.requested),
        "hint_s": None if believed else _number(ruling.hint),
        "retry_info_s": _number(ruling.body_hint),
        "safe_wait_s": _number(ruling.wait),
        "reset_at": ruling.reset_at or None,
        "concurrency": ruling.concurrency or None,
        "window_requests": _window(shown.get("requests")),
        "azure_reset_unit": readings.unit or None,
        "query_cost": _number(readings.cost),
        "ignored_headers": readings.ignored or None,
        "provider": speech.name,
    }
    return out | {name: value for name, value in extra.items() if value is not None}


def _class(ruling: Ruling) -> str:
    if ruling.error_class is not ErrorClass.QUOTA:
        return _CLASSES.get(ruling.error_class, ruling.error_class.value)
    if ruling.window is not None and ruling.window > 3_600.0:
        return "quota_daily"
    # A quota that does not say which limit it is: the one that every call draws on.
    return "quota_requests" if ruling.resource in (Resource.REQUESTS, None) else "quota_tokens"


def _dimension(ruling: Ruling) -> str | None:
    if ruling.window is not None and ruling.window > 3_600.0:
        return "day"
    return None if ruling.resource is None or ruling.concurrency else ruling.resource.value


def _window(entry: Shown | None) -> str | None:
    if entry is None or entry.window is None:
        return None
    names = {1.0: "second", 60.0: "minute", 3_600.0: "hour", 86_400.0: "day"}
    return names.get(entry.window, f"{entry.window:g}s")


def _number(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if float(value).is_integer() else value


# ---- what does not stand in headers


def _told_in_events(event: object) -> Iterator[Shown]:
    """OpenAI's realtime API sends its limits as an event."""
    for one in event if isinstance(event, list) else [event]:
        data = one.get("data", one) if isinstance(one, dict) else None
        if not isinstance(data, dict) or data.get("type") != "rate_limits.updated":
            continue
        limits = data.get("rate_limits")
        for entry in limits if isinstance(limits, list) else []:
            if isinstance(entry, dict) and entry.get("name") in ("requests", "tokens"):
                limit, left, reset = (_amount(entry.get(name)) for name in ("limit", "remaining", "reset_seconds"))
                yield Shown(entry["name"], limit, left, reset)


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1e15 else None


# ---- the fields of a line


def _quoted(value: object) -> str:
    """`value` for a message, however deep or long it is."""
    return reprlib.repr(value)[:80]


def _speech(value: object) -> Speech:
    known = ", ".join(sorted(ALL))
    if not isinstance(value, str) or not value:
        raise LineError(f"provider: {_quoted(value)} is not allowed; allowed: {known}")
    plain = "".join(character for character in value.lower() if character.isalnum())
    plain = _ALIASES.get(plain, plain)
    if plain not in ALL:
        raise LineError(f"provider: {_quoted(value)} is not known; allowed: {known}")
    return ALL[plain]


def _status(value: object) -> int:
    """0: not known."""
    if value is None:
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 100 <= value <= 599:
        raise LineError(f"status: {_quoted(value)} is not allowed; allowed: null, or 100 to 599")
    return value


def _headers(value: object) -> Mapping[str, str]:
    """An object, whose values may be lists where a name came several times, or pairs."""
    if value is None:
        return CIMultiDict()
    pairs = list(cast("dict[str, object]", value).items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise LineError(f"headers: {_quoted(value)} is not allowed; allowed: an object of strings, or pairs of them")
    headers = CIMultiDict[str]()
    for name, given in cast("list[tuple[object, object]]", pairs):
        for text in cast("list[object]", given) if isinstance(given, list) else [given]:
            if text is not None:
                headers.add(str(name), str(text))
    return headers
