# SPDX-License-Identifier: Apache-2.0
"""All meters of one pool, and the calls that hold reservations on them. Pure; all-or-nothing over the meters.

Life of a call: `charge` (what would it cost) -> `lack` (does it fit) -> `reserve` -> `observe` (its headers) -> exactly
one of `settle` and `reject`. `adopt` takes in a call that was granted before we knew it. Unknown call ids are ignored
and counted: `anomalies` counts everything absurd that came from outside, by kind, for a metric.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import gt

from sluicegate.broker.core import charge as rules
from sluicegate.broker.core.bucket import Bucket
from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.config import LimitConfig, PoolConfig
from sluicegate.broker.core.meter import Meter, Terms
from sluicegate.broker.core.ratio import OutputShare
from sluicegate.broker.core.span import ChargeSpans
from sluicegate.broker.core.units import DAY, MINUTE, Charge, MeterKey
from sluicegate.broker.core.window import FixedWindow
from sluicegate.wire.values import Estimate, MeterReading, QuotaRejection, Usage
from sluicegate.wire.words import Algorithm, LearnLimits, Provider, Resource

_MOST_METERS = 16
_CONVINCING = 3


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a call does not fit. `ready_at`: absolute, may be inf; `headroom`: it would fit without what is held back;
    `fits_now`: how much of the meter's unit would."""

    meter: MeterKey
    ready_at: float
    headroom: bool
    fits_now: float


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """One meter as it stands. `reserved`: held by calls that have not settled. `foreign_rate`: units per second.

    `pile`: the most that is let pile up, below `capacity` where a quota 429 taught enforcement over shorter slices.
    `anomalies`: absurd figures since the start, by kind.
    """

    key: MeterKey
    algorithm: Algorithm
    limit: float
    capacity: float
    available: float
    reserved: float
    foreign_rate: float
    observed: bool
    pile: float = 0.0
    anomalies: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class _Call:
    charge: Charge
    granted_at: float
    answered: bool = False


