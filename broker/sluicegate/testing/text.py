# SPDX-License-Identifier: Apache-2.0
"""Deterministic pseudo text whose number of tokens is chosen: every piece is one token in OpenAI's encodings."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_VOCABULARY = """
water level gate river flow open close rate share wait call plan task agent team city light stone green small large
early late north south east west first last great little white black strong clear simple common public local free full
half long short high low new old good best same other time day year hour people number system part place point group
world area house line side case work word name way end set run the of and to in is that for
"""
_WORDS = _VOCABULARY.split()
_RING = 4096


def _ring() -> tuple[str, ...]:
    source = random.Random(20_240_607)
    return tuple(" " + source.choice(_WORDS) for _ in range(_RING))


_PIECES = _ring()
_DOUBLED = _PIECES + _PIECES


def pieces(seed: int, count: int) -> tuple[str, ...]:
    """`count` pieces, one token each (the first without its leading space); the same seed gives the same text."""
    if count <= 0:
        return ()
    start = (seed * 2_654_435_761) % _RING
    out = _DOUBLED[start : start + min(count, _RING)]
    while len(out) < count:
        out += _PIECES[: count - len(out)]
    return (out[0].lstrip(), *out[1:])


def embedding(seed: int, dimensions: int) -> list[float]:
    """A unit vector, the same for the same seed."""
    source = random.Random(seed)
    raw = [source.gauss(0, 1) for _ in range(dimensions)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [value / norm for value in raw]


@dataclass(frozen=True, slots=True)
class OutputLength:
    """Output tokens of a completion: lognormal of `median` and `sigma` (0: always the median), at most `most`."""

    median: int = 100
    sigma: float = 0.0
    most: int = 4096

    def __post_init__(self) -> None:
        if self.median < 1:
            raise ValueError(f"median must be 1 token or more, not {self.median!r}")
        if not 0 <= self.sigma <= 3:
            raise ValueError(f"sigma must lie between 0 and 3, not {self.sigma!r}")
        if self.most < 1:
            raise ValueError(f"max must be 1 token or more, not {self.most!r}")

    def draw(self, source: random.Random, bound: int | None) -> tuple[int, bool]:
        """The number of tokens, and whether `bound` (the request's max_tokens) cut it short."""
        wanted = self.median if self.sigma == 0 else round(self.median * math.exp(source.gauss(0, self.sigma)))
        wanted = max(1, min(wanted, self.most))
        if bound is not None and bound < wanted:
            return max(0, bound), True
        return wanted, False
