# SPDX-License-Identifier: Apache-2.0
"""Google's Gemini API (generativelanguage.googleapis.com): ai.google.dev/api.

The model stands in the path, and so does whether a call streams: `:streamGenerateContent` gives events with `?alt=sse`,
else one JSON array. A key comes in `x-goog-api-key`, as `?key=`, or a token as Bearer. The OpenAI-compatible endpoint
lies under `/v1beta/openai` and takes the key as Bearer. Every stream gives usage unasked.
"""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Streams, Wire, by_path
from sluicegate.sidecar.core.providers.openai import CHAT_CAPS
from sluicegate.wire.words import Provider

CAPS = ("generationConfig.maxOutputTokens", "generation_config.max_output_tokens")


def _below(base: str) -> tuple[Api, ...]:
    return (
        Api(base + "/{model}:generateContent", Wire.GENERATE, CAPS, streams=Streams.NEVER),
        Api(base + "/{model}:streamGenerateContent", Wire.GENERATE, CAPS, streams=Streams.ALWAYS),
        Api(base + "/{model}:embedContent", Wire.EMBED, streams=Streams.NEVER),
        Api(base + "/{model}:batchEmbedContents", Wire.EMBED, streams=Streams.NEVER, max_inputs=100),
    )


GOOGLE_GEMINI = ProviderTable(
    provider=Provider.GOOGLE_GEMINI,
    mount="/google",
    endpoint="https://generativelanguage.googleapis.com",
    credentials=("x-goog-api-key", "authorization"),
    query_credentials=("key", "$key", "access_token"),
    shape=ErrorShape.GOOGLE,
    apis=by_path(
        Api("/v1beta/openai/chat/completions", Wire.CHAT, CHAT_CAPS, asks_usage=True, shape=ErrorShape.OPENAI),
        Api("/v1beta/openai/embeddings", Wire.EMBEDDINGS, shape=ErrorShape.OPENAI),
        *_below("/{version}/models"),
        *_below("/{version}/tunedModels"),
    ),
    account_headers=("x-goog-user-project",),
    tail=r"/v1(alpha|beta)?(/openai)?",
    compatible={Wire.CHAT: "/v1beta/openai/chat/completions", Wire.EMBEDDINGS: "/v1beta/openai/embeddings"},
    model_prefixes=("models/",),
)
