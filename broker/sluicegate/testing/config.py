# SPDX-License-Identifier: Apache-2.0
"""The emulator's configuration, from plain data or YAML, with every problem reported at once.

    seed: 1
    keys: {sk-batch: batch}            # credential -> account; a key that is not here belongs to `unknownKeys`
    unknownKeys: default               # an account, or null: answer 401
    pools:
    - name: gpt-4o
      wire: OpenAI                     # OpenAI | Anthropic
      account: default                 # whose calls; "*" (the default): one pool for every account together
      models: [gpt-4o, "gpt-4o-2024-*"]
      limits:
      - {resource: Requests, limit: 500, window: 1m}
      - {resource: Tokens, limit: 30000, window: 1m, algorithm: Bucket, burst: 1m, slice: 1s, inHeaders: true}
      admission: sum                   # sum | max | chars (OpenAI)
      chargeRejected: requests         # requests | none | all; default: requests on OpenAI, none on Anthropic
      retryAfter: true                 # OpenAI: retry-after and retry-after-ms on a 429
      responsesStreamHeaders: false    # OpenAI: rate-limit headers on a stream of /v1/responses
      retryAfterOnSuccess: 0.25        # Anthropic: the share of 200s that carry a (meaningless) retry-after
      maxConcurrent: 0                 # Anthropic: connections at a time; 0: no limit
      outputTokens: 120                # or {median: 120, sigma: 0.5, max: 2000}
      pace: {latency: 200ms, latencySigma: 0.3, latencyMax: 10s, tokensPerSecond: 80}
      faults: {overload: 0.01, stream-break: 0.005}
      episodes: [{fault: overload, at: 20s, for: 10s, rate: 1.0}]
      foreign: {percent: 30, callTokens: 500, outputShare: 0.2, start: 10s, stop: 1m}
      changes: [{at: 30s, resource: Tokens, limit: 15000}]

Durations are seconds or strings (`250ms`, `10s`, `1m`, `24h`). Names are read without regard to case, `-` and `_`.
`ProviderPool` documents (`kind: ProviderPool`) are taken too, each as a pool of the same name, models and limits.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from sluicegate.testing.faults import FAULT_NAMES, Episode, Fault, Pace
from sluicegate.testing.foreign import ForeignConfig
from sluicegate.testing.limits import (
    RESOURCES,
    AdmissionRule,
    ChargeRejected,
    LimitsConfig,
    MeterConfig,
    Resource,
    Wire,
)
from sluicegate.testing.text import OutputLength


class ConfigError(ValueError):
    """The configuration cannot be used. `problems`: every finding, each naming field, value and what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class LimitChange:
    """At `at` seconds the limit of `resource` (over `window`, else its first meter) becomes `limit`."""

    at: float
    resource: Resource
    limit: float
    window: float | None = None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One upstream quota. The fields are those of the YAML form in the text of this module."""

    name: str
    models: tuple[str, ...]
    limits: LimitsConfig
    account: str = "*"
    admission: AdmissionRule = "sum"
    retry_after: bool = True
    responses_stream_headers: bool = False
    retry_after_on_success: float = 0.25
    max_concurrent: int = 0
    output: OutputLength = field(default_factory=OutputLength)
    pace: Pace = field(default_factory=Pace)
    faults: Mapping[Fault, float] = field(default_factory=dict)
    episodes: tuple[Episode, ...] = ()
    foreign: ForeignConfig | None = None
    changes: tuple[LimitChange, ...] = ()

    @property
    def wire(self) -> Wire:
        return self.limits.wire

    def serves(self, model: str) -> bool:
        """Whether `model` shares this pool's limits: by exact name or by glob."""
        return any(pattern == model or fnmatch.fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """Everything that the emulator is told. Build it, or use `from_data` or `from_file`."""

    pools: tuple[PoolConfig, ...]
    seed: int = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    unknown_keys: str | None = "default"

    @staticmethod
    def from_data(data: object) -> EmulatorConfig:
        """From plain data: a mapping as above, or a list of such and of ProviderPool documents. Raises ConfigError."""
        reader = _Reader()
        config = _emulator(reader, data)
        if reader.problems:
            raise ConfigError(reader.problems)
        return config

    @staticmethod
    def from_file(path: str | Path) -> EmulatorConfig:
        """From a YAML file of one or more documents. Raises ConfigError, also where the file cannot be read."""
        import yaml

        try:
            text = Path(path).read_text(encoding="utf-8")
            documents = [document for document in yaml.safe_load_all(text) if document is not None]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError([f"{path}: {error}"]) from error
        try:
            return EmulatorConfig.from_data(documents)
        except ConfigError as error:
            raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


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
    if isinstance(value, str) and (fault := _FAULT_BY_NAME.get(_fold(value))) is not None:
        return fault
    raise ValueError(f"must be one of {FAULT_NAMES}, not {value!r}")


def parse_resource(value: object) -> Resource:
    """A resource by its name in any spelling (`InputTokens`, `input_tokens`). Raises ValueError."""
    if isinstance(value, str) and (resource := _RESOURCE_BY_NAME.get(_fold(value))) is not None:
        return resource
    raise ValueError(f"must be one of Requests, Tokens, InputTokens, OutputTokens, not {value!r}")


def parse_rate(value: object) -> float:
    """A share between 0 and 1. Raises ValueError."""
    number = parse_number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"must lie between 0 and 1, not {value!r}")
    return number


