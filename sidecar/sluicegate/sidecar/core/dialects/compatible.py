# SPDX-License-Identifier: Apache-2.0
"""Providers that speak OpenAI's wire with limits of their own, and a reading for those that nobody has described."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.sidecar.core.dialects.api import DAY, MINUTE, SECOND, Phrase, Reset, Row, Shape, Speech, pair
from sluicegate.wire.words import ErrorClass, Resource

# Requests are always per day and tokens per minute; a day's tokens never appear in headers. 413 for what never fits.
GROQ = Speech(
    "groq",
    (pair(Resource.REQUESTS, "requests", window=DAY), pair(Resource.TOKENS, "tokens", window=MINUTE)),
    codes={"capacity_exceeded": ErrorClass.OVERLOAD, "blocked_api_access": ErrorClass.BILLING},
)

# Limit and remaining without a reset; an unpaid team comes as 429 or 403 (a text that all share), a wrong key as 400.
XAI = Speech(
    "xai",
    (pair(Resource.REQUESTS, "requests"), pair(Resource.TOKENS, "tokens")),
    phrases=(
        Phrase("tokens per minute (actual/limit)", ErrorClass.QUOTA, Resource.TOKENS, MINUTE),
        Phrase("requests per minute (actual/limit)", ErrorClass.QUOTA, Resource.REQUESTS, MINUTE),
        Phrase("requests per second (actual/limit)", ErrorClass.QUOTA, Resource.REQUESTS, SECOND),
        Phrase("content violates usage guidelines", ErrorClass.CONTENT_POLICY),
    ),
)

DEEPSEEK = Speech("deepseek")

TOGETHER = Speech(
    "together",
    (
        Row(
            Resource.REQUESTS,
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            window=SECOND,
            form=Reset.SECONDS,
        ),
        Row(Resource.TOKENS, "x-tokenlimit-limit", "x-tokenlimit-remaining", form=Reset.SECONDS),
    ),
    phrases=(Phrase("`inputs` tokens + `max_new_tokens` must be", ErrorClass.CONTEXT_LENGTH),),
)

# Three meters a minute: the whole prompt, the uncached part of it, what is generated.
FIREWORKS = Speech(
    "fireworks",
    (
        pair(Resource.REQUESTS, "requests", window=MINUTE),
        pair(Resource.TOKENS, "tokens-prompt", window=MINUTE),
        pair(Resource.INPUT_TOKENS, "tokens-cache-adjusted-prompt", window=MINUTE),
        pair(Resource.OUTPUT_TOKENS, "tokens-generated", window=MINUTE),
    ),
)

# Its headers stand in the error's metadata as a rule, with the reset in epoch milliseconds.
OPENROUTER = Speech(
    "openrouter",
    (Row(Resource.REQUESTS, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", form=Reset.ANY),),
    phrases=(
        Phrase("temporarily rate-limited upstream", ErrorClass.OVERLOAD),
        Phrase("free-models-per-day", ErrorClass.QUOTA, Resource.REQUESTS, DAY),
        Phrase("free-models-per-min", ErrorClass.QUOTA, Resource.REQUESTS, MINUTE),
        Phrase("insufficient credits", ErrorClass.BILLING),
        Phrase("key limit exceeded", ErrorClass.BILLING),
        Phrase("token limit reached", ErrorClass.CONTEXT_LENGTH),
        Phrase("requires moderation", ErrorClass.CONTENT_POLICY),
    ),
)

VLLM = Speech("vllm")

PERPLEXITY = Speech("perplexity", codes={"too_many_prompt_tokens": ErrorClass.CONTEXT_LENGTH})

# The router's headers; its engine tells of too many tokens as an invalid input.
HUGGING_FACE = Speech(
    "huggingface",
    shape=Shape.STRUCTURED,
    codes={"validation": ErrorClass.INVALID},
    phrases=(
        Phrase("`inputs` must have less than", ErrorClass.CONTEXT_LENGTH),
        Phrase("`inputs` tokens + `max_new_tokens` must be", ErrorClass.CONTEXT_LENGTH),
    ),
)
REPLICATE = Speech(
    "replicate",
    (Row(Resource.REQUESTS, "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", form=Reset.SECONDS),),
)
CEREBRAS = Speech(
    "cerebras",
    shape=Shape.NAMED_WINDOWS,
    codes={"queue_exceeded": ErrorClass.OVERLOAD},
    phrases=(Phrase("experiencing high traffic", ErrorClass.OVERLOAD),),
)

# Limits only, of a trial key, and no reset: nothing to fold in.
COHERE = Speech(
    "cohere",
    codes={"TOO_MANY_TOKENS": ErrorClass.CONTEXT_LENGTH},
    phrases=(
        Phrase("per minute request limit", ErrorClass.QUOTA, Resource.REQUESTS, MINUTE),
        Phrase("api calls / minute", ErrorClass.QUOTA, Resource.REQUESTS, MINUTE),
        Phrase("calls / month", ErrorClass.QUOTA, Resource.REQUESTS, 30 * DAY),
        Phrase("api calls / month", ErrorClass.QUOTA, Resource.REQUESTS, 30 * DAY),
        Phrase("token rate limit exceeded", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("total number of tokens in the prompt cannot exceed", ErrorClass.CONTEXT_LENGTH),
    ),
)

# No headers; the type of an error stands in x-amzn-errortype, or is the member of a stream's union.
BEDROCK = Speech(
    "bedrock",
    codes={
        "ThrottlingException": ErrorClass.QUOTA,
        "ModelNotReadyException": ErrorClass.OVERLOAD,
        "ServiceUnavailableException": ErrorClass.OVERLOAD,
        "ModelTimeoutException": ErrorClass.SERVER,
        "ModelErrorException": ErrorClass.SERVER,
        "ModelStreamErrorException": ErrorClass.SERVER,
        "InternalServerException": ErrorClass.SERVER,
        "UnrecognizedClientException": ErrorClass.AUTH,
        "ExpiredTokenException": ErrorClass.AUTH,
        "AccessDeniedException": ErrorClass.AUTH,
        "InvalidSignatureException": ErrorClass.AUTH,
        "MissingAuthenticationTokenException": ErrorClass.AUTH,
        "ServiceQuotaExceededException": ErrorClass.QUOTA,
        "ValidationException": ErrorClass.INVALID,
        "ResourceNotFoundException": ErrorClass.INVALID,
    },
    phrases=(
        Phrase("invalid_payment_instrument", ErrorClass.BILLING),
        Phrase("too many tokens per day", ErrorClass.QUOTA, Resource.TOKENS, DAY),
        Phrase("too many tokens", ErrorClass.QUOTA, Resource.TOKENS),
        Phrase("too many requests", ErrorClass.QUOTA, Resource.REQUESTS),
        Phrase("request rate is too high", ErrorClass.QUOTA, Resource.REQUESTS),
        Phrase("too many connections", ErrorClass.QUOTA, Resource.REQUESTS),
    ),
)

# Nobody has described it: whatever header family it uses is read.
UNKNOWN = replace(
    VLLM,
    name="compatible",
    shape=Shape.ANY,
    rows=(
        pair(Resource.REQUESTS, "requests", form=Reset.ANY),
        pair(Resource.TOKENS, "tokens", form=Reset.ANY),
        pair(Resource.INPUT_TOKENS, "input-tokens", form=Reset.ANY),
        pair(Resource.OUTPUT_TOKENS, "output-tokens", form=Reset.ANY),
        Row(Resource.REQUESTS, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", form=Reset.ANY),
        Row(Resource.REQUESTS, "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", form=Reset.ANY),
    ),
)
