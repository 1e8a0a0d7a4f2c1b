# SPDX-License-Identifier: Apache-2.0
"""Which requests are the same for a cached answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from sluicegate.sidecar.cache import answer_key, canonical
from sluicegate.sidecar.core.criticality import Asked
from sluicegate.sidecar.core.routes import Routes, target_of
from sluicegate.sidecar.inbound import Inbound

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 1}


def key(body: dict[str, Any], path: str = "/openai/v1/chat/completions", **more: Any) -> bytes | None:
    target = target_of(path, Routes({}))
    assert target is not None
    place = target.table.find(target.rest)
    assert place is not None
    raw = json.dumps(body).encode()
    headers = CIMultiDictProxy(CIMultiDict(more.get("headers", {})))
    values: dict[str, Any] = {
        "target": target,
        "place": place,
        "path": path,
        "query": more.get("query", ""),
        "headers": headers,
        "raw": raw,
        "body": body,
        "model": "m",
        "stream": body.get("stream") is True,
        "criticality": Asked(tenant=more.get("tenant", "")),
        "credential": "",
        "fingerprint": more.get("fingerprint", "f"),
        "key": b"",
    }
    return answer_key(Inbound(**values))


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 1, "messages": [{"content": "hi", "role": "user"}], "model": "m"},
        {**BODY, "temperature": 1.0},
        {**BODY, "stream": False},
        {**BODY, "stream": None, "tools": None},
        {**BODY, "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"},
        {**BODY, "stream_options": {"include_usage": True}},
    ],
)
def test_the_same_request(other: dict[str, Any]):
    assert key(other) == key(BODY)
    assert key(BODY, query="?b=1&a=2&key=secret") == key(other, query="?a=2&b=1")


@pytest.mark.parametrize(
    "other",
    [
        {**BODY, "model": "n"},
        {**BODY, "temperature": 1.5},
        {**BODY, "messages": [{"role": "user", "content": "hi "}]},
        {**BODY, "seed": 1},
        {**BODY, "stream": True},
        {**BODY, "tools": []},
    ],
)
def test_another_request(other: dict[str, Any]):
    assert key(other) != key(BODY)


def test_another_tenant_credential_path_query_or_version_is_another_request():
    keys = {
        key(BODY),
        key(BODY, tenant="a/a"),
        key(BODY, fingerprint="g"),
        key(BODY, "/mistral/v1/chat/completions"),
        key(BODY, query="?api-version=1"),
        key(BODY, headers={"anthropic-beta": "x"}),
        key({**BODY, "stream": True}),
        key({**BODY, "stream": True, "stream_options": {"include_usage": True}}),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("more", [{"conversation": "c"}, {"background": True}])
def test_an_answer_that_depends_on_what_the_provider_holds_is_not_kept(more: dict[str, Any]):
    assert key({**BODY, **more}) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_canonical_json_means_the_same_and_has_one_spelling(body: dict[str, Any]):
    written = canonical(body)
    assert json.loads(written) == body
    shuffled = dict(sorted(body.items(), reverse=True))
    floats = {k: float(v) if type(v) is int and abs(v) < 2**53 else v for k, v in shuffled.items()}
    assert canonical(floats) == written
