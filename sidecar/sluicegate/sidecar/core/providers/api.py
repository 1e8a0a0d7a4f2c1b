# SPDX-License-Identifier: Apache-2.0
"""What a provider module states as data: which paths are inspected, where things live, what may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sluicegate.wire.words import Provider


class Wire(Enum):
    """The shape of an API's request, response and stream."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"


class ErrorShape(Enum):
    """The body of an error, so that SDKs raise the exception that their users expect."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Api:
    """One inspected API: POST `path` below the provider's base. `caps`: fields of the output cap, first present wins.

    `asks_usage`: a stream gives usage only when `stream_options.include_usage` asks for it, and permits asking.
    """

    path: str
    wire: Wire
    caps: tuple[str, ...] = ()
    asks_usage: bool = False


@dataclass(frozen=True, slots=True)
class ProviderTable:
    """One provider. `mount`: its base path on the sidecar; `endpoint`: where calls go that no pool claims.

    `credentials`: the headers that may hold the caller's key, in order. `headers`: the dialect of its rate-limit
    headers. `openai_path`: the chat path of its OpenAI-compatible endpoint, for failover from an OpenAI client.
    """

    provider: Provider
    mount: str
    endpoint: str
    credentials: tuple[str, ...]
    shape: ErrorShape
    apis: Mapping[str, Api] = field(default_factory=dict[str, Api])
    openai_path: str = ""


def by_path(*apis: Api) -> Mapping[str, Api]:
    """Apis by their path."""
    return {api.path: api for api in apis}
