# SPDX-License-Identifier: Apache-2.0
"""Successful answers, kept for `cached` fallbacks: exact match on the request, per tenant, bounded in bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole success body; `stored` in the clock of the caller."""

    content_type: str
    body: bytes
    stored: float


def cache_key(path: str, body: dict[str, Any], fingerprint: str) -> bytes:
    """The key of a request whatever the order and spacing of its JSON: path, content and credential."""
    digest = hashlib.sha256(f"{path}\0{fingerprint}\0".encode())
    digest.update(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
    return digest.digest()


class ResponseCache:
    """The latest answers, at most `max_bytes` in all; one answer takes at most an eighth of that."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._size = 0
        self._answers: OrderedDict[tuple[str, bytes], CachedAnswer] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of bodies held."""
        return self._size

    @property
    def max_answer(self) -> int:
        """The largest answer that is kept, bytes."""
        return self._max // 8

    def store(self, tenant: str, key: bytes, content_type: str, body: bytes, now: float) -> None:
        """Keeps an answer, dropping the ones that were not used for longest."""
        if not body or len(body) > self.max_answer:
            return
        old = self._answers.pop((tenant, key), None)
        self._size += len(body) - (len(old.body) if old else 0)
        self._answers[(tenant, key)] = CachedAnswer(content_type, body, now)
        while self._size > self._max:
            _, dropped = self._answers.popitem(last=False)
            self._size -= len(dropped.body)

    def find(self, tenant: str, key: bytes, max_age: float, now: float) -> CachedAnswer | None:
        """The tenant's answer to this request, if it is not older than `max_age` seconds."""
        answer = self._answers.get((tenant, key))
        if answer is None or now - answer.stored > max_age:
            return None
        self._answers.move_to_end((tenant, key))
        return answer
