# SPDX-License-Identifier: Apache-2.0
"""Anthropic: docs.claude.com API reference. The base has no version; its OpenAI-compatible chat is under /v1 too."""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire, by_path
from sluicegate.wire.words import Provider

ANTHROPIC = ProviderTable(
    provider=Provider.ANTHROPIC,
    mount="/anthropic",
    endpoint="https://api.anthropic.com",
    credentials=("x-api-key", "authorization"),
    shape=ErrorShape.ANTHROPIC,
    apis=by_path(Api("/v1/messages", Wire.MESSAGES, ("max_tokens",))),
    openai_path="/v1/chat/completions",
)
