# SPDX-License-Identifier: Apache-2.0
"""Azure OpenAI and Foundry: bare numbers whose unit changes, -1 for unknown, hints that are too short or far too long.

Without `x-ratelimit-key` a reset is in milliseconds, with it in whole seconds (both measured); where limit, remaining
and renewal period are there they decide. A day's hint is given for a minute's limit, so hints end at an hour.
"""

from __future__ import annotations

from sluicegate.sidecar.core.dialects.api import Phrase, Shape, Speech
from sluicegate.wire.words import ErrorClass, Resource

AZURE = Speech(
    "azure",
    shape=Shape.AZURE,
    codes={"DeploymentNotFound": ErrorClass.INVALID},
    phrases=(
        Phrase("exceeded token rate limit", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("exceeded the token rate limit", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("token limit is exceeded", ErrorClass.QUOTA, Resource.TOKENS),  # of the gateway, API Management
        Phrase("exceeded call rate limit", ErrorClass.QUOTA, Resource.REQUESTS),
        Phrase("exceeded the call rate limit", ErrorClass.QUOTA, Resource.REQUESTS),
    ),
    hint_ends=3_600.0,
)
