# SPDX-License-Identifier: Apache-2.0
"""OpenAI's wire: requests in, JSON, server-sent events and errors out, in the provider's own words."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from sluicegate.testing import text, tokens
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
from sluicegate.testing.limits import (
    AdmissionRule,
    Demand,
    Rejected,
    embeddings_charge,
    go_duration,
    openai_charge,
)

_TEXT = ("text", "input_text", "output_text")
_UNIT = {"requests": "requests", "tokens": "tokens", "input_tokens": "input tokens", "output_tokens": "output tokens"}
_DAY = 3600.0


def error(status: int, outcome: str, message: str, kind: str, code: str | None, param: str | None = None) -> Answer:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Answer(status, encode(body), outcome)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Answer:
    return error(400, "invalid", message, "invalid_request_error", code, param)


def bad_json() -> Answer:
    return invalid("We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.")


def unknown_model(model: object) -> Answer:
    message = f"The model `{str(model)[:100]}` does not exist or you do not have access to it."
    return error(404, "invalid", message, "invalid_request_error", "model_not_found")


def not_found(method: str, path: str) -> Answer:
    return error(404, "invalid", f"Invalid URL ({method} {path[:200]})", "invalid_request_error", None)


def auth() -> Answer:
    message = (
        "Incorrect API key provided: sk-***. You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return error(401, "auth", message, "invalid_request_error", "invalid_api_key")


def billing() -> Answer:
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    return error(429, "billing", message, "insufficient_quota", "insufficient_quota")


def overloaded() -> Answer:
    message = "The engine is currently overloaded, please try again later"
    return error(503, "overloaded", message, "service_unavailable_error", "server_is_overloaded")


def server_error() -> Answer:
    message = "The server had an error while processing your request. Sorry about that!"
    return error(500, "server_error", message, "server_error", None)


REFUSALS = {
    Fault.FORBIDDEN: error(
        403, "auth", "You are not allowed to sample from this model.", "invalid_request_error", None
    ),
    Fault.CONTEXT_LENGTH: invalid(
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 140000 tokens. "
        "Please reduce the length of the messages.",
        "messages",
        "context_length_exceeded",
    ),
    Fault.CONTENT_POLICY: invalid("Your request was rejected by our safety system.", code="content_policy_violation"),
}


def quota(rejected: Rejected, model: str, *, retry_after: bool) -> Answer:
    """The 429 of a rejected call: wait = (Used + Requested - Limit) / Limit * window, as in recorded ones."""
    meter = rejected.meter
    unit = _UNIT[meter.resource]
    period, letter = ("day", "D") if meter.window > _DAY else ("min", "M")
    short = {"requests": "R", "tokens": "T", "input_tokens": "ITP", "output_tokens": "OTP"}[meter.resource]
    short = f"{short}{letter}" if len(short) == 3 else f"{short}P{letter}"
    where = f"for {model} in organization org-emulated on {unit} per {period} ({short}): Limit {round(rejected.limit)}"
    visit = "Visit https://platform.openai.com/account/rate-limits to learn more."
    kind = "requests" if meter.resource == "requests" else "tokens"
    requested = math.ceil(rejected.requested)
    if rejected.kind == "too_large":
        message = (
            f"Request too large {where}, Requested {requested}. The input or output tokens must be reduced in order "
            f"to run successfully. {visit}"
        )
        return error(429, "too_large", message, kind, "rate_limit_exceeded")
    hint = go_duration(rejected.wait, up=True)
    message = (
        f"Rate limit reached {where}, Used {rejected.used}, Requested {requested}. Please try again in {hint}. {visit}"
    )
    answer = error(429, "quota", message, kind, "rate_limit_exceeded")
    if retry_after:
        answer.headers["retry-after"] = str(math.ceil(rejected.wait))
        answer.headers["retry-after-ms"] = str(math.ceil(rejected.wait * 1000))
    return answer


def parse_chat(body: Json, model: str, rule: AdmissionRule) -> Call:
    """A chat completion. Raises BadRequestError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(
            invalid("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
        )
    turns: list[tuple[str, str]] = []
    images = 0
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequestError(
                invalid("Invalid type for 'messages': expected an object.", "messages", "invalid_type")
            )
        content, count = texts_of(message.get("content"), _TEXT)
        turns.append((str(message.get("role", "user")), content))
        images += count
    return _call("chat", body, model, rule, turns, images, whole(body, "max_completion_tokens", "max_tokens"))


def parse_responses(body: Json, model: str, rule: AdmissionRule) -> Call:
    """A response. Raises BadRequestError."""
    given = body.get("input")
    turns: list[tuple[str, str]] = []
    images = 0
    if isinstance(body.get("instructions"), str):
        turns.append(("system", body["instructions"]))
    if isinstance(given, str):
        turns.append(("user", given))
    elif isinstance(given, list) and given:
        for item in given:
            if isinstance(item, dict):
                content, count = texts_of(item.get("content"), _TEXT)
                turns.append((str(item.get("role", "user")), content))
                images += count
    else:
        raise BadRequestError(invalid("Missing required parameter: 'input'.", "input", "missing_required_parameter"))
    return _call("responses", body, model, rule, turns, images, whole(body, "max_output_tokens"))


def parse_embeddings(body: Json, model: str) -> Call:
    """Embeddings. Raises BadRequestError."""
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs:
        raise BadRequestError(invalid("Missing required parameter: 'input'.", "input", "missing_required_parameter"))
    if all(isinstance(item, int) for item in inputs):
        inputs = [inputs]
    chars = [len(item) if isinstance(item, str) else 4 * len(item) for item in inputs if isinstance(item, str | list)]
    used = sum(
        tokens.openai_tokens(item, model) if isinstance(item, str) else len(item)
        for item in inputs
        if isinstance(item, str | list)
    )
    charge = embeddings_charge(chars)
    return Call(
        "embeddings",
        model,
        stream=False,
        demand=Demand(tokens=charge, input_tokens=charge),
        charge=charge,
        prompt_tokens=used,
        copies=len(inputs),
        user=user_of(body),
        dimensions=min(whole(body, "dimensions") or (3072 if "large" in model else 1536), 4096),
        base64=body.get("encoding_format") == "base64",
        generates=False,
    )


def _call(
    endpoint: str,
    body: Json,
    model: str,
    rule: AdmissionRule,
    turns: list[tuple[str, str]],
    images: int,
    bound: int | None,
) -> Call:
    copies = max(1, min(whole(body, "n") or 1, 128)) if endpoint == "chat" else 1
    chars = [len(content) for _, content in turns]
    charge = openai_charge(rule, chars, max_tokens=bound, n=copies, images=images)
    options = body.get("stream_options")
    return Call(
        endpoint,
        model,
        stream=body.get("stream") is True,
        demand=Demand(tokens=charge, input_tokens=sum((count + 3) // 4 for count in chars)),
        charge=charge,
        prompt_tokens=tokens.chat_tokens(turns, model) + images * 85,
        bound=bound,
        copies=copies,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        user=user_of(body),
    )


def usage(call: Call, output: int) -> dict[str, Any]:
    """Usage as chat completions state it."""
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": call.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat(call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
    """A chat completion as JSON. `output`: tokens over all choices."""
    choice: dict[str, Any] = {
        "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "length" if cut else "stop",
    }
    return encode(
        {
            "id": f"chatcmpl-emulated{number:012d}",
            "object": "chat.completion",
            "created": created,
            "model": call.model,
            "choices": [{"index": index, **choice} for index in range(call.copies)],
            "usage": usage(call, output),
            "service_tier": "default",
            "system_fingerprint": "fp_emulated",
        }
    )


class ChatStream:
    """The chunks of a chat completion."""

    mime = EVENTS

    def __init__(self, call: Call, number: int, created: int) -> None:
        self._call = call
        self._head = {
            "id": f"chatcmpl-emulated{number:012d}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": call.model,
            "service_tier": "default",
            "system_fingerprint": "fp_emulated",
        }

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None}, None)

    def delta(self, text: str, tokens: int) -> bytes:
        return self._chunk({"content": text}, None)

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        out = self._chunk({}, "length" if cut else "stop")
        if self._call.include_usage:
            out += self._frame([], {"usage": usage(self._call, output_tokens)})
        return out + b"data: [DONE]\n\n"

    def overload(self) -> bytes:
        return b"data: %b\n\n" % overloaded().body

    def _chunk(self, delta: dict[str, Any], finish: str | None, more: dict[str, Any] | None = None) -> bytes:
        extra: dict[str, Any] = more or ({"usage": None} if self._call.include_usage else {})
        choice: dict[str, Any] = {"delta": delta, "logprobs": None, "finish_reason": finish}
        return b"".join(self._frame([{"index": index, **choice}], extra) for index in range(self._call.copies))

    def _frame(self, choices: list[dict[str, Any]], extra: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % encode({**self._head, "choices": choices, **extra})


def _response(call: Call, number: int, created: int, status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"resp_emulated{number:012d}",
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": call.bound,
        "model": call.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
        **more,
    }


def _message(number: int, content: str | None) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": content}
    return {
        "id": f"msg_emulated{number:012d}",
        "type": "message",
        "status": "in_progress" if content is None else "completed",
        "role": "assistant",
        "content": [] if content is None else [part],
    }


def _finished(call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> dict[str, Any]:
    usage = {
        "input_tokens": call.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": call.prompt_tokens + output,
    }
    more = {"output": [_message(number, content)], "usage": usage}
    if cut:
        details = {"reason": "max_output_tokens"}
        return _response(call, number, created, "incomplete", incomplete_details=details, **more)
    return _response(call, number, created, "completed", **more)


def response(call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
    """A response as JSON."""
    return encode(_finished(call, number, created, content, output, cut=cut))


class ResponsesStream:
    """The events of a response."""

    mime = EVENTS

    def __init__(self, call: Call, number: int, created: int) -> None:
        self._call, self._number, self._created = call, number, created
        self._sequence = 0
        self._text: list[str] = []
        self._at = {"item_id": f"msg_emulated{number:012d}", "output_index": 0, "content_index": 0}

    def opening(self) -> bytes:
        begun = _response(self._call, self._number, self._created, "in_progress")
        part: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=_message(self._number, None))
            + self._event("response.content_part.added", **self._at, part=part)
        )

    def delta(self, text: str, tokens: int) -> bytes:
        self._text.append(text)
        return self._event("response.output_text.delta", **self._at, delta=text, logprobs=[])

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        content = "".join(self._text)
        item = _message(self._number, content)
        done = _finished(self._call, self._number, self._created, content, output_tokens, cut=cut)
        return (
            self._event("response.output_text.done", **self._at, text=content, logprobs=[])
            + self._event("response.content_part.done", **self._at, part=item["content"][0])
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event("response.incomplete" if cut else "response.completed", response=done)
        )

    def overload(self) -> bytes:
        message = "Our servers are currently overloaded. Please try again later."
        code = "server_is_overloaded"
        detail = {"type": "service_unavailable_error", "code": code, "message": message, "param": None}
        failed = {"code": "server_error", "message": message}
        body = _response(self._call, self._number, self._created, "failed", error=failed)
        return self._event("error", error=detail) + self._event("response.failed", response=body)

    def _event(self, name: str, **data: Any) -> bytes:
        out = event(name, {"type": name, "sequence_number": self._sequence, **data})
        self._sequence += 1
        return out


def embeddings(call: Call, number: int) -> bytes:
    """Embeddings as JSON."""
    data = []
    for index in range(call.copies):
        vector = text.embedding(call.prompt_tokens * 31 + index, call.dimensions)
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if call.base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": packed})
    usage = {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens}
    return encode({"object": "list", "data": data, "model": call.model, "usage": usage})


def models(names: list[str]) -> bytes:
    """The list of models."""
    data = [{"id": name, "object": "model", "created": 1_686_935_002, "owned_by": "emulator"} for name in names]
    return encode({"object": "list", "data": data})
