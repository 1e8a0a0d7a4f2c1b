# SPDX-License-Identifier: Apache-2.0
"""What calls came to, as plain numbers by pool and party.

Every call passes here: it is compiled with the core. Its classes are plain, since mypyc does not know of a dataclass's
attributes that they are always set, and checks each time that one is read.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Came:
    """Calls with one outcome: how many have ended so, and their waits from arrival to the first decision."""

    def __init__(self) -> None:
        self.ended = 0
        self.waits = Spread(WAITS)


class Settlements:
    """Of one pool's attempts: answers by class, tokens reserved / used, input tokens expected / real."""

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.reserved = Spread(RATIOS)
        self.expected = Spread(RATIOS)


class Account:
    """One party's calls in one pool. `attempts`: grants, those of further attempts included; `reserved`: tokens."""

    def __init__(self, settlements: Settlements) -> None:
        self.settlements = settlements
        self.attempts = 0
        self.reserved = 0.0
        self.input_tokens = 0
        self.output_tokens = 0
        self.outcomes: dict[Outcome, Came] = {}
        self.decided: dict[tuple[Outcome, Reason], Decided] = {}
        self.retries: dict[Reason, int] = {}


class Decided:
    """Decisions of one outcome and reason in one account."""

    def __init__(self, account: Account, came: Came) -> None:
        self.account = account
        self.came = came
        self.count = 0


class Accounts:
    """`by_labels`: an account for each labels that `label` gives a party and its pool; nothing is forgotten.

    `settlements` by pool. `label` is asked once for each party and pool, until `relabel`.
    """

    def __init__(self, label: Callable[[Party, str], Labels]) -> None:
        self.by_labels: dict[Labels, Account] = {}
        self.settlements: dict[str, Settlements] = {}
        self._label = label
        self._known: dict[Labels, Account] = {}
        self._open: dict[str, Decided] = {}  # calls in flight, as they were granted

    def relabel(self) -> None:
        """From now on calls may have other labels. Those in flight keep theirs."""
        self._known.clear()

    def count(self, effects: list[Effect]) -> None:
        """The effects of one event, all of them."""
        if len(effects) == 1 and isinstance(only := effects[0], Settled):
            granted = self._open.pop(only.call_id, None)
            self._settled(only, granted)
            _end(granted)
            return
        settled = False
        for effect in effects:
            if isinstance(effect, Decision):
                self._decided(effect)
            elif isinstance(effect, Settled):
                settled = True
                self._settled(effect, self._open.get(effect.call_id))
            elif isinstance(effect, Requeued):
                retries = self._account(effect.party, effect.pool).retries
                retries[effect.reason] = retries.get(effect.reason, 0) + 1
        if settled:
            for call_id in _ended(effects):
                _end(self._open.pop(call_id, None))

    def _account(self, party: Party, pool: str) -> Account:
        key = (pool, party.tier, party.tenant, party.task_type)
        account = self._known.get(key)
        if account is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            labels = self._label(party, pool)
            account = self.by_labels.get(labels)
            if account is None:
                account = Account(self.settlements.setdefault(labels[0], Settlements()))
                self.by_labels[labels] = account
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

    def _settled(self, effect: Settled, granted: Decided | None) -> None:
        account = granted.account if granted is not None else self._account(effect.party, effect.pool)
        settlements = account.settlements
        answer = effect.error_class
        settlements.answers[answer] = settlements.answers.get(answer, 0) + 1
        account.reserved += effect.reserved_tokens
        used = effect.used_tokens
        if used is None:
            return
        account.input_tokens += effect.input_tokens
        account.output_tokens += effect.output_tokens
        if used and answer == _NONE:
            settlements.reserved.add(effect.reserved_tokens / used)
            if effect.input_tokens > 0:
                settlements.expected.add(effect.estimated_input / effect.input_tokens)


def _end(granted: Decided | None) -> None:
    if granted is not None:
        granted.came.ended += 1


def _ended(effects: list[Effect]) -> list[str]:
    """The calls that ended: no answer or further attempt follows their settlement."""
    ended: dict[str, None] = {}
    for effect in effects:
        if isinstance(effect, Settled):
            ended[effect.call_id] = None
        elif isinstance(effect, Decision | Requeued):
            ended.pop(effect.call_id, None)
    return list(ended)
