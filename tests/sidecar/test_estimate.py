# SPDX-License-Identifier: Apache-2.0
"""Estimates against tiktoken's own encodings, offline, and against what providers counted."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sidecar.core.estimate import estimate, prompt_of
from sluicegate.sidecar.core.estimate.images import anthropic_image, gemini_image, openai_image, size_of
from sluicegate.sidecar.core.estimate.models import CL100K, O200K, encoding_of
from sluicegate.sidecar.core.providers import ANTHROPIC, OPENAI, table_of
from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.sidecar.tokenizer import Tokenizer, load_encoding
from sluicegate.wire.words import Provider

CHAT = OPENAI.apis["/chat/completions"]
RESPONSES = OPENAI.apis["/responses"]
EMBEDDINGS = OPENAI.apis["/embeddings"]
MESSAGES = ANTHROPIC.apis["/v1/messages"]
GENERATE = next(api for api in table_of(Provider.GOOGLE_GEMINI).apis.values() if api.wire is Wire.GENERATE)


def tokens(api, body) -> int:
    prompt = prompt_of(api, body)
    counted = (
        sum(len(load_encoding(prompt.encoding).encode_ordinary(t)) for t in prompt.texts) if prompt.encoding else None
    )
    return estimate(prompt, counted).input_tokens


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
        ("ft:gpt-3.5-turbo:org", CL100K),
        ("openai/gpt-oss-20b", O200K),
        ("", O200K),
    ],
)
def test_encodings_by_model(model: str, encoding: str):
    assert encoding_of(model) == encoding


def test_chat_overhead_is_the_apis_own():
    # "Say this is a test!" is 6 tokens; the API counts 13 for it as the only user message.
    assert tokens(CHAT, user("Say this is a test!")) == 13
    assert tokens(CHAT, user([{"type": "text", "text": "Say this is a test!"}])) == 13
    assert tokens(CHAT, {**user("Say this is a test!"), "model": "gpt-3.5-turbo"}) == 13
    for model in ("gpt-5", "gpt-5-nano", "gpt-5.6-sol", "o3-mini"):
        assert tokens(CHAT, {**user("Say this is a test!"), "model": model}) == 12
    named = {"model": "gpt-4o", "messages": [{"role": "user", "name": "bob", "content": "Say this is a test!"}]}
    assert tokens(CHAT, named) == 15


def test_special_tokens_in_a_prompt_are_text():
    assert tokens(CHAT, user("<|endoftext|>")) > tokens(CHAT, user(""))


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", width, height) + b"\x08\x06"
    return "data:image/png;base64," + base64.b64encode(head + bytes(64)).decode()


def test_images_count_as_they_are_billed_and_are_told_apart_for_admission():
    def image(url: str, **more: str) -> dict[str, object]:
        return user([{"type": "image_url", "image_url": {"url": url, **more}}])

    plain = tokens(CHAT, user(""))
    assert tokens(CHAT, image(png(1024, 1024))) == plain + 85 + 4 * 170
    assert tokens(CHAT, image(png(2048, 4096))) == plain + 85 + 6 * 170
    assert tokens(CHAT, image(png(4096, 4096), detail="low")) == plain + 85
    assert tokens(CHAT, image("https://example.com/a.png")) == plain + 85 + 4 * 170
    found = estimate(prompt_of(CHAT, image(png(512, 512))), 0)
    assert (found.images, found.image_tokens, found.exact) == (1, 255, False)


def test_image_rules_of_each_family():
    assert size_of(png(640, 480)) == (640, 480)
    assert size_of("data:image/png;base64,AAAA") is None
    assert openai_image("gpt-4o-mini", (512, 512), "auto") == 2833 + 5667
    assert openai_image("gpt-4.1-mini", (1024, 1024), "auto") == 1659  # 1024 patches x 1.62
    assert openai_image("gpt-4.1-nano", (4096, 4096), "auto") == 3779  # 1536 patches at most
    assert anthropic_image((1000, 750)) == 1000
    assert anthropic_image((8000, 8000)) == anthropic_image(None) == 1600
    assert gemini_image((384, 384)) == 258
    assert gemini_image((1536, 769)) == 4 * 258


@pytest.mark.parametrize(
    ("model", "one", "four", "low"),
    [
        # 512 px, 1024 px scaled to 768 px, low detail: base + 1 tile, base + 4 tiles, base.
        ("gpt-4o", 255, 765, 85),
        ("chatgpt-4o-latest", 255, 765, 85),
        ("gpt-4.1", 255, 765, 85),
        ("gpt-4.5-preview", 255, 765, 85),
        ("gpt-4o-mini", 8_500, 25_501, 2_833),
        ("gpt-5", 210, 630, 70),
        ("gpt-5.6-sol", 210, 630, 70),
        ("o1", 225, 675, 75),
        ("o3", 225, 675, 75),
        ("computer-use-preview", 194, 581, 65),
        ("gpt-image-1", 194, 581, 65),
        ("ft:gpt-4o-mini:org", 8_500, 25_501, 2_833),
        ("openai/gpt-5", 210, 630, 70),
        # 256 and 1,024 patches of 32 px; there is no low detail.
        ("gpt-4.1-mini", 415, 1_659, 415),
        ("gpt-5-mini", 415, 1_659, 415),
        ("gpt-4.1-nano", 630, 2_520, 630),
        ("gpt-5-nano", 630, 2_520, 630),
        ("o4-mini", 441, 1_762, 441),
    ],
)
def test_an_image_costs_what_its_models_family_bills(model: str, one: int, four: int, low: int):
    def cost(side: int, detail: str) -> int:
        content = [{"type": "image_url", "image_url": {"url": png(side, side), "detail": detail}}]
        prompt = prompt_of(CHAT, {**user(content), "model": model})
        return estimate(prompt, 0).image_tokens

    assert [cost(512, "auto"), cost(1024, "high"), cost(512, "low")] == [one, four, low]


@pytest.mark.parametrize(("model", "most"), [("gpt-5-mini", 2_489), ("gpt-5-nano", 3_779), ("o4-mini", 2_642)])
def test_patches_end_at_1536(model: str, most: int):
    assert openai_image(model, (4096, 4096), "high") == most


def test_gemini_counts_recordings_by_the_second():
    def cost(part: dict[str, object]) -> int:
        def counted(parts: list[dict[str, object]]) -> int:
            return estimate(
                prompt_of(GENERATE, {"contents": [{"parts": parts}]}, Provider.GOOGLE_GEMINI), 0
            ).input_tokens

        return counted([part]) - counted([])

    def seconds(kind: str, size: int) -> dict[str, object]:
        return {"inlineData": {"mimeType": kind, "data": base64.b64encode(bytes(size)).decode()}}

    # Ten seconds of WAV at 32 kB/s, of MP3 at 8 kB/s, of MP4 at 1 Mbit/s; a minute where only linked to.
    assert cost(seconds("audio/wav", 319_998)) == 320
    assert cost(seconds("audio/mpeg", 79_998)) == 320
    assert cost(seconds("video/mp4", 1_249_998)) == 2_630
    assert cost({"fileData": {"mimeType": "audio/mpeg", "fileUri": "gs://a/b.mp3"}}) == 1_920
    assert cost({"fileData": {"mimeType": "video/mp4", "fileUri": "gs://a/b.mp4"}}) == 15_780


def test_tools_are_an_upper_bound():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    plain = tokens(CHAT, user("a"))
    assert 24 < tokens(CHAT, user("a", tools=tools)) - plain < 55
    assert 104 < tokens(CHAT, {**user("a", tools=tools), "model": "gpt-5"}) - plain < 135


# ---- real texts


def samples() -> dict[str, str]:
    texts = {path.stem: path.read_text() for path in sorted(TEXTS.iterdir())}
    return texts | {"code": Path(textwrap.__file__).read_text(), "tools": json.dumps(TOOLS, indent=1)}


TEXTS = Path(__file__).parents[1] / "data" / "texts"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"search_{kind}",
            "description": f"Find {kind} by name, by place and by time, the newest first.",
            "parameters": {
                "type": "object",
                "required": ["query"],
                "properties": {
                    "query": {"type": "string", "description": "What to look for, in plain words."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 50},
                    "order": {"type": "string", "enum": ["newest", "oldest", "best"]},
                },
            },
        },
    }
    for kind in ("people", "places", "documents")
]


def by_cookbook(tools: Sequence[Mapping[str, Any]], model: str) -> int:
    """Tokens of tools by the constants of OpenAI's cookbook, which real counts of GPT-5 exceed by up to 81."""
    encode = load_encoding(encoding_of(model)).encode_ordinary
    total = 12
    for tool in tools:
        function = tool["function"]
        total += 7 if encoding_of(model) == O200K else 10
        total += len(encode(f"{function['name']}:{function['description'].rstrip('.')}")) + 3
        for name, told in function["parameters"]["properties"].items():
            total += 3 + len(encode(f"{name}:{told['type']}:{told.get('description', '').rstrip('.')}"))
            total += sum(3 + len(encode(one)) for one in told.get("enum", [])) - (3 if "enum" in told else 0)
    return total


