# SPDX-License-Identifier: Apache-2.0
"""Degraded answers in the shapes that no test with a real SDK covers; the others: tests/sdk/test_fallbacks.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluicegate.sidecar.core.degraded import DEFAULT_MESSAGE, degraded_answer
from sluicegate.sidecar.core.providers import Wire


def answer(
    wire: Wire, message: str = "busy", asked: dict[str, Any] | None = None, *, stream: bool = False, query: str = ""
) -> tuple[str, bytes] | None:
    return degraded_answer(wire, message, asked or {}, model="m", call_id="1", created=1, stream=stream, query=query)


def pieces(made: tuple[str, bytes] | None) -> list[dict[str, Any]]:
    assert made is not None
    lines = made[1].decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize(
    ("stream", "query", "kind"),
    [
        (False, "", "application/json"),
        (True, "", "application/json"),
        (True, "?alt=sse&key=x", "text/event-stream"),
    ],
)
def test_googles_answer_whole_as_an_array_and_as_events(stream: bool, query: str, kind: str):
    made = answer(Wire.GENERATE, stream=stream, query=query)
    assert made is not None
    content_type, data = made
    assert content_type == kind
    if kind == "text/event-stream":
        assert data.startswith(b"data: ")
        assert data.endswith(b"\r\n\r\n")
    body = json.loads(data.removeprefix(b"data: "))
    (piece,) = body if stream and not query else [body]
    (candidate,) = piece["candidates"]
    assert candidate["content"] == {"parts": [{"text": "busy"}], "role": "model"}
    assert candidate["finishReason"] == "STOP"
    assert piece["usageMetadata"]["totalTokenCount"] == 0


def test_fill_in_the_middle_is_answered_as_a_chat():
    made = answer(Wire.FIM, "")
    assert made is not None
    assert json.loads(made[1])["choices"][0]["message"]["content"] == DEFAULT_MESSAGE


@pytest.mark.parametrize("wire", [Wire.EMBED, Wire.EMBEDDINGS])
def test_no_text_stands_in_for_an_embedding(wire: Wire):
    assert answer(wire) is None


def test_as_many_choices_as_were_asked_for():
    made = answer(Wire.CHAT, asked={"n": 3})
    assert made is not None
    assert [choice["index"] for choice in json.loads(made[1])["choices"]] == [0, 1, 2]
    said = pieces(answer(Wire.CHAT, asked={"n": 2}, stream=True))
    assert [(p["choices"][0]["index"], p["choices"][0]["finish_reason"]) for p in said] == [
        (0, None),
        (0, "stop"),
        (1, None),
        (1, "stop"),
    ]
    for prompt, count in (("a", 2), (["a", "b"], 4), ([1, 2, 3], 2), ([[1], [2, 3]], 4)):
        made = answer(Wire.COMPLETIONS, asked={"n": 2, "prompt": prompt})
        assert made is not None
        assert [choice["index"] for choice in json.loads(made[1])["choices"]] == list(range(count))
    made = answer(Wire.GENERATE, asked={"generationConfig": {"candidateCount": 2}})
    assert made is not None
    assert len(json.loads(made[1])["candidates"]) == 2


@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.COMPLETIONS])
def test_a_stream_ends_with_usage_where_that_was_asked_for(wire: Wire):
    last = pieces(answer(wire, asked={"stream_options": {"include_usage": True}}, stream=True))[-1]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 0)
    assert all("usage" not in piece for piece in pieces(answer(wire, stream=True)))


JSON_ASKED: list[tuple[Wire, dict[str, Any]]] = [
    (Wire.CHAT, {"response_format": {"type": "json_object"}}),
    (Wire.CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}),
    (Wire.RESPONSES, {"text": {"format": {"type": "json_schema"}}}),
    (Wire.MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}),
    (Wire.GENERATE, {"generationConfig": {"responseMimeType": "application/json"}}),
]


@pytest.mark.parametrize(("wire", "asked"), JSON_ASKED)
def test_who_asked_for_json_gets_json_or_the_next_fallback(wire: Wire, asked: dict[str, Any]):
    assert answer(wire, "busy", asked) is None
    assert answer(wire, '{"busy": true}', asked) is not None


@pytest.mark.parametrize(
    ("wire", "asked", "forced"),
    [
        (Wire.CHAT, {"tool_choice": "required"}, True),
        (Wire.CHAT, {"tool_choice": "auto"}, False),
        (Wire.CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, True),
        (Wire.CHAT, {"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, False),
        (Wire.RESPONSES, {"tool_choice": {"type": "allowed_tools", "mode": "required"}}, True),
        (Wire.MESSAGES, {"tool_choice": {"type": "any"}}, True),
        (Wire.MESSAGES, {"tool_choice": {"type": "auto"}}, False),
        (Wire.GENERATE, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, True),
        (Wire.GENERATE, {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}, False),
    ],
)
def test_no_text_stands_in_for_a_tool_call_that_is_demanded(wire: Wire, asked: dict[str, Any], forced: bool):
    assert (answer(wire, asked=asked) is None) == forced
