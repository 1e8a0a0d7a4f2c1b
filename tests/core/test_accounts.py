# SPDX-License-Identifier: Apache-2.0
"""What calls came to: a call counts once, when it has ended, however many attempts it took."""

from __future__ import annotations

from sluicegate.broker.core.accounts import RATIOS, WAITS, Accounts, Labels
from sluicegate.broker.core.effects import Decision, Party, Requeued, Settled
from sluicegate.wire.words import Outcome, Reason

ACME = Party("acme", "Free", "chat")


def label(party: Party, pool: str) -> Labels:
    return pool, party.tier, "other", party.task_type


def decision(call_id: str, outcome: Outcome = Outcome.GRANTED, attempt: int = 1, party: Party = ACME) -> Decision:
    return Decision(1.0, call_id, party, "p", "m", outcome, Reason.ROOM, 0.3, attempt, None, ())


def settled(call_id: str, error: str = "none", used: int | None = 80) -> Settled:
    return Settled(call_id, ACME, "p", error, 100.0, used, 60 if used else 0, 20 if used else 0, 66)


def test_a_call_of_two_attempts_is_one_request() -> None:
    accounts = Accounts(label)
    accounts.count([decision("a")])
    account = accounts.by_labels["p", "Free", "other", "chat"]
    assert (account.attempts, account.outcomes[Outcome.GRANTED].ended) == (1, 0)
    requeued = Requeued("a", "s", ACME, "p", Reason.BINDING_LIMIT, 2.0, 1)
    accounts.count([settled("a", "rpm", None), requeued, decision("a", attempt=2)])
    assert account.outcomes[Outcome.GRANTED].ended == 0
    accounts.count([settled("a")])
    came = account.outcomes[Outcome.GRANTED]
    assert (account.attempts, came.ended, came.waits.total) == (2, 1, 0.3)
    assert came.waits.counts[WAITS.index(0.5)] == sum(came.waits.counts) == 1
    assert account.retries == {Reason.BINDING_LIMIT: 1}
    assert account.settlements.answers == {"rpm": 1, "none": 1}
    assert (account.reserved, account.input_tokens, account.output_tokens) == (200.0, 60, 20)
    assert account.decided[Outcome.GRANTED, Reason.ROOM].count == 2


def test_ratios_are_of_what_was_really_used() -> None:
    accounts = Accounts(label)
    accounts.count([decision("a"), decision("b"), settled("a"), settled("b", used=None)])
    settlements = accounts.settlements["p"]
    assert (settlements.reserved.total, settlements.expected.total) == (100 / 80, 66 / 60)
    assert settlements.reserved.counts[RATIOS.index(1.25)] == settlements.expected.counts[RATIOS.index(1.1)] == 1


def test_a_call_that_ends_without_a_slot_counts_at_once() -> None:
    accounts = Accounts(label)
    accounts.count([decision("a"), settled("a", "overload", None), decision("a", Outcome.REJECTED, attempt=2)])
    accounts.count([decision("b", Outcome.CANCELLED)])
    account = accounts.by_labels["p", "Free", "other", "chat"]
    assert {outcome: came.ended for outcome, came in account.outcomes.items()} == {
        Outcome.GRANTED: 0,
        Outcome.REJECTED: 1,
        Outcome.CANCELLED: 1,
    }


def test_parties_of_one_label_share_an_account() -> None:
    accounts = Accounts(label)
    accounts.count([decision("a"), decision("b", party=Party("beta", "Free", "chat"))])
    assert [account.attempts for account in accounts.by_labels.values()] == [2]
