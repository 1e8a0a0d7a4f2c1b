# SPDX-License-Identifier: Apache-2.0
"""The parts of an error body that the rules of `classify` look at, wherever a provider put them.

Bodies are objects, arrays of one (Google's streams, Claude on Vertex), objects whose message is JSON again (Google's
JavaScript SDK), what a gateway's exception quotes, events of a stream, plain text, cut off, or nothing. Texts of a
prompt that a provider echoes elsewhere in the body are never looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from sluicegate.sidecar.core.salvage import listed, parsed, quoted

_MAX_TEXT = 4_096
_MAX_EVENTS = 10_000
_MAX_DEPTH = 6
_PREFIX = re.compile(r"^(?:HTTP )?\d{3}(?: \(\d{3}\))?[:\s]+", re.ASCII)
_BOTOCORE = re.compile(r"An error occurred \((\w{1,80})\) when calling", re.ASCII)
_BRACKETED = re.compile(r"\[(\d{3}) [A-Z][\w ]{1,40}\]", re.ASCII)
_DURATION = re.compile(r"\d{1,9}(\.\d{1,9})?s", re.ASCII)
# What a message quotes of the request. What follows a key of JSON, or of Python, is the message itself.
_CITED = re.compile(r"""(?<![\w\\])(?<!["']:)(?<!["']: )(["'`])[^"'`{}]{1,300}\1(?!\w)""")


@dataclass(frozen=True, slots=True)
class Violation:
    """One entry of google.rpc.QuotaFailure."""

    metric: str
    quota_id: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """`codes`: everything that is a word of an error and no prose. `status`: one that stands in the body; 0: none.

    `violations`, `retry_delay` (seconds): of Google. `metadata`: of OpenRouter.
    """

    codes: frozenset[str] = frozenset()
    message: str = ""
    status: int = 0
    violations: tuple[Violation, ...] = ()
    retry_delay: float | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The message, lower case, on one line."""
        return " ".join(self.message.lower().replace("\u2019", "'").split())

    @property
    def own_text(self) -> str:
        """`text` without what it quotes: a value of the request that is echoed says nothing of the provider."""
        return _CITED.sub("", self.text)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that OpenRouter puts into the body, names in lower case."""
        told = _mapping((self.metadata or {}).get("headers"))
        return {str(name).lower(): str(value) for name, value in list(told.items())[:32]}

    def __bool__(self) -> bool:
        return bool(self.codes or self.message or self.status)


NOTHING = Fault()


def fault_of(body: object, depth: int = 0) -> Fault:
    """The fault in `body`: parsed JSON, text, or None."""
    match body:
        case str():
            return _of_text(body, depth)
        case list() if depth < _MAX_DEPTH:
            entries = cast("list[object]", body)
            return next((found for entry in entries[:16] if (found := fault_of(entry, depth + 1))), NOTHING)
        case dict() if depth < _MAX_DEPTH:
            return _of_object(cast("dict[str, Any]", body), depth)
        case _:
            return NOTHING


def stream_fault(body: object, depth: int = 0) -> Fault:
    """The fault in something that came with a success: only what is called an error there is one."""
    match body:
        case str() if depth < _MAX_DEPTH:
            found = next((fault for event in events(body) if (fault := stream_fault(event, depth + 1))), NOTHING)
            return found or stream_fault(parsed(body), depth + 1)
        case list() if depth < _MAX_DEPTH:
            entries = cast("list[object]", body)[:64]
            return next((found for entry in entries if (found := stream_fault(entry, depth + 1))), NOTHING)
        case dict():
            pairs = cast("dict[str, Any]", body)
            inner = _mapping(pairs.get("response"))
            named = [name for name in pairs if name.endswith("Exception")]
            first = _mapping(next(iter(_items(pairs.get("choices"))), None))
            if first.get("error"):  # OpenRouter, after the model began
                return fault_of(first)
            # Cohere, at the end of a message; OpenAI's realtime API, in `response.done`.
            for ended in (_mapping(pairs.get("delta")), _mapping(inner.get("status_details"))):
                if ended.get("error"):
                    return fault_of(ended)
            # Mistral's and older vLLM's errors are no member of something else.
            failed = pairs.get("object") == "error" or str(pairs.get("type", "")) in ("error", "response.failed")
            return fault_of(pairs) if pairs.get("error") or inner.get("error") or named or failed else NOTHING
        case _:
            return NOTHING


def events(text: str) -> Iterator[object]:
    """The data of a text of server-sent events, with what an event's name says of it; bounded. What is no JSON is
    left out, but for the text of an event that is called an error."""
    name, data = "", list[str]()
    for line in (*text.splitlines()[:_MAX_EVENTS], ""):
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("{"):  # one JSON object a line
            yield from _data_of("", [line])
        elif not line.strip() and data:
            yield from _data_of(name, data)
            name, data = "", []


def _data_of(name: str, data: list[str]) -> Iterator[object]:
    for text in ("\n".join(data), *(data if len(data) > 1 else ())):
        try:
            yield called(name, json.loads(text))
        except (ValueError, RecursionError):
            if name == "error":
                yield {"error": {"message": text}}
            continue
        return


def called(name: str, data: object) -> object:
    """The data of an event; where only the event's name says that it is an error, the name goes with it."""
    pairs = _mapping(data)
    if pairs and not pairs.get("error"):
        if name.endswith("Exception"):
            return {name: pairs}
        if name == "error" and "message" in pairs:
            return {"error": pairs}
    return data


def _of_text(text: str, depth: int) -> Fault:
    stripped = text.strip()
    message, details = listed(stripped)
    if details:  # as Google's JavaScript SDK says it
        status = _BRACKETED.search(message)
        return _fault({"message": message, "details": details, "code": int(status[1]) if status else 0}, {})
    if depth < 4:
        value = parsed(stripped) or quoted(stripped)
        if value is not None and (found := fault_of(value, depth + 1)):
            return found
    if "data:" in stripped[:2_000] or "\ndata:" in stripped:
        found = stream_fault(stripped)
        if found:
            return found
    exception = _BOTOCORE.search(stripped[:_MAX_TEXT])
    codes = frozenset({exception[1]}) if exception else frozenset[str]()
    return Fault(codes, message=_PREFIX.sub("", stripped)[:_MAX_TEXT])


def _of_object(outer: Mapping[str, Any], depth: int) -> Fault:
    if outer.get("type") == "response.failed" or (outer.get("error") is None and "response" in outer):
        outer = _mapping(outer.get("response")) or outer
    exception = next((name for name in outer if name.endswith("Exception")), "")
    if exception:
        inner = _mapping(outer[exception])
        return Fault(frozenset({exception[:1].upper() + exception[1:]}), message=_string(inner.get("message")))
    given: object = outer.get("error") or next(iter(_items(outer.get("errors"))), None)
    inner = _mapping(next(iter(_items(given)), given))
    if not inner:
        for nested in (outer.get("message"), outer.get("detail")):
            if _mapping(nested) and depth < _MAX_DEPTH and (found := _of_object(_mapping(nested), depth + 1)):
                return replace(found, codes=found.codes | _fault({**outer, "message": ""}, {}).codes)
        said = (given, outer.get("message"), outer.get("Message"), outer.get("detail"))
        inner = {**outer, "message": ". ".join(part for part in map(_prose, said) if part)}
    message = inner.get("message")
    if isinstance(message, str) and depth < 4:
        value = parsed(message) or quoted(message)
        nested = fault_of(value, depth + 1) if value is not None else NOTHING
        if nested:
            around = _fault({**inner, "message": ""}, outer)
            return replace(nested, codes=nested.codes | around.codes, status=nested.status or around.status)
    return _fault(inner, outer)


def _prose(value: object) -> str:
    """A message in words: a text, or the list of complaints of a validation."""
    if isinstance(value, str):
        return value
    return "; ".join(_string(_mapping(entry).get("msg")) for entry in _items(value))


def _fault(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> Fault:
    details: object = inner.get("details")
    listed = [_mapping(entry) for entry in _items(details)]
    extra = _mapping(details)
    codes = {_code(inner.get(name)) for name in ("code", "type", "status", "error_type", "error_code", "__type")}
    codes |= {_code(extra.get("error_code")), _code(outer.get("error_type"))}
    codes |= {_code(entry.get("reason")) for entry in listed}
    violations: list[Violation] = []
    delay: float | None = None
    for entry in listed:
        told = _mapping(entry.get("metadata"))
        if "quota_limit" in told or "quota_metric" in told:  # ErrorInfo says it in other words
            names = ("quota_metric", "quota_limit", "quota_limit_value")
            violations.append(Violation(*(_string(told.get(name)) for name in names)))
        for item in _items(entry.get("violations")):
            one = _mapping(item)
            names = ("quotaMetric", "quotaId", "quotaValue")
            violations.append(Violation(*(_string(one.get(name)) for name in names)))
        delay = _delay(entry.get("retryDelay"), delay)
    metadata = _mapping(inner.get("metadata"))
    message = _string(inner.get("message"))
    if metadata.get("raw"):  # what the provider behind OpenRouter said
        raw = metadata["raw"]
        message = f"{message} {fault_of(_string(raw) or raw, 2).message}"
    return Fault(
        frozenset(codes - {""}),
        message,
        _status(inner) or _status(outer),
        tuple(violations),
        delay,
        metadata or None,
    )


def _delay(value: object, other: float | None) -> float | None:
    """Seconds of a google.protobuf.Duration, as JSON writes it or field by field."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return float(value[:-1])
    seconds, nanos = (_mapping(value).get(name, 0) for name in ("seconds", "nanos"))
    if isinstance(value, Mapping) and str(seconds).isdecimal() and str(nanos).isdecimal():
        return min(1e9, int(str(seconds)[:12])) + min(1e9, int(str(nanos)[:12])) / 1e9
    return other


def _status(inner: Mapping[str, Any]) -> int:
    for name in ("status_code", "statusCode", "code", "status"):
        value = inner.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return value
    return 0


def _code(value: object) -> str:
    """A word or a number; Amazon puts a namespace before the word."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 1_000_000 else ""
    return value.rpartition("#")[2][:200] if isinstance(value, str) else ""


def _string(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _items(value: object) -> list[object]:
    """The first entries of a list, none of anything else."""
    return cast("list[object]", value)[:32] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
