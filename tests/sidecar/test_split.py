# SPDX-License-Identifier: Apache-2.0
"""Embeddings in parts: whatever the sizes and bounds, the parts' answers make the answer of the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.split import UnmergeableError, balanced, divide, inputs_of, merge, part_of


def openai(body: dict[str, Any]) -> dict[str, Any]:
    """What a provider would answer: an embedding that says what it is of."""
    data = [{"object": "embedding", "index": i, "embedding": f"<{x}>"} for i, x in enumerate(body["input"])]
    tokens = sum(map(len, body["input"]))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "details": {"cached": 1, "kind": "x"}}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def google(body: dict[str, Any]) -> dict[str, Any]:
    return {"embeddings": [{"values": [len(str(r))]} for r in body["requests"]]}


texts = st.lists(st.text(max_size=30), min_size=2, max_size=60)
tokens = st.lists(st.lists(st.integers(0, 9), max_size=20), min_size=2, max_size=60)


@given(texts | tokens, st.integers(0, 5000), st.integers(0, 12), st.integers(0, 400), st.booleans())
def test_the_parts_make_the_whole(items: list[Any], total: int, most_items: int, most_tokens: int, even: bool):
    body = {"model": "m", "input": items, "encoding_format": "base64", "dimensions": 3}
    inputs = inputs_of(body)
    assert inputs is not None
    parts = (balanced if even else divide)(inputs, total, most_items=most_items, most_tokens=most_tokens)
    assert [at for part in parts for at in part] == list(range(len(items)))
    bodies = [part_of(body, inputs, part) for part in parts]
    assert all({**b, "input": items} == body for b in bodies)
    unit = total / max(1, sum(inputs.sizes))
    for part in parts:
        assert not most_items or len(part) <= most_items
        assert len(part) == 1 or not most_tokens or sum(inputs.sizes[at] for at in part) * unit <= most_tokens + 1e-6
    merged = merge(inputs, parts, [openai(b) for b in bodies])
    whole = openai(body)
    assert merged["data"] == whole["data"]
    assert merged["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert merged["usage"]["details"] == {"cached": len(parts), "kind": "x"}
    assert {k: merged[k] for k in ("object", "model")} == {"object": "list", "model": "m"}


@given(texts, st.integers(1, 7))
def test_googles_batch(items: list[str], most: int):
    body = {"requests": [{"model": "models/e", "content": {"parts": [{"text": t}]}} for t in items]}
    inputs = inputs_of(body)
    assert inputs is not None
    parts = divide(inputs, 100, most_items=most)
    assert merge(inputs, parts, [google(part_of(body, inputs, p)) for p in parts]) == google(body)


def test_vertexs_predict():
    items = [{"content": "a"}, {"content": "bb"}]
    inputs = inputs_of({"instances": items, "parameters": {"outputDimensionality": 3}})
    assert inputs is not None
    answers = [
        {"predictions": [{"embeddings": {"values": [n]}}], "metadata": {"billableCharacterCount": n + 1}}
        for n in range(2)
    ]
    whole = merge(inputs, [range(1), range(1, 2)], answers)
    assert [p["embeddings"]["values"] for p in whole["predictions"]] == [[0], [1]]
    assert whole["metadata"] == {"billableCharacterCount": 3}


@pytest.mark.parametrize("value", ["text", [], ["one"], [1, 2, 3], ["a", 1], [["a"], "b"], None, [True, False]])
def test_what_cannot_be_divided(value: object):
    assert inputs_of({"model": "m", "input": value}) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"data": []},
        {"data": [{"index": 0}, {"index": 0}]},
        {"data": [{"index": 1}, {"index": 2}]},
        {"data": [{"embedding": []}, {"embedding": []}]},
        {"data": ["a", "b"]},
        {"error": {}},
    ],
)
def test_an_answer_that_does_not_fit_is_no_answer(answer: object):
    inputs = inputs_of({"input": ["a", "b"]})
    assert inputs is not None
    with pytest.raises(UnmergeableError):
        merge(inputs, [range(2)], [answer])
