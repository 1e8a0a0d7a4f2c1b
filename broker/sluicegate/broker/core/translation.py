# SPDX-License-Identifier: Apache-2.0
"""One valid document to its configuration, and what is wrong between its own fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from sluicegate.broker.core import schema
from sluicegate.broker.core.config import (
    DEFAULT_TIERS,
    AccessRule,
    BreakerConfig,
    Ceiling,
    CredentialsRef,
    FailoverConfig,
    LimitConfig,
    PoolConfig,
    Slo,
    TaskConfig,
    TenantConfig,
    TierConfig,
)
from sluicegate.broker.core.findings import Severity, shown
from sluicegate.broker.core.units import MeterKey
from sluicegate.wire import durations
from sluicegate.wire.values import FallbackOption, UseCached, UseDegraded, UseModel, UsePool, UseTrimmed
from sluicegate.wire.words import Algorithm, Dialect, Provider, camel

H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding without its document."""

    field: str
    value: str
    message: str
    severity: Severity = Severity.ERROR


def pool_config(document: schema.ProviderPool) -> tuple[PoolConfig, tuple[Problem, ...]]:
    """The pool, with every problem; an ERROR among them means that the pool must not be used."""
    spec = document.spec
    tiers = DEFAULT_TIERS if spec.tiers is None else tuple(_tier(tier) for tier in spec.tiers)
    access = None if spec.access is None else tuple(_access(rule) for rule in spec.access)
    secret = spec.credentials
    breaker = spec.circuit_breaker
    pool = PoolConfig(
        name=document.metadata.name,
        provider=spec.provider,
        endpoint=spec.endpoint.rstrip("/"),
        models=tuple(spec.models),
        limits=tuple(_limit(limit) for limit in spec.limits),
        learn_limits=spec.learn_limits,
        tiers=tiers,
        access=access,
        credentials=None if secret is None else CredentialsRef(secret.secret_name, secret.key),
        key_fingerprints=tuple(spec.key_fingerprints),
        breaker=BreakerConfig(
            breaker.failure_rate_percent, breaker.minimum_calls, breaker.window, breaker.open_for, breaker.max_open_for
        ),
        failover=tuple(
            FailoverConfig(entry.pool, dict(entry.models), tuple(entry.on), entry.after_wait) for entry in spec.failover
        ),
        allow_plaintext=spec.allow_plaintext,
        unmanaged=spec.unmanaged,
        dialect=spec.dialect or "",
        max_queue_depth=spec.max_queue_depth,
        max_attempts=spec.max_attempts,
    )
    return pool, tuple(_pool_problems(document, pool))


def tenant_config(document: schema.TenantPolicy) -> tuple[TenantConfig, tuple[Problem, ...]]:
    """The tenant, with every problem; an ERROR among them means that the policy must not be used."""
    spec = document.spec
    namespace = document.metadata.namespace or "default"
    tenant = TenantConfig(
        name=f"{namespace}/{document.metadata.name}",
        namespace=namespace,
        tier=spec.tier,
        weight=spec.weight,
        workloads=None if spec.workloads is None else tuple(w.service_account for w in spec.workloads),
        ceilings={
            pool.name: tuple(Ceiling(c.resource, c.limit, c.window) for c in pool.ceilings)
            for pool in spec.pools
            if pool.ceilings
        },
        max_queue_depth=spec.queue.max_depth,
        max_wait=spec.queue.max_wait,
        slo=_slo(spec.slo),
        tasks={task.task_type: _task(task) for task in spec.tasks},
        allow_actors=tuple(spec.allow_actors),
        on_behalf_of=tuple(spec.on_behalf_of),
        on_broker_unavailable=spec.on_broker_unavailable,
    )
    return tenant, tuple(_tenant_problems(spec))


def _limit(limit: schema.LimitSpec) -> LimitConfig:
    burst = limit.burst
    if isinstance(burst, int):  # an amount: as seconds of the rate
        burst = burst * limit.window / limit.limit
    return LimitConfig(limit.resource, float(limit.limit), limit.window, limit.algorithm, burst)


