# SPDX-License-Identifier: Apache-2.0
"""Providers of OpenAI's wire, reached by pool only: what their streams say of usage.

A pool's endpoint is what an OpenAI SDK would get as its base URL (https://api.groq.com/openai/v1). Asked for usage are
the dialects that give it only so: Fireworks for some of its models (vercel/ai#16087), vLLM, xAI. Groq gives
`x_groq.usage`, DeepSeek, Together and OpenRouter `usage` in the last chunk of every stream; a server of no known
dialect is not asked, since some refuse the field.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.sidecar.core.providers.api import ProviderTable, by_path
from sluicegate.sidecar.core.providers.openai import OPENAI
from sluicegate.wire.words import Dialect, Provider

ASKED = frozenset({Dialect.FIREWORKS, Dialect.VLLM, Dialect.XAI})


def _table(asks: bool) -> ProviderTable:
    apis = (replace(api, asks_usage=api.asks_usage and asks) for api in OPENAI.apis.values())
    return replace(OPENAI, provider=Provider.OPENAI_COMPATIBLE, mount="", endpoint="", apis=by_path(*apis))


_ASKED, _UNASKED = _table(True), _table(False)


def compatible(dialect: str) -> ProviderTable:
    """The table of a dialect, or of a server of none."""
    return _ASKED if dialect in ASKED else _UNASKED
