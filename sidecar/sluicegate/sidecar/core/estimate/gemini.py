# SPDX-License-Identifier: Apache-2.0
"""The input of Gemini's generateContent, embedContent and their like, in either spelling of its field names."""

from __future__ import annotations

from typing import Any

from sluicegate.sidecar.core.estimate.images import gemini_media
from sluicegate.sidecar.core.estimate.tally import Tally, as_dict, as_list


def speaks(body: dict[str, Any]) -> bool:
    """Has `body` the shape of a Gemini request?"""
    return "contents" in body or "content" in body or "requests" in body


def generate(tally: Tally, body: dict[str, Any]) -> None:
    """Contents, system instruction, tools, response schema."""
    tally.exact = False
    tally.divisor = 3.0
    _content(tally, _either(body, "systemInstruction", "system_instruction"))
    if as_list(body.get("tools")):
        tally.json(body["tools"])
    config = as_dict(_either(body, "generationConfig", "generation_config"))
    schema = _either(config, "responseSchema", "response_schema") or config.get("responseJsonSchema")
    if schema is not None:
        tally.json(schema)
    for request in as_list(body.get("requests")):  # batchEmbedContents
        _content(tally, as_dict(request).get("content"))
    _content(tally, body.get("content"))
    given: object = body.get("contents")
    items = as_list(given)
    if not items:
        _content(tally, given)
    for item in items:
        tally.add(1)
        _content(tally, item)


def _either(body: dict[str, Any], camel: str, snake: str) -> object:
    return body.get(camel, body.get(snake))


def _parts(content: dict[str, Any]) -> list[Any]:
    return as_list(content.get("parts")) or [content.get("parts")]


def _content(tally: Tally, value: object) -> None:
    if isinstance(value, str):
        tally.text(value)
        return
    content = as_dict(value)
    if not content:
        return
    for item in _parts(content) if "parts" in content else [content]:
        part = as_dict(item)
        if isinstance(item, str):
            tally.text(item)
        elif "text" in part:
            tally.text(part["text"])
        elif inline := as_dict(_either(part, "inlineData", "inline_data")):
            _media(tally, inline, inline.get("data"))
        elif linked := as_dict(_either(part, "fileData", "file_data")):
            _media(tally, linked, None)
        elif part:
            tally.json(part)


def _media(tally: Tally, blob: dict[str, Any], data: object) -> None:
    mime = _either(blob, "mimeType", "mime_type")
    kind = mime if isinstance(mime, str) else ""
    tokens = gemini_media(kind, data if isinstance(data, str) else None)
    if kind.startswith("image/"):
        tally.image(tokens)
    else:
        tally.media(tokens)
