# SPDX-License-Identifier: Apache-2.0
"""Providers whose calls pass through uninspected so far."""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import ErrorShape, ProviderTable
from sluicegate.wire.words import Provider

GOOGLE = ProviderTable(
    provider=Provider.GOOGLE_GEMINI,
    mount="/google",
    endpoint="https://generativelanguage.googleapis.com",
    credentials=("x-goog-api-key", "authorization"),
    shape=ErrorShape.OPENAI,
)

MISTRAL = ProviderTable(
    provider=Provider.MISTRAL,
    mount="/mistral/v1",
    endpoint="https://api.mistral.ai/v1",
    credentials=("authorization",),
    shape=ErrorShape.OPENAI,
)