def tool(properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": "f", "description": "", "parameters": parameters}}


ORDER = tool(
    {
        "customer": {
            "type": "object",
            "description": "Who orders.",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "description": "The full name, as in the register."},
                "kind": {"type": "string", "enum": ["person", "company"]},
            },
        },
        "lines": {
            "type": "array",
            "description": "What is ordered.",
            "items": {
                "type": "object",
                "properties": {
                    "article": {"type": "string", "description": "The article's number."},
                    "options": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string", "enum": ["color", "size", "engraving"]},
                                "value": {"type": "string", "description": "As the catalogue writes it."},
                            },
                        },
                    },
                },
            },
        },
    }
)
NESTED = [
    ORDER,
    tool({"a": {"type": "object", "properties": {"b": {"type": "string"}}}}),
    tool({"a": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}}}),
    tool({"a": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}}),
    tool({"a": {"anyOf": [{"type": "null"}, {"properties": {"b": {"type": "string"}}}], "type": "object"}}),
]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
FLAT = [
    tool({}),
    tool({"a": {"type": "integer"}, "b": {"type": "integer"}}),
    tool({letter: {"type": "integer"} for letter in LETTERS}),
    tool({"pick": {"type": "string", "enum": LETTERS}}),
]
MODELS = [("gpt-4o", 0), ("gpt-4", 0), ("o3-mini", 0), ("gpt-5", 81), ("new", 81)]


