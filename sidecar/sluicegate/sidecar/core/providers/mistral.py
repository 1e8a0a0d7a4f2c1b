# SPDX-License-Identifier: Apache-2.0
"""Mistral: docs.mistral.ai/api. Streams give usage in their last chunk unasked, and `stream_options` is refused (422).

An agent's completion names an agent, whose model is not known here: it passes through, unless it names a model too.
"""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire, by_path
from sluicegate.wire.words import Provider

MISTRAL = ProviderTable(
    provider=Provider.MISTRAL,
    mount="/mistral",
    endpoint="https://api.mistral.ai/v1",
    credentials=("authorization",),
    shape=ErrorShape.MISTRAL,
    apis=by_path(
        Api("/chat/completions", Wire.CHAT, ("max_tokens",), takes_stream_options=False),
        Api("/fim/completions", Wire.FIM, ("max_tokens",), takes_stream_options=False),
        Api("/agents/completions", Wire.CHAT, ("max_tokens",), takes_stream_options=False, model_needed=False),
        Api("/embeddings", Wire.EMBEDDINGS),
    ),
    version="/v1",
    compatible={Wire.CHAT: "/chat/completions", Wire.EMBEDDINGS: "/embeddings"},
)
