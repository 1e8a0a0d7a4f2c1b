# SPDX-License-Identifier: Apache-2.0
"""OpenAI: continuous buckets; `reset` is the time until full; the window of requests is named nowhere.

Source: rate-limits and error-codes guides of OpenAI, and 1,108 recorded header triples (reset = used / limit x window).
"""

from __future__ import annotations

from sluicegate.sidecar.core.dialects.api import Phrase, Speech, pair
from sluicegate.wire.words import ErrorClass, Resource

ROWS = (
    pair(Resource.REQUESTS, "requests"),
    pair(Resource.REQUESTS, "project-requests"),
    pair(Resource.TOKENS, "tokens"),
    pair(Resource.TOKENS, "project-tokens"),
)

OPENAI = Speech(
    "openai",
    ROWS,
    phrases=(
        # Google writes the same words for a quota that refills: so this is OpenAI's alone.
        Phrase("check your plan and billing details", ErrorClass.BILLING),
    ),
)
