# SPDX-License-Identifier: Apache-2.0
"""What a dialect states as data: which headers speak of which meter, and which words of an error mean what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sluicegate.wire.words import ErrorClass, Resource

SECOND, MINUTE, DAY = 1.0, 60.0, 86_400.0


class Reset(Enum):
    """How a header writes when a meter is full again (or its window over)."""

    DURATION = "duration"  # Go's form: 6m0s, 424ms
    SECONDS = "seconds"
    INSTANT = "instant"  # RFC 3339, counted from the response's Date
    ANY = "any"  # whichever of them it is, or an epoch in seconds or milliseconds


@dataclass(frozen=True, slots=True)
class Row:
    """The headers of one meter. `window` None: they do not name it. A `remaining` of r means [r - below, r + above).

    `meter` False: shown to people, but nothing that admits calls. `label` names it in `sluicegate classify`.
    Of several rows for one resource and window the one with the least left is the meter; the first is shown.
    """

    resource: Resource
    limit: str
    remaining: str
    reset: str = ""
    window: float | None = None
    form: Reset = Reset.DURATION
    below: float = 0.0
    above: float = 1.0
    meter: bool = True
    label: str = ""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text of an error message, lower case, and what it means. `resource` and `window` only with QUOTA."""

    text: str
    error_class: ErrorClass
    resource: Resource | None = None
    window: float | None = None


class Shape(Enum):
    """Header families whose names or units need more than a row."""

    ROWS = "rows"
    AZURE = "azure"  # bare numbers, milliseconds or seconds
    NAMED_WINDOWS = "named_windows"  # the window stands in the header's name
    STRUCTURED = "structured"  # IETF RateLimit fields: "api";r=999;t=295
    ANY = "any"  # nobody has described it, or a gateway may pass on anybody's


@dataclass(frozen=True, slots=True)
class Speech:
    """How one provider speaks of its limits and errors.

    `codes` and `phrases` come before those that all share. `google`: errors carry google.rpc details.
    `hint_ends`: hints beyond so many seconds are not believed.
    """

    name: str
    rows: tuple[Row, ...] = ()
    shape: Shape = Shape.ROWS
    codes: Mapping[str, ErrorClass] = field(default_factory=dict[str, ErrorClass])
    phrases: tuple[Phrase, ...] = ()
    google: bool = False
    hint_ends: float = 40 * DAY


def pair(resource: Resource, name: str, **more: float | Reset | str | None) -> Row:
    """The usual three headers: x-ratelimit-{limit,remaining,reset}-`name`."""
    return Row(
        resource,
        f"x-ratelimit-limit-{name}",
        f"x-ratelimit-remaining-{name}",
        f"x-ratelimit-reset-{name}",
        **more,  # type: ignore[arg-type]
    )
