# SPDX-License-Identifier: Apache-2.0
"""What may be done to a call that is too large, so that it fits: its history trimmed, or sent in parts.

Neither changes what the model is asked of what stays: trimming is done only where the call's fallbacks name it, and a
divisible call's parts give together the answer that the whole would have had.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.broker.core.flow import Call
from sluicegate.broker.core.refuse import Unserved
from sluicegate.wire.words import Reason, Resource

_PART = 0.5
"""Of what the binding meter holds: a part as large as the whole bucket would wait until nobody else draws from it."""

_INPUT = (Resource.TOKENS, Resource.INPUT_TOKENS)
_CURABLE = (Reason.PREDICTED_WAIT, Reason.DEADLINE, Reason.MAX_WAIT, Reason.NEVER_FITS)


def trim(call: Call, target: int, item: Unserved) -> bool:
    """Make `call` the same call with `target` input tokens. False, and nothing changed, where that is no help: its
    history cannot be trimmed so far, it is not larger, or something else than input tokens keeps it waiting."""
    estimate = call.estimate
    if item.reason not in _CURABLE or (item.lack is not None and item.lack.meter.resource not in _INPUT):
        return False
    if not 0 < estimate.least_input_tokens <= target < estimate.input_tokens:
        return False
    characters = estimate.characters * target // estimate.input_tokens
    call.untrimmed = estimate
    call.estimate = replace(estimate, input_tokens=target, characters=characters, least_input_tokens=0)
    call.trim_to = target
    return True


def restore(call: Call) -> None:
    """Undo `trim`: what comes next in its fallbacks is for the whole call."""
    if call.untrimmed is not None:
        call.estimate, call.untrimmed, call.trim_to = call.untrimmed, None, 0


def part_tokens(item: Unserved) -> int:
    """The most input tokens that one part of the call should have; 0: it is not to be sent in parts."""
    call, lack = item.call, item.lack
    if item.reason is not Reason.NEVER_FITS or not call.acquire.divisible or lack is None:
        return 0
    if lack.meter.resource not in _INPUT:
        return 0
    need = max(1.0, call.charge.of(lack.meter.resource), call.usage.of(lack.meter.resource))
    return int(call.estimate.input_tokens * min(1.0, _PART * lack.fits_now / need))
