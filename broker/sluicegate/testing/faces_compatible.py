# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible endpoints of providers with a wire of their own: OpenAI's bodies and streams, their own errors.

What is charged is what their own wire charges. None of them says anything of its limits in headers here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from sluicegate.testing.calls import Answer, Call, Json, Stream
from sluicegate.testing.face import Face, Place, bearer
from sluicegate.testing.face_anthropic import AnthropicFace
from sluicegate.testing.face_google import GeminiFace, VertexFace
from sluicegate.testing.face_openai import OpenAIFace
from sluicegate.testing.limits import Demand

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_OPENAI = OpenAIFace()


class CompatibleFace(Face):
    """To be mixed into a provider's face, in front of it. The key comes as Bearer."""

    paths: ClassVar[re.Pattern[str]]

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        found = self.paths.fullmatch(path)
        return None if found is None else Place("chat" if found[1] == "chat/completions" else "embeddings")

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return bearer(headers)

    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        call = _OPENAI.parse(place, body, model, config)
        used = call.prompt_tokens
        return replace(call, demand=Demand(tokens=used, input_tokens=used), charge=used)

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        return _OPENAI.whole(call, number, created, content, output, cut=cut)

    def frames(self, call: Call, number: int, created: int) -> Stream:
        return _OPENAI.frames(call, number, created)

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        return False


class AnthropicCompatibleFace(CompatibleFace, AnthropicFace):
    """`/v1/chat/completions`."""

    paths = re.compile(r"/v1/(chat/completions)")


class GeminiCompatibleFace(CompatibleFace, GeminiFace):
    """`/v1beta/openai/...`; an error comes in an array of one."""

    paths = re.compile(r"/v\w+/openai/(chat/completions|embeddings)")

    def dress(self, answer: Answer, place: Place | None) -> Answer:
        return Answer(answer.status, b"[" + answer.body + b"\n]", answer.outcome, answer.headers)


class VertexCompatibleFace(CompatibleFace, VertexFace):
    """`/v1/projects/<p>/locations/<l>/endpoints/openapi/chat/completions`."""

    paths = re.compile(r"/v\w+/projects/[^/]+/locations/[^/]+/endpoints/openapi/(chat/completions)")
