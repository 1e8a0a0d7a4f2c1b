# SPDX-License-Identifier: Apache-2.0
"""The input of OpenAI's APIs, and of those that speak their language."""

from __future__ import annotations

import math
from typing import Any, cast

from sluicegate.sidecar.core.estimate.images import openai_image, size_of
from sluicegate.sidecar.core.estimate.models import plain, tools_extra
from sluicegate.sidecar.core.estimate.tally import MAX_DEPTH, Tally, as_dict, as_list, json_length

_AUDIO_TOKENS_PER_BYTE = 10 / 4_000
"""OpenAI: ten tokens a second of audio; MP3 at 32 kbit/s is the longest that so many bytes are likely to hold."""


def chat(tally: Tally, body: dict[str, Any], model: str) -> None:
    """Chat completions: 3 + sum(3 + role + content [+ 1 + name]), tools as JSON / 4 or more."""
    tally.add(3)
    _tools(tally, body.get("tools") or body.get("functions"), model)
    _format(tally, as_dict(body.get("response_format")).get("json_schema"))
    messages = as_list(body.get("messages"))
    for item in messages:
        message = as_dict(item)
        role = message.get("role")
        tally.add(3)
        tally.text(role)
        parts(tally, message.get("content"), model)
        if isinstance(message.get("name"), str):
            tally.add(1)
            tally.text(message["name"])
        for called in ("tool_calls", "function_call"):
            if message.get(called):
                tally.json(message[called])
        tally.exact = tally.exact and role in ("system", "user", "assistant")


def responses(tally: Tally, body: dict[str, Any], model: str) -> None:
    """Responses: not measured, so an upper bound by the rules of chat."""
    tally.exact = False
    tally.add(3)
    if isinstance(body.get("instructions"), str):
        tally.add(4)
        tally.text(body["instructions"])
    _tools(tally, body.get("tools"), model)
    _format(tally, as_dict(as_dict(body.get("text")).get("format")).get("schema"))
    given = body.get("input")
    if isinstance(given, str):
        tally.add(4)
        tally.text(given)
    items = as_list(given)
    for item in items:
        entry = as_dict(item)
        role = entry.get("role")
        tally.add(3)
        if "content" in entry:
            tally.text(role)
            parts(tally, entry["content"], model)
        elif entry.get("type") in ("function_call", "function_call_output"):
            for name in ("name", "arguments"):
                tally.text(entry.get(name))
            parts(tally, entry.get("output"), model)
            tally.add(8)
        else:
            tally.json(item)


def strings(tally: Tally, value: object) -> None:
    """A string, a list of strings, a list of tokens, or a list of lists of tokens."""
    if isinstance(value, str):
        tally.text(value)
    for item in as_list(value):
        if isinstance(item, str):
            tally.text(item)
        elif isinstance(item, list):
            _tokens(tally, len(cast("list[object]", item)))
        else:
            _tokens(tally, 1)


def _tokens(tally: Tally, count: int) -> None:
    tally.add(count)
    tally.characters += 4 * count


def _tools(tally: Tally, tools: object, model: str) -> None:
    """JSON / 4 was enough for all recorded tools, but is not for many short names or values: what OpenAI's cookbook
    counts, and what real counts were above it (23, of nested schemas 93), is the least."""
    listed = as_list(tools)
    if not listed:
        return
    told = [as_dict(as_dict(tool).get("function", tool)) for tool in listed]
    least = sum(
        13 + _words(f.get("name")) + _words(f.get("description")) + _schema(as_dict(f.get("parameters"))) for f in told
    )
    tally.json(tools, tools_extra(model), 12 + 23 + least)


_NESTING = frozenset({"properties", "items", "anyOf", "oneOf", "$defs"})


def _schema(schema: dict[str, Any], depth: int = 0) -> int:
    own = inner = 0
    for name, field in as_dict(schema.get("properties")).items():
        own += 3 + _words(name)
        if isinstance(field, dict):
            told = cast("dict[str, Any]", field)
            own += _words(told.get("type")) + _words(told.get("description")) + _values(told.get("enum"))
            inner += _inner(told, depth)
    several = [schema["items"]] if "items" in schema else []
    for key in ("anyOf", "oneOf", "$defs"):
        if key in schema:
            several += as_list(schema[key]) or as_dict(schema[key]).values()
    for one in several:
        told = as_dict(one)
        inner += _values(told.get("enum")) + _inner(told, depth)
    return own + inner + (70 if depth == 0 and inner else 0)


def _inner(schema: dict[str, Any], depth: int) -> int:
    return 0 if depth == MAX_DEPTH or _NESTING.isdisjoint(schema) else _schema(schema, depth + 1)


def _values(enum: object) -> int:
    return sum(3 + _words(value) for value in cast("list[object]", enum)) if isinstance(enum, list) else 0


def _words(value: object) -> int:
    if isinstance(value, str) and value.isascii():
        return (len(value) + 5) // 4
    return 0 if value is None else math.ceil(json_length(value) / 4)


def _format(tally: Tally, schema: object) -> None:
    if schema is not None:
        tally.json(schema)


def parts(tally: Tally, content: object, model: str) -> None:
    """A message's content: a string, or a list of typed parts."""
    if isinstance(content, str):
        tally.text(content)
        return
    found = as_list(content)
    tally.exact = tally.exact and len(found) <= 1
    for item in found:
        if isinstance(item, str):
            tally.text(item)
            continue
        part = as_dict(item)
        kind = str(part.get("type", ""))
        if "image" in kind:
            _image(tally, part, model)
        elif "text" in kind or kind == "refusal":
            tally.text(part.get("text", part.get("refusal")))
        elif "audio" in kind:
            data = as_dict(part.get("input_audio")).get("data")
            tally.media(64 + int(_AUDIO_TOKENS_PER_BYTE * 0.75 * len(data)) if isinstance(data, str) else 600)
        else:
            tally.json({k: v for k, v in part.items() if k not in ("file", "file_data")})
            data = as_dict(part.get("file")).get("file_data", part.get("file_data"))
            if isinstance(data, str):
                tally.media(min(json_length(data) // 20, 200_000))


def _image(tally: Tally, part: dict[str, Any], model: str) -> None:
    where = part.get("image_url")
    told = as_dict(where)
    url = told.get("url") if told else where
    detail = told.get("detail", part.get("detail"))
    size = size_of(url) if isinstance(url, str) else None
    tally.image(openai_image(plain(model), size, detail if isinstance(detail, str) else "auto"))
