# SPDX-License-Identifier: Apache-2.0
"""Who a call speaks for and how urgent it is: `x-sluicegate-*` headers over W3C `baggage` over the pod's defaults.

Parsing is strict: a value that cannot be read is an error that names where it stood, what it was and what is allowed,
since a call that silently loses its urgency is found out too late. Unknown members of baggage are left alone,
because baggage travels through programs of other versions; an unknown header was written for this sidecar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from urllib.parse import unquote

from sluicegate.sidecar.core.headers import parse_instant
from sluicegate.wire.durations import parse as parse_duration
from sluicegate.wire.values import (
    Chain,
    Criticality,
    FallbackOption,
    UseCached,
    UseDegraded,
    UseModel,
    UsePool,
    UseTrimmed,
)
from sluicegate.wire.words import Latency, from_kebab

PREFIX = "x-sluicegate-"
BAGGAGE_PREFIX = "sluicegate."
FIELDS = (
    "tenant",
    "task-type",
    "latency",
    "max-wait",
    "deadline",
    "fallback",
    "chain",
    "orchestrator",
)
_MAX_VALUE = 1024
_MAX_FALLBACKS = 8
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})?", re.ASCII)
_TENANT = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}", re.ASCII)
_MODEL = re.compile(r"[!-~]{1,256}", re.ASCII)
_CHAIN_ID = re.compile(r"[!-:<-~]{1,128}", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call says of itself: its criticality, and the tenant that it claims (empty: the workload's own)."""

    criticality: Criticality = Criticality()
    tenant: str = ""


class InvalidValueError(ValueError):
    """A header or baggage member that cannot be read: `where` it stood, its `value`, what is `allowed`."""

    def __init__(self, where: str, value: str, allowed: str) -> None:
        self.where = where
        self.value = value[:200]
        self.allowed = allowed
        super().__init__(f"{where}: {self.value!r} is not allowed; allowed: {allowed}")


def read_criticality(headers: Iterable[tuple[str, str]], defaults: Asked, wall_now: datetime) -> Asked:
    """The criticality of a call. `headers`: all of the request's, names in any case; `wall_now` with a zone, for
    deadlines that are instants. Raises InvalidValueError."""
    said: dict[str, tuple[str, str]] = {}
    over: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered.startswith(PREFIX):
            field = lowered[len(PREFIX) :]
            if field not in FIELDS:
                raise InvalidValueError(lowered, value, f"the headers {', '.join(PREFIX + f for f in FIELDS)}")
            over[field] = (lowered, value.strip())
        elif lowered == "baggage":
            for member, text in baggage_members(value):
                field = member[len(BAGGAGE_PREFIX) :]
                if member.startswith(BAGGAGE_PREFIX) and field in FIELDS:
                    said[field] = (f"baggage member {member}", text)
    if not over and not said:
        return defaults
    said.update(over)
    return _build(said, defaults, wall_now)


def _build(said: Mapping[str, tuple[str, str]], defaults: Asked, wall_now: datetime) -> Asked:
    def take(field: str, parse: Callable[[str], T], default: T) -> T:
        found = said.get(field)
        if found is None:
            return default
        where, value = found
        if len(value) > _MAX_VALUE:
            raise InvalidValueError(where, value, f"at most {_MAX_VALUE} characters")
        try:
            return parse(value)
        except ValueError as problem:
            raise InvalidValueError(where, value, str(problem)) from None

    otherwise = defaults.criticality
    criticality = Criticality(
        task_type=take("task-type", _task_type, otherwise.task_type),
        latency=take("latency", _latency, otherwise.latency),
        max_wait=take("max-wait", _max_wait, otherwise.max_wait),
        deadline=take("deadline", lambda text: parse_deadline(text, wall_now), otherwise.deadline),
        fallback=take("fallback", parse_fallback, otherwise.fallback),
        chain=take("chain", parse_chain, otherwise.chain),
        orchestrator=take("orchestrator", _boolean, otherwise.orchestrator),
    )
    return Asked(criticality, take("tenant", _tenant, defaults.tenant))


