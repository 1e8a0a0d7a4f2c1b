# SPDX-License-Identifier: Apache-2.0
"""Degraded answers in the shapes that no test with a real SDK covers yet; the others: tests/proxy."""

from __future__ import annotations

import json

import pytest

from sluicegate.sidecar.core.degraded import DEFAULT_MESSAGE, degraded_answer
from sluicegate.sidecar.core.providers import Wire


def answer(wire: Wire, message: str = "busy", *, stream: bool = False, query: str = "") -> tuple[str, bytes] | None:
    return degraded_answer(wire, message, model="m", call_id="1", created=1, stream=stream, query=query)


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
