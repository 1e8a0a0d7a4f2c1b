# SPDX-License-Identifier: Apache-2.0
"""How providers speak of their limits and errors: one module each, data first. What can be called is in `providers`."""

from collections.abc import Mapping

from sluicegate.sidecar.core.dialects.anthropic import ANTHROPIC
from sluicegate.sidecar.core.dialects.api import Phrase, Reset, Row, Shape, Speech
from sluicegate.sidecar.core.dialects.azure import AZURE
from sluicegate.sidecar.core.dialects.compatible import (
    BEDROCK,
    CEREBRAS,
    COHERE,
    DEEPSEEK,
    FIREWORKS,
    GROQ,
    HUGGING_FACE,
    OPENROUTER,
    PERPLEXITY,
    REPLICATE,
    TOGETHER,
    UNKNOWN,
    VLLM,
    XAI,
)
from sluicegate.sidecar.core.dialects.google import GEMINI, VERTEX
from sluicegate.sidecar.core.dialects.mistral import MISTRAL
from sluicegate.sidecar.core.dialects.openai import OPENAI
from sluicegate.wire.words import Dialect, Provider

_PROVIDERS: Mapping[Provider, Speech] = {
    Provider.OPENAI: OPENAI,
    Provider.AZURE_OPENAI: AZURE,
    Provider.ANTHROPIC: ANTHROPIC,
    Provider.GOOGLE_GEMINI: GEMINI,
    Provider.GOOGLE_VERTEX: VERTEX,
    Provider.MISTRAL: MISTRAL,
}
_DIALECTS: Mapping[str, Speech] = {
    Dialect.GROQ: GROQ,
    Dialect.XAI: XAI,
    Dialect.DEEPSEEK: DEEPSEEK,
    Dialect.TOGETHER: TOGETHER,
    Dialect.FIREWORKS: FIREWORKS,
    Dialect.OPENROUTER: OPENROUTER,
    Dialect.VLLM: VLLM,
}
ALL: Mapping[str, Speech] = {
    speech.name: speech
    for speech in (
        *_PROVIDERS.values(),
        *_DIALECTS.values(),
        BEDROCK,
        CEREBRAS,
        COHERE,
        HUGGING_FACE,
        PERPLEXITY,
        REPLICATE,
        UNKNOWN,
    )
}
"""By the names that `sluicegate classify` takes."""


def speech_of(provider: Provider, dialect: str = "") -> Speech:
    """How `provider` speaks; `dialect`: of an OpenAI-compatible one, unknown or empty: read as well as can be."""
    if provider is Provider.OPENAI_COMPATIBLE:
        return _DIALECTS.get(dialect, UNKNOWN)
    return _PROVIDERS[provider]


__all__ = ["ALL", "UNKNOWN", "Phrase", "Reset", "Row", "Shape", "Speech", "speech_of"]
