# SPDX-License-Identifier: Apache-2.0
"""Reading the emulator's configuration: plain data in, `EmulatorConfig` out, or every problem that it has at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from sluicegate.testing.charges import AdmissionRule
from sluicegate.testing.config import ConfigError, EmulatorConfig, LimitChange, PoolConfig
from sluicegate.testing.faults import Episode, Fault, Pace
from sluicegate.testing.foreign import ForeignConfig
from sluicegate.testing.limits import LimitsConfig
from sluicegate.testing.meters import Algorithm, MeterConfig
from sluicegate.testing.text import OutputLength
from sluicegate.testing.values import (
    choice,
    flag,
    fold,
    integer,
    parse_amount,
    parse_duration,
    parse_fault,
    parse_number,
    parse_rate,
    parse_resource,
    text,
)
from sluicegate.testing.wires import RULES, ChargeRejected, Wire


def read_config(data: object) -> EmulatorConfig:
    """The configuration in plain `data`. Raises ConfigError."""
    reader = _Reader()
    config = _emulator(reader, data)
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def read_file(path: str | Path) -> EmulatorConfig:
    """The configuration in a YAML file. Raises ConfigError."""
    import yaml

    try:
        content = Path(path).read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    try:
        return read_config(documents)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


class _Reader:
    """Collects problems, so that all are told together."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def say(self, where: str, what: object) -> None:
        self.problems.append(f"{where}: {what}")

    def fields(self, where: str, value: object, allowed: Mapping[str, Callable[[object], Any]]) -> dict[str, Any]:
        """`value`'s fields parsed; unknown names and values that do not parse become problems."""
        if not isinstance(value, Mapping):
            self.say(where, f"must be a mapping, not {value!r}")
            return {}
        names = {fold(name): name for name in allowed}
        out: dict[str, Any] = {}
        for key, raw in value.items():
            name = names.get(fold(key)) if isinstance(key, str) else None
            if name is None:
                self.say(f"{where}.{key}", f"is not known here; allowed are {', '.join(allowed)}")
                continue
            if raw is None and name != "unknownKeys":
                continue
            try:
                out[name] = allowed[name](raw)
            except ValueError as error:
                self.say(f"{where}.{name}", error)
        return out

    def items(self, where: str, value: object) -> list[tuple[str, object]]:
        if not isinstance(value, list | tuple):
            self.say(where, f"must be a list, not {value!r}")
            return []
        return [(f"{where}[{index}]", item) for index, item in enumerate(value)]

    def required(self, where: str, fields: Mapping[str, object], *names: str) -> bool:
        """False, and a problem each, where a name is missing (one that did not parse has its problem already)."""
        missing = [name for name in names if name not in fields]
        for name in missing:
            if not any(problem.startswith(f"{where}.{name}:") for problem in self.problems):
                self.say(where, f"{name} is missing")
        return not missing

    def build(self, where: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ValueError as error:
            self.say(where, error)
            return None


def _any(value: object) -> object:
    return value


def _emulator(reader: _Reader, data: object) -> EmulatorConfig:
    documents = list(data) if isinstance(data, list | tuple) else [data]
    pools: list[PoolConfig] = []
    seed, keys, unknown = 1, dict[str, str](), cast("str | None", "default")
    for index, document in enumerate(documents):
        where = "emulator" if len(documents) == 1 else f"document {index + 1}"
        if isinstance(document, Mapping) and "kind" in document:
            if document["kind"] == "ProviderPool":
                pools += _provider_pool(reader, where, document)
            continue
        allowed = {"seed": integer, "keys": _any, "unknownKeys": _any, "pools": _any}
        fields = reader.fields(where, document, allowed)
        seed = fields.get("seed", seed)
        keys.update(_string_map(reader, f"{where}.keys", fields.get("keys", {})))
        unknown = fields.get("unknownKeys", unknown)
        if unknown is not None and not isinstance(unknown, str):
            reader.say(f"{where}.unknownKeys", f"must be an account's name or null, not {unknown!r}")
        for place, item in reader.items(f"{where}.pools", fields.get("pools", [])):
            pool = _pool(reader, place, item)
            if pool is not None:
                pools.append(pool)
    if not pools and not reader.problems:
        reader.say("emulator", "pools is missing: at least one pool (or ProviderPool document) is needed")
    names = [pool.name for pool in pools]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reader.say("emulator.pools", f"the name {name!r} is used more than once")
    return EmulatorConfig(tuple(pools), seed, keys, unknown)


_POOL_FIELDS: dict[str, Callable[[object], Any]] = {
    "name": text,
    "wire": choice(*(rules.spelled for rules in RULES.values())),
    "account": text,
    "models": _any,
    "limits": _any,
    "admission": choice("sum", "max", "chars"),
    "chargeRejected": choice("requests", "none", "all"),
    "retryAfter": flag,
    "rateLimitKey": flag,
    "responsesStreamHeaders": flag,
    "retryAfterOnSuccess": parse_rate,
    "maxConcurrent": integer,
    "outputTokens": _any,
    "pace": _any,
    "faults": _any,
    "episodes": _any,
    "foreign": _any,
    "changes": _any,
}


_WIRES: dict[str, Wire] = {rules.spelled: wire for wire, rules in RULES.items()}


def _pool(reader: _Reader, where: str, value: object) -> PoolConfig | None:
    fields = reader.fields(where, value, _POOL_FIELDS)
    named = reader.items(f"{where}.models", fields.get("models", []))
    models = [_checked(reader, place, item, text) for place, item in named]
    wire = _WIRES.get(fields.get("wire", ""), "openai")
    meters = _meters(reader, f"{where}.limits", fields.get("limits", []), RULES[wire].algorithm)
    output = _output(reader, f"{where}.outputTokens", fields.get("outputTokens", 100))
    pace = _pace(reader, f"{where}.pace", fields.get("pace", {}))
    faults = _faults(reader, f"{where}.faults", fields.get("faults", {}))
    episodes = [_episode(reader, *item) for item in reader.items(f"{where}.episodes", fields.get("episodes", []))]
    foreign = _foreign(reader, f"{where}.foreign", fields["foreign"]) if "foreign" in fields else None
    changes = [_change(reader, meters, *item) for item in reader.items(f"{where}.changes", fields.get("changes", []))]
    if not reader.required(where, fields, "name", "wire", "models", "limits") or not meters:
        return None
    rejected = cast("ChargeRejected | None", fields.get("chargeRejected"))
    return PoolConfig(
        name=fields["name"],
        models=tuple(model for model in models if model is not None),
        limits=LimitsConfig(wire, tuple(meters), rejected),
        account=fields.get("account", "*"),
        admission=cast(AdmissionRule, fields.get("admission", "sum")),
        retry_after=fields.get("retryAfter", True),
        rate_limit_key=fields.get("rateLimitKey", False),
        responses_stream_headers=fields.get("responsesStreamHeaders", False),
        retry_after_on_success=fields.get("retryAfterOnSuccess", 0.25),
        max_concurrent=fields.get("maxConcurrent", 0),
        output=output or OutputLength(),
        pace=pace,
        faults=faults,
        episodes=tuple(episode for episode in episodes if episode is not None),
        foreign=foreign,
        changes=tuple(change for change in changes if change is not None),
    )


def _provider_pool(reader: _Reader, where: str, document: Mapping[str, object]) -> list[PoolConfig]:
    """A ProviderPool document as a pool; providers whose wire is not emulated are a problem."""
    metadata, spec = document.get("metadata"), document.get("spec")
    if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
        reader.say(where, "a ProviderPool needs metadata and spec")
        return []
    provider = str(spec.get("provider"))
    wire = provider if provider in _WIRES else None
    if provider == "OpenAICompatible":
        wire = "Groq" if spec.get("dialect") == "Groq" else "OpenAI"
    if wire is None:
        emulated = ", ".join(["OpenAICompatible", *_WIRES])
        reader.say(f"{where}.spec.provider", f"is not emulated: {spec.get('provider')!r}; {emulated} are")
        return []
    known = {"name": metadata.get("name"), "wire": wire, "models": spec.get("models"), "limits": spec.get("limits")}
    pool = _pool(reader, where, known)
    return [] if pool is None else [pool]


def _checked(reader: _Reader, where: str, value: object, parse: Callable[[object], Any]) -> Any:
    return reader.build(where, lambda: parse(value))


def _string_map(reader: _Reader, where: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    ):
        reader.say(where, "must map credentials to the names of accounts")  # the value is secret: not repeated
        return {}
    return dict(value)


def _meters(reader: _Reader, where: str, value: object, algorithm: Algorithm) -> list[MeterConfig]:
    allowed = {
        "resource": parse_resource,
        "limit": parse_number,
        "window": parse_duration,
        "algorithm": choice("Bucket", "FixedWindow"),
        "burst": _any,
        "slice": parse_duration,
        "initial": parse_number,
        "inHeaders": flag,
    }
    meters: list[MeterConfig] = []
    items = reader.items(where, value)
    if not items:
        reader.say(where, "at least one limit is needed")
    for place, item in items:
        fields = reader.fields(place, item, allowed)
        if reader.required(place, fields, "resource", "limit"):
            meter = reader.build(place, partial(_meter, fields, algorithm))
            if meter is not None:
                meters.append(meter)
    return meters


def _meter(fields: Mapping[str, Any], algorithm: Algorithm) -> MeterConfig:
    window, burst = fields.get("window", 60.0), fields.get("burst")
    if "algorithm" in fields:
        algorithm = "fixed_window" if fields["algorithm"] == "FixedWindow" else "bucket"
    capacity: float | None = None
    if burst is not None and algorithm == "bucket":  # an amount, or the time in which the rate brings it
        capacity = parse_number(burst) if not isinstance(burst, str) else None
        if capacity is None:
            capacity = parse_duration(burst) * fields["limit"] / window
    return MeterConfig(
        fields["resource"],
        fields["limit"],
        window,
        algorithm,
        capacity,
        fields.get("slice"),
        fields.get("initial"),
        in_headers=fields.get("inHeaders", True),
    )


def _output(reader: _Reader, where: str, value: object) -> OutputLength | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return cast("OutputLength | None", reader.build(where, lambda: OutputLength(value, 0.0, max(value, 1))))
    fields = reader.fields(where, value, {"median": integer, "sigma": parse_number, "max": integer})
    median = fields.get("median", 100)
    make = lambda: OutputLength(median, fields.get("sigma", 0.0), fields.get("max", max(4096, median)))  # noqa: E731
    return cast("OutputLength | None", reader.build(where, make))


def parse_pace(value: object, base: Pace = Pace()) -> Pace:
    """A pace from plain data; what is not said stays as in `base`. Raises ConfigError."""
    reader = _Reader()
    pace = _pace(reader, "pace", value, base)
    if reader.problems:
        raise ConfigError(reader.problems)
    return pace


def _pace(reader: _Reader, where: str, value: object, base: Pace = Pace()) -> Pace:
    allowed = {
        "latency": parse_duration,
        "latencySigma": parse_amount,
        "latencyMax": parse_duration,
        "tokensPerSecond": parse_amount,
    }
    fields = reader.fields(where, value, allowed)
    return Pace(
        fields.get("latency", base.latency),
        fields.get("latencySigma", base.latency_sigma),
        fields.get("latencyMax", base.latency_most),
        fields.get("tokensPerSecond", base.tokens_per_second),
    )


def _faults(reader: _Reader, where: str, value: object) -> dict[Fault, float]:
    if not isinstance(value, Mapping):
        reader.say(where, f"must map faults to rates, not {value!r}")
        return {}
    rates: dict[Fault, float] = {}
    for name, rate in value.items():
        fault = _checked(reader, f"{where}.{name}", name, parse_fault)
        number = _checked(reader, f"{where}.{name}", rate, parse_rate)
        if fault is not None and number is not None:
            rates[fault] = number
    if sum(rates.values()) > 1 + 1e-9:
        reader.say(where, f"the rates come to {sum(rates.values()):g}; at most 1 is possible")
    return rates


def _episode(reader: _Reader, where: str, value: object) -> Episode | None:
    allowed = {"fault": parse_fault, "at": parse_duration, "for": parse_duration, "rate": parse_rate}
    fields = reader.fields(where, value, allowed)
    if not reader.required(where, fields, "fault", "at", "for"):
        return None
    return Episode(fields["fault"], fields["at"], fields["for"], fields.get("rate", 1.0))


def parse_episode(value: object) -> Episode:
    """An episode from plain data. Raises ConfigError."""
    reader = _Reader()
    episode = _episode(reader, "episode", value)
    if episode is None or reader.problems:
        raise ConfigError(reader.problems)
    return episode


def parse_foreign(value: object) -> ForeignConfig:
    """Foreign use from plain data. Raises ConfigError."""
    reader = _Reader()
    foreign = _foreign(reader, "foreign", value)
    if foreign is None or reader.problems:
        raise ConfigError(reader.problems)
    return foreign


def _foreign(reader: _Reader, where: str, value: object) -> ForeignConfig | None:
    allowed = {
        "percent": parse_number,
        "callTokens": parse_number,
        "outputShare": parse_rate,
        "start": parse_duration,
        "stop": parse_duration,
    }
    fields = reader.fields(where, value, allowed)
    if not reader.required(where, fields, "percent"):
        return None
    make = lambda: ForeignConfig(  # noqa: E731
        fields["percent"],
        fields.get("callTokens"),
        fields.get("outputShare", 0.2),
        fields.get("start", 0.0),
        fields.get("stop", math.inf),
    )
    return cast("ForeignConfig | None", reader.build(where, make))


def parse_faults(value: object) -> dict[Fault, float]:
    """Standing rates from plain data. Raises ConfigError."""
    reader = _Reader()
    rates = _faults(reader, "faults", value)
    if reader.problems:
        raise ConfigError(reader.problems)
    return rates


def parse_change(value: object, meters: Iterable[MeterConfig]) -> LimitChange:
    """A change of a limit from plain data; without `at` it is at once (0). Raises ConfigError."""
    reader = _Reader()
    change = _change(reader, meters, "limit", value)
    if change is None or reader.problems:
        raise ConfigError(reader.problems)
    return change


def _change(reader: _Reader, meters: Iterable[MeterConfig], where: str, value: object) -> LimitChange | None:
    allowed = {"at": parse_duration, "resource": parse_resource, "limit": parse_number, "window": parse_duration}
    fields = reader.fields(where, value, allowed)
    if not reader.required(where, fields, "resource", "limit"):
        return None
    if not fields["limit"] > 0:
        reader.say(f"{where}.limit", f"must be above 0, not {fields['limit']!r}")
        return None
    window = fields.get("window")
    if not any(m.resource == fields["resource"] and window in (None, m.window) for m in meters):
        reader.say(where, f"the pool has no limit of {fields['resource']} to change")
        return None
    return LimitChange(fields.get("at", 0.0), fields["resource"], fields["limit"], window)
