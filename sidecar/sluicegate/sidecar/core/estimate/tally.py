# SPDX-License-Identifier: Apache-2.0
"""Collects what a request's input consists of: texts to count, and tokens that no text accounts for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

MAX_DEPTH = 8
_MAX_JSON_DEPTH = 64


@dataclass(slots=True)
class Tally:
    """`exact`: nothing but plain text has been added. `images` are counted apart, since limits may charge them flat."""

    divisor: float = 4.0
    exact: bool = True
    images: int = 0
    image_tokens: int = 0
    characters: int = 0
    overhead: int = 0
    texts: list[str] = field(default_factory=list[str])

    def text(self, value: object) -> None:
        """A text to count; anything else counts nothing."""
        if isinstance(value, str) and value:
            self.texts.append(value)
            self.characters += len(value)

    def add(self, tokens: int) -> None:
        """Tokens that no text accounts for."""
        self.overhead += tokens

    def json(self, value: object, tokens: int = 0, least: int = 0) -> None:
        """Something sent as JSON: its length / `divisor`, or `least`, and `tokens`; never exact."""
        size = json_length(value)
        self.exact = False
        self.characters += size
        self.overhead += max(math.ceil(size / self.divisor), least) + tokens

    def image(self, tokens: int) -> None:
        """An image of so many tokens."""
        self.exact = False
        self.images += 1
        self.image_tokens += tokens
        self.overhead += tokens

    def media(self, tokens: int) -> None:
        """A document or a recording."""
        self.exact = False
        self.overhead += tokens


def as_dict(value: object) -> dict[str, Any]:
    """`value`, or an empty one for what is no object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """`value`, or an empty one for what is no array."""
    return cast("list[object]", value) if isinstance(value, list) else []


def whole(value: object, lowest: int, highest: int) -> int | None:
    """`value` when it is a whole number in that range."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if lowest <= value <= highest else None


def json_length(value: object, depth: int = 0) -> int:
    """The characters of `value` as JSON with blanks and escapes, as `json.dumps` writes it; bounded depth."""
    match value:
        case str():
            return len(value) + 2 + (0 if value.isascii() else 5 * (len(value) - len(value.encode("ascii", "ignore"))))
        case None | bool():
            return 5
        case int() | float():
            return len(repr(value)) if abs(value) < 1e300 else 24
        case dict() if depth < _MAX_JSON_DEPTH:
            pairs = cast("dict[str, Any]", value)
            return 2 + sum(len(key) + 6 + json_length(item, depth + 1) for key, item in pairs.items())
        case list() if depth < _MAX_JSON_DEPTH:
            items = cast("list[object]", value)
            return 2 + 2 * len(items) + sum(json_length(item, depth + 1) for item in items)
        case _:
            return 2
