# SPDX-License-Identifier: Apache-2.0
"""The learned part of a charge: how much of the declared output a provider really takes at admission.

OpenAI's documents and headers disagree (providers.md 2b): a call's charge is its input plus some share, 0 to 1, of its
declared output. The share is learned per kind of call from spans between observations: what `remaining` dropped over a
span, compared with what its calls were predicted to cost, gives the share that would have been right. A span of mixed
kinds moves each kind by its part of the span (a normalised least-mean-squares step).

It starts at 1, the conservative rule. What counts is the highest share among the last spans, and only once there are
enough of them: no rule that one share cannot express (such as a maximum) may make calls look cheaper than the dear ones
of them are. A quota 429 sets the share back to 1 and asks for twice as many spans the next time.

`doubt` (0..1) is how badly shares have predicted spans of late: a call goes only when that part of the difference to
its largest plausible charge is there as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_SPANS = 6
_ENOUGH = 4
_MOST_NEEDED = 64
_KINDS = 256
_DOUBT_PER_ERROR = 10.0
_DOUBT_FALL = 0.25


@dataclass(slots=True)
class _Kind:
    needed: int = _ENOUGH
    seen: int = 0
    implied: deque[float] = field(default_factory=lambda: deque(maxlen=_SPANS))

    @property
    def share(self) -> float:
        return 1.0 if self.seen < self.needed else min(1.0, max(0.0, *self.implied))


class OutputShare:
    """Shares of the declared output that are charged, by kind of call."""

    __slots__ = ("_kinds", "doubt")

    def __init__(self) -> None:
        self.doubt = 1.0
        self._kinds: dict[str, _Kind] = {}

    def __repr__(self) -> str:
        return f"<OutputShare { {kind: round(known.share, 3) for kind, known in self._kinds.items()} }>"

    def of(self, kind: str) -> float:
        known = self._kinds.get(kind)
        return 1.0 if known is None else known.share

    def mean(self, outputs: Mapping[str, float]) -> float:
        """The share that calls of these declared outputs are expected to pay together."""
        whole = sum(outputs.values())
        return sum(self.of(kind) * amount for kind, amount in outputs.items()) / whole if whole > 0 else 1.0

    def learn(self, outputs: Mapping[str, float], excess: float, cost: float) -> None:
        """A span with these declared outputs cost `cost`, `excess` more (negative: less) than predicted."""
        norm = sum(amount * amount for amount in outputs.values())
        if norm <= 0:
            return
        off = min(1.0, _DOUBT_PER_ERROR * abs(excess) / cost) if cost > 0 else 1.0
        self.doubt = off if off > self.doubt else self.doubt + _DOUBT_FALL * (off - self.doubt)
        for kind, amount in outputs.items():
            if amount <= 0 or (kind not in self._kinds and len(self._kinds) >= _KINDS):
                continue
            known = self._kinds.setdefault(kind, _Kind())
            known.implied.append(known.share + excess * amount / norm)
            known.seen += 1

    def distrust(self, kind: str) -> None:
        """The provider refused what should have fitted: back to the conservative rule."""
        known = self._kinds.get(kind)
        if known is not None and known.share < 1.0:
            self._kinds[kind] = _Kind(needed=min(_MOST_NEEDED, 2 * known.needed))
            self.doubt = 1.0
