# SPDX-License-Identifier: Apache-2.0
"""The degraded answer: a configured message in the provider's own success shape, whole or as a stream."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import orjson

from sluicegate.sidecar.core.providers.api import Wire

DEFAULT_MESSAGE = "The service is busy. Please try again in a minute."
JSON = "application/json"
EVENTS = "text/event-stream"


def degraded_answer(
    wire: Wire, message: str, *, model: str, call_id: str, created: int, stream: bool, query: str = ""
) -> tuple[str, bytes] | None:
    """Content type and body; None for an API whose answers no text can stand in for. `created`: epoch seconds.

    `query`: of the request, with its question mark; a stream of Google's is events only where it says `alt=sse`.
    """
    text = message or DEFAULT_MESSAGE
    match wire:
        case Wire.CHAT | Wire.FIM:
            return _chat(text, model, call_id, created, stream)
        case Wire.MESSAGES:
            return _messages(text, model, call_id, stream)
        case Wire.RESPONSES:
            return _responses(text, model, call_id, created, stream)
        case Wire.COMPLETIONS:
            head = {"id": f"cmpl-{call_id}", "object": "text_completion", "created": created, "model": model}
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}
            if stream:
                return EVENTS, _data({**head, "choices": [choice]}) + b"data: [DONE]\n\n"
            return JSON, orjson.dumps({**head, "choices": [choice], "usage": _OPENAI_USAGE})
        case Wire.GENERATE:
            return _generate(text, model, call_id, stream, ("alt", "sse") in parse_qsl(query.lstrip("?")))
        case Wire.EMBEDDINGS | Wire.EMBED:
            return None


_OPENAI_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"event: " + str(body["type"]).encode() + b"\n" + _data(body)


def _chat(text: str, model: str, call_id: str, created: int, stream: bool) -> tuple[str, bytes]:
    head = {"id": f"chatcmpl-{call_id}", "created": created, "model": model}
    if not stream:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return JSON, orjson.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": _OPENAI_USAGE})
    head["object"] = "chat.completion.chunk"
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": text}, None), ({}, "stop")]
    chunks = [
        _data({**head, "choices": [{"index": 0, "delta": d, "logprobs": None, "finish_reason": r}]}) for d, r in deltas
    ]
    return EVENTS, b"".join(chunks) + b"data: [DONE]\n\n"


def _generate(text: str, model: str, call_id: str, stream: bool, events: bool) -> tuple[str, bytes]:
    """Google's: a stream has the shape of the whole in each piece, as events or as one JSON array."""
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": call_id}
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
