# SPDX-License-Identifier: Apache-2.0
"""Mistral: OpenAI-like chat, fill in the middle and embeddings; usage in every stream's last chunk; real usage charged
when the call has ended, and told as `x-ratelimit-tokens-query-cost`. Streams carry no rate-limit headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.testing import text, tokens
from sluicegate.testing.calls import EVENTS, Answer, BadRequestError, Call, Json, encode, texts_of, whole
from sluicegate.testing.face import Face, Place
from sluicegate.testing.faults import Fault
from sluicegate.testing.limits import Demand, Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_APIS = {"/v1/chat/completions": "chat", "/v1/fim/completions": "fim", "/v1/embeddings": "embeddings"}
_TEXT = ("text",)
_MESSAGE_OVERHEAD = 4
_DIMENSIONS = 1024


def error(status: int, outcome: str, kind: str, message: object, code: str | None) -> Answer:
    """An error in Mistral's shape."""
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    return Answer(status, encode({**body, "raw_status_code": status}), outcome)


def _unprocessable(where: str, message: str) -> Answer:
    detail = {"detail": [{"type": "value_error", "loc": ["body", where], "msg": message}]}
    return error(422, "invalid", "invalid_request_message_error", detail, None)


_REFUSALS = {
    Fault.FORBIDDEN: Answer(403, encode({"detail": "You are not allowed to use this model."}), "auth"),
    Fault.CONTEXT_LENGTH: error(
        400,
        "invalid",
        "invalid_request_prompt",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "3051",
    ),
}


class MistralFace(Face):
    """A 429 says neither which limit nor how long."""

    wire: ClassVar[Wire] = "mistral"
    bills_afterwards = True
    refusal_costs = False
    refusals = _REFUSALS

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        api = _APIS.get(path)
        return None if api is None else Place(api)

    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        if "stream_options" in body:
            raise BadRequestError(_unprocessable("stream_options", "Extra inputs are not permitted"))
        copies, dimensions = 1, 0
        match place.api:
            case "chat":
                used = 1 + sum(
                    _MESSAGE_OVERHEAD + tokens.mistral_tokens(content) for content in _contents(body.get("messages"))
                )
            case "fim":
                used = sum(tokens.mistral_tokens(str(body.get(name) or "")) for name in ("prompt", "suffix")) + 1
            case _:
                given = body.get("input")
                inputs = [given] if isinstance(given, str) else given
                if not isinstance(inputs, list) or not inputs:
                    raise BadRequestError(_unprocessable("input", "Field required"))
                copies = len(inputs)
                used = sum(tokens.mistral_tokens(str(item)) + 1 for item in inputs)
                dimensions = min(whole(body, "output_dimension") or _DIMENSIONS, 4096)
        return Call(
            place.api,
            model,
            stream=body.get("stream") is True,
            demand=Demand(input_tokens=used),
            charge=used,
            prompt_tokens=used,
            bound=whole(body, "max_tokens"),
            copies=copies,
            dimensions=dimensions,
            generates=place.api != "embeddings",
        )

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        head = {"id": f"{number:032x}", "created": created, "model": call.model, "usage": _usage(call, output)}
        if not call.generates:
            data = [
                {"object": "embedding", "index": index, "embedding": text.embedding(number + index, call.dimensions)}
                for index in range(call.copies)
            ]
            return encode({**head, "object": "list", "data": data})
        message = {"role": "assistant", "tool_calls": None, "content": content}
        choice = {"index": 0, "finish_reason": "length" if cut else "stop", "message": message}
        return encode({**head, "object": "chat.completion", "choices": [choice]})

    def count(self, call: Call) -> bytes:
        raise AssertionError("Mistral's wire has no place that counts")

    def frames(self, call: Call, number: int, created: int) -> MistralStream:
        return MistralStream(call, number, created)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {"mistral-correlation-id": f"{number:032x}"}

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        return status == 200 and not stream

    def bad_json(self) -> Answer:
        return _unprocessable("body", "Input should be a valid dictionary")

    def unknown_model(self, model: object) -> Answer:
        return error(400, "invalid", "invalid_model", f"Invalid model: {str(model)[:100]}", "1500")

    def not_found(self, method: str, path: str) -> Answer:
        return Answer(404, encode({"message": "no Route matched with those values"}), "invalid")

    def auth(self) -> Answer:
        return Answer(401, encode({"detail": "Invalid API Key"}), "auth")

    def billing(self) -> Answer:
        return error(402, "billing", "invalid_request_error", "The workspace has reached its spending limit.", None)

    def overloaded(self) -> Answer:
        message = "Service tier capacity exceeded for this model."
        return error(429, "overloaded", "service_tier_capacity_exceeded", message, "3505")

    def server_error(self) -> Answer:
        return error(500, "server_error", "internal_server_error", "Service unavailable.", "1000")

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        return error(429, "quota", "rate_limited", "Rate limit exceeded", "1300")


def _contents(messages: object) -> list[str]:
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(_unprocessable("messages", "Field required"))
    return [texts_of(item.get("content"), _TEXT)[0] for item in messages if isinstance(item, dict)]


def _usage(call: Call, output: int) -> dict[str, Any]:
    return {
        "prompt_tokens": call.prompt_tokens,
        "total_tokens": call.prompt_tokens + output,
        "completion_tokens": output,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


class MistralStream:
    """The chunks of a completion. The last one ends it and carries the usage, asked for or not."""

    mime = EVENTS

    def __init__(self, call: Call, number: int, created: int) -> None:
        self._call = call
        self._head = {
            "id": f"{number:032x}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": call.model,
        }

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def delta(self, text: str, tokens: int) -> bytes:
        return self._chunk({"content": text}, None)

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        last = self._chunk({"content": ""}, "length" if cut else "stop", usage=_usage(self._call, output_tokens))
        return last + b"data: [DONE]\n\n"

    def overload(self) -> bytes:
        return b"data: %b\n\n" % MistralFace().overloaded().body

    def _chunk(self, delta: dict[str, str], finish: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: %b\n\n" % encode({**self._head, "choices": [choice], **more})
