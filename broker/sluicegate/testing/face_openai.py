# SPDX-License-Identifier: Apache-2.0
"""OpenAI as the emulator's exchange sees it; `wire_openai` has the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sluicegate.testing import wire_openai
from sluicegate.testing.calls import Answer, Call, Json, Stream
from sluicegate.testing.face import Face, Place
from sluicegate.testing.limits import Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

APIS = {"/chat/completions": "chat", "/responses": "responses", "/embeddings": "embeddings"}


class OpenAIFace(Face):
    """Also the ground that OpenAI's likes are built on."""

    wire: ClassVar[Wire] = "openai"
    base: ClassVar[str] = "/v1"
    refusals = wire_openai.REFUSALS

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        api = APIS.get(path.removeprefix(self.base)) if path.startswith(self.base) else None
        return None if api is None else Place(api)

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return headers.get("x-api-key") or super().credential(headers, query)

    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        match place.api:
            case "chat":
                return wire_openai.parse_chat(body, model, config.admission)
            case "responses":
                return wire_openai.parse_responses(body, model, config.admission)
            case _:
                return wire_openai.parse_embeddings(body, model)

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        if call.endpoint == "embeddings":
            return wire_openai.embeddings(call, number)
        render = wire_openai.chat if call.endpoint == "chat" else wire_openai.response
        return render(call, number, created, content, output, cut=cut)

    def count(self, call: Call) -> bytes:
        raise AssertionError("OpenAI's wire has no place that counts")

    def frames(self, call: Call, number: int, created: int) -> Stream:
        if call.endpoint == "chat":
            return wire_openai.ChatStream(call, number, created)
        return wire_openai.ResponsesStream(call, number, created)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {
            **super().head(number, seconds),
            "openai-organization": "org-emulated",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(int(seconds * 1000)),
        }

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        if status == 400:
            return place.api == "chat"
        return not (stream and place.api == "responses") or config.responses_stream_headers

    def bad_json(self) -> Answer:
        return wire_openai.bad_json()

    def unknown_model(self, model: object) -> Answer:
        return wire_openai.unknown_model(model)

    def not_found(self, method: str, path: str) -> Answer:
        return wire_openai.not_found(method, path)

    def auth(self) -> Answer:
        return wire_openai.auth()

    def billing(self) -> Answer:
        return wire_openai.billing()

    def overloaded(self) -> Answer:
        return wire_openai.overloaded()

    def server_error(self) -> Answer:
        return wire_openai.server_error()

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        return wire_openai.quota(rejected, call.model, retry_after=config.retry_after)
