# SPDX-License-Identifier: Apache-2.0
"""One call's life, as a table.

    PARSED --ask--> WAITING --grant--> SENT --accepted--> RELAYING --ended--> DONE
                       ^                 |
                       +----retriable----+     (the broker decides when and where it goes next)

The table's point is what each way out owes the broker: a waiting call is cancelled, a sent one is settled, and
each attempt is settled exactly once. The shell asks `advance` and does what the duty says; a step that is not in
the table is a defect and raises.
"""

from __future__ import annotations

from sluicegate.wire.words import Word


class State(Word):
    """Where a call is."""

    PARSED = "parsed"
    WAITING = "waiting"
    SENT = "sent"
    RELAYING = "relaying"
    DONE = "done"


class Step(Word):
    """What happened to it."""

    ASK = "ask"
    GRANT = "grant"
    ANSWER_HERE = "answer_here"  # cached or degraded
    REJECT = "reject"
    ACCEPTED = "accepted"  # headers of a response that goes to the app, success or final failure
    RETRIABLE = "retriable"  # a failure of which nothing reached the app
    UNSENDABLE = "unsendable"  # the provider never got it, and never will
    ENDED = "ended"
    BROKEN = "broken"  # the provider broke off in the middle
    CLIENT_GONE = "client_gone"


class Duty(Word):
    """What is owed to the broker on this step."""

    NOTHING = "nothing"
    ACQUIRE = "acquire"
    CANCEL = "cancel"
    SETTLE = "settle"
    SETTLE_AND_WAIT = "settle_and_wait"


TABLE: dict[tuple[State, Step], tuple[State, Duty]] = {
    (State.PARSED, Step.ASK): (State.WAITING, Duty.ACQUIRE),
    (State.PARSED, Step.REJECT): (State.DONE, Duty.NOTHING),
    (State.PARSED, Step.CLIENT_GONE): (State.DONE, Duty.NOTHING),
    (State.WAITING, Step.GRANT): (State.SENT, Duty.NOTHING),
    (State.WAITING, Step.ANSWER_HERE): (State.DONE, Duty.NOTHING),
    (State.WAITING, Step.REJECT): (State.DONE, Duty.NOTHING),
    (State.WAITING, Step.CLIENT_GONE): (State.DONE, Duty.CANCEL),
    (State.SENT, Step.ACCEPTED): (State.RELAYING, Duty.NOTHING),
    (State.SENT, Step.RETRIABLE): (State.WAITING, Duty.SETTLE_AND_WAIT),
    (State.SENT, Step.UNSENDABLE): (State.DONE, Duty.SETTLE),
    (State.SENT, Step.CLIENT_GONE): (State.DONE, Duty.SETTLE),
    (State.RELAYING, Step.ENDED): (State.DONE, Duty.SETTLE),
    (State.RELAYING, Step.BROKEN): (State.DONE, Duty.SETTLE),
    (State.RELAYING, Step.CLIENT_GONE): (State.DONE, Duty.SETTLE),
}


class Plan:
    """The state of one call."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.PARSED

    def advance(self, step: Step) -> Duty:
        """Takes `step` and says what is owed. Raises ValueError for a step that cannot happen here."""
        found = TABLE.get((self.state, step))
        if found is None:
            raise ValueError(f"{step} cannot happen to a call that is {self.state}")
        self.state, duty = found
        return duty