@pytest.mark.parametrize(("model", "more"), MODELS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_tools_stay_below_what_is_reserved_for_them(model: str, more: int, count: int):
    reserved = reserved_for(TOOLS[:count], model)
    assert by_cookbook(TOOLS[:count], model) + max(23, more) <= reserved < 2 * by_cookbook(TOOLS[:count], model) + more


@pytest.mark.parametrize(("model", "more"), MODELS)
def test_what_real_counts_are_above_the_cookbooks_is_reserved_whatever_the_schema(model: str, more: int):
    """Up to 23 for flat schemas, 93 for nested ones; GPT-5 adds up to 81."""
    for flat in FLAT:
        assert by_cookbook([flat], model) + max(23, more) <= reserved_for([flat], model)
    for nested in NESTED:
        assert by_cookbook([nested], model) + 93 + more <= reserved_for([nested], model)
    assert reserved_for([ORDER], "gpt-4o") < 300


def test_the_values_of_an_enum_count_wherever_it_stands():
    """Each is a token at least and three around it, though JSON / 4 is less than two for it."""
    choice = {"type": "string", "enum": LETTERS}
    optional = {"anyOf": [choice, {"type": "null"}], "type": "string"}
    defined = tool({"pick": {"$ref": "#/$defs/Choice", "type": "string"}})
    defined["function"]["parameters"]["$defs"] = {"Choice": choice}
    for tools in (tool({"pick": choice}), tool({"pick": optional}), tool({"pick": {"items": choice}}), defined):
        assert reserved_for([tools], "gpt-4o") > 12 + 7 + 3 + 3 + 26 * 4


def test_a_schema_deeper_than_anyone_reads_has_a_bound():
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    assert 300 < reserved_for([tool({"a": deep})], "gpt-4o") < 600


def reserved_for(tools: Sequence[Mapping[str, Any]], model: str) -> int:
    without = {**user("a"), "model": model}
    return tokens(CHAT, {**without, "tools": tools}) - tokens(CHAT, without)


FAMILIES = [
    ("gpt-3.5-turbo", CL100K, 0),
    ("gpt-35-turbo", CL100K, 0),
    ("gpt-4", CL100K, 0),
    ("gpt-4-turbo", CL100K, 0),
    ("gpt-4o", O200K, 0),
    ("chatgpt-4o-latest", O200K, 0),
    ("gpt-4o-mini", O200K, 0),
    ("gpt-4.1", O200K, 0),
    ("gpt-4.1-mini", O200K, 0),
    ("gpt-4.1-nano", O200K, 0),
    ("gpt-4.5-preview", O200K, 0),
    ("gpt-5", O200K, 1),
    ("gpt-5-nano", O200K, 1),
    ("gpt-5.6-sol", O200K, 1),
    ("o3-mini", O200K, 1),
]


@pytest.mark.parametrize("name", sorted(samples()))
@pytest.mark.parametrize(("model", "encoding", "less"), FAMILIES)
def test_openai_text_chat_is_exact(name: str, model: str, encoding: str, less: int):
    # Counted here by tiktoken alone and the formula that 712 of 712 recorded calls agree with.
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": samples()[name], "name": "bob"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And then?"},
    ]
    encode = load_encoding(encoding).encode_ordinary
    real = (
        3
        - less
        + sum(3 + len(encode(m["role"])) + len(encode(m["content"])) for m in messages)
        + 1
        + len(encode("bob"))
    )
    body = {"model": model, "messages": messages}
    assert tokens(CHAT, body) == real
    assert prompt_of(CHAT, body).exact


