# SPDX-License-Identifier: Apache-2.0
"""Anthropic as the emulator's exchange sees it; `wire_anthropic` has the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sluicegate.testing import wire_anthropic
from sluicegate.testing.calls import Answer, Call, Json, Stream
from sluicegate.testing.face import Face, Place
from sluicegate.testing.limits import Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_COUNT = "messages/count_tokens"


class AnthropicFace(Face):
    """Messages and their count."""

    wire: ClassVar[Wire] = "anthropic"
    overloads_first = True
    live = True
    refusal_costs = False
    refusals = wire_anthropic.REFUSALS

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        api = path.removeprefix("/v1/")
        return Place(api, counts=api == _COUNT) if api in ("messages", _COUNT) else None

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return headers.get("x-api-key") or super().credential(headers, query)

    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        return wire_anthropic.parse_messages(body, model, counting=place.counts)

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        return wire_anthropic.message(call, number, content, output, cut=cut)

    def count(self, call: Call) -> bytes:
        return wire_anthropic.count(call)

    def frames(self, call: Call, number: int, created: int) -> Stream:
        return wire_anthropic.MessagesStream(call, number)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {
            "request-id": f"req_emulated{number:012d}",
            "anthropic-organization-id": "00000000-0000-0000-0000-000000000000",
        }

    def bad_json(self) -> Answer:
        return wire_anthropic.bad_json()

    def unknown_model(self, model: object) -> Answer:
        return wire_anthropic.unknown_model(model)

    def not_found(self, method: str, path: str) -> Answer:
        return wire_anthropic.not_found()

    def auth(self) -> Answer:
        return wire_anthropic.auth()

    def billing(self) -> Answer:
        return wire_anthropic.billing()

    def overloaded(self) -> Answer:
        return wire_anthropic.overloaded()

    def server_error(self) -> Answer:
        return wire_anthropic.server_error()

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        return wire_anthropic.quota(rejected)

    def too_many_connections(self) -> Answer:
        return wire_anthropic.too_many_connections()
