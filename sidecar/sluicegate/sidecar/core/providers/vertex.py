# SPDX-License-Identifier: Apache-2.0
"""Google Vertex AI: cloud.google.com/vertex-ai/generative-ai/docs/reference/rest.

Paths are `/v1/projects/{project}/locations/{location}/publishers/{publisher}/models/{model}:verb`; in express mode,
with an API key, there is no project. Gemini speaks as in the Gemini API, Claude and Mistral models speak their own
maker's wire in `:rawPredict` and `:streamRawPredict`. AnthropicVertex counts tokens by a model called `count-tokens`.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Streams, Wire, by_path
from sluicegate.sidecar.core.providers.google import CAPS
from sluicegate.sidecar.core.providers.openai import CHAT_CAPS
from sluicegate.wire.words import Provider

_PROJECT = "/{version}/projects/{project}/locations/{location}"

_COMPATIBLE = Api(
    "/endpoints/openapi/chat/completions",
    Wire.CHAT,
    CHAT_CAPS,
    asks_usage=True,
    shape=ErrorShape.OPENAI,
    model_prefix="google/",
)


def _publishers(base: str) -> tuple[Api, ...]:
    google = base + "/publishers/google/models/{model}"
    claude = base + "/publishers/anthropic/models/{model}"
    mistral = base + "/publishers/mistralai/models/{model}"
    anthropic = ErrorShape.ANTHROPIC
    return (
        Api(google + ":generateContent", Wire.GENERATE, CAPS, streams=Streams.NEVER),
        Api(google + ":streamGenerateContent", Wire.GENERATE, CAPS, streams=Streams.ALWAYS),
        Api(google + ":embedContent", Wire.EMBED, streams=Streams.NEVER),
        Api(google + ":batchEmbedContents", Wire.EMBED, streams=Streams.NEVER),
        Api(google + ":predict", Wire.EMBED, streams=Streams.NEVER),
        Api(claude + ":rawPredict", Wire.MESSAGES, ("max_tokens",), shape=anthropic),
        Api(claude + ":streamRawPredict", Wire.MESSAGES, ("max_tokens",), shape=anthropic),
        Api(mistral + ":rawPredict", Wire.CHAT, ("max_tokens",), takes_stream_options=False),
        Api(mistral + ":streamRawPredict", Wire.CHAT, ("max_tokens",), takes_stream_options=False),
    )


GOOGLE_VERTEX = ProviderTable(
    provider=Provider.GOOGLE_VERTEX,
    mount="/vertex",
    endpoint="https://aiplatform.googleapis.com",
    credentials=("authorization", "x-goog-api-key"),
    query_credentials=("key", "$key", "access_token"),
    shape=ErrorShape.GOOGLE,
    apis=by_path(
        *_publishers(_PROJECT),
        *_publishers("/{version}"),
        *(replace(_COMPATIBLE, path=base + _COMPATIBLE.path) for base in (_PROJECT, "/{version}")),
    ),
    account_headers=("x-goog-user-project",),
    tail=r"/v1(beta1)?(/projects/[^/]+/locations/[^/]+)?",
    compatible={Wire.CHAT: "/v1/endpoints/openapi/chat/completions"},
    model_prefixes=("google/",),
    uninspected=frozenset({"count-tokens"}),
)