@pytest.mark.parametrize("name", sorted(samples()))
def test_without_a_tokenizer_an_estimate_is_near_what_one_would_count(name: str):
    text = samples()[name]
    real = len(load_encoding(O200K).encode_ordinary(text))
    for provider in (Provider.ANTHROPIC, Provider.GOOGLE_GEMINI, Provider.MISTRAL):
        api = MESSAGES if provider is Provider.ANTHROPIC else CHAT
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        guess = estimate(prompt_of(api, body, provider), None).input_tokens
        assert 0.85 * real < guess < 1.9 * real, (name, provider, guess, real)


def test_responses_and_embeddings():
    assert tokens(RESPONSES, {"model": "gpt-4o", "input": "Say this is a test!"}) == 13
    body = {
        "model": "gpt-4o",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Say this is a test!"}]}],
    }
    assert tokens(RESPONSES, body) == 13
    result = [{"type": "function_call_output", "output": "Say this is a test!"}]
    listed = [{"type": "function_call_output", "output": [{"type": "input_text", "text": "Say this is a test!"}]}]
    assert tokens(RESPONSES, {"model": "gpt-4o", "input": result}) == 20
    assert tokens(RESPONSES, {"model": "gpt-4o", "input": listed}) == 20
    embed = {"model": "text-embedding-3-small"}
    assert tokens(EMBEDDINGS, {**embed, "input": ["hello", "hello"]}) == 2
    assert tokens(EMBEDDINGS, {**embed, "input": [[1, 2, 3], [4]]}) == 4
    assert tokens(EMBEDDINGS, {**embed, "input": [1, 2, 3]}) == 3


def test_an_exact_count_needs_the_providers_own_tokenizer():
    def exact(provider: Provider, model: str, **more: object) -> bool:
        body = {**user("a", **more), "model": model}
        return estimate(prompt_of(CHAT, body, provider), 5).exact

    assert exact(Provider.OPENAI, "gpt-4o")
    assert not exact(Provider.OPENAI, "gpt-4o", tools=TOOLS)
    assert not exact(Provider.OPENAI, "gpt-4o-search-preview")
    assert not exact(Provider.OPENAI, "o1")
    assert not exact(Provider.OPENAI_COMPATIBLE, "llama-3")


def test_caps_and_choices():
    prompt = prompt_of(CHAT, user("a", max_tokens=5, max_completion_tokens=7, n=3))
    assert (prompt.cap, prompt.choices) == (7, 3)
    for config in ({"generationConfig": {"candidateCount": 3}}, {"generation_config": {"candidate_count": 3}}):
        assert prompt_of(GENERATE, {"contents": [], **config}).choices == 3
    assert prompt_of(CHAT, user("a", max_tokens=-1, n=0)).cap is None
    assert prompt_of(CHAT, user("a", max_tokens=True)).cap is None
    assert estimate(prompt, 0).output_tokens == 7
    assert estimate(prompt_of(CHAT, user("a")), 0).output_tokens == 256
    assert estimate(prompt_of(EMBEDDINGS, {"input": "x"}), 1).output_tokens == 0


KEYS = ["role", "content", "type", "text", "name", "image", "parts", "inlineData"]
SCHEMA = ["function", "parameters", "properties", "items", "enum", "anyOf", "$defs", "description"]
FIELDS = ["model", "messages", "input", "tools", "system", "n", "max_tokens", "prompt", "contents", "generationConfig"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, *SCHEMA]), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
def test_any_request_has_an_estimate(body: dict[str, object]):
    for provider in Provider:
        for api in table_of(provider).apis.values():
            assert estimate(prompt_of(api, body, provider), None).input_tokens >= 0


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
