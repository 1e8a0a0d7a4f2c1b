# SPDX-License-Identifier: Apache-2.0
"""The degraded answer: a configured message in the provider's own success shape, whole or as a stream.

In form it is what the request asked for: so many choices, usage at the end of a stream. Where no text can be that,
there is none: for embeddings, for a call that must end in a tool call, and for one that asked for JSON unless the
message is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson

from sluicegate.sidecar.core.providers.api import Wire

DEFAULT_MESSAGE = "The service is busy. Please try again in a minute."
JSON = "application/json"
EVENTS = "text/event-stream"


def degraded_answer(
    wire: Wire,
    message: str,
    asked: Mapping[str, Any],
    *,
    model: str,
    call_id: str,
    created: int,
    stream: bool,
    query: str,
) -> tuple[str, bytes] | None:
    """Content type and body; None where no text can stand in for the answer. `created`: epoch seconds.

    `asked`: the request's body. `query`: its raw query; a stream of Google's is events only where it says `alt=sse`.
    """
    text = message or DEFAULT_MESSAGE
    if _must_call(asked) or (_must_be_json(asked) and not _is_json(text)):
        return None
    match wire:
        case Wire.CHAT | Wire.FIM:
            return _chat(text, model, call_id, created, stream, asked)
        case Wire.MESSAGES:
            return _messages(text, model, call_id, stream)
        case Wire.RESPONSES:
            return _responses(text, model, call_id, created, stream)
        case Wire.COMPLETIONS:
            head = {"id": f"cmpl-{call_id}", "object": "text_completion", "created": created, "model": model}
            one = {"text": text, "logprobs": None, "finish_reason": "stop"}
            count = min(_count(asked.get("n")) * _prompts(asked.get("prompt")), _MAX_CHOICES)
            choices = [{**one, "index": index} for index in range(count)]
            if stream:
                return EVENTS, _data({**head, "choices": choices}) + _end(head, asked)
            return JSON, orjson.dumps({**head, "choices": choices, "usage": _OPENAI_USAGE})
        case Wire.GENERATE:
            events = ("alt", "sse") in parse_qsl(query.lstrip("?"))
            return _generate(
                text, model, call_id, stream, events, _count(_within(asked, "generationConfig", "candidateCount"))
            )
        case Wire.EMBEDDINGS | Wire.EMBED:
            return None


def _within(asked: Mapping[str, Any], *path: str) -> object:
    """What stands at `path` of the request; None: nothing."""
    value: object = asked
    for name in path:
        value = cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else None
    return value


_MAX_CHOICES = 2_048


def _count(value: object) -> int:
    return min(value, 128) if isinstance(value, int) and value > 0 else 1


def _prompts(prompt: object) -> int:
    """How many prompts there are: a list is of texts or of token lists, or is one token list."""
    items = cast("list[object]", prompt) if isinstance(prompt, list) else []
    return 1 if all(isinstance(item, int) for item in items) else len(items)


def _must_call(asked: Mapping[str, Any]) -> bool:
    """Whether the request leaves the model no answer but a tool call."""
    choice = asked.get("tool_choice")
    if isinstance(choice, Mapping):
        kind, mode = _within(asked, "tool_choice", "type"), _within(asked, "tool_choice", "mode")
        return kind not in ("auto", "none") and (kind != "allowed_tools" or mode == "required")
    return choice in ("required", "any") or _within(asked, "toolConfig", "functionCallingConfig", "mode") == "ANY"


_FORMATS = (
    ("response_format", "type"),
    ("text", "format", "type"),
    ("output_config", "format", "type"),
    ("output_format", "type"),
)


def _must_be_json(asked: Mapping[str, Any]) -> bool:
    kinds = {_within(asked, *path) for path in _FORMATS}
    mime = _within(asked, "generationConfig", "responseMimeType") or _within(
        asked, "generationConfig", "response_mime_type"
    )
    return bool(kinds & {"json_object", "json_schema"}) or mime == "application/json"


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


_OPENAI_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"event: " + str(body["type"]).encode() + b"\n" + _data(body)


def _end(head: Mapping[str, Any], asked: Mapping[str, Any]) -> bytes:
    """The end of a stream of OpenAI's, with usage where that was asked for."""
    usage = _data({**head, "choices": [], "usage": _OPENAI_USAGE})
    return (usage if _within(asked, "stream_options", "include_usage") is True else b"") + b"data: [DONE]\n\n"


def _chat(
    text: str, model: str, call_id: str, created: int, stream: bool, asked: Mapping[str, Any]
) -> tuple[str, bytes]:
    head = {"id": f"chatcmpl-{call_id}", "created": created, "model": model}
    numbers = range(_count(asked.get("n")))
    if not stream:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"message": message, "logprobs": None, "finish_reason": "stop"}
        choices = [{"index": index, **choice} for index in numbers]
        return JSON, orjson.dumps({**head, "object": "chat.completion", "choices": choices, "usage": _OPENAI_USAGE})
    head["object"] = "chat.completion.chunk"
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": text}, None), ({}, "stop")]
    chunks = [
        _data({**head, "choices": [{"index": index, "delta": d, "logprobs": None, "finish_reason": r}]})
        for index in numbers
        for d, r in deltas
    ]
    return EVENTS, b"".join(chunks) + _end(head, asked)


def _generate(text: str, model: str, call_id: str, stream: bool, events: bool, count: int) -> tuple[str, bytes]:
    """Google's: a stream has the shape of the whole in each piece, as events or as one JSON array."""
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    candidates = [{**candidate, "index": index} for index in range(count)]
    body = {"candidates": candidates, "usageMetadata": usage, "modelVersion": model, "responseId": call_id}
    if not stream:
        return JSON, orjson.dumps(body)
    return (EVENTS, b"data: " + orjson.dumps(body) + b"\r\n\r\n") if events else (JSON, orjson.dumps([body]))


def _messages(text: str, model: str, call_id: str, stream: bool) -> tuple[str, bytes]:
    usage = {"input_tokens": 0, "output_tokens": 0}
    head: dict[str, Any] = {"id": f"msg_{call_id}", "type": "message", "role": "assistant", "model": model}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    if not stream:
        return JSON, orjson.dumps({**head, "content": [{"type": "text", "text": text}], **end, "usage": usage})
    start: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 0}},
        {"type": "message_stop"},
    ]
    return EVENTS, b"".join(map(_event, events))


def _responses(text: str, model: str, call_id: str, created: int, stream: bool) -> tuple[str, bytes]:
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    item: dict[str, Any] = {"id": f"msg_{call_id}", "type": "message", "role": "assistant"}
    item |= {"status": "completed", "content": [part]}
    usage = {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    whole: dict[str, Any] = {
        "id": f"resp_{call_id}",
        "object": "response",
        "created_at": created,
        "model": model,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
    if not stream:
        return JSON, orjson.dumps(whole)
    place: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
    return EVENTS, b"".join(map(_event, numbered))