class Budget:
    """The meters of one pool."""

    def __init__(self, config: PoolConfig, now: float) -> None:
        self._odd: Counter[str] = Counter()
        self._config = config
        self._learns = Resource.TOKENS in rules.rule(config.provider, config.dialect).learned
        self._meters: dict[MeterKey, Meter] = {}
        self._calls: dict[str, _Call] = {}
        self._implied: Counter[tuple[Resource, float, float | None]] = Counter()
        self._share = OutputShare()
        self._spans = ChargeSpans(self._share)
        for limit in config.limits:
            self._meters[limit.key] = self._build(limit, limit.limit, now)

    def __repr__(self) -> str:
        meters = ", ".join(f"{key}: {meter!r}" for key, meter in self._meters.items())
        return f"<Budget {self._config.name}: {self.outstanding} outstanding; {meters}>"

    @property
    def anomalies(self) -> Counter[str]:
        """Everything absurd that came from outside, by kind: the meters' and what belongs to none."""
        return sum((meter.anomalies for meter in self._meters.values()), Counter(self._odd))

    @property
    def oddities(self) -> tuple[tuple[str, int], ...]:
        """What of `anomalies` belongs to no meter."""
        return tuple(sorted(self._odd.items()))

    @property
    def outstanding(self) -> int:
        """Calls that were granted and have not settled."""
        return len(self._calls)

    def limits(self) -> list[tuple[MeterKey, float]]:
        """Each meter's limit per window, as learned."""
        return [(key, meter.limit) for key, meter in self._meters.items()]

    # ---- before a grant

    def charge(self, estimate: Estimate, kind: str) -> Charge:
        """What a call of `kind` (its model) costs: the provider's admission rule x the learned share."""
        share = self._share.of(kind) if self._learns else 1.0
        return rules.admission(self._config.provider, estimate, self._config.dialect, kind, share)

    def never_fits(self, charge: Charge) -> tuple[MeterKey, float] | None:
        """The first meter that can never hold `charge`, and the most that it can ever hold."""
        for key, meter in self._meters.items():
            if meter.amount(charge) > meter.most:
                return key, meter.most
        return None

    def relax(self, charge: Charge, now: float) -> bool:
        """Let figures that nothing confirmed of late give way where they alone bar `charge`. Whether one did."""
        relaxed = [meter for meter in self._meters.values() if meter.relax(meter.amount(charge), now)]
        return bool(relaxed)

    def lack(self, charge: Charge, now: float, held_back: float = 0.0) -> Lack | None:
        """None when `charge` fits now; else the binding meter, the one that is ready last.

        `held_back`: share 0..1 of each bucket that the caller may not draw (reserved headroom). A full bucket lets any
        call through that it can hold.
        """
        binding: Lack | None = None
        for key, meter in self._meters.items():
            amount = meter.amount(charge)
            if amount > meter.most:
                return Lack(key, math.inf, False, meter.available(now))
            short = meter.lack(amount, now, held_back, self._doubtful(charge, key.resource))
            if short is not None and (binding is None or short.ready_at > binding.ready_at):
                binding = Lack(key, short.ready_at, short.headroom, short.fits_now)
        return binding

    def _doubtful(self, charge: Charge, resource: Resource) -> float:
        """What `charge` may turn out dearer by, as far as the learned share is in doubt."""
        if resource is not Resource.TOKENS or not self._learns:
            return 0.0
        return self._share.doubt * max(0.0, charge.input_tokens + charge.output_tokens - charge.tokens)

    # ---- the life of a reservation

    def reserve(self, call_id: str, charge: Charge, now: float) -> None:
        """Take `charge` on every meter. ValueError when a meter lacks room or the call is already outstanding."""
        if call_id in self._calls:
            raise ValueError(f"call {call_id!r} already holds a reservation on pool {self._config.name!r}")
        for key, meter in self._meters.items():
            if not meter.holds(meter.amount(charge), now):
                raise ValueError(
                    f"meter {key} of pool {self._config.name!r} lacks room for {charge.of(key.resource):g}: "
                    f"{meter.available(now):g} available; ask lack() first"
                )
        self._grant(call_id, charge, now, now)

    def take(self, call_id: str, charge: Charge, now: float) -> None:
        """`reserve` for whom `lack` said None of this charge at this `now`."""
        self._grant(call_id, charge, now, now)

    def adopt(self, call_id: str, charge: Charge, age: float, now: float) -> None:
        """A call in flight that was granted `age` seconds ago, before we knew of it. A repeat changes nothing."""
        if call_id not in self._calls:
            self._grant(call_id, charge, now - (sane(age) or 0.0), now)

    def _grant(self, call_id: str, charge: Charge, granted_at: float, now: float) -> None:
        for meter in self._meters.values():
            meter.grant(meter.amount(charge), now)
        self._spans.grant(charge, now)
        self._calls[call_id] = _Call(charge, granted_at)

    def observe(self, call_id: str, readings: Sequence[MeterReading], now: float) -> bool:
        """Fold what the headers of a granted call's response said. Those of unknown calls are counted and ignored.

        Returns whether a call may fit sooner than was said before.
        """
        call = self._calls.get(call_id)
        if call is None:
            self._odd["unknown_call"] += 1
            return False
        grown = False
        for reading in readings:
            meter = self._meter_of(reading, now)
            if meter is None:
                continue
            before = meter.room(now)
            own = 0.0 if meter.terms.on_completion else call.charge.of(meter.key.resource)
            meter.observe(reading, call.granted_at, own, now)
            if isinstance(meter, Bucket) and meter is self._learning_meter():
                self._spans.observe(reading, meter, call.granted_at, call.charge, now)
            after = meter.room(now)
            grown = grown or not isinstance(meter, Bucket) or any(map(gt, after, before))
        if not call.answered:
            call.answered = True
            for meter in self._meters.values():
                meter.answer(meter.amount(call.charge), now)
        return grown

    def settle(self, call_id: str, *, dispatched: bool, usage: Usage | None, now: float) -> Charge | None:
        """End a reservation; returns what the provider charged, None when the call is not outstanding.

        Only what the provider returns comes back: all when it never got the call, else what it corrects by `usage`.
        """
        call = self._calls.pop(call_id, None)
        if call is None:
            return None
        if not dispatched:
            self._take_back(call, keep_requests=False, now=now)
            return Charge(0.0, kind=call.charge.kind)
        final = (
            call.charge
            if usage is None
            else rules.corrected(self._config.provider, call.charge, usage, self._config.dialect)
        )
        for meter in self._meters.values():
            meter.settle(meter.amount(call.charge), meter.amount(final), call.answered, now)
            if usage is not None:
                meter.served(now)
        return final

    def reject(self, call_id: str, rejection: QuotaRejection, now: float) -> float:
        """A quota 429 ends the reservation: the request stays charged, tokens come back, the meter is corrected.

        Returns when this call would fit, absolute; inf: never. An unknown call only gets the wait that it was told.
        """
        call = self._calls.pop(call_id, None)
        if call is None:
            self._odd["unknown_call"] += 1
            return now + (sane(rejection.retry_after, high=MINUTE) or 1.0)
        self._take_back(call, keep_requests=True, now=now)
        self._share.distrust(call.charge.kind)
        self._spans.restart()
        meter = self._rejecting_meter(rejection, call.charge, now)
        if meter is None:
            return now + (sane(rejection.retry_after, high=MINUTE) or 1.0)
        amount = call.charge.of(meter.key.resource)
        if rejection.never_fits:
            # A limit of 0 is that of a model without quota: the others of the pool go on. Every call is one request.
            # And a day's limit that nobody declared is not that of the minute.
            another = rejection.window is not None and not math.isclose(meter.key.window, rejection.window, rel_tol=0.1)
            if rejection.limit != 0 and meter.key.resource is not Resource.REQUESTS and not another:
                meter.too_large(amount, rejection.limit, call.granted_at)
            return math.inf
        told = rejection.retry_after
        if told is not None and sane(told) is None:
            self._odd["retry_after_invalid"] += 1
            told = None
        elif told is not None and told > meter.key.window:
            self._odd["retry_after_out_of_range"] += 1
        meter.refused = True
        meter.reject(amount, told, call.granted_at, now)
        lack = self.lack(call.charge, now)
        return now if lack is None else lack.ready_at

    def _take_back(self, call: _Call, *, keep_requests: bool, now: float) -> None:
        for key, meter in self._meters.items():
            amount = call.charge.of(key.resource)
            if keep_requests and key.resource is Resource.REQUESTS:
                meter.settle(amount, amount, call.answered, now)
            else:
                meter.take_back(amount, call.answered, call.granted_at, now)
        self._spans.revoke(call.charge, now)

    def _rejecting_meter(self, rejection: QuotaRejection, charge: Charge, now: float) -> Meter | None:
        named = [
            meter
            for key, meter in self._meters.items()
            if rejection.resource is None or key.resource is rejection.resource or _covers(rejection.resource, key)
        ]
        if rejection.window is not None:
            exact = [meter for meter in named if math.isclose(meter.key.window, rejection.window, rel_tol=0.1)]
            named = exact or named
        candidates = named or list(self._meters.values())
        candidates = [meter for meter in candidates if charge.of(meter.key.resource) > 0] or candidates
        return max(candidates, key=lambda m: m.emptiness(charge.of(m.key.resource), now), default=None)

    # ---- which meter a reading speaks of

    def _learning_meter(self) -> Meter | None:
        shortest: Meter | None = None
        if self._learns:
            for key, meter in self._meters.items():
                if key.resource is Resource.TOKENS and (shortest is None or key.window < shortest.key.window):
                    shortest = meter
        return shortest

    def _meter_of(self, reading: MeterReading, now: float) -> Meter | None:
        anthropic = self._config.provider is Provider.ANTHROPIC
        same = [meter for key, meter in self._meters.items() if key.resource is reading.resource]
        if anthropic and reading.resource is Resource.TOKENS and not same:
            return None  # the combined figure is no limit of admission (providers.md section 0)
        told = sane(reading.window)
        window = told or self._window_implied(reading, same)
        if window:
            for meter in same:
                if math.isclose(meter.key.window, window, rel_tol=0.1):
                    return meter
            if not told and not self._convinced(reading, window):
                return None
            return self._learned_meter(reading, window, now)
        if len(same) > 1 and (limit := sane(reading.limit)):
            return min(same, key=lambda meter: abs(math.log(limit / meter.limit)))
        if same:
            return min(same, key=lambda meter: meter.key.window)
        return self._learned_meter(reading, MINUTE, now)

    def _convinced(self, reading: MeterReading, window: float) -> bool:
        """An undeclared meter that figures merely imply must be implied by several of them."""
        sign = (reading.resource, window, reading.limit)
        if len(self._implied) >= _MOST_METERS and sign not in self._implied:
            self._implied.clear()
        self._implied[sign] += 1
        return self._implied[sign] >= _CONVINCING

    @staticmethod
    def _window_implied(reading: MeterReading, same: Sequence[Meter]) -> float | None:
        if any(isinstance(meter, FixedWindow) for meter in same):
            return None  # what a reset says there has nothing to do with what is used
        limit, reset = sane(reading.limit), sane(reading.reset)
        low = sane(reading.remaining_low)
        high = sane(reading.remaining_high)
        low = high if low is None else low
        if limit is None or reset is None or low is None:
            return None
        return rules.window_of(limit, low, low if high is None else high, reset)

    def _learned_meter(self, reading: MeterReading, window: float, now: float) -> Meter | None:
        limit = sane(reading.limit)
        if self._config.learn_limits is not LearnLimits.FOLLOW or limit is None or len(self._meters) >= _MOST_METERS:
            return None
        if limit < 1 or not 1 <= window <= DAY:
            self._odd["undeclared_meter_invalid"] += 1
            return None
        declared = LimitConfig(reading.resource, limit, window)
        meter = self._build(declared, None, now)
        self._meters[declared.key] = meter
        for call in self._calls.values():
            meter.grant(call.charge.of(reading.resource), now)
            if call.answered:
                meter.answer(call.charge.of(reading.resource), now)
        return meter

    # ---- configuration

    def _build(self, limit: LimitConfig, declared: float | None, now: float) -> Meter:
        rule = rules.rule(self._config.provider, self._config.dialect)
        terms = Terms(
            key=limit.key,
            limit=limit.limit,
            declared=declared,
            burst=limit.burst,
            default_burst=rule.burst_of(limit.resource, limit.window),
            on_completion=limit.resource in rule.on_completion,
            learn=self._config.learn_limits,
            blur=rule.blur,
            slice=0.0 if limit.burst is not None else rule.slice_of(limit.resource, limit.window),
        )
        match limit.algorithm or rule.algorithm(limit.window):
            case Algorithm.BUCKET:
                return Bucket(terms, now, Counter())
            case Algorithm.FIXED_WINDOW:
                return FixedWindow(terms, now, Counter())

    def reconfigure(self, config: PoolConfig, now: float) -> None:
        """Take over a new configuration. Meters declared as before keep their account; changed ones start anew."""
        old = {limit.key: limit for limit in self._config.limits}
        same_rules = (config.provider, config.learn_limits) == (self._config.provider, self._config.learn_limits)
        kept = self._meters
        self._config = config
        self._learns = Resource.TOKENS in rules.rule(config.provider, config.dialect).learned
        self._meters = {}
        for limit in config.limits:
            if same_rules and old.get(limit.key) == limit:
                self._meters[limit.key] = kept[limit.key]
                continue
            meter = self._build(limit, limit.limit, now)
            if same_rules and limit.key in kept:
                meter.inherit(kept[limit.key])
            for call in self._calls.values():
                meter.grant(call.charge.of(limit.resource), now)
                if call.answered:
                    meter.answer(call.charge.of(limit.resource), now)
            self._meters[limit.key] = meter
        if same_rules and config.learn_limits is LearnLimits.FOLLOW:
            for key, meter in kept.items():
                if meter.terms.declared is None and key not in self._meters:
                    self._meters[key] = meter

    # ---- reports

    def rates(self, now: float) -> Mapping[MeterKey, float]:
        """What we count on per second, net of foreign use, of the continuous meters."""
        return {key: meter.refill(now) for key, meter in self._meters.items() if isinstance(meter, Bucket)}

    def available(self, now: float) -> Mapping[MeterKey, float]:
        """What may be granted now, by meter."""
        return {key: meter.available(now) for key, meter in self._meters.items()}

    def status(self, now: float) -> tuple[MeterStatus, ...]:
        """Every meter, in the order of declaration."""
        return tuple(
            MeterStatus(
                key=key,
                algorithm=meter.algorithm,
                limit=meter.limit,
                capacity=meter.capacity,
                available=meter.available(now),
                reserved=meter.reserved,
                foreign_rate=meter.foreign.drain(now),
                observed=meter.observed,
                pile=meter.size,
                anomalies=tuple(sorted(meter.anomalies.items())),
            )
            for key, meter in self._meters.items()
        )


def _covers(resource: Resource, key: MeterKey) -> bool:
    """Providers say `tokens` for input or output tokens too."""
    return resource is Resource.TOKENS and key.resource in (Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS)
