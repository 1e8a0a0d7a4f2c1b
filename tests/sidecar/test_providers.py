# SPDX-License-Identifier: Apache-2.0
"""Paths of all providers: what is inspected, where the model stands, which URL comes out, whose key it is."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from sluicegate.sidecar.core.providers import (
    ANTHROPIC,
    AZURE_OPENAI,
    GOOGLE_GEMINI,
    GOOGLE_VERTEX,
    MISTRAL,
    OPENAI,
    ErrorShape,
    ProviderTable,
    Wire,
    table_of,
)
from sluicegate.sidecar.core.routes import Route, Routes, join, target_of
from sluicegate.sidecar.inbound import credential_of, shape_of, without_credentials
from sluicegate.wire.words import Dialect, Provider

PROJECT = "/v1/projects/p/locations/us-central1"
POOLS = {
    "gpt": Route("gpt", Provider.OPENAI, "https://a/v1"),
    "az": Route("az", Provider.AZURE_OPENAI, "https://r.openai.azure.com"),
    "groq": Route("groq", Provider.OPENAI_COMPATIBLE, "https://api.groq.com/openai/v1", dialect=Dialect.GROQ),
    "mis": Route("mis", Provider.MISTRAL, "https://api.mistral.ai"),
    "gem": Route("gem", Provider.GOOGLE_GEMINI, "https://g"),
}

FOUND = [
    ("/openai/v1/chat/completions", Provider.OPENAI, Wire.CHAT, ""),
    ("/anthropic/v1/messages", Provider.ANTHROPIC, Wire.MESSAGES, ""),
    ("/anthropic/v1/chat/completions", Provider.ANTHROPIC, Wire.CHAT, ""),
    ("/azure/openai/deployments/my%20gpt/chat/completions", Provider.AZURE_OPENAI, Wire.CHAT, "my gpt"),
    ("/azure/openai/deployments/e/embeddings", Provider.AZURE_OPENAI, Wire.EMBEDDINGS, "e"),
    ("/azure/openai/v1/responses", Provider.AZURE_OPENAI, Wire.RESPONSES, ""),
    ("/azure/v1/chat/completions", Provider.AZURE_OPENAI, Wire.CHAT, ""),
    (
        "/google/v1beta/models/gemini-2.5-flash:generateContent",
        Provider.GOOGLE_GEMINI,
        Wire.GENERATE,
        "gemini-2.5-flash",
    ),
    ("/google/v1/models/g:streamGenerateContent", Provider.GOOGLE_GEMINI, Wire.GENERATE, "g"),
    ("/google/v1beta/models/e:batchEmbedContents", Provider.GOOGLE_GEMINI, Wire.EMBED, "e"),
    ("/google/v1beta/openai/chat/completions", Provider.GOOGLE_GEMINI, Wire.CHAT, ""),
    (f"/vertex{PROJECT}/publishers/google/models/g:generateContent", Provider.GOOGLE_VERTEX, Wire.GENERATE, "g"),
    ("/vertex/v1/publishers/google/models/g:generateContent", Provider.GOOGLE_VERTEX, Wire.GENERATE, "g"),
    (
        "/vertex/projects/p/locations/l/publishers/anthropic/models/claude-x@20250929:streamRawPredict",
        Provider.GOOGLE_VERTEX,
        Wire.MESSAGES,
        "claude-x@20250929",
    ),
    (f"/vertex{PROJECT}/publishers/mistralai/models/m:rawPredict", Provider.GOOGLE_VERTEX, Wire.CHAT, "m"),
    (f"/vertex{PROJECT}/endpoints/openapi/chat/completions", Provider.GOOGLE_VERTEX, Wire.CHAT, ""),
    ("/mistral/v1/chat/completions", Provider.MISTRAL, Wire.CHAT, ""),
    ("/mistral/v1/v1/chat/completions", Provider.MISTRAL, Wire.CHAT, ""),
    ("/mistral/v1/fim/completions", Provider.MISTRAL, Wire.FIM, ""),
    ("/pools/gpt/v1/chat/completions", Provider.OPENAI, Wire.CHAT, ""),
    ("/pools/gpt/openai/v1/chat/completions", Provider.OPENAI, Wire.CHAT, ""),
    ("/pools/groq/v1/chat/completions", Provider.OPENAI_COMPATIBLE, Wire.CHAT, ""),
    ("/pools/groq/chat/completions", Provider.OPENAI_COMPATIBLE, Wire.CHAT, ""),
    ("/pools/groq/openai/v1/chat/completions", Provider.OPENAI_COMPATIBLE, Wire.CHAT, ""),  # groq's SDK
    ("/pools/az/openai/deployments/d/chat/completions", Provider.AZURE_OPENAI, Wire.CHAT, "d"),
    ("/pools/az/openai/v1/chat/completions", Provider.AZURE_OPENAI, Wire.CHAT, ""),
    ("/pools/az/azure/openai/v1/chat/completions", Provider.AZURE_OPENAI, Wire.CHAT, ""),
    ("/pools/mis/v1/chat/completions", Provider.MISTRAL, Wire.CHAT, ""),
    ("/pools/gem/v1beta/models/g:generateContent", Provider.GOOGLE_GEMINI, Wire.GENERATE, "g"),
    ("/pools/gem/google/v1beta/models/g:generateContent", Provider.GOOGLE_GEMINI, Wire.GENERATE, "g"),
    ("/pools/no-such/v1beta/models/g:generateContent", Provider.GOOGLE_GEMINI, Wire.GENERATE, "g"),
    ("/pools/no-such/openai/deployments/d/embeddings", Provider.AZURE_OPENAI, Wire.EMBEDDINGS, "d"),
    ("/pools/no-such/v1/messages", Provider.ANTHROPIC, Wire.MESSAGES, ""),
]


@pytest.mark.parametrize(("path", "provider", "wire", "model"), FOUND, ids=[path for path, *_ in FOUND])
def test_inspected_paths(path: str, provider: Provider, wire: Wire, model: str):
    target = target_of(path, Routes(POOLS))
    assert target is not None
    place = target.table.find(target.rest)
    assert place is not None
    assert (target.table.provider, place.api.wire, place.model) == (provider, wire, model)


@pytest.mark.parametrize(
    "path",
    [
        "/google/v1beta/models/g:countTokens",
        "/google/v1beta/models",
        "/google/upload/v1beta/files",
        f"/vertex{PROJECT}/publishers/anthropic/models/count-tokens:rawPredict",
        "/azure/openai/deployments/d/audio/transcriptions",
        "/mistral/v1/conversations",
        "/anthropic/v1/messages/count_tokens",
        "/openai/v1/chat/completions/x",
    ],
)
def test_the_rest_passes_through(path: str):
    target = target_of(path, Routes({}))
    assert target is not None
    assert target.table.find(target.rest) is None


@pytest.mark.parametrize("path", ["/", "/googl/v1beta/models/g:generateContent", "/google2/x", "/pools/", "/azure-x"])
def test_no_base_path(path: str):
    assert target_of(path, Routes({})) is None


@pytest.mark.parametrize(
    ("table", "path", "model", "expected"),
    [
        (GOOGLE_GEMINI, "/v1beta/models/a:generateContent", "b", "/v1beta/models/b:generateContent"),
        (GOOGLE_GEMINI, "/v1beta/models/a:generateContent", "", "/v1beta/models/a:generateContent"),
        (GOOGLE_GEMINI, "/v1beta/models/a:generateContent", "../x?y", "/v1beta/models/..%2Fx%3Fy:generateContent"),
        (AZURE_OPENAI, "/openai/deployments/a/embeddings", "b c", "/openai/deployments/b%20c/embeddings"),
        (
            GOOGLE_VERTEX,
            "/v1/publishers/anthropic/models/claude-a@1:rawPredict",
            "claude-b@2",
            "/v1/publishers/anthropic/models/claude-b@2:rawPredict",
        ),
        (OPENAI, "/chat/completions", "b", "/chat/completions"),
    ],
)
def test_another_model_is_written_where_the_model_stands(table: ProviderTable, path: str, model: str, expected: str):
    place = table.find(path)
    assert place is not None
    assert place.with_model(model) == expected


COMPATIBLE = table_of(Provider.OPENAI_COMPATIBLE)
GENERATE = "/v1beta/models/g:generateContent"
CLOUD = PROJECT + "/publishers/google/models/g:generateContent"


@pytest.mark.parametrize(
    ("table", "endpoint", "rest", "url"),
    [
        (OPENAI, "https://api.openai.com/v1", "/chat/completions", "https://api.openai.com/v1/chat/completions"),
        (OPENAI, "https://api.openai.com", "/chat/completions", "https://api.openai.com/v1/chat/completions"),
        (OPENAI, "https://gw/llm/openai/", "/embeddings", "https://gw/llm/openai/embeddings"),
        (
            COMPATIBLE,
            "https://api.groq.com/openai/v1",
            "/chat/completions",
            "https://api.groq.com/openai/v1/chat/completions",
        ),
        (
            COMPATIBLE,
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "/chat/completions",
            "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        ),
        (COMPATIBLE, "http://vllm:8000", "/chat/completions", "http://vllm:8000/chat/completions"),
        (MISTRAL, "https://api.mistral.ai", "/chat/completions", "https://api.mistral.ai/v1/chat/completions"),
        (MISTRAL, "https://api.mistral.ai/v1", "/chat/completions", "https://api.mistral.ai/v1/chat/completions"),
        (ANTHROPIC, "https://api.anthropic.com", "/v1/messages", "https://api.anthropic.com/v1/messages"),
        (ANTHROPIC, "https://gw/anthropic/v1/", "/v1/messages", "https://gw/anthropic/v1/messages"),
        (GOOGLE_GEMINI, "https://g", GENERATE, "https://g" + GENERATE),
        (GOOGLE_GEMINI, "https://g/v1", GENERATE, "https://g" + GENERATE),
        (GOOGLE_GEMINI, "https://gw/x/v1beta/openai", GENERATE, "https://gw/x" + GENERATE),
        (AZURE_OPENAI, "https://r", "/openai/v1/responses", "https://r/openai/v1/responses"),
        (
            AZURE_OPENAI,
            "https://r/openai/v1",
            "/openai/deployments/d/embeddings",
            "https://r/openai/deployments/d/embeddings",
        ),
        (AZURE_OPENAI, "https://apim/team/openai", "/openai/v1/responses", "https://apim/team/openai/v1/responses"),
        (GOOGLE_VERTEX, "https://v", CLOUD, "https://v" + CLOUD),
        (GOOGLE_VERTEX, "https://v/v1/projects/other/locations/eu", CLOUD, "https://v" + CLOUD),
        (
            GOOGLE_VERTEX,
            "https://v/v1/projects/other/locations/eu",
            "/v1beta1/publishers/google/models/g:generateContent",
            "https://v/v1/projects/other/locations/eu/publishers/google/models/g:generateContent",
        ),
    ],
)
def test_endpoint_and_path_are_joined(table: ProviderTable, endpoint: str, rest: str, url: str):
    assert join(table, endpoint, rest) == url


@pytest.mark.parametrize(
    ("table", "headers", "query", "key"),
    [
        (AZURE_OPENAI, {"api-key": "a", "authorization": "Bearer b"}, "?api-version=1", "a"),
        (AZURE_OPENAI, {"authorization": "Bearer b"}, "?key=no", "b"),
        (GOOGLE_GEMINI, {"x-goog-api-key": "a"}, "?key=q", "a"),
        (GOOGLE_GEMINI, {}, "?alt=sse&key=q%2B1", "q+1"),
        (GOOGLE_GEMINI, {}, "?alt=sse", ""),
        (GOOGLE_GEMINI, {}, "?%6bey=q", "q"),
        (GOOGLE_VERTEX, {"authorization": "bearer t"}, "", "t"),
        (MISTRAL, {"authorization": "Bearer m"}, "", "m"),
        (OPENAI, {}, "?key=q", ""),
    ],
)
def test_whose_key_it_is(table: ProviderTable, headers: dict[str, str], query: str, key: str):
    assert credential_of(table, CIMultiDictProxy(CIMultiDict(headers)), query) == key
    if key and table.query_credentials:
        assert key not in without_credentials(table, query)


def test_a_query_keeps_all_but_the_key():
    assert without_credentials(GOOGLE_GEMINI, "?alt=sse&key=k&%24key=l&x=1") == "?alt=sse&x=1"
    assert without_credentials(GOOGLE_GEMINI, "?key=k") == ""
    assert without_credentials(OPENAI, "?key=k") == "?key=k"


def test_only_where_permitted_and_needed_is_usage_asked_for():
    asked = {d.value: table_of(Provider.OPENAI_COMPATIBLE, d).apis["/chat/completions"].asks_usage for d in Dialect}
    assert {name for name, asks in asked.items() if asks} == {"fireworks", "vllm", "xai"}
    assert not COMPATIBLE.apis["/chat/completions"].asks_usage
    assert not any(api.asks_usage or api.takes_stream_options for api in MISTRAL.apis.values() if api.wire is Wire.CHAT)
    assert all(api.asks_usage for api in AZURE_OPENAI.apis.values() if api.wire is Wire.CHAT)


@pytest.mark.parametrize(
    ("table", "path", "query", "shape"),
    [
        (GOOGLE_GEMINI, "/v1beta/models/g:streamGenerateContent", "alt=sse", ErrorShape.GOOGLE),
        (GOOGLE_GEMINI, "/v1beta/models/g:streamGenerateContent", "", ErrorShape.GOOGLE_ARRAY),
        (GOOGLE_GEMINI, GENERATE, "", ErrorShape.GOOGLE),
        (GOOGLE_GEMINI, "/v1beta/openai/chat/completions", "", ErrorShape.OPENAI),
        (GOOGLE_VERTEX, "/v1/publishers/anthropic/models/c:rawPredict", "", ErrorShape.ANTHROPIC),
        (AZURE_OPENAI, "/openai/v1/responses", "", ErrorShape.AZURE),
        (MISTRAL, "/chat/completions", "", ErrorShape.MISTRAL),
    ],
)
def test_shape_of_errors(table: ProviderTable, path: str, query: str, shape: ErrorShape):
    place = table.find(path)
    assert place is not None
    assert shape_of(table, place.api, query) is shape


def test_every_compatible_path_is_one_that_is_inspected():
    for provider in Provider:
        table = table_of(provider)
        for wire, path in table.compatible.items():
            place = table.find(path)
            assert place is not None
            assert place.api.wire is wire
