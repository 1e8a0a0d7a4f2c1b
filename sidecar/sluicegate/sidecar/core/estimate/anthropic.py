# SPDX-License-Identifier: Apache-2.0
"""The input of Anthropic's messages: blocks of text, images, documents, tool calls and their results.

About 7 tokens are added to a message. Tools add a system prompt of their own, 346 tokens for the Claude 3.5 to 4
families with `tool_choice` auto (Anthropic's guide on tool use).
"""

from __future__ import annotations

from typing import Any

from sluicegate.sidecar.core.estimate.images import anthropic_image, pages, size_of
from sluicegate.sidecar.core.estimate.tally import MAX_DEPTH, Tally, as_dict, as_list

_PER_MESSAGE = 7
_TOOLS_PROMPT = 346
_PAGE_TOKENS = 3_000
"""The upper end of what Anthropic states for a page of a PDF: its text, and the page as an image."""


def messages(tally: Tally, body: dict[str, Any]) -> None:
    """A request to /v1/messages."""
    tally.exact = False
    tally.divisor = 3.0
    _blocks(tally, body.get("system"), 0)
    if as_list(body.get("tools")):
        tally.json(body["tools"], _TOOLS_PROMPT)
    items = as_list(body.get("messages"))
    for item in items:
        tally.add(_PER_MESSAGE)
        _blocks(tally, as_dict(item).get("content"), 0)


def _blocks(tally: Tally, content: object, depth: int) -> None:
    if isinstance(content, str):
        tally.text(content)
        return
    for item in as_list(content):
        block = as_dict(item)
        match block.get("type"):
            case "text":
                tally.text(block.get("text"))
            case "thinking":
                tally.text(block.get("thinking"))
            case "image":
                data = as_dict(block.get("source")).get("data")
                tally.image(anthropic_image(size_of(data) if isinstance(data, str) else None))
            case "document":
                _document(tally, as_dict(block.get("source")), depth)
            case "tool_result" if depth < MAX_DEPTH:
                tally.add(_PER_MESSAGE)
                _blocks(tally, block.get("content"), depth + 1)
            case _:
                tally.json(item)


def _document(tally: Tally, source: dict[str, Any], depth: int) -> None:
    data = source.get("data")
    match source.get("type"):
        case "text":
            tally.text(data)
        case "content" if depth < MAX_DEPTH:
            _blocks(tally, source.get("content"), depth + 1)
        case _:
            tally.media(_PAGE_TOKENS * pages(data if isinstance(data, str) else None))
