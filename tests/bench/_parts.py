# SPDX-License-Identifier: Apache-2.0
"""Broker, sidecar and what stands around them, as processes, and the messages of the load program."""

from __future__ import annotations

import compileall
import contextlib
import datetime as dt
import functools
import json
import signal
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

import sluicegate
from sluicegate.kube import certificates
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from tests.bench import _peers
from tests.bench._process import MEASURED, OTHERS, Program, free_port

Document = dict[str, Any]
_NAME = "localhost"
BIN = Path(sys.executable).parent
ENDLESS = 600_000_000_000
"""A limit per minute that nothing here reaches."""
USED = 165
"""Tokens of a call's usage."""


def pool(name: str, models: list[str], endpoint: str = "http://127.0.0.1:1/v1") -> Document:
    """A pool's document whose limits never bind."""
    spec = {"provider": "OpenAI", "endpoint": endpoint, "models": models, "limits": _limits()}
    return _document("ProviderPool", {"name": name}, spec)


def tenants(count: int, bounded: str = "") -> list[Document]:
    """Policies of `bench/t0`, `bench/t1`, ... over all tiers; with ceilings in the pool `bounded` that never bind."""
    tiers = ("Critical", "Premium", "Standard", "Free")
    pools = {"pools": [{"name": bounded, "ceilings": _limits()}]} if bounded else {}
    return [
        _document(
            "TenantPolicy",
            {"name": f"t{n}", "namespace": "bench"},
            {"tier": tiers[n % 4], "weight": 1 + n % 5, **pools},
        )
        for n in range(count)
    ]


def _limits() -> list[Document]:
    return [{"resource": resource, "limit": ENDLESS, "window": "1m"} for resource in ("Requests", "Tokens")]