def _tier(tier: schema.TierSpec) -> TierConfig:
    return TierConfig(
        tier.name, tier.guaranteed_percent, tier.ceiling_percent, tier.reserved_headroom_percent, _slo(tier.slo)
    )


def _slo(slo: schema.SloSpec | None) -> Slo | None:
    return None if slo is None else Slo(slo.wait_target, float(slo.objective_percent), slo.queue_depth)


def _access(rule: schema.AccessSpec) -> AccessRule:
    labels = None if rule.namespace_selector is None else dict(rule.namespace_selector.match_labels)
    return AccessRule(tuple(rule.namespaces or ()), labels, rule.max_tier, rule.max_weight)


def _task(task: schema.TaskSpec) -> TaskConfig:
    options = tuple(option for entry in task.fallback for option in _options(entry))
    return TaskConfig(task.task_type, task.latency, task.max_wait, task.deadline, options, task.orchestrator)


def _options(entry: schema.FallbackSpec) -> Iterator[FallbackOption]:
    if entry.model is not None:
        yield UseModel(entry.model)
    if entry.pool is not None:
        yield UsePool(entry.pool)
    if entry.cached is not None:
        yield UseCached(entry.cached.max_age)
    if entry.degrade is not None:
        yield UseDegraded(entry.degrade.message)
    if entry.trim is not None:
        yield UseTrimmed(entry.trim.input_tokens)


# ---- what spans fields of one document


def _pool_problems(document: schema.ProviderPool, pool: PoolConfig) -> Iterator[Problem]:
    if document.metadata.namespace is not None:
        message = "is ignored: a ProviderPool belongs to the whole cluster"
        yield Problem("metadata.namespace", shown(document.metadata.namespace), message, Severity.WARNING)
    if pool.dialect and pool.provider is not Provider.OPENAI_COMPATIBLE:
        message = f"is for provider {camel(Provider.OPENAI_COMPATIBLE)} only; this pool's is {camel(pool.provider)}"
        yield Problem("spec.dialect", camel(Dialect(pool.dialect)), message)
    yield from _endpoint_problems(pool)
    for index, model in _repeated(pool.models):
        yield Problem(f"spec.models[{index}]", shown(model), "stands twice")
    for index, key in _repeated(limit.key for limit in pool.limits):
        message = "stands twice: one limit for each resource and window"
        yield Problem(f"spec.limits[{index}]", str(key), message)
    for index, (spec, limit) in enumerate(zip(document.spec.limits, pool.limits, strict=True)):
        yield from _burst_problems(f"spec.limits[{index}].burst", spec, limit)
    yield from _tier_problems(pool)
    for index, rule in enumerate(pool.access or ()):
        yield from _access_problems(f"spec.access[{index}]", rule, pool)
    breaker = pool.breaker
    if breaker.max_open_for < breaker.open_for:
        message = f"must be at least openFor ({durations.spell(breaker.open_for)})"
        yield Problem("spec.circuitBreaker.maxOpenFor", durations.spell(breaker.max_open_for), message)


