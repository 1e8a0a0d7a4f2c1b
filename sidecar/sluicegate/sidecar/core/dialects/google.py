# SPDX-License-Identifier: Apache-2.0
"""Gemini API and Vertex AI: no headers; everything stands in the body's google.rpc details.

The metric is the same for a minute and a day, only `quotaId` tells them apart; of several violations the slowest
counts. RetryInfo is cut to whole seconds, the message has the fraction. A day's quota comes back at midnight Pacific,
whatever the hint says.
"""

from __future__ import annotations

from sluicegate.sidecar.core.dialects.api import DAY, MINUTE, Phrase, Speech
from sluicegate.wire.words import ErrorClass, Resource

_PHRASES = (
    Phrase("resource exhausted. please try again later", ErrorClass.OVERLOAD),
    Phrase("no capacity available", ErrorClass.OVERLOAD),
    Phrase("model is overloaded", ErrorClass.OVERLOAD),
    Phrase("the input token count", ErrorClass.CONTEXT_LENGTH),
    Phrase("input_token_count", ErrorClass.QUOTA, Resource.INPUT_TOKENS),
    Phrase("input_tokens_per_minute", ErrorClass.QUOTA, Resource.INPUT_TOKENS, MINUTE),
    Phrase("output_tokens_per_minute", ErrorClass.QUOTA, Resource.OUTPUT_TOKENS, MINUTE),
    Phrase("tokens_per_minute", ErrorClass.QUOTA, Resource.TOKENS, MINUTE),
    Phrase("requests_per_model_per_day", ErrorClass.QUOTA, Resource.REQUESTS, DAY),
    Phrase("requests_per_day", ErrorClass.QUOTA, Resource.REQUESTS, DAY),
    Phrase("requests_per", ErrorClass.QUOTA, Resource.REQUESTS),
    Phrase("free_tier_requests", ErrorClass.QUOTA, Resource.REQUESTS),
)
_CODES = {
    "API_KEY_INVALID": ErrorClass.AUTH,
    "CREDENTIALS_MISSING": ErrorClass.AUTH,
    "UNAUTHENTICATED": ErrorClass.AUTH,
    "PERMISSION_DENIED": ErrorClass.AUTH,
    "BILLING_DISABLED": ErrorClass.BILLING,
    "MODEL_CAPACITY_EXHAUSTED": ErrorClass.OVERLOAD,
    "UNAVAILABLE": ErrorClass.OVERLOAD,
}

GEMINI = Speech("gemini", codes=_CODES, phrases=_PHRASES, google=True)
VERTEX = Speech("vertex", codes=_CODES, phrases=_PHRASES, google=True)
