# SPDX-License-Identifier: Apache-2.0
"""Amounts as Kubernetes spells them. Source: resource.Quantity of its API (apimachinery)."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([eE][-+]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_UNITS = {
    **{unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def quantity(text: str) -> Decimal:
    """What `text` is worth. Raises ValueError that says what is allowed."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError("a Kubernetes quantity such as 100m or 128Mi")
    number, exponent, unit = match.groups()
    return Decimal(number + (exponent or "")) * _UNITS.get(unit or "", Decimal(1))
