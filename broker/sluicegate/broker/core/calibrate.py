# SPDX-License-Identifier: Apache-2.0
"""What estimates turn out to be, learned from usage for the whole fleet: a new pod starts with what others saw.

Theory of operation. A sidecar counts a prompt as well as it can; only for OpenAI's families is that what the provider
counts (`Estimate.exact`). Each successful call gives real / estimated input tokens; the factor of a key is the quotient
of both sums, which decay by `_DECAY` a call, so it follows what the last twenty calls or so were. One call counts at
most `_OUTLIER` times as far from the present factor as it is, and a factor stays within `_LEAST` and `_MOST`. Expected
output is the `QUANTILE` of the last answers. Keys go from narrow to wide: (pool, model, task type), (pool, model),
(pool); the narrowest that has seen `_ENOUGH` calls speaks. Keys are bounded: the one unused for longest goes.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from sluicegate.wire.values import Estimate, Usage

QUANTILE = 0.9
_DECAY = 0.95
_ENOUGH = 3
_LEAST, _MOST = 0.1, 10.0
_OUTLIER = 4.0
_ANSWERS = 64
_MAX_KEYS = 4_096

Key = tuple[str, ...]


@dataclass(slots=True)
class _Record:
    calls: int = 0
    inputs: int = 0  # of them those whose input was not exact
    estimated: float = 0.0
    real: float = 0.0
    factor: float = 1.0
    answers: deque[int] = field(default_factory=lambda: deque[int](maxlen=_ANSWERS))
    expected: int = 0

    def input(self, estimated: int, real: int) -> None:
        if self.inputs >= _ENOUGH:
            around = estimated * self.factor
            real = min(max(real, int(around / _OUTLIER)), math.ceil(around * _OUTLIER))
        self.estimated = self.estimated * _DECAY + estimated
        self.real = self.real * _DECAY + real
        self.factor = min(_MOST, max(_LEAST, self.real / self.estimated))
        self.inputs += 1

    def output(self, answer: int) -> None:
        self.answers.append(answer)
        # Sorting costs more than it tells once there are many: then each eighth answer moves the figure.
        if len(self.answers) <= 16 or self.answers.maxlen is None or answer > self.expected or self.calls % 8 == 0:
            ordered = sorted(self.answers)
            self.expected = ordered[min(len(ordered) - 1, math.ceil(QUANTILE * len(ordered)) - 1)]


class Calibration:
    """The records of one broker."""

    def __init__(self) -> None:
        self._records: OrderedDict[Key, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def correct(self, estimate: Estimate, pool: str, model: str, task_type: str) -> Estimate:
        """`estimate` as such calls turned out to be; itself while nothing is known. Output stays within its cap."""
        factor = 1.0 if estimate.exact else None
        output = None if estimate.output_tokens > 0 else 0
        for key in _keys(pool, model, task_type):
            record = self._records.get(key)
            if record is not None:
                if factor is None and record.inputs >= _ENOUGH:
                    factor = record.factor
                if output is None and len(record.answers) >= _ENOUGH:
                    output = record.expected
                if factor is not None and output is not None:
                    break
        factor = 1.0 if factor is None else factor
        output = estimate.output_tokens if output is None else output
        if estimate.max_output_tokens is not None:
            output = min(output, estimate.max_output_tokens)
        if factor == 1.0 and output == estimate.output_tokens:
            return estimate
        return Estimate(  # dataclasses.replace takes half as long again
            input_tokens=math.ceil(estimate.input_tokens * factor),
            output_tokens=output,
            max_output_tokens=estimate.max_output_tokens,
            characters=estimate.characters,
            choices=estimate.choices,
            least_input_tokens=math.ceil(estimate.least_input_tokens * factor),
            images=estimate.images,
            image_tokens=math.ceil(estimate.image_tokens * factor),
            exact=estimate.exact,
        )

    def learn(self, estimate: Estimate, usage: Usage, pool: str, model: str, task_type: str) -> None:
        """A call that was estimated as `estimate`, uncorrected, and succeeded, used `usage`."""
        answer = math.ceil(max(0, usage.output_tokens) / max(1, estimate.choices))
        for key in _keys(pool, model, task_type):
            record = self._records.get(key)
            if record is None:
                record = self._records[key] = _Record()
                if len(self._records) > _MAX_KEYS:
                    self._records.popitem(last=False)
            else:
                self._records.move_to_end(key)
            record.calls += 1
            if not estimate.exact and estimate.input_tokens > 0 and usage.input_tokens > 0:
                record.input(estimate.input_tokens, usage.input_tokens)
            if estimate.output_tokens > 0:
                record.output(answer)


def _keys(pool: str, model: str, task_type: str) -> tuple[Key, Key, Key]:
    return (pool, model, task_type), (pool, model), (pool,)