def _endpoint_problems(pool: PoolConfig) -> Iterator[Problem]:
    where = "spec.endpoint"
    try:
        url = urlsplit(pool.endpoint)
        host, _ = url.hostname, url.port
    except ValueError as error:
        yield Problem(where, "", f"is no URL: {error}")
        return
    if url.username is not None or url.password is not None:
        yield Problem(where, "", "must not hold a user or a password")
    elif url.scheme not in ("http", "https") or not host or any(c.isspace() for c in pool.endpoint):
        yield Problem(where, shown(pool.endpoint), "must be a URL such as https://api.openai.com/v1")
    elif url.query or url.fragment:
        yield Problem(where, shown(f"{url.scheme}://{url.netloc}{url.path}?…"), "must end with its path: no ? and no #")
    elif url.scheme == "http" and not _is_loopback(host) and not pool.allow_plaintext:
        message = "plain http beyond loopback would send keys in the clear: use https, or set allowPlaintext: true"
        yield Problem(where, shown(pool.endpoint), message)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _burst_problems(where: str, spec: schema.LimitSpec, limit: LimitConfig) -> Iterator[Problem]:
    if limit.burst is None:
        return
    value = str(spec.burst) if isinstance(spec.burst, int) else durations.spell(limit.burst)
    if limit.algorithm is Algorithm.FIXED_WINDOW:
        message = "has no effect with algorithm FixedWindow"
        yield Problem(where, value, message, Severity.WARNING)
    elif limit.burst > limit.window:
        message = f"lets more through at once than the limit of a whole window of {durations.spell(limit.window)}"
        severity = Severity.ERROR if limit.burst > 10 * limit.window else Severity.WARNING
        if severity is Severity.ERROR:
            message += f"; at most {durations.spell(10 * limit.window)} is allowed"
        yield Problem(where, value, message, severity)


def _tier_problems(pool: PoolConfig) -> Iterator[Problem]:
    for index, name in _repeated(tier.name for tier in pool.tiers):
        yield Problem(f"spec.tiers[{index}].name", shown(name), "stands twice")
    for index, tier in enumerate(pool.tiers):
        if tier.ceiling_percent < tier.guaranteed_percent:
            message = f"must be at least the tier's guaranteedPercent ({tier.guaranteed_percent})"
            yield Problem(f"spec.tiers[{index}].ceilingPercent", str(tier.ceiling_percent), message)
    for field, values in (
        ("guaranteedPercent", [tier.guaranteed_percent for tier in pool.tiers]),
        ("reservedHeadroomPercent", [tier.reserved_headroom_percent for tier in pool.tiers]),
    ):
        if sum(values) > 100:
            total = " + ".join(str(value) for value in values if value)
            yield Problem("spec.tiers", f"{total} = {sum(values)}", f"{field} of all tiers must be at most 100 in sum")


def _access_problems(where: str, rule: AccessRule, pool: PoolConfig) -> Iterator[Problem]:
    if not rule.namespaces and rule.match_labels is None:
        yield Problem(where, "", "must have namespaces (names, or * for all) or namespaceSelector")
    if rule.namespaces and rule.match_labels is not None:
        yield Problem(where, "", "must have either namespaces or namespaceSelector: write two rules")
    names = [tier.name for tier in pool.tiers]
    if rule.max_tier is not None and rule.max_tier not in names:
        message = f"must be a tier of this pool: {', '.join(names)}"
        yield Problem(f"{where}.maxTier", shown(rule.max_tier), message)


def _tenant_problems(spec: schema.TenantPolicySpec) -> Iterator[Problem]:
    for index, account in _repeated(w.service_account for w in spec.workloads or ()):
        yield Problem(f"spec.workloads[{index}].serviceAccount", shown(account), "stands twice", Severity.WARNING)
    for index, name in _repeated(pool.name for pool in spec.pools):
        yield Problem(f"spec.pools[{index}].name", shown(name), "stands twice")
    for index, pool in enumerate(spec.pools):
        for at, key in _repeated(MeterKey(c.resource, c.window) for c in pool.ceilings):
            yield Problem(f"spec.pools[{index}].ceilings[{at}]", str(key), "stands twice")
    for index, task_type in _repeated(task.task_type for task in spec.tasks):
        yield Problem(f"spec.tasks[{index}].taskType", shown(task_type), "stands twice")
    for index, task in enumerate(spec.tasks):
        for at, entry in enumerate(task.fallback):
            if len(entry.model_fields_set) != 1 or not list(_options(entry)):
                yield Problem(f"spec.tasks[{index}].fallback[{at}]", "", f"must say {schema.ONE_FALLBACK}")


def _repeated(values: Iterable[H]) -> Iterator[tuple[int, H]]:
    """Where a value stands again."""
    seen = Counter[H]()
    for index, value in enumerate(values):
        seen[value] += 1
        if seen[value] == 2:
            yield index, value
