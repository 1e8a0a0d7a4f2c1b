# SPDX-License-Identifier: Apache-2.0
"""What a provider module states as data: which paths are inspected, where things live, what may be asked.

A path is a template below the provider's base: `{model}` is the model, any other name in braces one segment of the
path. `ProviderTable.find` reads a path by these templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, unquote

from sluicegate.wire.words import Provider


class Wire(Enum):
    """The shape of an API's request, response and stream."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    GENERATE = "generate"
    """Google's generateContent: `contents` and `generationConfig`; its stream is events, or one JSON array."""
    EMBED = "embed"
    """Google's embedContent (`content`), batchEmbedContents (`requests`) and Vertex's predict (`instances`)."""
    FIM = "fim"
    """Mistral's fill in the middle: `prompt` and `suffix` go in, a chat completion comes out."""


class ErrorShape(Enum):
    """The body of an error, so that SDKs raise the exception that their users expect."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    GOOGLE_ARRAY = "google_array"
    """Google's in a JSON array of one, as a stream that is an array begins."""
    MISTRAL = "mistral"


class Streams(Enum):
    """What makes a call of an API stream."""

    FIELD = "field"  # `"stream": true` in the body
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Api:
    """One inspected API: POST `path` below the provider's base. `caps`: fields of the output cap, first present wins;
    a dot goes into an object.

    `max_inputs`, `max_input_tokens`: the most that one request for embeddings may hold; 0: not known.
    `asks_usage`: a stream gives usage only when `stream_options.include_usage` asks for it, and permits asking.
    `takes_stream_options`: False where the provider refuses a request that has this field.
    `model_prefix`: what stands before a model that we write into the body.
    `model_needed`: False where a call that names no model passes through. `shape`: of its errors; None: the table's.
    """

    path: str
    wire: Wire
    caps: tuple[str, ...] = ()
    asks_usage: bool = False
    max_inputs: int = 0
    max_input_tokens: int = 0
    takes_stream_options: bool = True
    streams: Streams = Streams.FIELD
    model_needed: bool = True
    shape: ErrorShape | None = None
    model_prefix: str = ""

    @property
    def model_in_path(self) -> bool:
        """Whether the model stands in the path; else it is the body's field `model`."""
        return "{model}" in self.path


@dataclass(frozen=True, slots=True)
class Place:
    """A path that an API was found at. `model`: as the path names it, decoded; empty where the body does."""

    api: Api
    path: str
    model: str = ""
    start: int = 0
    end: int = 0

    def with_model(self, model: str) -> str:
        """The path with another model in the place of its own; unchanged where the body names the model."""
        if not self.api.model_in_path or not model:
            return self.path
        return self.path[: self.start] + quote(model, safe="@") + self.path[self.end :]


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    text = re.escape(parts[0])
    for name, fixed in zip(parts[1::2], parts[2::2], strict=True):
        text += f"(?P<{name}>[^/:?]+)" + re.escape(fixed)
    return re.compile(text)


@dataclass(frozen=True, slots=True)
class ProviderTable:
    """One provider. `mount`: its base path on the sidecar; `endpoint`: where calls go that no pool claims.

    `credentials`: the headers that may hold the caller's key, in order; the first is how a key of ours is sent.
    `query_credentials`: query parameters that may hold it. `account_headers`: headers that name the caller's account;
    like the key they go to its own provider's account only. `version`: a first segment that every path below the mount
    may carry again (SDKs differ in whether their base URL has it), and the path of an endpoint that has none.
    `tail`: what may end an endpoint's path and gives way to the call's own path, as a regular expression.
    `compatible`: paths of its OpenAI-compatible endpoint by wire, for calls that come from another provider.
    `model_prefixes`: what may stand before a model's name and is no part of it. `uninspected`: models that are none.
    """

    provider: Provider
    mount: str
    endpoint: str
    credentials: tuple[str, ...]
    shape: ErrorShape
    apis: Mapping[str, Api] = field(default_factory=dict[str, Api])
    query_credentials: tuple[str, ...] = ()
    account_headers: tuple[str, ...] = ()
    version: str = ""
    tail: str = ""
    compatible: Mapping[Wire, str] = field(default_factory=dict[Wire, str])
    model_prefixes: tuple[str, ...] = ()
    uninspected: frozenset[str] = frozenset()

    def find(self, path: str) -> Place | None:
        """The API at a raw path below the base; None: not inspected."""
        api = self.apis.get(path)
        if api is not None:
            return Place(api, path)
        for api in self.apis.values():
            found = _pattern(api.path).fullmatch(path) if "{" in api.path else None
            if found is None:
                continue
            if not api.model_in_path:
                return Place(api, path)
            model = unquote(found["model"])
            return None if model in self.uninspected else Place(api, path, model, *found.span("model"))
        return None

    def bare(self, model: str) -> str:
        """A model's name without what may stand before it."""
        for prefix in self.model_prefixes:
            if model.startswith(prefix):
                return model[len(prefix) :]
        return model


def by_path(*apis: Api) -> Mapping[str, Api]:
    """Apis by their path."""
    return {api.path: api for api in apis}
