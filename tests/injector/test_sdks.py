# SPDX-License-Identifier: Apache-2.0
"""What real SDKs make of the environment that injection gives an app: each finds the sidecar, none refuses to start."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.auth.credentials import AnonymousCredentials
from langchain_anthropic import ChatAnthropic
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

from sluicegate.injector.annotations import TABLE, read
from sluicegate.injector.patch import BASE_URLS, PORT, Injection, patch

KEYS = {
    "OPENAI_API_KEY": "k",
    "AZURE_OPENAI_API_KEY": "k",
    "OPENAI_API_VERSION": "2024-10-21",
    "ANTHROPIC_API_KEY": "k",
    "GOOGLE_API_KEY": "k",
}


def _langchain(made: Any) -> Any:
    """The SDK's client inside a LangChain class."""
    return getattr(made, "root_client", None) or made.client._client


CLIENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "openai": (lambda: openai.OpenAI().base_url, "/openai/v1/"),
    "openai, Azure": (lambda: openai.AzureOpenAI().base_url, "/azure/openai/"),
    "anthropic": (lambda: anthropic.Anthropic().base_url, "/anthropic/"),
    "anthropic, Vertex": (lambda: anthropic.AnthropicVertex(region="r", project_id="p").base_url, "/vertex/v1/"),
    "google-genai": (lambda: genai.Client()._api_client._http_options.base_url, "/google"),
    "google-genai, Vertex": (
        lambda: (
            genai.Client(
                vertexai=True, project="p", location="l", credentials=AnonymousCredentials()
            )._api_client._http_options.base_url
        ),
        "/vertex",
    ),
    "LangChain, OpenAI": (lambda: _langchain(ChatOpenAI(model="m")).base_url, "/openai/v1/"),
    "LangChain, OpenAI embeddings": (lambda: _langchain(OpenAIEmbeddings(model="m")).base_url, "/openai/v1/"),
    "LangChain, Azure": (
        lambda: _langchain(AzureChatOpenAI(azure_deployment="d")).base_url,
        "/azure/openai/deployments/d/",
    ),
    "LangChain, Azure embeddings": (
        lambda: _langchain(AzureOpenAIEmbeddings(azure_deployment="d")).base_url,
        "/azure/openai/deployments/d/",
    ),
    "LangChain, Anthropic": (
        lambda: ChatAnthropic(model_name="m", timeout=None, stop=None)._client.base_url,
        "/anthropic/",
    ),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, **BASE_URLS}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", CLIENTS)
def test_an_sdk_that_is_told_nothing_else_calls_the_sidecar(name: str):
    base, path = CLIENTS[name]
    assert str(base()) == f"http://127.0.0.1:{PORT}{path}"


def test_an_address_that_the_program_gives_itself_still_wins():
    assert openai.OpenAI(base_url="https://elsewhere/v1").base_url == "https://elsewhere/v1/"
    azure = AzureOpenAIEmbeddings(azure_endpoint="https://elsewhere", azure_deployment="d")
    assert str(_langchain(azure).base_url) == "https://elsewhere/openai/deployments/d/"


def test_what_langchain_reads_before_our_variables_is_what_injection_reports(monkeypatch: pytest.MonkeyPatch):
    for name, langchain in (("OPENAI_API_BASE", "LangChain, OpenAI"), ("ANTHROPIC_API_URL", "LangChain, Anthropic")):
        monkeypatch.setenv(name, "https://elsewhere/")
        assert str(CLIENTS[langchain][0]()) == "https://elsewhere/"
        own = {"spec": {"containers": [{"name": "app", "env": [{"name": name, "value": "https://elsewhere/"}]}]}}
        assert any(name in text for text in patch(own, Injection("image", "broker:1"), read({})).warnings)


def test_the_documentation_names_every_variable_and_annotation():
    words = set(re.findall(r"`([^`]+)`", (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()))
    assert set(BASE_URLS) <= words
    assert {row.name for row in TABLE} <= words
