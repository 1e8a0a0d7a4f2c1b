# SPDX-License-Identifier: Apache-2.0
"""Ground truth: what a pool's limits admitted, when and for whom. Pure, in virtual time, bounded in memory.

    pool = AccountedLimits(LimitsConfig(...), start=now)
    pool.admit(now, Demand(tokens=900))                  # as ProviderLimits.admit, and booked as ours
    pool.admit(now, Demand(tokens=900), foreign=True)    # ... as somebody else's on the same key
    pool.utilization(t0, t1)                             # per meter: admitted charge / what the limit would allow
    pool.counts, pool.series(0), pool.snapshot(now)

`now`, `t0` and `t1` are seconds on the caller's clock. The series is kept per whole second since `start`, for the last
`history` seconds; figures of an interval cover whole seconds (t0 rounded down, t1 rounded up). What an interval would
allow is the level at its beginning plus what flows in until its end (rate x time for a bucket, one limit per boundary
for a fixed window), whether or not the bucket had room for it. What rejected calls cost is booked apart, as `wasted`:
it uses the limit up and serves nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from sluicegate.testing.limits import Admitted, Demand, LimitsConfig, ProviderLimits, Rejected
from sluicegate.testing.meters import Meter, Resource


@dataclass(slots=True)
class Second:
    """One second of one meter. `level`: units there when it began; `inflow`: what the limit added in it."""

    at: int
    level: float
    inflow: float = 0.0
    ours: float = 0.0
    foreign: float = 0.0
    wasted: float = 0.0


@dataclass(frozen=True, slots=True)
class Utilization:
    """Use of one meter over an interval. `ratio` = (ours + foreign) / allowed, `ours_ratio` = ours / allowed."""

    resource: Resource
    window: float
    ours: float
    foreign: float
    wasted: float
    allowed: float

    @property
    def ratio(self) -> float:
        return (self.ours + self.foreign) / self.allowed if self.allowed > 0 else 0.0

    @property
    def ours_ratio(self) -> float:
        return self.ours / self.allowed if self.allowed > 0 else 0.0


@dataclass(slots=True)
class Counts:
    """Calls and tokens since the start. `quota_429` is the sum over kinds of our rejected calls."""

    admitted: int = 0
    admitted_foreign: int = 0
    rejected_foreign: int = 0
    exhausted: int = 0
    slice: int = 0
    too_large: int = 0
    overloaded: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def quota_429(self) -> int:
        return self.exhausted + self.slice + self.too_large


class AccountedLimits:
    """`ProviderLimits` that remembers. Methods of the same name have the same contract; `foreign` books for others."""

    def __init__(self, config: LimitsConfig, *, start: float = 0.0, history: int = 7200) -> None:
        self.limits = ProviderLimits(config, start=start)
        self.counts = Counts()
        self.start = start
        self._accounts = [_MeterAccount(meter, start, history) for meter in self.limits.meters]

    def admit(self, now: float, demand: Demand, *, foreign: bool = False) -> Admitted | Rejected:
        self._roll(now)
        answer = self.limits.admit(now, demand)
        counts = self.counts
        match answer:
            case Admitted(charged=charged):
                self._book(charged, foreign=foreign)
                if foreign:
                    counts.admitted_foreign += 1
                else:
                    counts.admitted += 1
            case Rejected(kind=kind, charged=charged):
                for account, amount in zip(self._accounts, charged, strict=True):
                    account.series[-1].wasted += amount
                if foreign:
                    counts.rejected_foreign += 1
                elif kind == "exhausted":
                    counts.exhausted += 1
                elif kind == "slice":
                    counts.slice += 1
                else:
                    counts.too_large += 1
        return answer

    def produce(self, now: float, output_tokens: float, *, foreign: bool = False) -> None:
        self._roll(now)
        self._book(self.limits.produce(now, output_tokens), foreign=foreign)

    def adjust_input(self, now: float, estimated: float, actual: float, *, foreign: bool = False) -> None:
        self._roll(now)
        self._book(self.limits.adjust_input(now, estimated, actual), foreign=foreign)

    def draw(self, now: float, demand: Demand) -> None:
        """Book a charge for a call that failed after it was charged, as wasted."""
        self._roll(now)
        for account, amount in zip(self._accounts, self.limits.draw(now, demand), strict=True):
            account.series[-1].wasted += amount

    def set_limit(self, now: float, resource: Resource, limit: float, *, window: float | None = None) -> None:
        self._roll(now)
        self.limits.set_limit(now, resource, limit, window=window)

    def used(self, input_tokens: int, output_tokens: int) -> None:
        """Book the real usage of one of our calls."""
        self.counts.input_tokens += input_tokens
        self.counts.output_tokens += output_tokens

    def headers(self, now: float, wall: float | None = None) -> dict[str, str]:
        return self.limits.headers(now, wall)

    def utilization(self, t0: float, t1: float) -> tuple[Utilization, ...]:
        """Per meter, in the order of the configuration. `t1` is at most now. Raises ValueError when t1 <= t0, or when
        the beginning of the interval is no longer remembered."""
        if not t1 > t0:
            raise ValueError(f"an interval ends after it begins: {t0!r} to {t1!r}")
        self._roll(t1)
        return tuple(account.utilization(t0, t1) for account in self._accounts)

    def series(self, meter: int, *, since: float = -math.inf) -> tuple[Second, ...]:
        """The remembered seconds of a meter (by its place in the configuration), oldest first."""
        return tuple(second for second in self._accounts[meter].series if second.at >= since - self.start)

    def snapshot(self, now: float) -> dict[str, object]:
        """Counts, and per meter limit, level and totals, as plain data."""
        self._roll(now)
        meters = [
            {
                "resource": figure.resource,
                "window": figure.window,
                "limit": figure.limit,
                "remaining": figure.remaining,
                "reset": figure.reset,
                **account.totals,
            }
            for figure, account in zip(self.limits.figures(now), self._accounts, strict=True)
        ]
        return {**asdict(self.counts), "quota_429": self.counts.quota_429, "meters": meters}

    def _roll(self, now: float) -> None:
        for account in self._accounts:
            account.roll(now)

    def _book(self, charged: Iterable[float], *, foreign: bool) -> None:
        for account, amount in zip(self._accounts, charged, strict=True):
            second = account.series[-1]
            if foreign:
                second.foreign += amount
            else:
                second.ours += amount


class _MeterAccount:
    """The series of one meter. `roll` must run before whatever changes the meter's level."""

    __slots__ = ("_accrued_to", "_dropped", "_history", "_meter", "_start", "series")

    def __init__(self, meter: Meter, start: float, history: int) -> None:
        self._meter = meter
        self._start = start
        self._accrued_to = start
        self._history = history
        self._dropped = [0.0, 0.0, 0.0]
        self.series: deque[Second] = deque([Second(0, meter.level_at(start))])

    def roll(self, now: float) -> None:
        if now <= self._accrued_to:
            return
        number = int(now - self._start)
        if number == self.series[-1].at:
            self._accrue(now)
            return
        last = self.series[-1].at
        if number - last > self._history:  # a long silence: only its end would be remembered anyway
            last = number - self._history
            self._accrue(self._start + last)
            self._append(last)
        while last < number:
            last += 1
            self._accrue(self._start + last)
            self._append(last)
        self._accrue(now)

    @property
    def totals(self) -> dict[str, float]:
        """Everything since the start, also what the series no longer remembers."""
        ours, foreign, wasted = self._dropped
        for second in self.series:
            ours, foreign, wasted = ours + second.ours, foreign + second.foreign, wasted + second.wasted
        return {"ours": ours, "foreign": foreign, "wasted": wasted}

    def utilization(self, t0: float, t1: float) -> Utilization:
        first, end = math.floor(t0 - self._start), math.ceil(t1 - self._start)
        seconds = [second for second in self.series if first <= second.at < end]
        if not seconds or seconds[0].at > max(first, 0):
            raise ValueError(f"nothing is remembered before {self._start + self.series[0].at:g}; asked from {t0:g}")
        config = self._meter.config
        return Utilization(
            config.resource,
            config.window,
            sum(second.ours for second in seconds),
            sum(second.foreign for second in seconds),
            sum(second.wasted for second in seconds),
            max(0.0, seconds[0].level) + sum(second.inflow for second in seconds),
        )

    def _append(self, number: int) -> None:
        if len(self.series) >= self._history:
            old = self.series.popleft()
            for index, amount in enumerate((old.ours, old.foreign, old.wasted)):
                self._dropped[index] += amount
        self.series.append(Second(number, self._meter.level_at(self._start + number)))

    def _accrue(self, until: float) -> None:
        """Book the inflow up to `until` in the last second."""
        config = self._meter.config
        if config.algorithm == "bucket":
            inflow = (until - self._accrued_to) * config.rate
        else:
            first = math.floor((self._accrued_to - config.anchor) / config.window)
            inflow = (math.floor((until - config.anchor) / config.window) - first) * config.limit
        self.series[-1].inflow += inflow
        self._accrued_to = until


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that the emulator answered. Times are seconds since its start; no prompt, no text, no key.

    `key` is a fingerprint of the credential, `user` the request's `user`, `safety_identifier` or `metadata.user_id`.
    `outcome`: ok, quota, too_large, overloaded, server_error, billing, auth, invalid, broken, cancelled."""

    at: float
    key: str
    account: str
    pool: str
    model: str
    endpoint: str
    stream: bool
    status: int
    outcome: str
    charge: float
    input_tokens: int
    output_tokens: int
    user: str | None
    seconds: float


@dataclass(slots=True)
class CallLog:
    """The last `size` calls, oldest dropped first."""

    size: int = 10_000
    records: deque[CallRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.records = deque(maxlen=self.size)

    def add(self, record: CallRecord) -> None:
        self.records.append(record)
