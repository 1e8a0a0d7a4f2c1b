# SPDX-License-Identifier: Apache-2.0
"""Anthropic: docs.claude.com API reference. The base has no version; its OpenAI-compatible chat is under /v1 too."""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire, by_path
from sluicegate.sidecar.core.providers.openai import CHAT_CAPS
from sluicegate.wire.words import Provider

ANTHROPIC = ProviderTable(
    provider=Provider.ANTHROPIC,
    mount="/anthropic",
    endpoint="https://api.anthropic.com",
    credentials=("x-api-key", "authorization"),
    shape=ErrorShape.ANTHROPIC,
    apis=by_path(
        Api("/v1/messages", Wire.MESSAGES, ("max_tokens",)),
        Api("/v1/chat/completions", Wire.CHAT, CHAT_CAPS, asks_usage=True, shape=ErrorShape.OPENAI),
    ),
    tail="/v1",
    compatible={Wire.CHAT: "/v1/chat/completions"},
)
