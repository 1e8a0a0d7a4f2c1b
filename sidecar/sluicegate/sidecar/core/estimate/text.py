# SPDX-License-Identifier: Apache-2.0
"""About how many tokens a text is, without a tokenizer: each class of character weighs its part of a token.

A fixed number of characters per token is right for one kind of text only: over samples of prose, code, JSON and CJK,
characters / 3 lies between 0.3 and 1.5 times the real count, this sum between 0.9 and 1.3 times (tests/sidecar/
test_estimate.py), as near as another family's tokenizer would come, without its 80 MB and at a hundredth of
its time. What is left is a factor, which calibration by real usage learns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from string import ascii_letters

_LETTERS = ascii_letters.encode()
_LETTER = 0.25
_BLANK = 0.04
_DIGIT = 0.50
_LINE = 0.40
_MARK = 0.65
_TWO_BYTES = 0.65
"""Letters with accents, Greek, Cyrillic, Hebrew, Arabic."""
_SAMPLED = 256_000
_SAMPLES = 256
_MORE_BYTES = 1.15
"""Chinese, Japanese, Korean, emoji."""


def light_tokens(text: str) -> float:
    """About the tokens of `text`; some 3 us per 1,000 characters, of very long ones by evenly spread samples."""
    if len(text) > _SAMPLED:
        step = len(text) // _SAMPLES
        size = _SAMPLED // _SAMPLES
        part = "".join(text[at : at + size] for at in range(0, len(text) - size, step))
        return light_tokens(part[:_SAMPLED]) * len(text) / min(len(part), _SAMPLED)
    plain = text.encode("ascii", "ignore")
    size = len(plain)
    letters = size - len(plain.translate(None, _LETTERS))
    digits = size - len(plain.translate(None, b"0123456789"))
    blanks = size - len(plain.translate(None, b" \t\r"))
    lines = plain.count(b"\n")
    total = _LETTER * letters + _DIGIT * digits + _BLANK * blanks + _LINE * lines
    total += _MARK * (size - letters - digits - blanks - lines)
    if size < len(text):
        wide = len(text) - size
        long = max(0, len(text.encode("utf-8", "replace")) - size - 2 * wide)
        total += _TWO_BYTES * max(0, wide - long) + _MORE_BYTES * long
    return total


def light_count(texts: Iterable[str], factor: float = 1.0) -> int:
    """About the tokens of `texts` x `factor`, rounded up, at least one for each that is not empty."""
    total = 0.0
    for text in texts:
        if text:
            total += max(1.0, light_tokens(text) * factor)
    return math.ceil(total)
