# SPDX-License-Identifier: Apache-2.0
"""The parts of an error body that the rules of `classify` look at, wherever a provider put them.

Bodies are objects, arrays of one (Google's streams, Claude on Vertex), objects whose message is JSON again (Google's
JavaScript SDK), events of a stream, plain text, or nothing. Texts of a prompt that a provider echoes elsewhere in the
body are never looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

_MAX_TEXT = 4_096
_MAX_EVENTS = 10_000
_PREFIX = re.compile(r"^(?:HTTP )?\d{3}(?: \(\d{3}\))?[:\s]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Violation:
    """One entry of google.rpc.QuotaFailure."""

    metric: str
    quota_id: str


@dataclass(frozen=True, slots=True)
class Fault:
    """`codes`: everything that is a word of an error and no prose. `status`: one that stands in the body; 0: none.

    `kind`: OpenAI's `type`. `violations`, `retry_delay` (seconds): of Google. `metadata`: of OpenRouter.
    """

    codes: frozenset[str] = frozenset()
    kind: str = ""
    message: str = ""
    status: int = 0
    violations: tuple[Violation, ...] = ()
    retry_delay: float | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The message, lower case, on one line."""
        return " ".join(self.message.lower().split())

    def __bool__(self) -> bool:
        return bool(self.codes or self.message or self.status)


NOTHING = Fault()


def fault_of(body: object, depth: int = 0) -> Fault:
    """The fault in `body`: parsed JSON, text, or None."""
    match body:
        case str():
            return _of_text(body, depth)
        case list():
            entries = cast("list[object]", body)
            return next((found for entry in entries[:16] if (found := fault_of(entry, depth + 1))), NOTHING)
        case dict() if depth < 6:
            return _of_object(cast("dict[str, Any]", body), depth)
        case _:
            return NOTHING


def stream_fault(body: object) -> Fault:
    """The fault in something that came with a success: only what is called an error there is one."""
    match body:
        case str():
            return next((found for event in events(body) if (found := stream_fault(event))), NOTHING)
        case list():
            return next((f for entry in cast("list[object]", body)[:64] if (f := stream_fault(entry))), NOTHING)
        case dict():
            pairs = cast("dict[str, Any]", body)
            inner = _mapping(pairs.get("response"))
            named = any(name.endswith("Exception") for name in pairs)
            first = _mapping(next(iter(_items(pairs.get("choices"))), None))
            if first.get("error"):  # OpenRouter, after the model began
                return fault_of(first)
            failed = str(pairs.get("type", "")) in ("error", "response.failed")
            return fault_of(pairs) if pairs.get("error") or inner.get("error") or named or failed else NOTHING
        case _:
            return NOTHING


def events(text: str) -> Iterator[object]:
    """The JSON data of a text of server-sent events; what is no JSON is left out. Bounded."""
    for count, line in enumerate(text.splitlines()):
        if count > _MAX_EVENTS:
            return
        if line.startswith("data:"):
            try:
                yield json.loads(line[5:])
            except (ValueError, RecursionError):
                continue


def _of_text(text: str, depth: int) -> Fault:
    stripped = text.strip()
    if depth < 4 and stripped[:1] in ("{", "["):
        try:
            return fault_of(json.loads(stripped), depth + 1)
        except (ValueError, RecursionError):
            pass
    if "data:" in stripped[:2_000] or "\ndata:" in stripped:
        found = stream_fault(stripped)
        if found:
            return found
    return Fault(message=_PREFIX.sub("", stripped)[:_MAX_TEXT])


def _of_object(outer: Mapping[str, Any], depth: int) -> Fault:
    if outer.get("type") == "response.failed" or (outer.get("error") is None and "response" in outer):
        outer = _mapping(outer.get("response")) or outer
    exception = next((name for name in outer if name.endswith("Exception")), "")
    if exception:
        inner = _mapping(outer[exception])
        return Fault(frozenset({exception[:1].upper() + exception[1:]}), message=_string(inner.get("message")))
    given: object = outer.get("error")
    inner = _mapping(next(iter(_items(given)), given))
    if not inner:
        message = given if isinstance(given, str) else outer.get("message")
        inner = {**outer, "message": message if message is not None else outer.get("detail")}
    message = inner.get("message")
    if isinstance(message, str) and message.lstrip().startswith("{") and depth < 4:
        nested = _of_text(message, depth + 1)
        if nested.codes or nested.status:
            return nested
    return _fault(inner, outer)


def _fault(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> Fault:
    details: object = inner.get("details")
    listed = [_mapping(entry) for entry in _items(details)]
    extra = _mapping(details)
    codes = {_code(inner.get(name)) for name in ("code", "type", "status", "error_type", "error_code")}
    codes |= {_code(extra.get("error_code")), _code(outer.get("error_type"))}
    codes |= {_code(entry.get("reason")) for entry in listed}
    violations: list[Violation] = []
    delay: float | None = None
    for entry in listed:
        for item in _items(entry.get("violations")):
            one = _mapping(item)
            violations.append(Violation(_string(one.get("quotaMetric")), _string(one.get("quotaId"))))
        raw = entry.get("retryDelay")
        if isinstance(raw, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?s", raw, re.ASCII):
            delay = float(raw[:-1])
    metadata = _mapping(inner.get("metadata"))
    message = _string(inner.get("message"))
    if metadata.get("raw"):
        message = f"{message} {_string(metadata['raw'])}"
    return Fault(
        frozenset(codes - {""}),
        _string(inner.get("type")),
        message,
        _status(inner),
        tuple(violations),
        delay,
        metadata or None,
    )


def _status(inner: Mapping[str, Any]) -> int:
    for name in ("status_code", "code"):
        value = inner.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return value
    return 0


def _code(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def _string(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _items(value: object) -> list[object]:
    """The first entries of a list, none of anything else."""
    return cast("list[object]", value)[:32] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
