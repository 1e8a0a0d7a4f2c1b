# SPDX-License-Identifier: Apache-2.0
"""What a call will cost, before it is sent: which texts to count, what to add, what output to expect.

Reading a request is pure and cheap; counting its texts is the shell's, since a tokenizer is large and slow.
`prompt_of` says what to count, `estimate` puts the count together with the expected output. Sources: chat overhead
`3 + sum(3 + role + content [+ 1 + name])` (exact for gpt-3.5 to gpt-4.5 in 712 of 712 recorded calls); tools as
characters of JSON / 4, plus 80 for GPT-5 or unknown models; images 765, what OpenAI's admission takes. Anthropic
publishes no tokenizer: characters / `chars_per_token`, by default 3, the safer side of the measured 3.5 to 4.9.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, cast

from sluicegate.sidecar.core.providers.api import Api, Wire
from sluicegate.wire.values import Estimate

O200K = "o200k_base"
CL100K = "cl100k_base"
IMAGE_TOKENS = 765
ANTHROPIC_IMAGE_TOKENS = 1600
DEFAULT_OUTPUT = 256
_MAX_CHOICES = 128
_MAX_DEPTH = 8
_MAX_CAP = 2**31

_CL100K_PREFIXES = (
    "gpt-4-",
    "gpt-3.5",
    "gpt-35-turbo",
    "text-embedding-3-",
    "text-embedding-ada-002",
    "davinci-002",
    "babbage-002",
    "ft:gpt-4:",
    "ft:gpt-4-",
    "ft:gpt-3.5-turbo",
    "ft:davinci-002",
    "ft:babbage-002",
)
_OLDER = ("gpt-4", "gpt-3.5", "gpt-35", "chatgpt-4o", "ft:gpt-4", "ft:gpt-3.5", "o1", "o3", "o4")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request's input consists of.

    `encoding` None: no tokenizer is known, `characters` are divided by the calibrated characters per token.
    `overhead`: tokens to add to what `texts` count. `cap`: the request's own cap on output; None: it sets none.
    """

    texts: tuple[str, ...]
    overhead: int
    characters: int
    encoding: str | None
    cap: int | None
    choices: int = 1


def encoding_of(model: str) -> str:
    """The name of tiktoken's encoding for an OpenAI model; o200k_base for names that tiktoken does not know."""
    if model == "gpt-4" or model.startswith(_CL100K_PREFIXES):
        return CL100K
    return O200K


