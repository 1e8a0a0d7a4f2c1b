# SPDX-License-Identifier: Apache-2.0
"""What OpenAI charges a call at admission, by each of the rules that were documented or measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

AdmissionRule = Literal["sum", "max", "chars"]

OPENAI_DEFAULT_MAX_TOKENS = 16
OPENAI_IMAGE_TOKENS = 765


def openai_charge(
    rule: AdmissionRule, message_chars: Iterable[int], *, max_tokens: int | None = None, n: int = 1, images: int = 0
) -> int:
    """Tokens that OpenAI charges a chat call at admission. `message_chars`: characters of each message's text.

    `sum`: ceil(chars/4) + 1 per message + max_tokens (16 when absent) x n, as measured until March 2025. `max`: the
    documented maximum of max_tokens x n and the character estimate. `chars`: the character estimate + 1, as measured
    since. An image counts 765 under every rule.
    """
    chars = list(message_chars)
    estimate = sum((count + 3) // 4 for count in chars) + images * OPENAI_IMAGE_TOKENS
    match rule:
        case "sum":
            return estimate + len(chars) + (OPENAI_DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens) * n
        case "max":
            return max(estimate, (max_tokens or 0) * n)
        case "chars":
            return estimate + 1


def embeddings_charge(input_chars: Iterable[int]) -> int:
    """Tokens that OpenAI charges an embeddings call at admission: floor(chars/4) per input, at least 1."""
    return max(1, sum(count // 4 for count in input_chars))
