# SPDX-License-Identifier: Apache-2.0
"""Refused calls, remembered for their predicted wait, so that a repeat is refused without asking the broker again."""

from __future__ import annotations

from collections import OrderedDict

from sluicegate.sidecar.core.errors import Refusal

MAX_REMEMBERED = 60.0


class RefusedCalls:
    """By key of request and credential: the refusal and until when it holds. Holds at most `size` (the latest)."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._until: OrderedDict[bytes, tuple[float, Refusal]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, key: bytes, refusal: Refusal, now: float) -> None:
        """Keeps a refusal that predicts a wait, for that wait and at most a minute."""
        if refusal.retry_after is None or refusal.retry_after <= 0:
            return
        self._until[key] = (now + min(refusal.retry_after, MAX_REMEMBERED), refusal)
        self._until.move_to_end(key)
        while len(self._until) > self._size:
            self._until.popitem(last=False)

    def find(self, key: bytes, now: float) -> Refusal | None:
        """The refusal that still holds for this key, its wait counted from `now`; None: the call may ask."""
        found = self._until.get(key)
        if found is None:
            return None
        until, refusal = found
        if now >= until:
            del self._until[key]
            return None
        return refusal.repeated(until - now)
