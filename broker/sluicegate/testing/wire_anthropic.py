# SPDX-License-Identifier: Apache-2.0
"""Anthropic's wire: requests in, JSON, server-sent events and errors out, in the provider's own words."""

from __future__ import annotations

import math
from typing import Any

from sluicegate.testing import tokens
from sluicegate.testing.calls import (
    EVENTS,
    Answer,
    BadRequestError,
    Call,
    Json,
    encode,
    event,
    texts_of,
    user_of,
    whole,
)
from sluicegate.testing.faults import Fault
from sluicegate.testing.limits import Demand, Rejected

_TEXT = ("text",)
_UNIT = {"requests": "requests", "tokens": "tokens", "input_tokens": "input tokens", "output_tokens": "output tokens"}
_DAY = 3600.0
_MESSAGE_OVERHEAD = 4
_IMAGE_TOKENS = 1500


def error(status: int, outcome: str, kind: str, message: str, *, retry: bool, number: int = 0) -> Answer:
    """An error in Anthropic's shape; `retry` is what `x-should-retry` says."""
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": f"req_emulated{number:012d}",
    }
    return Answer(status, encode(body), outcome, {"x-should-retry": "true" if retry else "false"})


def invalid(message: str) -> Answer:
    return error(400, "invalid", "invalid_request_error", message, retry=False)


def bad_json() -> Answer:
    return invalid("The request body is not valid JSON")


def unknown_model(model: object) -> Answer:
    return error(404, "invalid", "not_found_error", f"model: {str(model)[:100]}", retry=False)


def not_found() -> Answer:
    return error(404, "invalid", "not_found_error", "Not Found", retry=False)


def auth() -> Answer:
    return error(401, "auth", "authentication_error", "invalid x-api-key", retry=False)


def billing() -> Answer:
    message = (
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
        "purchase credits."
    )
    return error(400, "billing", "invalid_request_error", message, retry=False)


def overloaded() -> Answer:
    return error(529, "overloaded", "overloaded_error", "Overloaded", retry=True)


def server_error() -> Answer:
    return error(500, "server_error", "api_error", "Internal server error", retry=True)


REFUSALS = {
    Fault.FORBIDDEN: error(
        403,
        "auth",
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
        retry=False,
    ),
    Fault.CONTEXT_LENGTH: error(
        400, "invalid", "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", retry=False
    ),
    Fault.CONTENT_POLICY: error(
        400, "invalid", "invalid_request_error", "Output blocked by content filtering policy", retry=False
    ),
}


def too_many_connections() -> Answer:
    message = (
        "Number of concurrent connections has exceeded your rate limit. Please try again later or contact sales at "
        "https://www.anthropic.com/contact-sales to discuss your options for a rate limit increase."
    )
    return error(429, "quota", "rate_limit_error", message, retry=True)


def quota(rejected: Rejected) -> Answer:
    """The 429 of a rejected call. `retry-after` is when this call would fit, rounded up to a second; a call that can
    never fit is told the same as any other, with the time until the bucket is full."""
    meter = rejected.meter
    period = "day" if meter.window > _DAY else "minute"
    message = (
        f"This request would exceed the rate limit for your organization (org-emulated) of {round(meter.limit):,} "
        f"{_UNIT[meter.resource]} per {period}. For details, refer to: https://docs.anthropic.com/en/api/rate-limits. "
        "You can see the response headers for current usage. Please reduce the prompt length or the maximum tokens "
        "requested, or try again later. You may also contact sales at https://www.anthropic.com/contact-sales to "
        "discuss your options for a rate limit increase."
    )
    outcome = "too_large" if rejected.kind == "too_large" else "quota"
    answer = error(429, outcome, "rate_limit_error", message, retry=True)
    wait = meter.reset if math.isinf(rejected.wait) else rejected.wait
    answer.headers["retry-after"] = str(max(1, math.ceil(wait)))
    return answer


def parse_messages(body: Json, model: str, *, counting: bool = False) -> Call:
    """A message (or its count). Raises BadRequestError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(invalid("messages: Field required"))
    bound = whole(body, "max_tokens")
    if bound is None and not counting:
        raise BadRequestError(invalid("max_tokens: Field required"))
    used, chars = 0, 0
    system, _ = texts_of(body.get("system"), _TEXT)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequestError(invalid(f"messages.{index}: Input does not match the expected shape."))
        content, images = texts_of(message.get("content"), _TEXT)
        used += _MESSAGE_OVERHEAD + tokens.anthropic_tokens(content) + images * _IMAGE_TOKENS
        chars += len(content) + images * _IMAGE_TOKENS * 4
    used += tokens.anthropic_tokens(system) + 3
    estimate = (chars + len(system) + 3) // 4 + 7 * len(messages)
    return Call(
        "messages",
        model,
        stream=body.get("stream") is True,
        demand=Demand(tokens=estimate, input_tokens=estimate),
        charge=estimate,
        prompt_tokens=used,
        bound=bound,
        user=user_of(body),
    )


def count(call: Call) -> bytes:
    """The answer of count_tokens."""
    return encode({"input_tokens": call.prompt_tokens})


def _usage(call: Call, output: int) -> dict[str, Any]:
    return {
        "input_tokens": call.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "service_tier": "standard",
    }


def _message(call: Call, number: int, content: list[dict[str, Any]], stop: str | None, output: int) -> dict[str, Any]:
    return {
        "model": call.model,
        "id": f"msg_emulated{number:012d}",
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": _usage(call, output),
    }


def message(call: Call, number: int, content: str, output: int, *, cut: bool) -> bytes:
    """A message as JSON."""
    stop = "max_tokens" if cut else "end_turn"
    return encode(_message(call, number, [{"type": "text", "text": content}], stop, output))


class MessagesStream:
    """The events of a message. Usage: a tiny placeholder at the start, cumulative figures at the end."""

    mime = EVENTS

    def __init__(self, call: Call, number: int) -> None:
        self._call, self._number = call, number

    def opening(self) -> bytes:
        start = {"type": "message_start", "message": _message(self._call, self._number, [], None, 1)}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return event("message_start", start) + event("content_block_start", block) + event("ping", {"type": "ping"})

    def delta(self, text: str, tokens: int) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return event("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        usage = _usage(self._call, output_tokens)
        del usage["cache_creation"], usage["service_tier"]
        delta = {"stop_reason": "max_tokens" if cut else "end_turn", "stop_sequence": None}
        return (
            event("content_block_stop", {"type": "content_block_stop", "index": 0})
            + event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
            + event("message_stop", {"type": "message_stop"})
        )

    def overload(self) -> bytes:
        detail = {"details": None, "type": "overloaded_error", "message": "Overloaded"}
        return event("error", {"type": "error", "error": detail})
