# SPDX-License-Identifier: Apache-2.0
"""Settings from environment variables: each process has one frozen dataclass, read once, all problems together.

The field `admin_port` of settings with prefix `X_` is the variable `X_ADMIN_PORT`; an empty one counts as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from sluicegate.wire import durations

S = TypeVar("S")
Reader = Callable[[str], Any]


class SettingsError(ValueError):
    """Every problem of an environment, one a line: variable, value, what is allowed."""


def read(kind: type[S], prefix: str, environment: Mapping[str, str], readers: Mapping[str, Reader]) -> S:
    """A `kind` (a dataclass) from `environment`; fields without a reader keep their default.

    A reader raises ValueError that says what is allowed. Raises SettingsError with every problem.
    """
    problems: list[str] = []
    given: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        name = prefix + entry.name.upper()
        text = environment.get(name, "")
        if text == "" or entry.name not in readers:
            continue
        try:
            given[entry.name] = readers[entry.name](text)
        except ValueError as problem:
            problems.append(f"{name}: {text[:200]!r} is not allowed; allowed: {problem}")
    if problems:
        raise SettingsError("\n".join(problems))
    return kind(**given)


def port(text: str) -> int:
    """A TCP port; 0 is any free one."""
    return whole(0, 65_535)(text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def reader(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return reader


def seconds(text: str) -> float:
    """A duration, in seconds."""
    try:
        return durations.parse(text)
    except ValueError:
        raise ValueError("a duration such as 800ms, 30s or 10m") from None


def file(text: str) -> Path:
    """A file that exists."""
    path = Path(text)
    if not path.is_file():
        raise ValueError("a file that exists")
    return path


def one_of(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def reader(text: str) -> str:
        if text not in choices:
            raise ValueError(", ".join(choices))
        return text

    return reader


def names(text: str) -> tuple[str, ...]:
    """Words by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