def _document(kind: str, metadata: Document, spec: Document) -> Document:
    return {"apiVersion": "sluicegate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class Served:
    """A program that serves. `took`: seconds from its start to ready. `ca`: its authority's file, where it has TLS."""

    program: Program
    port: int
    admin: str
    took: float
    ca: Path | None = None

    @property
    def address(self) -> str:
        return f"{'127.0.0.1' if self.ca is None else _NAME}:{self.port}"

    @property
    def chat(self) -> str:
        """Of a sidecar: where OpenAI's chat completions are."""
        return f"http://{self.address}/openai/v1/chat/completions"


def read(url: str) -> str:
    """What is there."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def counters(served: Served) -> dict[str, float]:
    """What each counter of `served` says, whatever its labels."""
    return {
        family.name: sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        for family in text_string_to_metric_families(read(f"{served.admin}/metrics"))
        if family.type == "counter"
    }


def _none(served: Served, *names: str) -> None:
    """Fails where one of these counters is not 0: what was measured was not the work that it is said to be."""
    said = counters(served)
    if counted := {name: said[name] for name in names if said[name]}:
        raise RuntimeError(f"not all went as it should: {counted}\n{served.program.tail()}")


def consumed(broker: Served) -> float:
    """The tokens of all settlements so far."""
    return counters(broker)["sluicegate_tokens_consumed"]


def accounted(tokens: float, each: int, calls: int) -> None:
    """Fails where `tokens` are not what `calls` used, `each` as many; the end of a load leaves some on their way."""
    if abs(tokens / each - calls) > calls / 50:
        raise RuntimeError(f"{calls:,} calls were granted, {tokens / each:,.0f} settled")


@functools.cache
def _compile() -> None:
    """Bytecode, as an image has it: whatever PYTHONDONTWRITEBYTECODE says, no start compiles sources."""
    for folder in (*sluicegate.__path__, sysconfig.get_path("purelib")):
        compileall.compile_dir(folder, quiet=2)


def keys(folder: Path) -> Path:
    """A certificate for a broker here, its key and its authority, in `folder`."""
    now = dt.datetime.now(dt.UTC)
    authority = certificates.make_authority("bench", now)
    served = certificates.issue(authority, "broker", [_NAME], now)
    for name, content in (("ca", authority.certificate), ("cert", served.certificate), ("key", served.key)):
        (folder / f"{name}.pem").write_bytes(content)
    return folder


def write(folder: Path, documents: list[Document]) -> None:
    """Puts `documents` where a broker reads them."""
    (folder / "documents.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper))


@contextlib.contextmanager
def broker(
    folder: Path, core: int = MEASURED, variant: str = "", port: int = 0, tls: Path | None = None
) -> Iterator[Served]:
    """A broker with the documents of `folder`, all in effect. `variant`: of `_variant.py`; `tls`: its keys."""
    _compile()
    port, admin_port = port or free_port(), free_port()
    start = [BIN / "sluicegate-broker"] if not variant else [sys.executable, "-m", "tests.bench._variant", variant]
    arguments = ["--config", folder, "--port", port, "--admin-host", "127.0.0.1", "--admin-port", admin_port]
    if tls is not None:
        arguments += ["--tls-cert", tls / "cert.pem", "--tls-key", tls / "key.pem"]
    command = [*start, *arguments, "--trust-claims", "--log-level", "warning"]
    with Program(command, core) as program:
        admin = f"http://127.0.0.1:{admin_port}"
        took = program.until(f"{admin}/readyz")
        # A warning says that pods of one namespace are several tenants here; a tenant that is unknown is refused.
        found = json.loads(read(f"{admin}/debug/findings"))
        if findings := [finding for finding in found if finding["severity"] != "warning"]:
            raise RuntimeError(f"documents are not in effect: {findings}")
        served = Served(program, port, admin, took, tls / "ca.pem" if tls is not None else None)
        yield served
        if program.ended(0) != -signal.SIGKILL:
            _none(served, "sluicegate_settlement_anomalies")


@contextlib.contextmanager
def sidecar(
    broker: Served, core: int = MEASURED, variant: str = "", more: dict[str, str] | None = None, root: str = ""
) -> Iterator[Served]:
    """A sidecar with its session. `root`: an unpacked image whose sidecar it is; needs root's rights."""
    _compile()
    port, admin_port = free_port(), free_port()
    environment = {
        "SLUICEGATE_SIDECAR_BROKER": broker.address,
        "SLUICEGATE_SIDECAR_PORT": str(port),
        "SLUICEGATE_SIDECAR_ADMIN_PORT": str(admin_port),
        "SLUICEGATE_SIDECAR_NAMESPACE": "bench",
        **(more or {}),
    }
    if broker.ca is not None:
        environment["SLUICEGATE_SIDECAR_BROKER_CA_PEM"] = broker.ca.read_text()
    start = [BIN / "sluicegate-sidecar"] if not variant else [sys.executable, "-m", "tests.bench._variant", variant]
    if root:
        start = ["chroot", root, "/opt/sluicegate/bin/sluicegate-sidecar"]
    with Program(start, core, environment) as program:
        admin = f"http://127.0.0.1:{admin_port}"
        served = Served(program, port, admin, program.until(f"{admin}/readyz"))
        yield served
        faults = "response_faults", "broker_session_failures", "dropped_messages", "decided_alone"
        _none(served, *(f"sluicegate_sidecar_{fault}" for fault in faults))


@contextlib.contextmanager
def upstream(*arguments: object) -> Iterator[str]:
    """The load program's provider: its OpenAI base URL."""
    with Program([_peers.load(), "upstream", *arguments], OTHERS, talks=True) as program:
        yield f"http://127.0.0.1:{program.hear()['port']}/v1"


def hello() -> str:
    """As the load program takes it."""
    return _hex(pb.Hello(namespace="bench", service_account="default", pod="p", version="1"))


def ask(model: str, tenant: str = "") -> str:
    """A CallRequest as the sidecar makes it for a chat of some hundred tokens."""
    estimate = types_pb2.Estimate(input_tokens=110, output_tokens=100, max_output_tokens=100, characters=400, choices=1)
    request = pb.CallRequest(
        provider=types_pb2.PROVIDER_OPENAI,
        model=model,
        key_fingerprint="0" * 32,
        tenant=tenant,
        estimate=estimate,
        criticality=types_pb2.Criticality(),
        cached=pb.CachedAnswer(),
    )
    return _hex(request)


def observed() -> str:
    """What its response's headers said."""
    readings = [
        types_pb2.MeterReading(
            resource=resource, limit=1e9, remaining_low=999_999_000.0, remaining_high=999_999_000.0, reset_seconds=0.001
        )
        for resource in (types_pb2.RESOURCE_REQUESTS, types_pb2.RESOURCE_TOKENS)
    ]
    return _hex(pb.Observation(readings=readings))


def settled() -> str:
    """Its end, with `USED` tokens."""
    usage = types_pb2.Usage(input_tokens=USED - 60, output_tokens=60)
    return _hex(pb.Settlement(attempt=1, error_class=types_pb2.ERROR_CLASS_NONE, dispatched=True, usage=usage))


def session() -> list[object]:
    """Arguments of the load program for calls that ask a broker, and settle at once."""
    return ["session", "--hello", hello(), "--ask", ask("gpt-4o"), "--settle", settled()]


def _hex(message: Message) -> str:
    return message.SerializeToString().hex()
