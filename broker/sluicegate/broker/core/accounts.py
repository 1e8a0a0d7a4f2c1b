# SPDX-License-Identifier: Apache-2.0
"""What calls came to, as plain numbers by pool and party. Every call passes here: it is compiled with the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sluicegate.broker.core.effects import Decision, Effect, Party, Requeued, Settled
from sluicegate.wire.words import ErrorClass, Outcome, Reason

WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

_GRANTING = (Outcome.GRANTED, Outcome.FALLBACK_MODEL, Outcome.FALLBACK_POOL)
_KNOWN = 20_000
_NONE: Final = ErrorClass.NONE  # looked up once, as in `units`

Labels = tuple[str, str, str, str]
"""Pool, tier, tenant, task type, as metrics name them."""


class Spread:
    """How many values lie in each bucket of a histogram, the last beyond all `bounds`, and their sum.

    `wire.tallies` has one too: this is compiled with the core and knows nothing of prometheus-client.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        at = 0
        for bound in self.bounds:  # compiled, this takes a third of bisect's time: most values lie in the first buckets
            if value <= bound:
                break
            at += 1
        self.counts[at] += 1
        self.total += value


@dataclass(slots=True)
class Came:
    """Calls with one outcome: how many have ended so, and their waits from arrival to the first decision."""

    ended: int = 0
    waits: Spread = field(default_factory=lambda: Spread(WAITS))


@dataclass(slots=True)
class Ratios:
    """Of one pool's calls: tokens reserved / used, input tokens expected / real."""

    reserved: Spread = field(default_factory=lambda: Spread(RATIOS))
    expected: Spread = field(default_factory=lambda: Spread(RATIOS))


@dataclass(slots=True)
class Account:
    """One party's calls in one pool. `attempts`: grants, those of further attempts included; `reserved`: tokens."""

    ratios: Ratios
    attempts: int = 0
    reserved: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    outcomes: dict[Outcome, Came] = field(default_factory=dict[Outcome, Came])
    decided: dict[tuple[Outcome, Reason], Decided] = field(default_factory=dict[tuple[Outcome, Reason], "Decided"])
    answers: dict[str, int] = field(default_factory=dict[str, int])
    retries: dict[Reason, int] = field(default_factory=dict[Reason, int])


@dataclass(slots=True)
class Decided:
    """Decisions of one outcome and reason in one account."""

    account: Account
    came: Came
    count: int = 0


class Accounts:
    """`by_labels`: an account for each labels that `label` gives a party and its pool; nothing is forgotten.

    `ratios` by pool. `label` is asked once for each party and pool, until `relabel`.
    """

    def __init__(self, label: Callable[[Party, str], Labels]) -> None:
        self.by_labels: dict[Labels, Account] = {}
        self.ratios: dict[str, Ratios] = {}
        self._label = label
        self._known: dict[Labels, Account] = {}
        self._open: dict[str, Decided] = {}  # calls in flight, as they were granted

    def relabel(self) -> None:
        """From now on calls may have other labels. Those in flight keep theirs."""
        self._known.clear()

    def count(self, effects: list[Effect]) -> None:
        """The effects of one event, all of them."""
        settled = False
        for effect in effects:
            if isinstance(effect, Decision):
                self._decided(effect)
            elif isinstance(effect, Settled):
                settled = True
                self._settled(effect)
            elif isinstance(effect, Requeued):
                retries = self._account(effect.party, effect.pool).retries
                retries[effect.reason] = retries.get(effect.reason, 0) + 1
        if settled:
            for call_id in _ended(effects):
                found = self._open.pop(call_id, None)
                if found is not None:
                    found.came.ended += 1

    def _account(self, party: Party, pool: str) -> Account:
        key = (pool, party.tier, party.tenant, party.task_type)
        account = self._known.get(key)
        if account is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            labels = self._label(party, pool)
            account = self.by_labels.get(labels)
            if account is None:
                ratios = self.ratios.setdefault(labels[0], Ratios())
                account = self.by_labels[labels] = Account(ratios)
            self._known[key] = account
        return account

    def _decided(self, decision: Decision) -> None:
        """A call that was granted is counted when its last attempt has ended, every other one now."""
        outcome = decision.outcome
        account = self._account(decision.party, decision.pool)
        key = (outcome, decision.reason)
        decided = account.decided.get(key)
        if decided is None:
            decided = account.decided[key] = Decided(account, account.outcomes.setdefault(outcome, Came()))
        decided.count += 1
        if decision.attempt <= 1 and decision.call_id not in self._open:
            decided.came.waits.add(decision.waited)
        if outcome in _GRANTING:
            account.attempts += 1
            self._open[decision.call_id] = decided
        else:
            self._open.pop(decision.call_id, None)
            decided.came.ended += 1

    def _settled(self, effect: Settled) -> None:
        granted = self._open.get(effect.call_id)
        account = granted.account if granted is not None else self._account(effect.party, effect.pool)
        account.answers[effect.error_class] = account.answers.get(effect.error_class, 0) + 1
        account.reserved += effect.reserved_tokens
        used = effect.used_tokens
        if used is None:
            return
        account.input_tokens += effect.input_tokens
        account.output_tokens += effect.output_tokens
        if used and effect.error_class == _NONE:
            account.ratios.reserved.add(effect.reserved_tokens / used)
            if effect.input_tokens > 0:
                account.ratios.expected.add(effect.estimated_input / effect.input_tokens)


def _ended(effects: list[Effect]) -> list[str]:
    """The calls that ended: no answer or further attempt follows their settlement."""
    first = effects[0]
    if len(effects) == 1 and isinstance(first, Settled):
        return [first.call_id]
    ended: dict[str, None] = {}
    for effect in effects:
        if isinstance(effect, Settled):
            ended[effect.call_id] = None
        elif isinstance(effect, Decision | Requeued):
            ended.pop(effect.call_id, None)
    return list(ended)
