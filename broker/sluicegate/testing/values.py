# SPDX-License-Identifier: Apache-2.0
"""Parsers of single configuration values. Each raises ValueError that says what is allowed and what was found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sluicegate.testing.faults import FAULT_NAMES, Fault
from sluicegate.testing.meters import RESOURCES, Resource

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_FAULT_BY_NAME = {fault.replace("-", ""): fault for fault in Fault}
_RESOURCE_BY_NAME: dict[str, Resource] = {name.replace("_", ""): name for name in RESOURCES}


def parse_duration(value: object) -> float:
    """Seconds of a number or of `250ms`, `10s`, `1m30s`, `24h`. Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    if isinstance(value, str) and value and _DURATION.sub("", value) == "":
        return math.fsum(float(number) * _UNIT[unit] for number, unit in _DURATION.findall(value))
    raise ValueError(f"must be a duration such as 250ms, 10s, 1m or 24h, not {value!r}")


def parse_fault(value: object) -> Fault:
    """A fault by its name. Raises ValueError that lists the names."""
    if isinstance(value, str) and (fault := _FAULT_BY_NAME.get(fold(value))) is not None:
        return fault
    raise ValueError(f"must be one of {FAULT_NAMES}, not {value!r}")


def parse_resource(value: object) -> Resource:
    """A resource by its name in any spelling (`InputTokens`, `input_tokens`). Raises ValueError."""
    if isinstance(value, str) and (resource := _RESOURCE_BY_NAME.get(fold(value))) is not None:
        return resource
    raise ValueError(f"must be one of Requests, Tokens, InputTokens, OutputTokens, not {value!r}")


def parse_rate(value: object) -> float:
    """A share between 0 and 1. Raises ValueError."""
    number = parse_number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"must lie between 0 and 1, not {value!r}")
    return number


def parse_amount(value: object) -> float:
    """A finite number of 0 or more. Raises ValueError."""
    number = parse_number(value)
    if number < 0:
        raise ValueError(f"must be 0 or more, not {value!r}")
    return number


def parse_number(value: object) -> float:
    """A finite number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"must be a number, not {value!r}")
    return value


def fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {value!r}")
    return value


def text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        found = [item for item in allowed if isinstance(value, str) and fold(item) == fold(value)]
        if not found:
            raise ValueError(f"must be one of {', '.join(allowed)}, not {value!r}")
        return found[0]

    return parse
