# SPDX-License-Identifier: Apache-2.0
"""What an image, a document or a recording costs in tokens, by the rules that providers document.

The size of an image that is in the request itself is read from its first bytes (PNG, JPEG, GIF, WebP); one that is only
linked to has an unknown size. OpenAI: 512 px tiles after fitting into 2048 px and 768 px for the shorter side, or
32 px patches, at most 1536. For its tokens-per-minute limit an image counts `ADMISSION_TOKENS`, whatever it is
billed. Anthropic: width x height / 750 after scaling to its bound of about 1,600 tokens. Gemini: 258 per image
up to 384 px, else per tile of 768 px; 32 a second of audio, 263 of video.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct

ADMISSION_TOKENS = 765
ANTHROPIC_MOST = 1_600
_GEMINI_TILE = 258
_MOST_PATCHES = 1_536
_HEAD = 96 * 1024
"""Characters of base64 that are looked at: the size of a JPEG stands behind its EXIF data, 64 KB at most."""

# (start of the model's name, base, tile); the first that fits. Sources: OpenAI's guide on images, as of 2026.
_TILES = (
    ("gpt-4o-mini", 2833, 5667),
    ("chatgpt-4o", 85, 170),
    ("gpt-4", 85, 170),
    ("gpt-5", 70, 140),
    ("o1", 75, 150),
    ("o3", 75, 150),
    ("computer-use", 65, 129),
    ("gpt-image-1", 65, 129),
)
_PATCHES = (
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("gpt-5-mini", 1.62),
    ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)

Size = tuple[int, int]


def size_of(encoded: str) -> Size | None:
    """Width and height of a base64 image or data URL; None: unknown. Looks at the first 96 KB only."""
    if encoded.startswith("data:"):
        mark = encoded.find(",", 0, 200)
        if mark < 0:
            return None
        encoded = encoded[mark + 1 : mark + 1 + _HEAD]
    elif encoded.startswith(("http:", "https:", "gs:", "file:")):
        return None
    head = encoded[:_HEAD]
    try:
        data = base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    try:
        size = _size(data)
    except (struct.error, IndexError):
        return None
    return size if size is not None and 0 < size[0] <= 1 << 17 and 0 < size[1] <= 1 << 17 else None


def _size(data: bytes) -> Size | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:
            at += 1
            continue
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return None


def openai_image(model: str, size: Size | None, detail: str) -> int:
    """Tokens that an image is billed. Unknown size: as 1024 x 1024; unknown model: as GPT-4o."""
    for start, factor in _PATCHES:
        if model.startswith(start):
            width, height = size or (1024, 1024)
            patches = math.ceil(width / 32) * math.ceil(height / 32)
            return math.ceil(min(patches, _MOST_PATCHES) * factor)
    base, tile = next(((base, tile) for start, base, tile in _TILES if model.startswith(start)), (85, 170))
    if detail == "low":
        return base
    width, height = size or (1024, 1024)
    shrink = min(1.0, 2048 / max(width, height))
    shrink *= min(1.0, 768 / (min(width, height) * shrink))
    across, down = (max(1, math.ceil(round(side * shrink, 3) / 512)) for side in (width, height))
    return base + tile * across * down


def anthropic_image(size: Size | None) -> int:
    """Tokens of an image for Claude."""
    if size is None:
        return ANTHROPIC_MOST
    return min(ANTHROPIC_MOST, max(1, math.ceil(size[0] * size[1] / 750)))


def gemini_image(size: Size | None) -> int:
    """Tokens of an image for Gemini. Unknown size: four tiles."""
    if size is None:
        return 4 * _GEMINI_TILE
    if max(size) <= 384:
        return _GEMINI_TILE
    return _GEMINI_TILE * math.ceil(size[0] / 768) * math.ceil(size[1] / 768)


_PAGE_BYTES = 50_000
_UNKNOWN_PAGES = 10
_MOST_PAGES = 1_000


def pages(encoded: str | None) -> int:
    """About the pages of a base64 PDF, from its size; ten when it is only linked to."""
    if not encoded:
        return _UNKNOWN_PAGES
    return min(_MOST_PAGES, math.ceil(len(encoded) * 0.75 / _PAGE_BYTES))


_UNKNOWN_SECONDS = 60.0
_MOST_SECONDS = 9.5 * 3600.0


def gemini_media(mime: str, encoded: str | None) -> int:
    """Tokens of what is not text for Gemini. The length of a recording follows from its size at a usual bit rate:
    32 kB/s for WAV, else 8 kB/s of audio, 125 kB/s of video; a minute when it is only linked to."""
    kind = mime.partition("/")[0]
    size = len(encoded) * 0.75 if encoded else None
    if kind == "image":
        return gemini_image(size_of(encoded) if encoded else None)
    if kind == "audio":
        rate = 32_000 if "wav" in mime or "pcm" in mime or "l16" in mime else 8_000
        return math.ceil(32 * min(_MOST_SECONDS, _UNKNOWN_SECONDS if size is None else size / rate))
    if kind == "video":
        return math.ceil(263 * min(_MOST_SECONDS, _UNKNOWN_SECONDS if size is None else size / 125_000))
    if mime == "application/pdf":
        return _GEMINI_TILE * pages(encoded)
    return _GEMINI_TILE if size is None else math.ceil(size / 3)
