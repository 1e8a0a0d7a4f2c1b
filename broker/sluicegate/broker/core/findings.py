# SPDX-License-Identifier: Apache-2.0
"""What is wrong with documents, said so that their author can put it right without reading code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """ERROR keeps its document out (its last good version stays in effect); WARNING keeps it in."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in one document.

    `source` is where it came from (`pools.yaml:12`), `document` its kind and name as far as they could be read,
    `field` a path such as `spec.limits[1].window`, `value` what stood there, `message` what is allowed.
    """

    source: str
    document: str
    field: str
    value: str
    message: str
    severity: Severity

    def __str__(self) -> str:
        where = " ".join(part for part in (self.document, self.field) if part)
        what = f"{where} = {self.value}" if self.value else where
        return (
            f"{self.severity}: {self.source}: {what}: {self.message}"
            if what
            else f"{self.severity}: {self.source}: {self.message}"
        )


_SHOWN = 80


def shown(value: object) -> str:
    """`value` as a finding quotes it: short, on one line."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
