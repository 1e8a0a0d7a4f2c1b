# SPDX-License-Identifier: Apache-2.0
"""Which encoding a model has, and how well its counts are known.

Encodings: tiktoken 0.14 `model.py`. Chat overhead `3 + sum(3 + role + content [+ 1 + name])`: exact in 712 of 712
recorded text-only calls of gpt-3.5 to gpt-4.5, one too high in all 22 of gpt-5 and o3-mini. Search models differ by 7
to 11, o1, o3 and o4 were not measured: an upper bound. A name that tiktoken does not know (an Azure deployment's, a
later model's) counts as o200k_base; so do gpt-oss models, whose o200k_harmony differs in special tokens alone.
"""

from __future__ import annotations

from functools import lru_cache

from sluicegate.wire.words import Provider

O200K = "o200k_base"
CL100K = "cl100k_base"

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
_MEASURED = ("gpt-3.5-turbo", "gpt-35-turbo", "gpt-4", "chatgpt-4o")
_ONE_LESS = ("gpt-5", "o3-mini")
_UNLIKE = ("search", "audio", "realtime", "transcribe", "vision", "codex", "instruct")
_OLDER = ("gpt-4", "gpt-3.5", "gpt-35", "chatgpt-4o", "o1", "o3", "o4")
_OPENAI = ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "davinci-002", "babbage-002", "computer-use")
_TIKTOKEN_HOSTS = frozenset({Provider.OPENAI, Provider.AZURE_OPENAI})

FIRST_FACTOR = {
    Provider.ANTHROPIC: 1.25,
    Provider.GOOGLE_GEMINI: 1.1,
    Provider.GOOGLE_VERTEX: 1.1,
    Provider.MISTRAL: 1.2,
}
"""Times `text.light_tokens`, until calibration knows better: the upper end of the recorded characters per token."""
OTHER_FACTOR = 1.2


def plain(model: str) -> str:
    """`model` without what fine-tuning and routers put before its family: ft:gpt-4o:org, openai/gpt-oss-20b."""
    return model.removeprefix("ft:").rpartition("/")[2]


@lru_cache
def encoding_of(model: str) -> str:
    """The name of tiktoken's encoding for an OpenAI model; o200k_base for names that tiktoken does not know."""
    if model == "gpt-4" or model.startswith(_CL100K_PREFIXES):
        return CL100K
    return O200K


@lru_cache
def counts_by_tiktoken(provider: Provider, model: str) -> bool:
    """Is the tokenizer of `model` one of tiktoken's? So for all of OpenAI and Azure, elsewhere by the model's name."""
    return provider in _TIKTOKEN_HOSTS or plain(model).startswith(_OPENAI)


@lru_cache
def overhead_known(provider: Provider, model: str) -> int | None:
    """What to add to the chat formula for an exact count, 0 or -1; None: the formula is not exact there."""
    name = plain(model)
    if provider not in _TIKTOKEN_HOSTS or any(word in name for word in _UNLIKE):
        return None
    if name.startswith(_ONE_LESS):
        return -1
    return 0 if name.startswith(_MEASURED) else None


def tools_extra(model: str) -> int:
    """Tokens of tools beyond those of their schemas: none up to GPT-4.5 and o-series, 80 for GPT-5 and unknown."""
    return 0 if plain(model).startswith(_OLDER) else 80
