# SPDX-License-Identifier: Apache-2.0
"""The broker's settings: one frozen value, read once from flags and environment, all problems reported together.

A flag `--admin-port` has the environment variable `SLUICEGATE_BROKER_ADMIN_PORT`; the flag wins.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.kube.client import ObjectRef
from sluicegate.wire import durations
from sluicegate.wire.environment import names

PREFIX = "SLUICEGATE_BROKER_"
_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """Everything that is wrong with the settings, one problem a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a broker runs. Durations are seconds; port 0 takes a free one."""

    config: Path | None = None
    """A directory (or file) of policy documents; None: they come by ApplyConfig."""
    host: str = "127.0.0.1"
    port: int = 15051
    admin_host: str = "127.0.0.1"
    admin_port: int = 15090
    decisions: Path | None = None
    """A file that every decision is appended to, as JSON lines."""
    trust_claims: bool = False
    """Believe the tenant that a call claims: for one machine, where nothing proves workloads."""
    session_grace: float = 10.0
    """How long a sidecar may be away before its calls are given up."""
    drain: float = 5.0
    """How long a stopping broker waits for its sidecars to hang up."""
    tls_secret: ObjectRef | None = None
    """The Secret in which the broker keeps its own certificate and authorities: TLS."""
    tls_cert: Path | None = None
    """PEM files of the user's own certificate instead, read again when they change."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """PEM file of the authorities behind that certificate, to be published."""
    tls_hosts: tuple[str, ...] = ()
    """The names that the kept certificate is for."""
    ca_config_map: ObjectRef | None = None
    """The ConfigMap in which the authorities are published."""
    audience: str = ""
    """Callers must bring a ServiceAccount token for this audience; empty: nothing is proven (one machine only)."""
    operators: tuple[str, ...] = ()
    """namespace/serviceaccount of those who may configure and look."""
    viewers: tuple[str, ...] = ()
    """namespace/serviceaccount of those who may look."""
    snapshot: ObjectRef | None = None
    """The ConfigMap with the operator's last documents, to start from."""
    kubeconfig: str = ""
    max_tenant_labels: int = 200
    """Tenants that metrics tell apart; the rest is `other`."""
    log_level: str = "info"


_HELP = {
    "config": "directory or file of ProviderPool and TenantPolicy documents, reloaded on change",
    "host": "address to serve gRPC on",
    "port": "port to serve gRPC on; 0 takes a free one",
    "admin_host": "address of the admin server",
    "admin_port": "port of /livez /readyz /metrics /debug; 0 takes a free one",
    "decisions": "file to append every decision to, as JSON lines",
    "trust_claims": "believe the tenant that a call claims (one machine only)",
    "session_grace": "how long a sidecar may be away before its calls are given up, such as 10s",
    "drain": "how long to wait for sidecars when stopping, such as 5s",
    "tls_secret": "namespace/name of the Secret in which certificates are kept",
    "tls_cert": "certificate file (PEM) instead",
    "tls_key": "its key (PEM)",
    "tls_ca": "file (PEM) of its authorities, to be published",
    "tls_hosts": "names that the kept certificate is for, by commas",
    "ca_config_map": "namespace/name of the ConfigMap in which the authorities are published",
    "audience": "require ServiceAccount tokens for this audience",
    "operators": "namespace/serviceaccount of those who may configure, by commas",
    "viewers": "namespace/serviceaccount of those who may look, by commas",
    "snapshot": "namespace/name of the ConfigMap with the documents to start from",
    "kubeconfig": "kubeconfig, where this is no pod",
    "max_tenant_labels": "tenants that metrics tell apart",
    "log_level": " | ".join(_LEVELS),
}


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings that flags and environment make. Raises SettingsError; `--help` and unknown flags exit."""
    parser = argparse.ArgumentParser(
        prog="sluicegate-broker", description="The broker of Sluicegate: one shared budget."
    )
    for field in dataclasses.fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        note = f"{_HELP[field.name]} [{PREFIX}{field.name.upper()}]"
        if field.name == "trust_claims":
            parser.add_argument(flag, action="store_const", const="true", help=note)
        else:
            parser.add_argument(flag, help=note)
    said = vars(parser.parse_args(list(arguments)))
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in dataclasses.fields(Settings):
        name, text = f"--{field.name.replace('_', '-')}", said[field.name]
        if text is None:
            name, text = f"{PREFIX}{field.name.upper()}", environment.get(f"{PREFIX}{field.name.upper()}")
        if text is None:
            continue
        try:
            values[field.name] = _value(field.name, text)
        except ValueError as error:
            problems.append(f"{name} = {text!r}: {error}")
    settings = Settings(**values)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        problems.append("--tls-cert and --tls-key: one needs the other")
    if settings.tls_secret is not None and not settings.tls_hosts:
        problems.append("--tls-hosts: is required with --tls-secret")
    if problems:
        raise SettingsError(problems)
    return settings


def _value(field: str, text: str) -> object:
    match field:
        case "tls_secret" | "ca_config_map" | "snapshot":
            return ObjectRef.parse(text) if text else None
        case "tls_hosts" | "operators" | "viewers":
            return names(text)
        case "config" | "decisions" | "tls_cert" | "tls_key" | "tls_ca":
            return Path(text) if text else None
        case "port" | "admin_port":
            return _whole(text, 0, 65_535)
        case "max_tenant_labels":
            return _whole(text, 0, 10_000)
        case "session_grace" | "drain":
            return durations.parse(text)
        case "trust_claims":
            if text not in ("true", "false"):
                raise ValueError("must be true or false")
            return text == "true"
        case "log_level":
            if text not in _LEVELS:
                raise ValueError(f"must be one of {', '.join(_LEVELS)}")
            return text
        case _:
            return text


def _whole(text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return value
