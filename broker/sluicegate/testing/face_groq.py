# SPDX-License-Identifier: Apache-2.0
"""Groq: OpenAI's chat and embeddings with limits by the day, usage in `x_groq`, and errors in words of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.testing import wire_openai
from sluicegate.testing.calls import Answer, Call, encode, event
from sluicegate.testing.face import Face, Place
from sluicegate.testing.face_openai import OpenAIFace
from sluicegate.testing.formats import go_duration
from sluicegate.testing.limits import Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_DAY = 3600.0


def error(status: int, outcome: str, message: str, kind: str, code: str | None = None) -> Answer:
    """An error in Groq's shape: OpenAI's without `param`."""
    inner = {"message": message, "type": kind} | ({"code": code} if code else {})
    return Answer(status, encode({"error": inner}), outcome)


class GroqStream(wire_openai.ChatStream):
    """The chunks of a chat completion: `x_groq` in the first, and with the usage in the last, asked for or not."""

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, None, {"x_groq": {"id": self._head["id"]}})

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        inner: dict[str, Any] = {"id": self._head["id"], "usage": wire_openai.usage(self._call, output_tokens)}
        return self._chunk({}, "length" if cut else "stop", {"x_groq": inner}) + b"data: [DONE]\n\n"

    def overload(self) -> bytes:
        detail = {"message": _BUSY, "type": "internal_server_error", "code": "over_capacity", "status_code": 503}
        return event("error", {"error": detail})


_BUSY = "The model is currently over capacity. Please try again and back off exponentially."


class GroqFace(OpenAIFace):
    """`x-ratelimit-*-requests` are by the day, `-tokens` by the minute; what else there is no header names."""

    wire: ClassVar[Wire] = "groq"
    base = "/openai/v1"

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        place = super().place(path, query)
        return None if place is None or place.api == "responses" else place

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return Face.credential(self, headers, query)

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        body = super().whole(call, number, created, content, output, cut=cut)
        if call.endpoint == "embeddings":
            return body
        return body[:-1] + b',"x_groq":' + encode({"id": f"req_emulated{number:012d}"}) + b"}"

    def frames(self, call: Call, number: int, created: int) -> GroqStream:
        return GroqStream(call, number, created)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return Face.head(self, number, seconds)

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        return status in (200, 429)

    def auth(self) -> Answer:
        return error(401, "auth", "Invalid API Key", "invalid_request_error", "invalid_api_key")

    def billing(self) -> Answer:
        message = "Your account has reached its spend limit. Raise it at https://console.groq.com/settings/billing."
        return error(402, "billing", message, "invalid_request_error", "blocked_api_access")

    def overloaded(self) -> Answer:
        return error(503, "overloaded", _BUSY, "internal_server_error", "over_capacity")

    def server_error(self) -> Answer:
        return error(500, "server_error", "Internal Server Error", "internal_server_error")

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        """A 429; what no bucket holds is a 413 without any hint."""
        meter = rejected.meter
        kind = "requests" if meter.resource == "requests" else "tokens"
        period, letter = ("day", "D") if meter.window > _DAY else ("minute", "M")
        where = (
            f"for model `{call.model}` in organization `org_emulated` service tier `on_demand` on {kind} per {period} "
            f"({kind[0].upper()}P{letter}): Limit {round(rejected.limit)}"
        )
        requested = math.ceil(rejected.requested)
        more = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
        if rejected.kind == "too_large":
            message = (
                f"Request too large {where}, Requested {requested}, please reduce your message size and try again. "
                + more
            )
            return error(413, "too_large", message, kind, "rate_limit_exceeded")
        hint = go_duration(rejected.wait, up=True)
        message = (
            f"Rate limit reached {where}, Used {rejected.used}, Requested {requested}. Please try again in {hint}. "
            + more
        )
        answer = error(429, "quota", message, kind, "rate_limit_exceeded")
        if config.retry_after:
            answer.headers["retry-after"] = str(math.ceil(rejected.wait))
        return answer
