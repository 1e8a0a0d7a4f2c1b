# SPDX-License-Identifier: Apache-2.0
"""What a sidecar process is told, once, by its environment (`SLUICEGATE_SIDECAR_*`); all problems together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluicegate.sidecar.core.criticality import Asked, InvalidValueError, read_criticality
from sluicegate.wire.durations import parse as parse_duration

PREFIX = "SLUICEGATE_SIDECAR_"
MIB = 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SettingsError(ValueError):
    """Every problem of an environment, one a line: variable, value, what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Ports 0 mean any free one. Times are seconds, sizes bytes."""

    host: str = "127.0.0.1"
    port: int = 15080
    admin_host: str = "127.0.0.1"
    admin_port: int = 15081
    broker: str = "127.0.0.1:15051"
    broker_ca: Path | None = None
    """PEM file: TLS to the broker, verified by it. None: plain text."""
    broker_ca_pem: str = ""
    """The same as PEM text, for a pod that has no file for it; it comes on top of the file's."""
    token_file: Path | None = None
    """The projected ServiceAccount token that proves this pod, read again at each connection."""
    namespace: str = "default"
    service_account: str = "default"
    pod: str = ""
    credentials_dir: Path | None = None
    """One file per pool, named as the pool, holding the key for calls that fail over to it."""
    credentials: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Keys by pool themselves, where there are no files; a JSON object in the environment."""
    fingerprint_salt: str = "sluicegate"
    pool: str = ""
    """The pod's default pool; empty: resolved from provider, model and key."""
    defaults: Asked = field(default_factory=Asked)
    extra_ca: Path | None = None
    """PEM file of certificate authorities that are trusted besides the system's."""
    max_body: int = 32 * MIB
    max_buffers: int = 64 * MIB
    max_pending: int = 10_000
    cache_bytes: int = 8 * MIB
    websocket: str = "pass"
    """`pass`: WebSocket upgrades pass through unmanaged; `refuse`: they get 501."""
    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    idle_timeout: float = 300.0
    body_timeout: float = 60.0
    grace: float = 25.0
    broker_patience: float = 2.0
    """How long calls wait for a broker that is away before the policy for that case holds."""
    tracing: bool = False
    """Spans are sent, as the standard variables of OpenTelemetry say. On where they name an endpoint."""


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise ValueError("a port, 0 to 65535")
    return int(text)


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 2**40):
        raise ValueError("a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError("a duration such as 800ms, 30s or 10m") from None


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError("a file that exists")
    return path


def _pem(text: str) -> str:
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError("certificates in PEM")
    return text


def _path(text: str) -> Path:
    return Path(text)


def _websocket(text: str) -> str:
    if text not in ("pass", "refuse"):
        raise ValueError("pass, refuse")
    return text


def _keys(text: str) -> Mapping[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value.values()):
        raise ValueError('a JSON object of pools and their keys, such as {"claude-sonnet": "sk-..."}')
    return value


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or "/" in host or any(c.isspace() for c in text) or not (port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError("host:port of the broker")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "host": str,
    "port": _port,
    "admin_host": str,
    "admin_port": _port,
    "broker": _address,
    "broker_ca": _file,
    "broker_ca_pem": _pem,
    "token_file": _path,
    "namespace": str,
    "service_account": str,
    "pod": str,
    "credentials_dir": _path,
    "credentials": _keys,
    "fingerprint_salt": str,
    "pool": str,
    "extra_ca": _file,
    "max_body": _size,
    "max_buffers": _size,
    "max_pending": _size,
    "cache_bytes": _size,
    "websocket": _websocket,
    "connect_timeout": _seconds,
    "first_byte_timeout": _seconds,
    "idle_timeout": _seconds,
    "body_timeout": _seconds,
    "grace": _seconds,
    "broker_patience": _seconds,
}
_DEFAULTS = ("task_type", "latency", "max_wait", "deadline", "fallback", "orchestrator")


def _traces(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for spans: an endpoint, and nothing that says no."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return False
    return any(environment.get(name) for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` gives, the rest by default. Raises SettingsError with every problem."""
    problems: list[str] = []
    given: dict[str, Any] = {}
    for entry in fields(Settings):
        name = PREFIX + entry.name.upper()
        reader = _READERS.get(entry.name)
        text = environment.get(name, "")
        if reader is None or text == "":
            continue
        try:
            given[entry.name] = reader(text)
        except ValueError as problem:
            shown = "its value" if entry.name == "credentials" else repr(text)
            problems.append(f"{name}: {shown} is not allowed; allowed: {problem}")
    defaults = Asked()
    for name in _DEFAULTS:
        variable = f"{PREFIX}DEFAULT_{name.upper()}"
        text = environment.get(variable, "")
        if text:
            try:
                header = f"x-sluicegate-{name.replace('_', '-')}"
                defaults = read_criticality([(header, text)], defaults, _EPOCH)
            except InvalidValueError as problem:
                problems.append(f"{variable}: {problem.value!r} is not allowed; allowed: {problem.allowed}")
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**given, defaults=defaults, tracing=_traces(environment))
