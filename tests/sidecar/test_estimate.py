# SPDX-License-Identifier: Apache-2.0
"""Estimates against tiktoken's own encodings, offline, and against what providers counted."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.estimate import CL100K, O200K, OutputHistory, encoding_of, estimate, prompt_of
from sluicegate.sidecar.core.providers import ANTHROPIC, OPENAI
from sluicegate.sidecar.tokenizer import Tokenizer, load_encoding

CHAT = OPENAI.apis["/chat/completions"]
RESPONSES = OPENAI.apis["/responses"]
EMBEDDINGS = OPENAI.apis["/embeddings"]
MESSAGES = ANTHROPIC.apis["/v1/messages"]


def tokens(api, body) -> int:
    prompt = prompt_of(api, body)
    counted = (
        sum(len(load_encoding(prompt.encoding).encode_ordinary(t)) for t in prompt.texts) if prompt.encoding else None
    )
    return estimate(api, prompt, counted, 0).input_tokens


def user(content: object, **more: object) -> dict[str, object]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-2024-08-06", O200K),
        ("gpt-4.1", O200K),
        ("gpt-5-nano", O200K),
        ("o3-mini", O200K),
        ("gpt-4", CL100K),
        ("gpt-4-turbo", CL100K),
        ("gpt-3.5-turbo", CL100K),
        ("text-embedding-3-small", CL100K),
        ("gpt-6-something", O200K),
        ("", O200K),
    ],
)
def test_encodings_by_model(model: str, encoding: str):
    assert encoding_of(model) == encoding


def test_chat_overhead_is_the_apis_own():
    # "Say this is a test!" is 6 tokens; the API counts 13 for it as the only user message.
    assert tokens(CHAT, user("Say this is a test!")) == 13
    assert tokens(CHAT, user([{"type": "text", "text": "Say this is a test!"}])) == 13
    named = {"model": "gpt-4o", "messages": [{"role": "user", "name": "bob", "content": "Say this is a test!"}]}
    assert tokens(CHAT, named) == 15


def test_special_tokens_in_a_prompt_are_text():
    assert tokens(CHAT, user("<|endoftext|>")) > tokens(CHAT, user(""))


def test_images_and_tools():
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    assert tokens(CHAT, user([image])) == tokens(CHAT, user("")) + 765
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    plain = tokens(CHAT, user("a"))
    assert 15 < tokens(CHAT, user("a", tools=tools)) - plain < 40
    assert 95 < tokens(CHAT, {**user("a", tools=tools), "model": "gpt-5"}) - plain < 120


def test_responses_and_embeddings():
    assert tokens(RESPONSES, {"model": "gpt-4o", "input": "Say this is a test!"}) == 13
    body = {
        "model": "gpt-4o",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Say this is a test!"}]}],
    }
    assert tokens(RESPONSES, body) == 13
    embed = {"model": "text-embedding-3-small"}
    assert tokens(EMBEDDINGS, {**embed, "input": ["hello", "hello"]}) == 2
    assert tokens(EMBEDDINGS, {**embed, "input": [[1, 2, 3], [4]]}) == 4
    assert tokens(EMBEDDINGS, {**embed, "input": [1, 2, 3]}) == 3


def test_anthropic_counts_characters_by_a_rate_that_can_be_calibrated():
    body = {"model": "c", "max_tokens": 5, "system": "s" * 30, "messages": [{"role": "user", "content": "x" * 270}]}
    prompt = prompt_of(MESSAGES, body)
    assert (prompt.characters, prompt.cap) == (300, 5)
    assert estimate(MESSAGES, prompt, None, 3).input_tokens == 107
    assert estimate(MESSAGES, prompt, None, 3, chars_per_token=5.0).input_tokens == 67


def test_caps_and_choices():
    prompt = prompt_of(CHAT, user("a", max_tokens=5, max_completion_tokens=7, n=3))
    assert (prompt.cap, prompt.choices) == (7, 3)
    assert prompt_of(CHAT, user("a", max_tokens=-1, n=0)).cap is None
    assert prompt_of(CHAT, user("a", max_tokens=True)).cap is None
    assert estimate(CHAT, prompt, 0, 4).output_tokens == 12
    assert estimate(EMBEDDINGS, prompt_of(EMBEDDINGS, {"input": "x"}), 1, 99).output_tokens == 0


def test_expected_output_is_learned_and_never_above_the_cap():
    history = OutputHistory(max_models=2)
    assert history.expect("m", None) == 256
    assert history.expect("m", 10) == 10
    for length in range(1, 11):
        history.record("m", length)
    assert history.expect("m", None) == 9
    assert history.expect("m", 4) == 4
    history.record("n", 1)
    history.record("o", 1)
    assert history.expect("m", None) == 256


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name", "image"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "input", "tools", "system", "n", "max_tokens", "prompt"]), anything
    )
)
def test_any_request_has_an_estimate(body: dict[str, object]):
    for api in (*OPENAI.apis.values(), MESSAGES):
        prompt = prompt_of(api, body)
        assert estimate(api, prompt, None, 1).input_tokens >= 0


async def test_the_tokenizer_counts_small_and_large_texts_the_same_and_says_none_without_ranks():
    tokenizer = Tokenizer()
    words = ["hello world " * 50]
    small = await tokenizer.count(O200K, words)
    assert small == len(load_encoding(O200K).encode_ordinary(words[0]))
    first, second = await asyncio.gather(tokenizer.count(O200K, words * 20), tokenizer.count(CL100K, ["hello"]))
    assert (first, second) == (20 * small, 1)
    assert await tokenizer.count("p50k_base", ["x"]) is None
    assert await tokenizer.count("no_such_encoding", ["x"]) is None
    tokenizer.close()
