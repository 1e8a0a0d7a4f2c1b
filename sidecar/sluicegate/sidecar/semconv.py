# SPDX-License-Identifier: Apache-2.0
"""The names of span attributes: OpenTelemetry's conventions for generative AI in one version, and our own.

The conventions are in development and their names change: they stand here once, to be moved to a later version at once.
"""

from __future__ import annotations

from sluicegate.sidecar.core.providers import Wire
from sluicegate.wire.words import Dialect, Provider

VERSION = "1.41.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
HTTP_METHOD = "http.request.method"
HTTP_STATUS = "http.response.status_code"

OUTCOME = "sluicegate.outcome"
REASON = "sluicegate.reason"
POOL = "sluicegate.pool"
TENANT = "sluicegate.tenant"
TIER = "sluicegate.tier"
BINDING_LIMIT = "sluicegate.binding_limit"
ATTEMPT = "sluicegate.attempt"
"""Which of the call's attempts a span is, from 1."""
ATTEMPTS = "sluicegate.attempts"
QUEUE_WAIT = "sluicegate.queue_wait"
"""Seconds from the call's arrival to its last slot, or to its refusal."""

OPERATIONS: dict[Wire, str] = {
    Wire.CHAT: "chat",
    Wire.RESPONSES: "chat",
    Wire.MESSAGES: "chat",
    Wire.GENERATE: "generate_content",
    Wire.COMPLETIONS: "text_completion",
    Wire.FIM: "text_completion",
    Wire.EMBEDDINGS: "embeddings",
    Wire.EMBED: "embeddings",
}

PROVIDERS: dict[str, str] = {
    Provider.OPENAI: "openai",
    Provider.AZURE_OPENAI: "azure.ai.openai",
    Provider.ANTHROPIC: "anthropic",
    Provider.GOOGLE_GEMINI: "gcp.gemini",
    Provider.GOOGLE_VERTEX: "gcp.vertex_ai",
    Provider.MISTRAL: "mistral_ai",
    Dialect.GROQ: "groq",
    Dialect.DEEPSEEK: "deepseek",
    Dialect.XAI: "x_ai",
}
"""By provider, or by the dialect of an OpenAI-compatible one; any other is called as its dialect or provider."""
