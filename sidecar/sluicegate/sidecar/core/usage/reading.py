# SPDX-License-Identifier: Apache-2.0
"""What every reader of a response gives and holds."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HELD = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Read:
    """What one step gave: `data` to hand on, and whether this step learned something new."""

    data: bytes = b""
    news: bool = False
