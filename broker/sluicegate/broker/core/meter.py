# SPDX-License-Identifier: Apache-2.0
"""One limit of a pool, as we account for it.

Theory of operation. `balance` is what we may still grant: charges leave it when a call is granted, time refills it. An
observation says that `remaining` was between low and high at some moment of [d, now], d being when we granted the call
that brought it. It never overwrites the balance, it bounds it:

    lower = low - charges that it may not contain (`history`)        refill counts from now
    upper = high + rate x (now - d), at most the size                refill counts from d

and the balance moves only when it lies outside, to the nearer bound. Both ends of [d, now] are the broker's own times,
which widens the interval: the bounds stay safe under delay and disorder, without any other clock.

One wrong figure must not stop a pool, since nothing would be sent that could correct it. A limit or capacity that falls
below a tenth takes a second call that says the same; a figure beside a limit that we do not believe counts for nothing;
and what was learned is no word on what can never fit: a call larger than it waits for a full bucket, and where no
figure has come for some seconds what was declared is in force again. Only the provider's "too large" refuses for good.

A meter charged on completion (Anthropic's output) contains a call only once it has settled. A balance may be below zero
inside (a charge corrected upwards, a quota 429 that says so); what callers see is never negative. `Bucket` (bucket.py)
refills continuously; `FixedWindow` (window.py) at the end of each window. Times are seconds, amounts the resource's
unit; every operation is O(log n) in the calls of the last minutes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

from sluicegate.broker.core.charge import sane
from sluicegate.broker.core.foreign import ForeignUse, Sample
from sluicegate.broker.core.history import History, Log
from sluicegate.broker.core.units import Charge, MeterKey
from sluicegate.wire.values import MeterReading
from sluicegate.wire.words import Algorithm, LearnLimits, Resource

OVERTAKING = 0.1  # seconds: calls granted so close together may reach the provider in any order
_NUDGE = 1e-6  # seconds: a call woken at `ready_at` finds room in spite of rounding
_SANE_FACTOR = 1_000.0  # a limit further than this from the declared one is nonsense
STEEP = 0.1  # a figure that falls below this share of the one before takes a second call
_STALE = 20.0  # seconds without a figure after which a call that does not fit what was learned may try


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a charge does not fit now. `headroom`: it would without what is held back for others."""

    ready_at: float
    headroom: bool
    fits_now: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What a meter is told about its provider. `declared` None: the limit is known from headers alone.

    `blur`: seconds by which a reset may be off. `slice`: seconds over which the limit is enforced as well; 0: none.
    """

    key: MeterKey
    limit: float
    declared: float | None
    burst: float | None
    default_burst: float
    on_completion: bool
    learn: LearnLimits
    blur: float
    slice: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


class Meter(ABC):
    """The account of one limit. See the module's text."""

    algorithm: ClassVar[Algorithm]

    def __init__(self, terms: Terms, now: float, anomalies: Counter[str]) -> None:
        self.terms = terms
        self.key = terms.key
        self.amount: Callable[[Charge], float] = attrgetter(terms.key.resource.value)  # what a charge takes here
        self.limit = terms.limit
        self.observed = False
        self.refused = False  # a quota 429 named it
        self.history = History()
        self.foreign = ForeignUse()
        self.quantum: float = 1.0 if terms.key.resource is Resource.REQUESTS else 0.0
        self.reserved = 0.0
        self.anomalies = anomalies
        self._holders = 0
        self._sent = Log()
        self._at = now
        self._balance = 0.0
        self._limit_from = -float("inf")
        self._overfull = False
        self._lifted_by: float | None = None
        self._last: tuple[float, Interval] | None = None
        self._doubted: tuple[float, float] | None = None  # a limit that one call said, and when that was granted
        self._told_at = now
        self._too_large: float | None = None  # the provider's own word on the most that one call can take

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._balance:.6g} of {self.size:.6g}, {self.reserved:.6g} reserved>"

    # ---- what others ask

    @property
    @abstractmethod
    def capacity(self) -> float:
        """The most that one call can ever take."""

    @property
    def most(self) -> float:
        """What a call must not exceed, or it can never fit; inf where nobody declared or refused anything."""
        declared = math.inf if self.terms.declared is None else self._declared_capacity
        most = max(self.capacity, declared)
        return most if self._too_large is None else min(most, self._too_large)

    @property
    @abstractmethod
    def _declared_capacity(self) -> float: ...

    def relax(self, charge: float, now: float) -> bool:
        """Whether `charge`, larger than what was learned, made a stale figure give way to what was declared."""
        if not self.capacity < charge <= self.most or now < self._told_at + _STALE:
            return False
        self.advance(now)
        self._told_at = now  # one try in a while
        self._restore(self.limit * charge / self.capacity if self.terms.declared is None else self.terms.declared)
        return True

    def _restore(self, declared: float) -> None:
        self._limit_from = -math.inf
        if declared != self.limit:
            self._resize(declared)
            self.foreign.forget_spans()

    def too_large(self, charge: float, limit: float | None, dispatched: float) -> None:
        """The provider says that a call of `charge` can never fit, at best one of `limit`."""
        self.learn_limit(limit, dispatched, sure=True)
        self._too_large = min(sane(limit) or math.inf, charge * (1.0 - 1e-9))

    @property
    def size(self) -> float:
        """The most that we let pile up."""
        return self.capacity

    @property
    def rate(self) -> float:
        """What the provider refills per second."""
        return self.limit / self.key.window

    @abstractmethod
    def refill(self, now: float) -> float:
        """What we count on per second at `now`, 0 where nothing flows."""

    @abstractmethod
    def advance(self, now: float) -> None:
        """Account for the time until `now`; an earlier `now` changes nothing."""

    @abstractmethod
    def _ready_at(self, need: float, now: float) -> float: ...

    def available(self, now: float) -> float:
        self.advance(now)
        return min(self.size, max(0.0, self._balance - self.foreign.margin(now, self.quantum, self.size)))

    @property
    def _liftable(self) -> bool:
        """Whether a figure may raise the account: not where we mean to stay below what the provider has left."""
        return not self._overfull

    @property
    def _headroom_base(self) -> float:
        """What reserved headroom is a share of."""
        return self.size

    @property
    def _untouched(self) -> bool:
        return not self.observed and not self.refused and self.history.total <= 0

    def lack(self, charge: float, now: float, held_back: float, doubtful: float = 0.0) -> Shortfall | None:
        """None when `charge` fits while `held_back` (0..1) of the capacity stays untouched, and `doubtful` is left."""
        if charge <= 0:
            return None
        self.advance(now)
        size = self.size
        held = held_back * self._headroom_base
        if not self.foreign.watched and self._balance >= charge + doubtful + held:
            return None
        if self._untouched and charge <= self.capacity:
            return None
        margin = self.foreign.margin(now, self.quantum, size)
        margin = max(margin, self.foreign.caution(now, self.quantum, size)) + doubtful
        need = min(charge + margin + held, max(size, 0.0))
        if self._balance >= need:
            return None
        fits_now = min(size, max(0.0, self._balance - margin - held))
        headroom = held_back > 0 and self._balance >= min(charge + margin, size)
        return Shortfall(self._ready_at(need, now) + _NUDGE, headroom, fits_now)

    def holds(self, charge: float, now: float) -> bool:
        """Whether `charge` can be taken at `now`, margins aside."""
        self.advance(now)
        return charge <= 0 or (self._untouched and charge <= self.capacity) or self._balance >= min(charge, self.size)

    def inherit(self, old: Meter) -> None:
        """Keep what `old`, of the same key under another configuration, learned for good."""
        self.anomalies = old.anomalies

    def room(self, now: float) -> tuple[float, float, float]:
        """What decides when a charge fits; where none of it grows, none fits sooner."""
        return self.available(now), self.refill(now), self.capacity

    # ---- the life of a charge

    def grant(self, charge: float, now: float) -> None:
        self.advance(now)
        self.history.grant(charge)
        self._take(charge)
        self._holders += 1
        self.reserved += charge
        if not self.terms.on_completion:
            self._sent.add(charge, now)
        if charge > 0:
            self.quantum = charge if self.quantum <= 0 else self.quantum + 0.1 * (charge - self.quantum)

    def answer(self, charge: float, now: float) -> None:
        """The call's headers are here: a call dispatched from now on sees it in `remaining`."""
        if not self.terms.on_completion:
            self.history.answer(charge, now)

    def served(self, now: float) -> None:
        """The pool answered a call, whatever its headers named."""
        self.advance(now)

    def settle(self, charge: float, final: float, answered: bool, now: float) -> None:
        """The call ended; the provider charged `final` of the granted `charge`."""
        self.advance(now)
        self._release(charge)
        if final == charge and not self.terms.on_completion:
            if not answered:
                self.history.answer(charge, now)
            return
        if self.terms.on_completion:
            self.history.revoke(charge - final)
            self.history.answer(final, now)
            self._sent.add(final, now)
        else:
            if not answered:
                self.history.answer(charge, now)
            if final > charge:
                self.history.grant(final - charge)
                self.history.answer(final - charge, now)
            self._sent.add(final - charge, now)
        self._take(final - charge)

    def take_back(self, charge: float, answered: bool, dispatched: float, now: float) -> None:
        """The provider never charged the call granted at `dispatched`."""
        self.advance(now)
        self._release(charge)
        if not answered or self.terms.on_completion:
            self.history.revoke(charge)
        if not self.terms.on_completion:
            self._sent.add(-charge, now)
        if not (answered and self._lifted_by == dispatched):
            self._take(-charge)  # else its figure, taken without its charge, has already set the account

    def _release(self, charge: float) -> None:
        self._holders -= 1
        self.reserved = max(0.0, self.reserved - charge) if self._holders > 0 else 0.0

    def _take(self, amount: float) -> None:
        self._balance = max(-self.capacity, min(self.size, self._balance - amount))

    # ---- observations

    def observe(self, reading: MeterReading, dispatched: float, own: float, now: float) -> None:
        """Fold what the response to a call said that was granted at `dispatched` for `own`."""
        if not self.learn_limit(reading.limit, dispatched):
            return
        self._told_at = now
        reset = sane(reading.reset)
        if reset is not None and reset > 1.5 * self.key.window:
            self.anomalies["reset_out_of_range"] += 1
            reset = None
        interval = self._interval(reading)
        if interval is None:
            return
        self._shape(interval, reset, dispatched, now)
        self.advance(now)
        if interval.high > self.capacity:
            interval = Interval(min(interval.low, self.capacity), self.capacity)
        self._bound(interval, dispatched, own, now)
        self.observed = True
        if self._last is None or dispatched >= self._last[0]:
            self._last = (dispatched, interval)
        middle = (interval.low + interval.high) / 2
        early = (self._sent.at(dispatched - OVERTAKING) + own, self._sent.at(dispatched + OVERTAKING))
        pending = self.reserved if self.terms.on_completion else 0.0  # may be produced already
        late = (self._sent.at(now - OVERTAKING), self._sent.sum + pending)
        sample = Sample(dispatched, now, middle, interval.high - interval.low, early, late)
        self._compare(sample)

    @abstractmethod
    def _shape(self, interval: Interval, reset: float | None, dispatched: float, now: float) -> None:
        """Learn capacity or the window's end."""

    @abstractmethod
    def _upper(self, interval: Interval, dispatched: float, now: float) -> float: ...

    def _reckoned(self, interval: Interval, dispatched: float, own: float, now: float) -> float:
        """What is left at least, where figures may be trusted to be of the time of dispatch."""
        return -self.capacity

    @abstractmethod
    def _compare(self, sample: Sample) -> None:
        """Feed the estimate of foreign use."""

    def _bound(self, interval: Interval, dispatched: float, own: float, now: float) -> None:
        upper = self._upper(interval, dispatched, now)
        missing = self.history.not_included(dispatched, own)
        lower = None if missing is None or not self._liftable else min(self.size, interval.low - missing)
        if lower is not None:
            lower = max(lower, self._reckoned(interval, dispatched, own, now))
        if self._balance > upper:
            if self._balance > upper + 1e-6 * self.size:
                # What lay on the meter before we knew it is no lump.
                self.foreign.jumped(self._balance - upper if self.observed else 0.0, now)
            self._balance = upper
        elif lower is not None and self._balance < lower:
            self._lift(lower, now)
            self._lifted_by = dispatched

    def _lift(self, balance: float, now: float) -> None:
        self._balance = balance

    def _interval(self, reading: MeterReading) -> Interval | None:
        low, high = sane(reading.remaining_low), sane(reading.remaining_high)
        if (reading.remaining_low is not None and low is None) or (reading.remaining_high is not None and high is None):
            self.anomalies["remaining_invalid"] += 1
        if low is None:
            low = high
        if high is None:
            high = low
        if low is None or high is None:
            return None
        if low > high:
            low, high = high, low
        limit = sane(reading.limit)
        if low > (self.limit if limit is None else max(self.limit, limit)):
            self.anomalies["remaining_above_limit"] += 1
            low = min(low, self.capacity)
        return Interval(low, high)

    def learn_limit(self, reported: float | None, dispatched: float, *, sure: bool = False) -> bool:
        """Take over what the provider says its limit is, as far as `learn` allows; nonsense is counted and ignored.

        `sure`: it was said in so many words. Returns False where the figure is not believed.
        """
        if reported is None:
            return True
        limit = sane(reported)
        declared = self.terms.declared if self.terms.declared is not None else self.terms.limit
        if limit is None or limit <= 0 or not declared / _SANE_FACTOR <= limit <= declared * _SANE_FACTOR:
            self.anomalies["limit_out_of_range"] += 1
            return False
        self._overfull = self.terms.learn is not LearnLimits.FOLLOW and limit > declared
        match self.terms.learn:
            case LearnLimits.OFF:
                return True
            case LearnLimits.LOWER_ONLY:
                limit = min(limit, declared)
            case LearnLimits.FOLLOW:
                pass
        doubted, self._doubted = self._doubted, None
        confirmed = sure or (doubted is not None and doubted[0] == limit and doubted[1] != dispatched)
        if limit < STEEP * self.limit and not confirmed:
            self._doubted = (limit, dispatched)
            self.anomalies["limit_fell"] += 1
            return False
        if limit != self.limit and dispatched >= self._limit_from:
            self._limit_from = dispatched
            self._resize(limit)
            self.foreign.forget_spans()
        elif limit == self.limit:
            self._limit_from = max(self._limit_from, dispatched)
        return True

    def _resize(self, limit: float) -> None:
        if limit > self.limit:
            self._too_large = None
        self.limit = limit
        self._balance = min(self._balance, self.size)

    # ---- quota 429

    @abstractmethod
    def reject(self, charge: float, retry_after: float | None, dispatched: float, now: float) -> None:
        """A call of `charge`, already taken back, was refused; it fits in `retry_after` seconds (None: not said)."""

    def emptiness(self, charge: float, now: float) -> float:
        """How far below `charge` this meter is, as a share of its size: the larger, the likelier it refused."""
        self.advance(now)
        return (charge - self._balance) / max(self.capacity, 1e-9)
