# SPDX-License-Identifier: Apache-2.0
"""What the emulator asks of each provider's wire: how its requests are read, and in which words it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sluicegate.testing.calls import Answer, Call, Json, Stream
from sluicegate.testing.faults import Fault
from sluicegate.testing.limits import Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig


@dataclass(frozen=True, slots=True)
class Place:
    """What a request's path means. `api`: one word for the record. `model`: where the path names it, else it stands in
    the body. `counts`: the prompt is only counted. `stream`, `array`: of Google, that it streams, and as an array."""

    api: str
    model: str | None = None
    counts: bool = False
    stream: bool = False
    array: bool = False


class Face(ABC):
    """One provider's wire. Without state: one serves all calls.

    `overloads_first`: an overload is said before admission, and costs nothing. `live`: output is charged as it is
    produced, and input corrected when the answer begins. `bills_afterwards`: real usage is charged at the end.
    `refusal_costs`: an invalid request costs a request all the same. `refusals`: the words of a fault that no repeat
    mends.
    """

    wire: ClassVar[Wire]
    overloads_first: ClassVar[bool] = False
    live: ClassVar[bool] = False
    bills_afterwards: ClassVar[bool] = False
    refusal_costs: ClassVar[bool] = True
    refusals: ClassVar[Mapping[Fault, Answer]] = {}

    @abstractmethod
    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        """What a POST to `path` (below the provider's mount) asks for; None: nothing that is here."""

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """The key of a request, or nothing."""
        return bearer(headers)

    @abstractmethod
    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        """The call. Raises BadRequestError."""

    @abstractmethod
    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        """The answer that is no stream. `output`: tokens over all choices; `cut`: the request's cap ended it."""

    @abstractmethod
    def count(self, call: Call) -> bytes:
        """The answer of an endpoint that counts."""

    @abstractmethod
    def frames(self, call: Call, number: int, created: int) -> Stream:
        """The answer that is a stream."""

    def head(self, number: int, seconds: float) -> dict[str, str]:
        """Headers of every response, `seconds` after the request."""
        return {"x-request-id": f"req_emulated{number:012d}"}

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        """Whether such a response carries rate-limit headers."""
        return True

    def dress(self, answer: Answer, place: Place | None) -> Answer:
        """`answer`, an error, as it looks at `place`."""
        return answer

    @abstractmethod
    def bad_json(self) -> Answer: ...
    @abstractmethod
    def unknown_model(self, model: object) -> Answer: ...
    @abstractmethod
    def not_found(self, method: str, path: str) -> Answer: ...
    @abstractmethod
    def auth(self) -> Answer: ...
    @abstractmethod
    def billing(self) -> Answer: ...
    @abstractmethod
    def overloaded(self) -> Answer: ...
    @abstractmethod
    def server_error(self) -> Answer: ...
    @abstractmethod
    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        """The 429 of a rejected call."""

    def too_many_connections(self) -> Answer:
        """The answer when `maxConcurrent` calls run already: where the provider has no word for it, an overload."""
        return self.overloaded()


def bearer(headers: Mapping[str, str]) -> str:
    """The token of an authorization header, or nothing."""
    value = headers.get("authorization", "")
    return value[7:] if value[:7].lower() == "bearer " else ""
