# SPDX-License-Identifier: Apache-2.0
"""Transcripts: what happens to a broker, and below `----` what it then does, in words that anyone can read.

A file is a title and some text in lines that begin with `#`, then blocks separated by empty lines. A block is
what happens, `----`, and what must follow (nothing: no effect). Lines above `----`:

    pool NAME provider=OpenAI models=m1,m2 tokens/1m=600 requests/1m=60 [window] [attempts=3] [depth=9] ...
    tiers NAME Critical guaranteed=30 headroom=10 | Free guaranteed=5 ceiling=50
    tenant NS/NAME tier=Free weight=2 max-wait=30 depth=5 ceiling=POOL:tokens/1m=100 speaks-for=NS/N allows=NS/N
    task NS/NAME TYPE latency=batch max-wait=1 deadline=9 fallback=model:m2,pool:p,cached:60,degrade orchestrator
    failover NAME OTHER model=other-model on=overload,billing,quota after-wait=2
    breaker NAME minimum-calls=2 failure-rate-percent=50 window=30 open-for=5 max-open-for=20
    configured            the lines above take effect
    fill POOL tokens/1m=600                       a response said that so much is left
    TIME call ID tenant=NS/N tokens=100 [least=40] [cached=AGE] [divisible] [part] [pool=P]
        [latency=..] [max-wait=..] [deadline=..] [chain=id:2/5] ...
    TIME settle ID [used=80] [error=quota retry-after=2] [again]
    TIME cancel ID;  TIME lost SESSION;  TIME attach ID granted|waiting age=3 tenant=.. tokens=..
    until TIME            let time pass

Times are seconds. `least`: what trimming may leave of the tokens. `cached=inf`: the client holds none. `again` on a
settlement: nothing reached the app yet, the broker may try again.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from sluicegate.broker.core.config import (
    FAILOVER_ON,
    AccessRule,
    BreakerConfig,
    Ceiling,
    FailoverConfig,
    LimitConfig,
    PoolConfig,
    Snapshot,
    TaskConfig,
    TenantConfig,
    TierConfig,
)
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Decision, Effect, FellBack, Granted, Rejected, Requeued, Settled
from sluicegate.broker.core.events import Acquire, Attach, Cancel, Configure, Event, Observe, SessionLost, Settle, Tick
from sluicegate.broker.core.units import Workload
from sluicegate.wire.values import (
    Chain,
    Criticality,
    Estimate,
    FallbackOption,
    MeterReading,
    QuotaRejection,
    Usage,
    UseCached,
    UseDegraded,
    UseModel,
    UsePool,
    UseTrimmed,
)
from sluicegate.wire.words import (
    Algorithm,
    ErrorClass,
    Latency,
    Outcome,
    Provider,
    Resource,
    Unmanaged,
    from_camel,
    from_kebab,
    kebab,
)

_WINDOWS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
_METER = re.compile(r"(tokens|requests|input-tokens|output-tokens)/(\d+)([mhd])$")


def _fields(words: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _meter(text: str) -> tuple[Resource, float]:
    match = _METER.match(text)
    assert match, f"{text!r} is no meter, such as tokens/1m"
    return from_kebab(Resource, match[1]), int(match[2]) * _WINDOWS[match[3]]


def _option(text: str) -> FallbackOption:
    kind, _, value = text.partition(":")
    match kind:
        case "model":
            return UseModel(value)
        case "pool":
            return UsePool(value)
        case "cached":
            return UseCached(float(value))
        case "degrade":
            return UseDegraded(value or "busy")
        case "trim":
            return UseTrimmed(int(value))
    raise AssertionError(f"{text!r} is no fallback")


def _said(option: FallbackOption) -> str:
    match option:
        case UseModel(model):
            return f"model {model}"
        case UsePool(pool):
            return f"pool {pool}"
        case UseCached(age):
            return f"cached for {age:g} s"
        case UseDegraded(message):
            return f"degraded {message!r}"
        case UseTrimmed(tokens):
            return f"trimmed to {tokens} tokens"


def _opt(fields: dict[str, str], key: str) -> float | None:
    return float(fields[key]) if key in fields else None


class Transcript:
    """Runs the lines of one file against one dispatcher."""

    def __init__(self, *, trust_claims: bool = True) -> None:
        self.pools: dict[str, PoolConfig] = {}
        self.tenants: dict[str, TenantConfig] = {}
        self.dispatcher: Dispatcher | None = None
        self.now = 0.0
        self.trust_claims = trust_claims
        self.decisions: list[Decision] = []
        self._warm = 0

    def run(self, line: str) -> list[str]:
        words = line.split()
        match words:
            case ["pool", name, *rest]:
                self.pools[name] = self._pool(name, rest)
            case ["tiers", name, *_]:
                text = line.split(maxsplit=2)[2]
                self.pools[name] = replace(self.pools[name], tiers=tuple(map(self._tier, text.split("|"))))
            case ["access", name, *rest]:
                rule = self._access(_fields(rest))
                self.pools[name] = replace(self.pools[name], access=(*(self.pools[name].access or ()), rule))
            case ["failover", name, target, *rest]:
                known = self.pools[name]
                self.pools[name] = replace(known, failover=(*known.failover, self._failover(target, _fields(rest))))
            case ["breaker", name, *rest]:
                bounds: dict[str, Any] = {
                    key.replace("-", "_"): json.loads(value) for key, value in _fields(rest).items()
                }
                self.pools[name] = replace(self.pools[name], breaker=BreakerConfig(**bounds))
            case ["tenant", name, *rest]:
                self.tenants[name] = self._tenant(name, rest)
            case ["task", name, kind, *rest]:
                tenant = self.tenants[name]
                self.tenants[name] = replace(tenant, tasks={**tenant.tasks, kind: self._task(kind, rest)})
            case ["remove", "pool", name]:
                del self.pools[name]
            case ["configured", *rest]:
                return self._configure(rest)
            case ["fill", pool, *rest]:
                self._fill(pool, _fields(rest))
            case ["until", time]:
                return self._until(float(time))
            case [time, verb, name, *rest]:
                return self._until(float(time)) + self._handle(self._event(verb, name, rest))
            case _:
                raise AssertionError(f"what is {line!r}?")
        return []

    # ---- configuration

    def _pool(self, name: str, words: list[str]) -> PoolConfig:
        fields = _fields(words)
        limits = tuple(
            LimitConfig(*_limit(key, value), Algorithm.FIXED_WINDOW if "window" in fields else Algorithm.BUCKET)
            for key, value in fields.items()
            if "/" in key
        )
        return PoolConfig(
            name=name,
            provider=from_camel(Provider, fields.get("provider", "OpenAI")),
            endpoint=fields.get("endpoint", "https://api.openai.com/v1"),
            models=tuple(fields.get("models", name).split(",")),
            limits=limits,
            key_fingerprints=tuple(filter(None, fields.get("keys", "").split(","))),
            unmanaged=Unmanaged.REJECT if "refuse-unmanaged" in fields else Unmanaged.ALLOW,
            max_queue_depth=int(fields.get("depth", 1000)),
            max_attempts=int(fields.get("attempts", 5)),
        )

    @staticmethod
    def _tier(text: str) -> TierConfig:
        name, *words = text.split()
        fields = _fields(words)
        return TierConfig(
            name,
            int(fields.get("guaranteed", 0)),
            int(fields.get("ceiling", 100)),
            int(fields.get("headroom", 0)),
        )

    @staticmethod
    def _failover(target: str, fields: dict[str, str]) -> FailoverConfig:
        on = fields.pop("on", "")
        after_wait = float(fields.pop("after-wait", 0))
        causes = tuple(from_kebab(ErrorClass, word) for word in on.split(",")) if on else FAILOVER_ON
        return FailoverConfig(target, fields, causes, after_wait)

    @staticmethod
    def _access(fields: dict[str, str]) -> AccessRule:
        name, _, value = fields.get("labels", "").partition(":")
        labels = {name: value} if name else None
        return AccessRule(
            namespaces=tuple(filter(None, fields.get("namespaces", "").split(","))),
            match_labels=labels,
            max_tier=fields.get("max-tier"),
            max_weight=int(fields["max-weight"]) if "max-weight" in fields else None,
        )

    @staticmethod
    def _tenant(name: str, words: list[str]) -> TenantConfig:
        fields = _fields(words)
        ceilings: dict[str, tuple[Ceiling, ...]] = {}
        for word in words:
            if word.startswith("ceiling="):
                pool, _, limit = word.removeprefix("ceiling=").partition(":")
                meter, _, amount = limit.partition("=")
                resource, window = _meter(meter)
                ceilings[pool] = (*ceilings.get(pool, ()), Ceiling(resource, float(amount), window))
        return TenantConfig(
            name=name,
            namespace=name.partition("/")[0],
            tier=fields.get("tier", "Standard"),
            weight=int(fields.get("weight", 1)),
            workloads=tuple(fields["workloads"].split(",")) if "workloads" in fields else None,
            ceilings=ceilings,
            max_queue_depth=int(fields.get("depth", 1000)),
            max_wait=float(fields.get("max-wait", 60)),
            allow_actors=tuple(filter(None, fields.get("allows", "").split(","))),
            on_behalf_of=tuple(filter(None, fields.get("speaks-for", "").split(","))),
        )

    @staticmethod
    def _task(kind: str, words: list[str]) -> TaskConfig:
        fields = _fields(words)
        return TaskConfig(
            task_type=kind,
            latency=from_kebab(Latency, fields["latency"]) if "latency" in fields else None,
            max_wait=_opt(fields, "max-wait"),
            deadline=_opt(fields, "deadline"),
            fallback=tuple(_option(text) for text in fields["fallback"].split(",")) if "fallback" in fields else (),
            orchestrator="orchestrator" in fields,
        )

    def _configure(self, words: list[str]) -> list[str]:
        self.trust_claims = "with-proof" not in words and self.trust_claims
        snapshot = Snapshot("v", dict(self.pools), dict(self.tenants))
        if self.dispatcher is None:
            self.dispatcher = Dispatcher(snapshot, self.now, trust_claims=self.trust_claims)
            return []
        return self._handle(Configure(snapshot))

    def _fill(self, pool: str, fields: dict[str, str]) -> None:
        """As if a call that has just ended had said what is left."""
        config = self.pools[pool]
        assert self.dispatcher is not None
        self._warm += 1
        name = f"warm-{self._warm}"
        acquire = Acquire(name, "warm", Workload(), None, "", Estimate(0, 0, 0), pool=pool)
        self.dispatcher.handle(Attach(acquire, granted=True, age=0.0, attempt=1), self.now)
        readings = []
        for limit in config.limits:
            words = f"{kebab(limit.resource)}/{limit.window / 60:g}m"
            left = float(fields.get(words, limit.limit))
            readings.append(MeterReading(limit.resource, limit.window, limit.limit, left, left))
        self.dispatcher.handle(Observe(name, tuple(readings)), self.now)
        self.dispatcher.handle(Settle(name), self.now)

    # ---- events

    def _event(self, verb: str, name: str, words: list[str]) -> Event:
        fields = _fields(words)
        match verb:
            case "call":
                return self._acquire(name, fields)
            case "attach":
                age, attempt = float(fields.get("age", 0)), int(fields.get("attempt", 1))
                return Attach(self._acquire(name, fields), "granted" in fields, age, attempt)
            case "settle":
                error = from_kebab(ErrorClass, fields.get("error", "none"))
                after = _opt(fields, "retry-after")
                used = fields.get("used")
                return Settle(
                    name,
                    error,
                    attempt=int(fields.get("attempt", 0)),
                    dispatched="unsent" not in fields,
                    retriable="again" in fields,
                    usage=None if used is None else Usage(int(used), 0),
                    quota=QuotaRejection(Resource.TOKENS, 60.0, after) if error is ErrorClass.QUOTA else None,
                    retry_after=after,
                )
            case "accepted":
                return Observe(name, (), accepted=True)
            case "cancel":
                return Cancel(name)
            case "lost":
                return SessionLost(name)
        raise AssertionError(f"what is {verb!r}?")

    @staticmethod
    def _acquire(name: str, fields: dict[str, str]) -> Acquire:
        chain = None
        if "chain" in fields:
            chain_id, _, steps = fields["chain"].partition(":")
            step, _, of = steps.partition("/")
            chain = Chain(chain_id, int(step or 0), int(of or 0))
        fallback = fields.get("fallback")
        criticality = Criticality(
            task_type=fields.get("task", ""),
            latency=from_kebab(Latency, fields["latency"]) if "latency" in fields else None,
            max_wait=_opt(fields, "max-wait"),
            deadline=_opt(fields, "deadline"),
            fallback=None if fallback is None else tuple(_option(text) for text in fallback.split(",")),
            chain=chain,
            orchestrator=True if "orchestrator" in fields else None,
        )
        label, _, value = fields.get("labels", "").partition(":")
        labels = ((label, value),) if label else ()
        return Acquire(
            call_id=name,
            session=fields.get("session", "s1"),
            workload=Workload(fields.get("namespace", "default"), fields.get("account", "default"), labels),
            provider=from_camel(Provider, fields["provider"]) if "provider" in fields else None,
            model=fields.get("model", "gpt"),
            estimate=Estimate(int(fields.get("tokens", 100)), 0, 0, least_input_tokens=int(fields.get("least", 0))),
            criticality=criticality,
            pool=fields.get("pool", ""),
            tenant=fields.get("tenant", ""),
            key_fingerprint=fields.get("key", ""),
            authenticated_pools=frozenset(filter(None, fields.get("can", "").split(","))),
            cached_age=None if "cached" not in fields else float(fields["cached"]),
            divisible="divisible" in fields,
            part="part" in fields,
            taken_by=frozenset(from_camel(Provider, word) for word in fields.get("taken-by", "").split(",") if word),
        )

    # ---- time and effects

    def _handle(self, event: Event) -> list[str]:
        assert self.dispatcher is not None
        return self._spell(self.dispatcher.handle(event, self.now))

    def _until(self, time: float) -> list[str]:
        assert self.dispatcher is not None
        lines: list[str] = []
        while (wake := self.dispatcher.next_wakeup()) is not None and wake <= time:
            self.now = max(self.now, wake)
            lines += self._handle(Tick())
        self.now = time
        return lines

    def _spell(self, effects: list[Effect]) -> list[str]:
        lines: list[str] = []
        answered = ""
        for effect in effects:
            if isinstance(effect, Decision):
                self.decisions.append(effect)
                if effect.outcome is Outcome.CANCELLED:
                    lines.append(f"{self.now:.2f} {effect.call_id} cancelled")
                else:
                    assert effect.call_id == answered, "a decision follows its effect"
                continue
            answered = effect.call_id
            lines.append(f"{self.now:.2f} {effect.call_id} {_spell(effect)}")
        return lines


def _limit(meter: str, amount: str) -> tuple[Resource, float, float]:
    resource, window = _meter(meter)
    return resource, float(amount), window


def _spell(effect: Granted | FellBack | Rejected | Requeued | Settled) -> str:
    match effect:
        case Granted():
            text = f"{kebab(effect.outcome)} ({kebab(effect.reason)})"
            text += f" on {effect.pool}" if effect.pool else ""
            text += f" as {effect.model}" if effect.model else ""
            text += f" trimmed to {effect.trim_to} tokens" if effect.trim_to else ""
            text += f" for {effect.party.tier}" if effect.party.tier else ""
            text += f" after {effect.waited:.2f} s" if effect.waited else ""
            text += f" of waiting for {effect.binding}" if effect.binding else ""
            return text + (f", attempt {effect.attempt}" if effect.attempt > 1 else "")
        case FellBack():
            rest = ", then " + ", ".join(map(_said, effect.next_options)) if effect.next_options else ""
            return f"falls back to {_said(effect.option)}{rest} ({kebab(effect.reason)}, {effect.predicted_wait:.1f} s)"
        case Rejected():
            after = "never" if effect.retry_after is None else f"{effect.retry_after:.1f} s"
            help_ = f" [{kebab(effect.mitigation)}, fits {effect.fits_now}]" if effect.mitigation != "none" else ""
            help_ += f" [parts of {effect.part_tokens}]" if effect.part_tokens else ""
            return f"rejected ({kebab(effect.reason)}), again in: {after}{help_}: {effect.message}"
        case Requeued():
            return f"requeued ({kebab(effect.reason)}) for {effect.eligible_in:.2f} s, attempt {effect.attempt}"
        case Settled():
            used = "unknown" if effect.used_tokens is None else f"{effect.used_tokens}"
            return f"settled: held {effect.reserved_tokens:g} tokens, used {used}"


def play(text: str) -> tuple[str, Transcript]:
    """Run a transcript; returns it with the effects that really followed, and the world after it."""
    world = Transcript()
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        happens, bar, _ = block.partition("\n----")
        if not bar:
            blocks.append(block)
            continue
        effects: list[str] = []
        for line in happens.splitlines():
            if not line.startswith("#"):
                effects += world.run(line)
        blocks.append("\n".join([happens, "----", *effects]))
    return "\n\n".join(blocks) + "\n", world
