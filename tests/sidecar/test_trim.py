# SPDX-License-Identifier: Apache-2.0
"""Trimming of histories: which cuts are allowed, on every wire, and that tool calls keep their results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.trim import history_of, trimmed


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str = "", *calls: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return message | ({"tool_calls": [{"id": c, "type": "function"} for c in calls]} if calls else {})


def tool(call: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": "r"}


def block(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


TEXT = {"type": "text", "text": "a"}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "r"}
SYSTEM = {"role": "system", "content": "s"}
GOOGLE = [
    {"role": "user", "parts": [{"text": "a"}]},
    {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]},
    {"role": "model", "parts": [{"text": "b"}]},
    {"parts": [{"text": "c"}]},
]
RESPONSES = [
    user("a"),
    {"type": "reasoning", "id": "rs", "summary": []},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    user("b"),
    {"type": "function_call_output", "call_id": "c1", "output": "r"},
    {"type": "message", "role": "assistant", "content": []},
    user("c"),
]


@pytest.mark.parametrize(
    ("field", "items", "cuts", "left"),
    [
        ("messages", [SYSTEM, user("a"), assistant("b"), user("c")], (1,), [0, 3]),
        # Tool calls and their results are of one turn; instructions in the middle stay where they are.
        ("messages", [user("a"), assistant("", "x"), tool("x"), SYSTEM, assistant("b"), user("c")], (1,), [3, 5]),
        ("messages", [assistant("hi"), user("a"), assistant("b"), user("c"), assistant("d")], (1, 2), [3, 4]),
        # Several messages of a user in a row begin one turn.
        ("messages", [user("a"), user("b"), assistant("c"), user("d"), user("e")], (1,), [3, 4]),
        ("messages", [block("user", TEXT), block("assistant", USE), block("user", RESULT), user("z")], (1,), [3]),
        ("contents", GOOGLE, (1,), [4]),
        # The call's result comes in a later turn: no cut between them.
        ("input", RESPONSES, (2,), [6]),
    ],
)  # fmt: skip
def test_turns_go_whole_oldest_first(field: str, items: list[Any], cuts: tuple[int, ...], left: list[int]):
    body = {"model": "m", field: items, "tools": [{"name": "f"}]}
    history = history_of(body)
    assert history is not None
    assert history.cuts == cuts
    got, dropped = trimmed(body, history, history.cuts[-1])
    assert got == {**body, field: [items[at] for at in left]}
    assert dropped == len(items) - len(left)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"},
        {"input": "x"},
        {"input": ["a", "b", "c"]},
        {"messages": []},
        {"messages": [SYSTEM, user("a")]},
        {"messages": [user("a"), assistant("", "x"), tool("x"), assistant("", "y"), tool("y")]},
        {"messages": [user("a"), "what", user("b")]},
        {"messages": [user("a"), {"role": "narrator", "content": "x"}, user("b")]},
        {"messages": [user("a"), {"content": "x"}, user("b")]},
        # What the provider holds cannot be judged from here.
        {"input": [{"type": "function_call_output", "call_id": "x"}, user("a"), user("b"), user("c")]},
        {"input": [{"type": "item_reference", "id": "m1"}, user("a"), assistant("b"), user("c")]},
    ],
)  # fmt: skip
def test_what_is_not_trimmed(body: dict[str, Any]):
    assert history_of(body) is None


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any order of messages in which a result comes after its call, at any distance."""
    items: list[dict[str, Any]] = []
    waiting: list[str] = []
    for at in range(draw(st.integers(0, 25))):
        match draw(st.sampled_from(["user", "answer", "call", "result", "system", "answering-user"])):
            case "user":
                items.append(user(str(at)))
            case "answer":
                items.append(assistant(str(at)))
            case "call":
                waiting.append(f"c{at}")
                items.append(assistant(str(at), waiting[-1]))
            case "result" if waiting:
                items.append(tool(waiting.pop(draw(st.integers(0, len(waiting) - 1)))))
            case "answering-user" if waiting:
                items.append(block("user", {"type": "tool_result", "tool_use_id": waiting.pop(0)}))
            case _:
                items.append({"role": "system", "content": str(at)})
    return items


@given(conversations())
def test_no_cut_parts_a_call_from_its_result_and_the_rest_stays_in_order(items: list[dict[str, Any]]):
    body = {"messages": items}
    history = history_of(body)
    if history is None:
        return
    called = {c["id"]: at for at, item in enumerate(items) for c in item.get("tool_calls", ())}
    answered = {item["tool_call_id"]: at for at, item in enumerate(items) if "tool_call_id" in item}
    blocks = ((at, part) for at, i in enumerate(items) if isinstance(i["content"], list) for part in i["content"])
    answered |= {part["tool_use_id"]: at for at, part in blocks}
    before = len(items)
    for cut in history.cuts:
        got, dropped = trimmed(body, history, cut)
        left = got["messages"]
        kept = {at for at, item in enumerate(items) if any(item is other for other in left)}
        assert left == [items[at] for at in sorted(kept)]
        assert dropped == len(items) - len(left)
        assert len(left) < before
        before = len(left)
        assert all((called[c] in kept) == (at in kept) for c, at in answered.items())
        assert all(at in kept for at, item in enumerate(items) if item["role"] == "system")
        last_start = max(at for at, item in enumerate(items) if item["role"] == "user" and item["content"] == str(at))
        assert set(range(last_start, len(items))) <= kept
