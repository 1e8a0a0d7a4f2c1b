# SPDX-License-Identifier: Apache-2.0
"""What the emulator understood of one call, and what it answers when it understood nothing: shared by all wires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from sluicegate.testing.limits import Demand

Json = Mapping[str, Any]
EVENTS = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Call:
    """One parsed call. `charge`: what admission counts in tokens. `bound`: the request's cap on output, or None.
    `copies`: choices, or inputs to embed. `generates`: whether an answer has output tokens.
    `array`: a stream comes as one JSON array."""

    endpoint: str
    model: str
    stream: bool
    demand: Demand
    charge: float
    prompt_tokens: int
    bound: int | None = None
    copies: int = 1
    include_usage: bool = False
    user: str | None = None
    dimensions: int = 0
    base64: bool = False
    generates: bool = True
    array: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response that is not a stream. `outcome` is the word for the call's record."""

    status: int
    body: bytes
    outcome: str
    headers: dict[str, str] = field(default_factory=dict)


class BadRequestError(Exception):
    """The request cannot be served; `answer` says so on its wire."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.outcome)
        self.answer = answer


class Stream(Protocol):
    """The frames of one streamed completion, as bytes ready to send. `mime`: its content type."""

    @property
    def mime(self) -> str: ...
    def opening(self) -> bytes: ...
    def delta(self, text: str, tokens: int) -> bytes: ...
    def closing(self, output_tokens: int, *, cut: bool) -> bytes: ...
    def overload(self) -> bytes: ...


def encode(value: object) -> bytes:
    """JSON as compact bytes."""
    return orjson.dumps(value)


def event(name: str, data: object) -> bytes:
    """A named server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


def texts_of(content: object, kinds: Sequence[str]) -> tuple[str, int]:
    """The text of a message's content (a string, or parts of one of `kinds` with `text`), and its number of images."""
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        return "", 0
    texts: list[str] = []
    images = 0
    for part in content:
        if not isinstance(part, dict):
            continue
        kind = part.get("type")
        if kind in kinds and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and "image" in kind:
            images += 1
        elif isinstance(part.get("content"), str | list):
            inner, more = texts_of(part["content"], kinds)
            texts.append(inner)
            images += more
    return "".join(texts), images


def whole(body: Json, *names: str) -> int | None:
    """The first of `names` in `body` that is a whole number of 0 or more."""
    for name in names:
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def user_of(body: Json) -> str | None:
    """Who the request says it is for: `user`, `safety_identifier`, or `metadata.user_id` / `metadata.user`; at most 200
    characters."""
    metadata = body.get("metadata")
    inner = metadata if isinstance(metadata, dict) else {}
    for value in (body.get("user"), body.get("safety_identifier"), inner.get("user_id"), inner.get("user")):
        if isinstance(value, str):
            return value[:200]
    return None
