# SPDX-License-Identifier: Apache-2.0
"""The learned part of a charge: how much of the declared output a provider really takes at admission.

OpenAI's documents and headers disagree (providers.md 2b): a call's charge is its input plus some share, 0 to 1, of its
declared output. The share is learned per kind of call, from what `remaining` dropped over a span compared with what the
calls of the span would have cost (a normalised least-mean-squares step, so that a span of mixed kinds moves each kind
in proportion to its part). It starts at 1, the conservative rule, rises at once and falls slowly; a quota 429 sets it
back to 1.
"""

from __future__ import annotations

from collections.abc import Mapping

_FALL = 0.6
_KINDS = 256


class OutputShare:
    """Shares of the declared output that are charged, by kind of call."""

    __slots__ = ("_shares",)

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def of(self, kind: str) -> float:
        return self._shares.get(kind, 1.0)

    def mean(self, outputs: Mapping[str, float]) -> float:
        """The share that calls of these declared outputs are expected to pay together."""
        whole = sum(outputs.values())
        return sum(self.of(kind) * amount for kind, amount in outputs.items()) / whole if whole > 0 else 1.0

    def learn(self, outputs: Mapping[str, float], excess: float) -> None:
        """A span with these declared outputs cost `excess` more (negative: less) than predicted."""
        norm = sum(amount * amount for amount in outputs.values())
        if norm <= 0:
            return
        gain = 1.0 if excess > 0 else _FALL
        for kind, amount in outputs.items():
            if amount > 0 and (kind in self._shares or len(self._shares) < _KINDS):
                self._shares[kind] = min(1.0, max(0.0, self.of(kind) + gain * excess * amount / norm))

    def distrust(self, kind: str) -> None:
        """The provider refused what should have fitted: back to the conservative rule."""
        self._shares.pop(kind, None)
