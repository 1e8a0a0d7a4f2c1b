# SPDX-License-Identifier: Apache-2.0
"""Mistral: the window stands in the header's name, there is no reset, and streams carry no headers at all.

`x-ratelimit-tokens-query-cost` is what this very call was charged. A 429 of the API says nothing of the limit; the
gateway's own says "Requests rate limit exceeded". Capacity comes as 429 or 503, even as an invalid request.
"""

from __future__ import annotations

from sluicegate.sidecar.core.dialects.api import Phrase, Shape, Speech
from sluicegate.wire.words import ErrorClass, Resource

MISTRAL = Speech(
    "mistral",
    shape=Shape.NAMED_WINDOWS,
    codes={
        "1300": ErrorClass.QUOTA,
        "3505": ErrorClass.OVERLOAD,
        "rate_limited": ErrorClass.QUOTA,
        "service_tier_capacity_exceeded": ErrorClass.OVERLOAD,
    },
    phrases=(
        Phrase("service tier capacity exceeded", ErrorClass.OVERLOAD),
        Phrase("requests rate limit exceeded", ErrorClass.QUOTA, Resource.REQUESTS),
        Phrase("spending limit", ErrorClass.BILLING),
    ),
)