def _count(value: object, lowest: int, highest: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if lowest <= value <= highest else None


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("Any", value) if isinstance(value, list) else []


@dataclass(slots=True)
class _Tally:
    texts: list[str] = field(default_factory=list[str])
    overhead: int = 0
    extra_characters: int = 0

    def text(self, value: object) -> None:
        if isinstance(value, str) and value:
            self.texts.append(value)

    def json(self, value: object, tokens: int = 0) -> None:
        """Something sent as JSON: its length / 4 and `tokens`, never counted exactly."""
        size = json_length(value)
        self.extra_characters += size
        self.overhead += math.ceil(size / 4) + tokens

    def prompt(self, encoding: str | None, cap: int | None, choices: int) -> Prompt:
        characters = sum(map(len, self.texts)) + self.extra_characters
        return Prompt(tuple(self.texts), self.overhead, characters, encoding, cap, choices)


def json_length(value: object, depth: int = 0) -> int:
    """About the characters of `value` as compact JSON, without making it; bounded depth."""
    match value:
        case str():
            return len(value) + 2
        case None | bool():
            return 5
        case int() | float():
            return 8
        case dict() if depth < 64:
            pairs = cast("dict[str, Any]", value)
            return 2 + sum(len(k) + 4 + json_length(v, depth + 1) for k, v in pairs.items())
        case list() if depth < 64:
            items = cast("list[object]", value)
            return 2 + len(items) + sum(json_length(item, depth + 1) for item in items)
        case _:
            return 2


def prompt_of(api: Api, body: dict[str, Any]) -> Prompt:
    """What to count of a parsed request. Never raises: what has the wrong type is left to the provider to refuse."""
    cap = next((n for f in api.caps if (n := _count(body.get(f), 0, _MAX_CAP)) is not None), None)
    choices = max(_count(body.get("n"), 1, _MAX_CHOICES) or 1, _count(body.get("best_of"), 1, _MAX_CHOICES) or 1)
    model = body.get("model")
    model = model if isinstance(model, str) else ""
    tally = _Tally()
    match api.wire:
        case Wire.CHAT:
            _chat(tally, body, model)
        case Wire.COMPLETIONS:
            _strings(tally, body.get("prompt"))
            tally.text(body.get("suffix"))
        case Wire.RESPONSES:
            _responses(tally, body, model)
        case Wire.EMBEDDINGS:
            _strings(tally, body.get("input"))
        case Wire.MESSAGES:
            _anthropic(tally, body)
            return tally.prompt(None, cap, 1)
    return tally.prompt(encoding_of(model), cap, choices)


def _strings(tally: _Tally, value: object) -> None:
    """A string, a list of strings, a list of tokens, or a list of lists of tokens."""
    if isinstance(value, str):
        tally.text(value)
        return
    for item in _list(value):
        if isinstance(item, str):
            tally.text(item)
        elif isinstance(item, list):
            tally.overhead += len(cast("list[object]", item))
        else:
            tally.overhead += 1


def _tools(tally: _Tally, tools: object, model: str) -> None:
    if _list(tools):
        tally.json(tools, 0 if model.startswith(_OLDER) else 80)


def _parts(tally: _Tally, content: object, image: int) -> None:
    if isinstance(content, str):
        tally.text(content)
        return
    for part in _list(content):
        if isinstance(part, str):
            tally.text(part)
            continue
        kind = str(_dict(part).get("type", ""))
        if "image" in kind:
            tally.overhead += image
        elif "text" in kind or kind == "refusal":
            tally.text(_dict(part).get("text", _dict(part).get("refusal")))
        else:
            tally.json(part)


def _chat(tally: _Tally, body: dict[str, Any], model: str) -> None:
    tally.overhead += 3
    for item in _list(body.get("messages")):
        message = _dict(item)
        tally.overhead += 3
        tally.text(message.get("role"))
        _parts(tally, message.get("content"), IMAGE_TOKENS)
        if isinstance(message.get("name"), str):
            tally.overhead += 1
            tally.text(message["name"])
        if message.get("tool_calls"):
            tally.json(message["tool_calls"])
    _tools(tally, body.get("tools") or body.get("functions"), model)
    if isinstance(body.get("response_format"), dict) and "json_schema" in body["response_format"]:
        tally.json(body["response_format"]["json_schema"])


def _responses(tally: _Tally, body: dict[str, Any], model: str) -> None:
    tally.overhead += 3
    tally.text(body.get("instructions"))
    given = body.get("input")
    if isinstance(given, str):
        tally.overhead += 4
        tally.text(given)
    for item in _list(given):
        entry = _dict(item)
        tally.overhead += 3
        if "content" in entry:
            tally.text(entry.get("role"))
            _parts(tally, entry["content"], IMAGE_TOKENS)
        else:
            tally.json(item)
    _tools(tally, body.get("tools"), model)


def _anthropic(tally: _Tally, body: dict[str, Any]) -> None:
    _blocks(tally, body.get("system"), 0)
    for item in _list(body.get("messages")):
        tally.overhead += 7
        _blocks(tally, _dict(item).get("content"), 0)
    if _list(body.get("tools")):
        size = json_length(body["tools"])
        tally.extra_characters += size


def _blocks(tally: _Tally, content: object, depth: int) -> None:
    if isinstance(content, str):
        tally.text(content)
        return
    for item in _list(content):
        block = _dict(item)
        match block.get("type"):
            case "text":
                tally.text(block.get("text"))
            case "thinking":
                tally.text(block.get("thinking"))
            case "image":
                tally.overhead += ANTHROPIC_IMAGE_TOKENS
            case "tool_result" if depth < _MAX_DEPTH:
                _blocks(tally, block.get("content"), depth + 1)
            case _:
                tally.extra_characters += json_length(item)


@dataclass(slots=True)
class OutputHistory:
    """What models answered lately: the source of the expected output. Bounded in models and in answers of each.

    `quantile`: the share of answers that the expectation covers.
    """

    quantile: float = 0.9
    max_models: int = 256
    depth: int = 64
    _answers: OrderedDict[str, deque[int]] = field(default_factory=OrderedDict[str, "deque[int]"])

    def record(self, model: str, output_tokens: int) -> None:
        """One answer of `model` had `output_tokens`."""
        answers = self._answers.get(model)
        if answers is None:
            answers = self._answers[model] = deque(maxlen=self.depth)
            if len(self._answers) > self.max_models:
                self._answers.popitem(last=False)
        answers.append(max(0, output_tokens))
        self._answers.move_to_end(model)

    def expect(self, model: str, cap: int | None) -> int:
        """Output tokens to expect of one answer, never above `cap`."""
        answers = self._answers.get(model)
        if answers:
            ordered = sorted(answers)
            expected = ordered[min(len(ordered) - 1, math.ceil(self.quantile * len(ordered)) - 1)]
        else:
            expected = DEFAULT_OUTPUT
        return expected if cap is None else min(cap, expected)


def estimate(api: Api, prompt: Prompt, counted: int | None, expected: int, chars_per_token: float = 3.0) -> Estimate:
    """The estimate of a call. `counted`: tokens of `prompt.texts`; None: not counted, characters stand in.

    `expected`: output tokens of one answer. `chars_per_token` is where calibration by real usage comes in.
    """
    tokens = math.ceil(prompt.characters / chars_per_token) if counted is None else counted
    output = 0 if api.wire is Wire.EMBEDDINGS else expected * prompt.choices
    cap = 0 if api.wire is Wire.EMBEDDINGS else prompt.cap
    return Estimate(tokens + prompt.overhead, output, cap, prompt.characters, prompt.choices)
