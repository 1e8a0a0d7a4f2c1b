# SPDX-License-Identifier: Apache-2.0
"""Successful answers, kept for `cached` fallbacks: exact match on the request, per tenant and credential.

Two requests are the same when their JSON means the same, whatever its spacing, the order of its keys and how its
numbers are written, and when path, query and the headers that choose an API's version agree. Fields that do not bear on
the answer do not count: who asks and what the provider's own records and caches are told. Whether it streams does
count, and so do a stream's options: a stream is replayed byte by byte in its provider's framing, and is never made out
of a whole answer or the other way round. A request whose answer depends on what the provider holds has no key.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson

from sluicegate.sidecar.inbound import Inbound

_IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "serviceTier",
        "store",
        "stream",
        "user",
    }
)
_VERSIONS = ("anthropic-version", "anthropic-beta", "openai-beta")
_CREDENTIALS = frozenset({"key", "access_token"})
_ROUND = re.compile(rb"\d\.0[,\]}]")
_OVERHEAD = 512
"""Bytes that an entry takes beside its body, about."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole success body, and the tenant that got it; `stored` in the clock of the caller."""

    tenant: str
    content_type: str
    body: bytes
    stored: float


def answer_key(inbound: Inbound) -> bytes | None:
    """The key of a request's answer; None: it is not to be kept. The tenant that it claims is a part of it."""
    body = inbound.body
    if body.get("background") or body.get("conversation"):  # they depend on more than the request
        return None
    told = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    if not inbound.stream:
        told.pop("stream_options", None)
    pairs = parse_qsl(inbound.query.lstrip("?")) if inbound.query else []
    query = sorted([pair for pair in pairs if pair[0] not in _CREDENTIALS])
    versions = [inbound.headers.getall(name, []) for name in _VERSIONS]
    head = (inbound.criticality.tenant, inbound.fingerprint, inbound.path, query, versions, inbound.stream)
    digest = hashlib.sha256(orjson.dumps(head))
    digest.update(canonical(told))
    return digest.digest()


def canonical(value: dict[str, Any]) -> bytes:
    """One spelling for all JSON that means the same: keys sorted, no spaces, whole numbers without a fraction."""
    written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if _ROUND.search(written) is None:  # a text may hold this too, which costs only the walk
        return written
    return orjson.dumps(_whole(value), option=orjson.OPT_SORT_KEYS)


def _whole(value: object) -> object:
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {k: _whole(v) for k, v in cast("dict[str, object]", value).items()}
        case list():
            return [_whole(item) for item in cast("list[object]", value)]
        case _:
            return value


class ResponseCache:
    """The latest answers, at most `max_bytes` in all; one answer takes at most an eighth of that."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._size = 0
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes held, about."""
        return self._size

    @property
    def max_answer(self) -> int:
        """The largest answer that is kept, bytes."""
        return self._max // 8

    def store(self, key: bytes, tenant: str, content_type: str, body: bytes, now: float) -> None:
        """Keeps an answer that `tenant` got, dropping the ones that were not used for longest."""
        if not body or len(body) > self.max_answer:
            return
        old = self._answers.pop(key, None)
        self._size += len(body) - len(old.body) if old else len(body) + _OVERHEAD
        self._answers[key] = CachedAnswer(tenant, content_type, body, now)
        while self._size > self._max:
            _, dropped = self._answers.popitem(last=False)
            self._size -= len(dropped.body) + _OVERHEAD

    def find(self, key: bytes) -> CachedAnswer | None:
        """The answer to a request. Whoever serves it compares its tenant and its age."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer
