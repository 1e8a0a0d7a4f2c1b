# SPDX-License-Identifier: Apache-2.0
"""Anthropic: token figures rounded to the nearest thousand, resets as instants, a combined pair that admits nothing.

`anthropic-ratelimit-tokens-*` is input + output with the earlier reset of the two, so it is shown and used only where
the split is absent (2024). Priority, fast and unified families are other limits and are left alone.
"""

from __future__ import annotations

from sluicegate.sidecar.core.dialects.api import Phrase, Reset, Row, Speech
from sluicegate.wire.words import ErrorClass, Resource


def _row(resource: Resource, name: str, rounding: float, *, meter: bool = True) -> Row:
    start = f"anthropic-ratelimit-{name}-"
    below, above = (rounding, rounding) if rounding else (0.0, 1.0)
    names = (f"{start}limit", f"{start}remaining", f"{start}reset")
    return Row(resource, *names, form=Reset.INSTANT, below=below, above=above, meter=meter)


COMBINED = _row(Resource.TOKENS, "tokens", 500.0)

ANTHROPIC = Speech(
    "anthropic",
    (
        _row(Resource.REQUESTS, "requests", 0.0),
        _row(Resource.INPUT_TOKENS, "input-tokens", 500.0),
        _row(Resource.OUTPUT_TOKENS, "output-tokens", 500.0),
        COMBINED,
    ),
    codes={
        "ramp_limit_exceeded": ErrorClass.OVERLOAD,
        "compaction_unavailable": ErrorClass.OVERLOAD,
        "request_too_large": ErrorClass.INVALID,
    },
    phrases=(
        Phrase("maximum usage increase rate", ErrorClass.OVERLOAD),
        Phrase("input tokens per minute", ErrorClass.QUOTA, Resource.INPUT_TOKENS),
        Phrase("output tokens per minute", ErrorClass.QUOTA, Resource.OUTPUT_TOKENS),
        Phrase("requests per minute", ErrorClass.QUOTA, Resource.REQUESTS),
        # The wording until 2025.
        Phrase("number of request tokens has exceeded", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("number of tokens has exceeded", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("number of requests has exceeded", ErrorClass.QUOTA, Resource.REQUESTS),
    ),
)
