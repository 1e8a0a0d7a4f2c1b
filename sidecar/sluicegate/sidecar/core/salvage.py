# SPDX-License-Identifier: Apache-2.0
"""JSON out of a text that is more, or less, than JSON.

Bodies are cut off by a limit on the way, begin with keep-alive lines, or are what an exception of a gateway or an SDK
says: `Error code: 429 - {'error': ...}`, `litellm.RateLimitError: AnthropicException - {"type": "error", ...}`.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TypeVar

_T = TypeVar("_T", bytes, dict[object, object])
_MAX_CUT = 64 * 1024
_MAX_LITERAL = 16 * 1024
_MARKS = re.compile(r'"|[{}\[\],]|\\.', re.DOTALL)
_PARTIAL_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
# What an exception puts before the body that it quotes; a provider's own message is no exception.
_QUOTES = re.compile(
    r"(?:[\w.]*(?:Error|Exception)\b|Error code: \d{3}|\d{3}\b)[^{\[]{0,400}(?=[{\[])", re.ASCII | re.DOTALL
)


def parsed(text: str) -> object:
    """The JSON that `text` is, as far as it goes; None where it is no JSON. Never raises."""
    text = text.strip("\ufeff \t\r\n")
    if text[:2] in ("b'", 'b"'):  # bytes as Python shows them
        text = _literal(text, bytes).decode(errors="replace")
    while text.startswith(":"):  # a comment of an event stream, sent to keep the connection
        text = text.partition("\n")[2].lstrip()
    if text[:1] not in ("{", "[", '"'):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _closed(text[:_MAX_CUT])


def quoted(text: str) -> object:
    """The body that an exception's `text` quotes, as JSON or as Python writes it; None: it quotes none."""
    text = text.lstrip()[:_MAX_CUT]
    found = _QUOTES.match(text)
    if found is None:
        return None
    rest = text[found.end() :]
    try:
        return json.JSONDecoder().raw_decode(rest)[0]
    except (ValueError, RecursionError):
        pass
    return _literal(rest[: rest.rfind("}") + 1], dict) or _closed(rest)


def listed(text: str) -> tuple[str, object]:
    """A message and the list of google.rpc details that follows it in `text`; ("", None): there is none."""
    at = text.find('[{"@type"', 1, _MAX_CUT)
    if at < 0 or text[:1] == "{" or text[:2] == "[{":
        return "", None
    rest = text[at : at + _MAX_CUT]
    try:
        return text[:at], json.JSONDecoder().raw_decode(rest)[0]
    except (ValueError, RecursionError):
        return text[:at], _closed(rest)


def _literal(text: str, kind: type[_T]) -> _T:
    """What Python writes for a value of `kind`; an empty one where it is not."""
    if len(text) <= _MAX_LITERAL:
        try:
            value: object = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return kind()
        if isinstance(value, kind):
            return value
    return kind()


def _closed(text: str) -> object:
    """A value that was cut off, with what was open closed and what was begun left out."""
    open_: list[str] = []
    inside = False
    cuts: list[tuple[int, str]] = []
    for found in _MARKS.finditer(text):
        mark = found.group()
        if mark == '"':
            inside = not inside
        elif inside or mark[0] == "\\":
            continue
        elif mark in "{[":
            open_.append("}" if mark == "{" else "]")
        elif mark == ",":
            cuts.append((found.start(), "".join(reversed(open_))))
        elif open_:
            open_.pop()
    rest = "".join(reversed(open_))
    whole = _PARTIAL_ESCAPE.sub("", text) + '"' if inside else text
    for candidate in (whole + rest, *(text[:at] + close for at, close in reversed(cuts[-3:]))):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None
