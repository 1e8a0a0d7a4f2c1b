# SPDX-License-Identifier: Apache-2.0
"""What an injector process is told, once, by its environment (`SLUICEGATE_INJECTOR_*`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.injector.quantities import quantity
from sluicegate.kube.client import ObjectRef
from sluicegate.wire import environment as env

PREFIX = "SLUICEGATE_INJECTOR_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Port 0 takes any free one. Times are seconds."""

    image: str = ""
    """The sidecar's image; required."""
    broker: str = ""
    """host:port of the broker, as pods reach it; required."""
    host: str = "0.0.0.0"  # noqa: S104 - the API server calls the pod's address
    port: int = 8443
    admin_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes it
    admin_port: int = 8080
    hosts: tuple[str, ...] = ()
    """The names that the webhook's certificate is for, the Service's first."""
    tls_secret: ObjectRef | None = None
    """The Secret in which the webhook's certificates are kept at run time."""
    tls_cert: Path | None = None
    """PEM files of the user's own certificate instead, read again when they change."""
    tls_key: Path | None = None
    webhook: str = ""
    """The MutatingWebhookConfiguration whose caBundle is kept; empty: somebody else does."""
    broker_ca_config_map: ObjectRef | None = None
    """The ConfigMap in which the broker publishes its authorities (`ca.crt`)."""
    broker_ca: Path | None = None
    """PEM file of them instead. Neither: plain text to the broker."""
    excluded_namespaces: tuple[str, ...] = ("kube-system", "kube-public", "kube-node-lease")
    audience: str = "sluicegate-broker"
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets, in the pods' own namespaces, for pulling the sidecar's image."""
    run_as_user: int = 65532
    cpu_request: str = ""
    cpu_limit: str = ""
    memory_request: str = ""
    memory_limit: str = ""
    """Of every sidecar; empty: none."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """JSON object: further environment of every sidecar, such as an egress proxy."""
    drain: float = 5.0
    """How long it serves on after it was asked to stop, while the API server still calls it."""
    kubeconfig: str = ""
    log_level: str = "info"


def _object(text: str) -> Mapping[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError('a JSON object of strings such as {"HTTPS_PROXY": "http://proxy:3128"}')
    return value


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError("host:port")
    return text


def _amount(text: str) -> str:
    quantity(text)
    return text


def _file(text: str) -> Path:
    return Path(text)


_READERS: Mapping[str, env.Reader] = {
    "image": str,
    "broker": _address,
    "host": str,
    "port": env.port,
    "admin_host": str,
    "admin_port": env.port,
    "hosts": env.names,
    "tls_secret": ObjectRef.parse,
    "tls_cert": _file,
    "tls_key": _file,
    "webhook": str,
    "broker_ca_config_map": ObjectRef.parse,
    "broker_ca": _file,
    "excluded_namespaces": env.names,
    "audience": str,
    "pull_policy": env.one_of("IfNotPresent", "Always", "Never"),
    "pull_secrets": env.names,
    "run_as_user": env.whole(1, 2**31 - 1),
    "cpu_request": _amount,
    "cpu_limit": _amount,
    "memory_request": _amount,
    "memory_limit": _amount,
    "environment": _object,
    "drain": env.seconds,
    "kubeconfig": str,
    "log_level": env.one_of("debug", "info", "warning", "error"),
}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` gives. Raises SettingsError with every problem."""
    settings = env.read(Settings, PREFIX, environment, _READERS)
    missing = [f"{PREFIX}{name.upper()}: is required" for name in ("image", "broker") if not getattr(settings, name)]
    if (settings.tls_secret is None) == (settings.tls_cert is None or settings.tls_key is None):
        missing.append(f"{PREFIX}TLS_SECRET, or {PREFIX}TLS_CERT and {PREFIX}TLS_KEY: one of both is required")
    if settings.tls_secret is not None and not settings.hosts:
        missing.append(f"{PREFIX}HOSTS: is required with {PREFIX}TLS_SECRET, such as injector.sluicegate-system.svc")
    if missing:
        raise env.SettingsError("\n".join(missing))
    return settings
