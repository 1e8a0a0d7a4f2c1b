# SPDX-License-Identifier: Apache-2.0
"""The registry of providers: add a module that states a `ProviderTable`, and name it here."""

from __future__ import annotations

from functools import lru_cache

from sluicegate.sidecar.core.providers.anthropic import ANTHROPIC
from sluicegate.sidecar.core.providers.api import Api, ErrorShape, Place, ProviderTable, Streams, Wire
from sluicegate.sidecar.core.providers.azure import AZURE_OPENAI
from sluicegate.sidecar.core.providers.compatible import compatible
from sluicegate.sidecar.core.providers.google import GOOGLE_GEMINI
from sluicegate.sidecar.core.providers.mistral import MISTRAL
from sluicegate.sidecar.core.providers.openai import OPENAI
from sluicegate.sidecar.core.providers.vertex import GOOGLE_VERTEX
from sluicegate.wire.words import Provider

MOUNTED: tuple[ProviderTable, ...] = (OPENAI, ANTHROPIC, GOOGLE_GEMINI, MISTRAL, AZURE_OPENAI, GOOGLE_VERTEX)
"""Those with a base path of their own on the sidecar."""

_BY_PROVIDER: dict[Provider, ProviderTable] = {table.provider: table for table in MOUNTED}

OPENAI_WIRE = frozenset({Provider.OPENAI, Provider.AZURE_OPENAI, Provider.OPENAI_COMPATIBLE})
"""Those whose own wire is OpenAI's."""

PERSONAL = frozenset(name for table in MOUNTED for name in (*table.credentials, *table.account_headers)) | {"cookie"}
"""Headers that may hold a key or name an account, of whichever provider: an app may send those of a gateway as well."""


@lru_cache
def taken_by(own: Provider, wire: Wire) -> tuple[Provider, ...]:
    """Where a call of `wire`, made to `own`, can go: there, and to the providers that have a path for that wire."""
    others = (provider for provider in Provider if wire in table_of(provider).compatible)
    return tuple(dict.fromkeys((own, *others)))


def table_of(provider: Provider, dialect: str = "") -> ProviderTable:
    """The table of a provider; every member of `Provider` has one. `dialect`: of an OpenAI-compatible one."""
    return compatible(dialect) if provider is Provider.OPENAI_COMPATIBLE else _BY_PROVIDER[provider]


__all__ = [
    "ANTHROPIC",
    "AZURE_OPENAI",
    "GOOGLE_GEMINI",
    "GOOGLE_VERTEX",
    "MISTRAL",
    "MOUNTED",
    "OPENAI",
    "OPENAI_WIRE",
    "PERSONAL",
    "Api",
    "ErrorShape",
    "Place",
    "ProviderTable",
    "Streams",
    "Wire",
    "table_of",
    "taken_by",
]
