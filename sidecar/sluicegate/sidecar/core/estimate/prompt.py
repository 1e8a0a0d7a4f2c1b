# SPDX-License-Identifier: Apache-2.0
"""From a parsed request to what is to be counted, and from the counts to the estimate.

    prompt = prompt_of(api, body, provider)
    counted = tiktoken's count of prompt.texts where prompt.encoding is set, else None
    cost = estimate(prompt, counted)

What is not counted by a tokenizer is weighed by class of character (`text`) x a cautious factor for the family, and
the broker calibrates it by the usage that comes back; an `exact` estimate is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluicegate.sidecar.core.estimate import anthropic, gemini, models, openai
from sluicegate.sidecar.core.estimate.tally import Tally, as_dict, whole
from sluicegate.sidecar.core.estimate.text import light_count
from sluicegate.sidecar.core.providers.api import Api, Wire
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Provider

DEFAULT_OUTPUT = 256
"""Output tokens expected of one answer; the broker, which sees the whole fleet's, replaces it by what it has seen."""
MOST_COUNTED = 1_000_000
"""Characters of text up to which a tokenizer counts. Beyond, no model has the context, and weighing is enough."""

_MAX_CHOICES = 128
_MAX_CAP = 2**31


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request's input consists of.

    `encoding` None: no tokenizer counts it, weights x `factor` stand in. `cap`: the request's own cap on output, of one
    choice; None: it sets none. `exact`: with counts by `encoding` the estimate is what the provider will count.
    """

    texts: tuple[str, ...]
    overhead: int
    characters: int
    encoding: str | None
    factor: float
    cap: int | None
    choices: int = 1
    exact: bool = False
    images: int = 0
    image_tokens: int = 0
    answers: bool = True


def prompt_of(api: Api, body: dict[str, Any], provider: Provider = Provider.OPENAI) -> Prompt:
    """What to count of a parsed request. Never raises: what has the wrong type is left to the provider to refuse."""
    model = body.get("model")
    model = model if isinstance(model, str) else ""
    tally = Tally()
    by_tiktoken = models.counts_by_tiktoken(provider, model)
    known = models.overhead_known(provider, model)
    match api.wire:
        case Wire.CHAT:
            openai.chat(tally, body, model)
            tally.exact = tally.exact and known is not None and bool(body.get("messages"))
        case Wire.RESPONSES:
            openai.responses(tally, body, model)
        case Wire.COMPLETIONS:
            tally.exact = False
            openai.strings(tally, body.get("prompt"))
            tally.text(body.get("suffix"))
        case Wire.EMBEDDINGS:
            tally.exact = by_tiktoken and models.plain(model).startswith("text-embedding-")
            openai.strings(tally, body.get("input"))
        case Wire.MESSAGES:
            by_tiktoken = False
            anthropic.messages(tally, body)
        case _:
            by_tiktoken = False
            if gemini.speaks(body):
                gemini.generate(tally, body)
            else:
                tally.json(body)
    if tally.exact and known and api.wire is Wire.CHAT:
        tally.add(known)
    answers = api.wire is not Wire.EMBEDDINGS
    counted = by_tiktoken and tally.characters <= MOST_COUNTED
    return Prompt(
        texts=tuple(tally.texts),
        overhead=tally.overhead,
        characters=tally.characters,
        encoding=models.encoding_of(model) if counted else None,
        factor=models.FIRST_FACTOR.get(provider, models.OTHER_FACTOR),
        cap=_cap(api, body) if answers else 0,
        choices=_choices(body) if answers else 1,
        exact=tally.exact and counted,
        images=tally.images,
        image_tokens=tally.image_tokens,
        answers=answers,
    )


def _cap(api: Api, body: dict[str, Any]) -> int | None:
    """The first of the fields that hold the cap; `outer.inner` names a nested one."""
    for name in api.caps:
        outer, dot, inner = name.partition(".")
        value = as_dict(body.get(outer)).get(inner) if dot else body.get(outer)
        if (found := whole(value, 0, _MAX_CAP)) is not None:
            return found
    return None


def _choices(body: dict[str, Any]) -> int:
    camel, snake = as_dict(body.get("generationConfig")), as_dict(body.get("generation_config"))
    given = (body.get("n"), body.get("best_of"), camel.get("candidateCount"), snake.get("candidate_count"))
    return max([whole(value, 1, _MAX_CHOICES) or 1 for value in given if value is not None], default=1)


def estimate(prompt: Prompt, counted: int | None) -> Estimate:
    """The estimate of a call. `counted`: tokens of `prompt.texts`; None: not counted, weights stand in."""
    tokens = light_count(prompt.texts, prompt.factor) if counted is None else counted
    expected = DEFAULT_OUTPUT if prompt.cap is None else min(prompt.cap, DEFAULT_OUTPUT)
    return Estimate(
        input_tokens=max(0, tokens + prompt.overhead),
        output_tokens=expected if prompt.answers else 0,
        max_output_tokens=prompt.cap,
        characters=prompt.characters,
        choices=prompt.choices,
        images=prompt.images,
        image_tokens=prompt.image_tokens,
        exact=prompt.exact and counted is not None,
    )