def parse_number(value: object) -> float:
    """A finite number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"must be a number, not {value!r}")
    return value


def _fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, not {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        found = [item for item in allowed if isinstance(value, str) and _fold(item) == _fold(value)]
        if not found:
            raise ValueError(f"must be one of {', '.join(allowed)}, not {value!r}")
        return found[0]

    return parse


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
        names = {_fold(name): name for name in allowed}
        out: dict[str, Any] = {}
        for key, raw in value.items():
            name = names.get(_fold(key)) if isinstance(key, str) else None
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
        allowed = {"seed": _integer, "keys": _any, "unknownKeys": _any, "pools": _any}
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
    "name": _text,
    "wire": _choice("OpenAI", "Anthropic"),
    "account": _text,
    "models": _any,
    "limits": _any,
    "admission": _choice("sum", "max", "chars"),
    "chargeRejected": _choice("requests", "none", "all"),
    "retryAfter": _flag,
    "responsesStreamHeaders": _flag,
    "retryAfterOnSuccess": parse_rate,
    "maxConcurrent": _integer,
    "outputTokens": _any,
    "pace": _any,
    "faults": _any,
    "episodes": _any,
    "foreign": _any,
    "changes": _any,
}


def _pool(reader: _Reader, where: str, value: object) -> PoolConfig | None:
    fields = reader.fields(where, value, _POOL_FIELDS)
    named = reader.items(f"{where}.models", fields.get("models", []))
    models = [_checked(reader, place, item, _text) for place, item in named]
    meters = _meters(reader, f"{where}.limits", fields.get("limits", []))
    output = _output(reader, f"{where}.outputTokens", fields.get("outputTokens", 100))
    pace = _pace(reader, f"{where}.pace", fields.get("pace", {}))
    faults = _faults(reader, f"{where}.faults", fields.get("faults", {}))
    episodes = [_episode(reader, *item) for item in reader.items(f"{where}.episodes", fields.get("episodes", []))]
    foreign = _foreign(reader, f"{where}.foreign", fields["foreign"]) if "foreign" in fields else None
    changes = [_change(reader, meters, *item) for item in reader.items(f"{where}.changes", fields.get("changes", []))]
    if not reader.required(where, fields, "name", "wire", "models", "limits") or not meters:
        return None
    wire = cast(Wire, fields["wire"].lower())
    rejected = cast("ChargeRejected | None", fields.get("chargeRejected"))
    return PoolConfig(
        name=fields["name"],
        models=tuple(model for model in models if model is not None),
        limits=LimitsConfig(wire, tuple(meters), rejected),
        account=fields.get("account", "*"),
        admission=cast(AdmissionRule, fields.get("admission", "sum")),
        retry_after=fields.get("retryAfter", True),
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
    wire = {"OpenAI": "OpenAI", "OpenAICompatible": "OpenAI", "Anthropic": "Anthropic"}.get(str(spec.get("provider")))
    if wire is None:
        provider = spec.get("provider")
        reader.say(f"{where}.spec.provider", f"is not emulated: {provider!r}; OpenAI, OpenAICompatible, Anthropic are")
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


def _meters(reader: _Reader, where: str, value: object) -> list[MeterConfig]:
    allowed = {
        "resource": parse_resource,
        "limit": parse_number,
        "window": parse_duration,
        "algorithm": _choice("Bucket", "FixedWindow"),
        "burst": _any,
        "slice": parse_duration,
        "initial": parse_number,
        "inHeaders": _flag,
    }
    meters: list[MeterConfig] = []
    items = reader.items(where, value)
    if not items:
        reader.say(where, "at least one limit is needed")
    for place, item in items:
        fields = reader.fields(place, item, allowed)
        if reader.required(place, fields, "resource", "limit"):
            meter = reader.build(place, partial(_meter, fields))
            if meter is not None:
                meters.append(meter)
    return meters


def _meter(fields: Mapping[str, Any]) -> MeterConfig:
    window, burst = fields.get("window", 60.0), fields.get("burst")
    fixed = fields.get("algorithm", "Bucket") == "FixedWindow"
    capacity: float | None = None
    if burst is not None and not fixed:  # an amount, or the time in which the rate brings it
        capacity = parse_number(burst) if not isinstance(burst, str) else None
        if capacity is None:
            capacity = parse_duration(burst) * fields["limit"] / window
    algorithm: Literal["bucket", "fixed_window"] = "fixed_window" if fixed else "bucket"
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
    fields = reader.fields(where, value, {"median": _integer, "sigma": parse_number, "max": _integer})
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
        "latencySigma": parse_duration,
        "latencyMax": parse_duration,
        "tokensPerSecond": parse_duration,
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
