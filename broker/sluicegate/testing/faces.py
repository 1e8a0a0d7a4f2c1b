# SPDX-License-Identifier: Apache-2.0
"""Where each provider is found on the emulator: OpenAI and Anthropic at the root, the others below a path each.

/v1/...  openai, anthropic      /azure/openai/...          /gemini/v1beta/models/...
/mistral/v1/...                 /groq/openai/v1/...        /vertex/v1/projects/... (or /publishers/...)
/anthropic/v1/...               and below /anthropic, /gemini and /vertex their OpenAI-compatible endpoints
"""

from __future__ import annotations

from sluicegate.testing.face import Face
from sluicegate.testing.face_anthropic import AnthropicFace
from sluicegate.testing.face_azure import AzureFace
from sluicegate.testing.face_google import GeminiFace, VertexFace
from sluicegate.testing.face_groq import GroqFace
from sluicegate.testing.face_mistral import MistralFace
from sluicegate.testing.face_openai import OpenAIFace
from sluicegate.testing.faces_compatible import (
    AnthropicCompatibleFace,
    CompatibleFace,
    GeminiCompatibleFace,
    VertexCompatibleFace,
)

_OPENAI, _ANTHROPIC = OpenAIFace(), AnthropicFace()
MOUNTS: dict[str, Face] = {
    "/anthropic": _ANTHROPIC,
    "/azure": AzureFace(),
    "/gemini": GeminiFace(),
    "/vertex": VertexFace(),
    "/mistral": MistralFace(),
    "/groq": GroqFace(),
}
_COMPATIBLE: dict[str, CompatibleFace] = {
    "/anthropic": AnthropicCompatibleFace(),
    "/gemini": GeminiCompatibleFace(),
    "/vertex": VertexCompatibleFace(),
}


def face_of(path: str) -> tuple[Face, str]:
    """The provider that a request path means, and the path below its mount."""
    for mount, face in MOUNTS.items():
        if path.startswith(mount + "/"):
            rest = path[len(mount) :]
            other = _COMPATIBLE.get(mount)
            return (other if other is not None and other.paths.fullmatch(rest) else face), rest
    return (_ANTHROPIC if path.startswith("/v1/messages") else _OPENAI), path
