# SPDX-License-Identifier: Apache-2.0
"""The annotations that a pod may carry, in one table: what they mean, what they allow, what they set.

A value that is not allowed never keeps a pod from starting: the annotation is left out, and said so.
Tenant and tier are not here, since policy gives them and not the app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sluicegate.wire import durations
from sluicegate.wire.words import Latency, kebab

PREFIX = "sluicegate.dev/"
INJECT = PREFIX + "inject"
STATUS = PREFIX + "status"
NAMESPACE_LABEL = PREFIX + "injection"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_CPU = re.compile(r"[0-9]{1,9}m|[0-9]{1,6}(\.[0-9]{1,3})?", re.ASCII)
_MEMORY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,3})?(k|Ki|M|Mi|G|Gi)?", re.ASCII)
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,1023}", re.ASCII)
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_TEXT = re.compile(r"[!-~ ]{1,1024}", re.ASCII)
_MODEL = re.compile(r"[!-~]{1,256}", re.ASCII)
_TOKENS = re.compile(r"0*[1-9][0-9]{0,7}", re.ASCII)
_MAX_FALLBACKS = 8


@dataclass(frozen=True, slots=True)
class Annotation:
    """One row: `name` below the prefix, what is `allowed` in words, and for which setting of the sidecar it stands.

    `setting`: the sidecar's environment variable; empty where the injector itself heeds it.
    """

    name: str
    check: Callable[[str], bool]
    allowed: str
    help: str
    setting: str = ""

    @property
    def key(self) -> str:
        return PREFIX + self.name


def _duration(text: str) -> bool:
    try:
        durations.parse(text)
    except ValueError:
        return False
    return True


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _fallback(text: str) -> bool:
    options = text.split(",")
    return _TEXT.fullmatch(text) is not None and len(options) <= _MAX_FALLBACKS and all(map(_option, options))


def _option(text: str) -> bool:
    """One of what a call's header may name (docs/calls.md): the sidecar would not start with another."""
    kind, _, value = (part.strip() for part in text.partition(":"))
    checks: dict[str, Callable[[str], bool]] = {
        "model": _matches(_MODEL),
        "pool": _matches(_WORD),
        "cached": _duration,
        "trim": _matches(_TOKENS),
        "degrade": lambda _: True,
    }
    return kind in checks and checks[kind](value)


def _containers(text: str) -> bool:
    return all(_CONTAINER.fullmatch(name.strip()) for name in text.split(","))


_LATENCIES = tuple(kebab(latency) for latency in Latency)
_DURATION = "a duration such as 800ms, 2s or 10m"
_CPUS = "CPUs such as 100m or 0.5"
_BYTES = "bytes such as 128Mi"
_DEFAULT = "SLUICEGATE_SIDECAR_DEFAULT_"

TABLE = (
    Annotation("inject", ("true", "false").__contains__, "true, false", "ask for the sidecar, or refuse it"),
    Annotation("pool", _matches(_NAME), "the name of a ProviderPool", "default pool", "SLUICEGATE_SIDECAR_POOL"),
    Annotation(
        "task-type", _matches(_WORD), "letters, digits, '.', '_', '-'", "default task type", f"{_DEFAULT}TASK_TYPE"
    ),
    Annotation(
        "latency", _LATENCIES.__contains__, ", ".join(_LATENCIES), "default latency class", f"{_DEFAULT}LATENCY"
    ),
    Annotation("max-wait", _duration, _DURATION, "how long a call may wait", f"{_DEFAULT}MAX_WAIT"),
    Annotation("deadline", _duration, _DURATION, "time until a call must have started", f"{_DEFAULT}DEADLINE"),
    Annotation(
        "fallback",
        _fallback,
        f"at most {_MAX_FALLBACKS} of model:NAME, pool:NAME, cached:DURATION, trim:TOKENS and degrade, by commas",
        "what may stand in for a call, in order",
        f"{_DEFAULT}FALLBACK",
    ),
    Annotation("containers", _containers, "names of containers, by commas", "only these containers get base URLs"),
    Annotation("cpu-request", _matches(_CPU), _CPUS, "the sidecar's CPU request"),
    Annotation("cpu-limit", _matches(_CPU), _CPUS, "the sidecar's CPU limit"),
    Annotation("memory-request", _matches(_MEMORY), _BYTES, "the sidecar's memory request"),
    Annotation("memory-limit", _matches(_MEMORY), _BYTES, "the sidecar's memory limit"),
    Annotation("image", _matches(_IMAGE), "an image", "the sidecar's image"),
)
_BY_KEY = {row.key: row for row in TABLE}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod's annotations ask: allowed values by name, and what was wrong with the others, in words."""

    values: Mapping[str, str]
    problems: tuple[str, ...] = ()


def read(annotations: Mapping[str, str]) -> Wishes:
    """The wishes of a pod. Unknown keys below our prefix are problems too, since they are misspelt ones."""
    values: dict[str, str] = {}
    problems: list[str] = []
    for key, raw in sorted(annotations.items()):
        if not key.startswith(PREFIX) or key == STATUS:
            continue
        row = _BY_KEY.get(key)
        text = str(raw).strip()
        if row is None:
            problems.append(f"annotation {key} is unknown; known: {', '.join(row.name for row in TABLE)}")
        elif not row.check(text):
            problems.append(f"annotation {key}: {text[:80]!r} is not allowed; allowed: {row.allowed}")
        else:
            values[row.name] = text
    return Wishes(values, tuple(problems))
