# SPDX-License-Identifier: Apache-2.0
"""Trims histories to a number of tokens, counted as the call's own estimate was; opt-in, by the broker's grant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import orjson

from sluicegate.sidecar.core.trim import History, history_of, trimmed
from sluicegate.sidecar.inbound import Inbound
from sluicegate.wire.values import Estimate

WORTHWHILE = 512
"""Input tokens below which nobody asks for a shorter history, so that what could be left out is not counted."""

Size = Callable[[Inbound], Awaitable[Estimate]]
"""The estimate of a request; what it counts and how is the caller's."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The call as it is sent, what it is expected to cost, and what was left out: items of its history, tokens."""

    inbound: Inbound
    estimate: Estimate
    messages: int
    tokens: int

    def headers(self) -> list[tuple[str, str]]:
        """What the app is told."""
        return [("x-sluicegate-trimmed", f"messages={self.messages};tokens={self.tokens}")]


async def with_least(inbound: Inbound, estimate: Estimate, size: Size) -> Estimate:
    """The estimate with what would be left of the input if its history were trimmed as far as it can be."""
    history = history_of(inbound.body) if estimate.input_tokens >= WORTHWHILE else None
    if history is None:
        return estimate
    shortest, _ = _without(inbound, history, history.cuts[-1])
    least = (await size(shortest)).input_tokens
    return replace(estimate, least_input_tokens=least) if 0 < least < estimate.input_tokens else estimate


async def trim(inbound: Inbound, estimate: Estimate, target: int, size: Size) -> Trimmed | None:
    """The call with as few of its oldest turns left out as bring it to `target` input tokens; all that may go where
    even that is not enough, since the broker was told how far it can be trimmed. None: it has no history to trim."""
    history = history_of(inbound.body)
    if history is None:
        return None
    low, high = 0, len(history.cuts) - 1
    while low < high:
        middle = (low + high) // 2
        shorter, _ = _without(inbound, history, history.cuts[middle])
        if (await size(shorter)).input_tokens <= target:
            high = middle
        else:
            low = middle + 1
    shorter, left_out = _without(inbound, history, history.cuts[low])
    cost = await size(shorter)
    return Trimmed(shorter, cost, left_out, max(0, estimate.input_tokens - cost.input_tokens))


def _without(inbound: Inbound, history: History, cut: int) -> tuple[Inbound, int]:
    body, left_out = trimmed(inbound.body, history, cut)
    return replace(inbound, body=body, raw=orjson.dumps(body)), left_out
