# SPDX-License-Identifier: Apache-2.0
"""Azure OpenAI: learn.microsoft.com, Azure OpenAI REST reference.

Two forms below one resource: `/openai/deployments/{deployment}/...?api-version=`, where the deployment stands in the
path and a `model` in the body is ignored, and the newer `/openai/v1/...` (and `/openai/responses?api-version=`), where
the body's `model` names the deployment. Either way the pool's `models` are deployments. A key comes in `api-key`, an
Entra token (or in the v1 form a key) as Bearer, API Management's in `ocp-apim-subscription-key`. Streams give usage
when asked, as OpenAI's.
"""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire, by_path
from sluicegate.sidecar.core.providers.openai import CHAT_CAPS
from sluicegate.wire.words import Provider

_DEPLOYMENT = "/openai/deployments/{model}"

AZURE_OPENAI = ProviderTable(
    provider=Provider.AZURE_OPENAI,
    mount="/azure",
    endpoint="",  # every account has its own
    credentials=("api-key", "authorization", "ocp-apim-subscription-key"),
    shape=ErrorShape.AZURE,
    apis=by_path(
        Api(_DEPLOYMENT + "/chat/completions", Wire.CHAT, CHAT_CAPS, asks_usage=True),
        Api(_DEPLOYMENT + "/completions", Wire.COMPLETIONS, ("max_tokens",), asks_usage=True),
        Api(_DEPLOYMENT + "/embeddings", Wire.EMBEDDINGS, max_inputs=2048),
        Api("/openai/v1/chat/completions", Wire.CHAT, CHAT_CAPS, asks_usage=True),
        Api("/openai/v1/completions", Wire.COMPLETIONS, ("max_tokens",), asks_usage=True),
        Api("/openai/v1/responses", Wire.RESPONSES, ("max_output_tokens",)),
        Api("/openai/v1/embeddings", Wire.EMBEDDINGS, max_inputs=2048),
        Api("/openai/responses", Wire.RESPONSES, ("max_output_tokens",)),
    ),
    tail=r"/openai(/v1|/deployments/[^/]+)?",
    compatible={
        Wire.CHAT: "/openai/v1/chat/completions",
        Wire.COMPLETIONS: "/openai/v1/completions",
        Wire.RESPONSES: "/openai/v1/responses",
        Wire.EMBEDDINGS: "/openai/v1/embeddings",
    },
)
