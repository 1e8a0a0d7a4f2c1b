# SPDX-License-Identifier: Apache-2.0
"""Refused calls, remembered for their predicted wait, so that a repeat is refused without asking the broker again."""

from __future__ import annotations

from collections import OrderedDict

from sluicegate.sidecar.core.errors import Refusal

MAX_REMEMBERED = 86_400.0


class RefusedCalls:
    """By key of request and credential: the refusal and until when it holds. Holds at most `size` (the latest).

    A new configuration may make room that the old one did not have: what was refused under another `version` is asked
    again.
    """

    def __init__(self, size: int = 2048) -> None:
        self._size = size
        self._until: OrderedDict[bytes, tuple[float, str, Refusal]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, key: bytes, refusal: Refusal, wait: float, now: float, version: str) -> None:
        """Keeps a refusal for its predicted `wait` in seconds, at most a day."""
        if wait <= 0:
            return
        self._until[key] = (now + min(wait, MAX_REMEMBERED), version, refusal)
        self._until.move_to_end(key)
        while len(self._until) > self._size:
            self._until.popitem(last=False)

    def find(self, key: bytes, now: float, version: str) -> Refusal | None:
        """The refusal that still holds for this key, its wait counted from `now`; None: the call may ask."""
        found = self._until.get(key)
        if found is None:
            return None
        until, under, refusal = found
        if now >= until or under != version:
            del self._until[key]
            return None
        return refusal.repeated(until - now)
