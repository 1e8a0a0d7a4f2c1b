# SPDX-License-Identifier: Apache-2.0
"""ProviderPool and TenantPolicy documents to the configuration that the core runs on.

Theory of operation. Each document is judged alone: `schema` gives fields, types and bounds, `_pool` and `_tenant`
what spans fields of one document. An ERROR keeps that document out, and no other: whatever depends on a second
document (`references`) is a WARNING, since a mistake in one file must not take down another. Where a document that was
in effect turns bad, or its file cannot be read, its last good version stays in effect and the finding says so. Of two
documents of one name the older `creationTimestamp` wins, then the one read first (GEP-713).

The same module serves files, ApplyConfig and custom resources.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sluicegate.broker.core import references, schema
from sluicegate.broker.core.config import EMPTY, PoolConfig, Snapshot, TenantConfig
from sluicegate.broker.core.findings import Finding, Severity, shown
from sluicegate.broker.core.manifests import RawDocument
from sluicegate.broker.core.translation import Problem, pool_config, tenant_config

KINDS: Mapping[str, type[schema.ProviderPool | schema.TenantPolicy]] = {
    "ProviderPool": schema.ProviderPool,
    "TenantPolicy": schema.TenantPolicy,
}
_SECRET = ("credential", "secret", "token", "password", "apikey", "authorization")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Names one document: `namespace` is empty for ProviderPools, which belong to the whole cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A configuration, what is wrong with its documents, and which origin (file, object) each came from."""

    snapshot: Snapshot = EMPTY
    findings: tuple[Finding, ...] = ()
    origins: Mapping[Identity, str] = field(default_factory=dict[Identity, str])


@dataclass(frozen=True, slots=True)
class _Good:
    identity: Identity
    source: str
    origin: str
    created: str
    config: PoolConfig | TenantConfig


def compile_documents(
    documents: Iterable[RawDocument], *, unreadable: frozenset[str] = frozenset(), previous: Compiled | None = None
) -> Compiled:
    """The configuration that `documents` make. Never raises: what is wrong is a finding.

    `unreadable`: origins that could not be read whole; with `previous`, what they held stays in effect.
    """
    before = previous or Compiled()
    findings: list[Finding] = []
    good: dict[Identity, _Good] = {}
    bad: dict[Identity, RawDocument] = {}
    for raw in documents:
        identity, read = _read(raw, findings)
        if read is not None:
            _place(read, good, findings)
        elif identity is not None:
            bad.setdefault(identity, raw)
    for identity, raw in bad.items():
        message = "its last good version stays in effect"
        _keep(identity, raw.origin, raw.source, message, before, good, findings)
    for identity, origin in before.origins.items():
        if origin in unreadable:
            message = "could not be read; its last good version stays in effect"
            _keep(identity, origin, origin, message, before, good, findings)
    pools, tenants, sources = _tables(good.values())
    resolved = references.resolve(pools, tenants, sources)
    snapshot = Snapshot(_version(resolved.pools, resolved.tenants), resolved.pools, resolved.tenants)
    origins = {identity: one.origin for identity, one in good.items()}
    return Compiled(snapshot, (*findings, *resolved.findings), origins)


def _keep(
    identity: Identity,
    origin: str,
    source: str,
    message: str,
    before: Compiled,
    good: dict[Identity, _Good],
    findings: list[Finding],
) -> None:
    """Leave in effect what `origin` last said of `identity`, also where another origin names the same: a mistake in the
    one that was in effect does not hand its name over."""
    held, kept = good.get(identity), _last_good(before, identity)
    if kept is None or (held is not None and (kept.origin != origin or held.origin == origin)):
        return
    good[identity] = dataclasses.replace(kept, source=source)
    findings.append(Finding(source, str(identity), "", "", message, Severity.WARNING))
    if held is not None:
        taken = f"the name is taken by {source}, which was in effect before; this document has no effect"
        name = shown(identity.name)
        findings.append(Finding(held.source, str(identity), "metadata.name", name, taken, Severity.ERROR))


def _tables(
    good: Iterable[_Good],
) -> tuple[dict[str, PoolConfig], dict[str, TenantConfig], dict[tuple[str, str], str]]:
    """Pools and tenants by name, older first: where two select one workload, the first takes it."""
    pools: dict[str, PoolConfig] = {}
    tenants: dict[str, TenantConfig] = {}
    sources: dict[tuple[str, str], str] = {}
    for one in sorted(good, key=lambda g: (g.created or "9999", g.identity)):
        match one.config:
            case PoolConfig() as pool:
                pools[pool.name] = pool
                sources["ProviderPool", pool.name] = one.source
            case TenantConfig() as tenant:
                tenants[tenant.name] = tenant
                sources["TenantPolicy", tenant.name] = one.source
    return pools, tenants, sources


