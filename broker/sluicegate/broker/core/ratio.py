# SPDX-License-Identifier: Apache-2.0
"""The learned part of a charge: how much of the declared output a provider really takes at admission.

OpenAI's documents and headers disagree (providers.md 2b): a call's charge is its input plus some share, 0 to 1, of its
declared output. The share is learned per kind of call, from what `remaining` dropped over a span compared with what the
calls of the span would have cost (a normalised least-mean-squares step, so that a span of mixed kinds moves each kind
in proportion to its part). It starts at 1, the conservative rule, rises at once and falls slowly; a quota 429 sets it
back to 1, and each makes the next fall wait longer.

`doubt` (0..1) is how badly shares have predicted spans of late: one share per kind cannot express every rule (such as a
maximum). A call goes only when that part of the difference to its largest plausible charge is there as well.
"""

from __future__ import annotations

from collections.abc import Mapping

_FALL = 0.6
_KINDS = 256
_DOUBT_PER_ERROR = 5.0
_DOUBT_FALL = 0.25
_TOLERANCE = 0.1
_MOST_FAILURES = 6


class OutputShare:
    """Shares of the declared output that are charged, by kind of call."""

    __slots__ = ("_failures", "_shares", "_skip", "doubt")

    def __init__(self) -> None:
        self.doubt = 1.0
        self._shares: dict[str, float] = {}
        self._failures = 0
        self._skip = 0

    def of(self, kind: str) -> float:
        return self._shares.get(kind, 1.0)

    def mean(self, outputs: Mapping[str, float]) -> float:
        """The share that calls of these declared outputs are expected to pay together."""
        whole = sum(outputs.values())
        return sum(self.of(kind) * amount for kind, amount in outputs.items()) / whole if whole > 0 else 1.0

    def learn(self, outputs: Mapping[str, float], excess: float, cost: float) -> None:
        """A span with these declared outputs cost `cost`, `excess` more (negative: less) than predicted."""
        norm = sum(amount * amount for amount in outputs.values())
        if norm <= 0:
            return
        if excess < 0 and self._skip > 0:
            self._skip -= 1
            return
        off = min(1.0, _DOUBT_PER_ERROR * abs(excess) / max(cost, 1e-9)) if cost > 0 else 1.0
        self.doubt = off if off > self.doubt else self.doubt + _DOUBT_FALL * (off - self.doubt)
        if -_TOLERANCE * sum(outputs.values()) < excess < 0:
            return
        gain = 1.0 if excess > 0 else _FALL
        for kind, amount in outputs.items():
            if amount > 0 and (kind in self._shares or len(self._shares) < _KINDS):
                self._shares[kind] = min(1.0, max(0.0, self.of(kind) + gain * excess * amount / norm))

    def distrust(self, kind: str) -> None:
        """The provider refused what should have fitted: back to the conservative rule."""
        if self._shares.pop(kind, 1.0) < 1.0:
            self._failures = min(self._failures + 1, _MOST_FAILURES)
            self._skip = 2**self._failures
            self.doubt = 1.0
