# SPDX-License-Identifier: Apache-2.0
"""What an operator process is told, once, by its environment (`SLUICEGATE_OPERATOR_*`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluicegate.kube.client import ObjectRef
from sluicegate.wire import environment as env

PREFIX = "SLUICEGATE_OPERATOR_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Port 0 takes any free one. Times are seconds."""

    broker: str = ""
    """host:port of the broker; required."""
    broker_ca_config_map: ObjectRef | None = None
    """The ConfigMap in which the broker publishes its authorities (`ca.crt`)."""
    broker_ca: Path | None = None
    """PEM file of them instead. Neither: plain text to the broker."""
    token_file: Path | None = None
    """The token that proves this operator to the broker, read again for each push."""
    snapshot: ObjectRef | None = None
    """The ConfigMap that keeps the documents in effect, for a broker or operator that starts."""
    admin_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes it
    admin_port: int = 8080
    debounce: float = 0.2
    resync: float = 60.0
    kubeconfig: str = ""
    log_level: str = "info"


def _path(text: str) -> Path:
    return Path(text)


_READERS: Mapping[str, env.Reader] = {
    "broker": str,
    "broker_ca_config_map": ObjectRef.parse,
    "broker_ca": env.file,
    "token_file": _path,
    "snapshot": ObjectRef.parse,
    "admin_host": str,
    "admin_port": env.port,
    "debounce": env.seconds,
    "resync": env.seconds,
    "kubeconfig": str,
    "log_level": env.one_of("debug", "info", "warning", "error"),
}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` gives. Raises SettingsError with every problem."""
    settings = env.read(Settings, PREFIX, environment, _READERS)
    if not settings.broker:
        raise env.SettingsError(f"{PREFIX}BROKER: is required, such as broker.sluicegate-system.svc:15051")
    return settings