def baggage_members(value: str) -> list[tuple[str, str]]:
    """Members of one `baggage` header: key and percent-decoded value, properties left out, but for the steps of our
    chain, which look like some unless they are encoded. Raises InvalidValueError for a comma in ours that is not."""
    members: list[tuple[str, str]] = []
    for part in value[:16_384].split(","):
        member, _, properties = part.partition(";")
        key, equals, text = member.partition("=")
        key = key.strip()
        if equals:
            if key == f"{BAGGAGE_PREFIX}chain":
                steps = [part for part in properties.split(";") if part.strip().startswith(("step=", "of="))]
                text = ";".join([text, *steps])
            members.append((key, unquote(text.strip())))
        elif part.strip() and members and members[-1][0].startswith(BAGGAGE_PREFIX):
            where = f"baggage member {members[-1][0]}"
            raise InvalidValueError(where, part.strip(), "values whose commas are percent-encoded, as %2C")
    return members


def strip_baggage(value: str) -> str:
    """The `baggage` header without our members, every other member as it stood; empty when none is left."""
    parts = value.split(",")
    kept = [part for part in parts if not part.strip().startswith(BAGGAGE_PREFIX)]
    return value if len(kept) == len(parts) else ",".join(kept).strip()


def _tenant(text: str) -> str:
    if not _TENANT.fullmatch(text):
        raise ValueError("namespace/name of a TenantPolicy, such as acme/acme")
    return text


def _task_type(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("letters, digits, '.', '_' and '-', at most 253")
    return text


def _latency(text: str) -> Latency | None:
    try:
        return from_kebab(Latency, text)
    except ValueError:
        raise ValueError("real-time, near-real-time, batch") from None


def _max_wait(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError("a duration such as 800ms, 2s or 1m30s") from None


def _boolean(text: str) -> bool | None:
    match text.lower():
        case "true":
            return True
        case "false":
            return False
        case _:
            raise ValueError("true, false")


def parse_deadline(text: str, wall_now: datetime) -> float | None:
    """Seconds left: a duration, or an RFC 3339 instant (0 when past). Raises ValueError."""
    instant = parse_instant(text)
    if instant is not None:
        return max(0.0, (instant - wall_now).total_seconds())
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError("an RFC 3339 instant with a zone, or a duration such as 10m") from None


def parse_fallback(text: str) -> tuple[FallbackOption, ...] | None:
    """`model:gpt-4o-mini, pool:claude-sonnet, cached:10m, degrade`, in the order to try. Raises ValueError."""
    options = [_option(part.strip()) for part in text.split(",")]
    if len(options) > _MAX_FALLBACKS:
        raise ValueError(f"at most {_MAX_FALLBACKS} entries")
    return tuple(options)


def _option(text: str) -> FallbackOption:
    kind, _, value = text.partition(":")
    value = value.strip()
    match kind.strip():
        case "model" if _MODEL.fullmatch(value):
            return UseModel(value)
        case "pool" if _NAME.fullmatch(value):
            return UsePool(value)
        case "cached":
            try:
                return UseCached(parse_duration(value))
            except ValueError:
                pass
        case "degrade":
            return UseDegraded(value)
        case "trim" if value.isascii() and value.isdigit() and len(value) <= 9 and int(value) > 0:
            return UseTrimmed(int(value))
        case _:
            pass
    raise ValueError("a list of model:NAME, pool:NAME, cached:DURATION, degrade, trim:TOKENS")


def parse_chain(text: str) -> Chain | None:
    """`id=…;step=2;of=5`. Raises ValueError."""
    problem = ValueError("id=TEXT;step=NUMBER;of=NUMBER, step and of optional, step not above of")
    pairs: dict[str, str] = {}
    for part in text.split(";"):
        key, equals, value = part.strip().partition("=")
        if not equals or key in pairs or key not in ("id", "step", "of"):
            raise problem
        pairs[key] = value
    numbers: dict[str, int] = {}
    for key in ("step", "of"):
        value = pairs.get(key, "0")
        if not (value.isascii() and value.isdigit() and len(value) <= 6):
            raise problem
        numbers[key] = int(value)
    if not _CHAIN_ID.fullmatch(pairs.get("id", "")) or 0 < numbers["of"] < numbers["step"]:
        raise problem
    return Chain(pairs["id"], numbers["step"], numbers["of"])