def _place(new: _Good, good: dict[Identity, _Good], findings: list[Finding]) -> None:
    """Enter `new` unless an older document of the same name is there."""
    held = good.get(new.identity)
    if held is None:
        good[new.identity] = new
        return
    # Timestamps are RFC 3339 in UTC, so they order as text; without one a document counts as the youngest.
    winner, loser = (new, held) if (new.created or "9999") < (held.created or "9999") else (held, new)
    good[new.identity] = winner
    message = f"the name is taken by {winner.source}, which is older or was read first; this document has no effect"
    findings.append(
        Finding(loser.source, str(loser.identity), "metadata.name", shown(loser.identity.name), message, Severity.ERROR)
    )


def _last_good(before: Compiled, identity: Identity) -> _Good | None:
    table: Mapping[str, PoolConfig | TenantConfig]
    if identity.kind == "ProviderPool":
        table, key = before.snapshot.pools, identity.name
    else:
        table, key = before.snapshot.tenants, f"{identity.namespace}/{identity.name}"
    config = table.get(key)
    return None if config is None else _Good(identity, "", before.origins.get(identity, ""), "", config)


def _read(raw: RawDocument, findings: list[Finding]) -> tuple[Identity | None, _Good | None]:
    """The identity of `raw` as far as it could be read, and its configuration unless an error keeps it out."""
    identity = _identity(raw.data)
    label = str(identity) if identity else shown(raw.data.get("kind", ""))

    def report(where: str, value: str, message: str, severity: Severity) -> None:
        findings.append(Finding(raw.source, label, where, value, message, severity))

    kind = raw.data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        report("kind", shown(kind), f"must be one of {', '.join(KINDS)}", Severity.ERROR)
        return None, None
    try:
        document = model.model_validate(dict(raw.data))
    except ValidationError as error:
        for problem in _problems(model, error, raw.data):
            report(problem.field, problem.value, problem.message, Severity.ERROR)
        return identity, None
    assert identity is not None
    config: PoolConfig | TenantConfig
    if isinstance(document, schema.ProviderPool):
        config, problems = pool_config(document)
    else:
        config, problems = tenant_config(document)
    for problem in problems:
        report(problem.field, problem.value, problem.message, problem.severity)
    if any(problem.severity is Severity.ERROR for problem in problems):
        return identity, None
    created = document.metadata.creation_timestamp or ""
    return identity, _Good(identity, raw.source, raw.origin, created, config)


def _identity(data: Mapping[str, Any]) -> Identity | None:
    match data:
        case {"kind": "ProviderPool", "metadata": {"name": str(name)}}:
            return Identity("ProviderPool", "", name)
        case {"kind": "TenantPolicy", "metadata": {"name": str(name), "namespace": str(namespace)}}:
            return Identity("TenantPolicy", namespace, name)
        case {"kind": "TenantPolicy", "metadata": {"name": str(name)}}:
            return Identity("TenantPolicy", "default", name)
        case _:
            return None


# ---- what the schema found, in words


def _problems(model: type[BaseModel], error: ValidationError, data: Mapping[str, Any]) -> Iterator[Problem]:
    for detail in error.errors(include_url=False, include_context=True):
        loc = tuple(part for part in detail["loc"] if part != "[key]")
        where = _path(loc)
        value = "" if _is_secret(loc) else shown(_at(data, loc))
        match detail["type"]:
            case "missing":
                yield Problem(where, "", "is required")
            case "extra_forbidden":
                yield Problem(where, "" if _is_secret(loc) else value, _unknown_field(model, loc))
            case "literal_error":
                yield Problem(where, value, f"must be {detail.get('ctx', {}).get('expected', '')}".replace("'", ""))
            case "string_pattern_mismatch":
                yield Problem(where, value, f"must match {detail.get('ctx', {}).get('pattern', '')}")
            case _:
                yield Problem(where, value, _phrase(detail["msg"]))


def _phrase(message: str) -> str:
    for old, new in (
        ("Value error, ", ""),
        ("Input should be", "must be"),
        ("String should", "must"),
        ("List should", "must"),
        ("Dictionary should", "must"),
    ):
        if message.startswith(old):
            return new + message[len(old) :]
    return message


def _unknown_field(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """Names the nearest allowed field, and all of them."""
    parent = _model_at(model, loc[:-1])
    allowed = sorted(info.alias or name for name, info in parent.model_fields.items()) if parent else []
    lowered = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(str(loc[-1]).lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]}? " if near else ""
    return f"unknown field; {hint}allowed: {', '.join(allowed)}"


def _model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or here is None:
            continue
        info = next((i for name, i in here.model_fields.items() if part in (i.alias, name)), None)
        here = None if info is None else _model_in(info.annotation)
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `list[X]`, `X | None` and their like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _path(loc: tuple[str | int, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _at(data: Any, loc: tuple[str | int, ...]) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return data


def _is_secret(loc: tuple[str | int, ...]) -> bool:
    """A key that somebody wrote into a document by mistake is not repeated in a finding."""
    return any(word in str(part).lower().replace("_", "") for part in loc for word in _SECRET)


def _version(pools: Mapping[str, PoolConfig], tenants: Mapping[str, TenantConfig]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the content; in which order documents came does not matter."""
    content = {
        "pools": {name: dataclasses.asdict(pool) for name, pool in pools.items()},
        "tenants": {name: dataclasses.asdict(tenant) for name, tenant in tenants.items()},
        "precedence": [*tenants],
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
