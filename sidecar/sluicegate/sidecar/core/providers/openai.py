# SPDX-License-Identifier: Apache-2.0
"""OpenAI: platform.openai.com API reference; a stream of chat completions gives usage only when asked."""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire, by_path
from sluicegate.wire.words import Provider

CHAT_CAPS = ("max_completion_tokens", "max_tokens")

OPENAI = ProviderTable(
    provider=Provider.OPENAI,
    mount="/openai/v1",
    endpoint="https://api.openai.com/v1",
    credentials=("authorization", "api-key"),
    shape=ErrorShape.OPENAI,
    apis=by_path(
        Api("/chat/completions", Wire.CHAT, CHAT_CAPS, asks_usage=True),
        Api("/completions", Wire.COMPLETIONS, ("max_tokens",), asks_usage=True),
        Api("/responses", Wire.RESPONSES, ("max_output_tokens",)),
        Api("/embeddings", Wire.EMBEDDINGS, max_inputs=2048, max_input_tokens=300_000),
    ),
    account_headers=("openai-organization", "openai-project"),
    version="/v1",
    compatible={
        Wire.CHAT: "/chat/completions",
        Wire.COMPLETIONS: "/completions",
        Wire.RESPONSES: "/responses",
        Wire.EMBEDDINGS: "/embeddings",
    },
)
