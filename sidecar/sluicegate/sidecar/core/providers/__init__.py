# SPDX-License-Identifier: Apache-2.0
"""The registry of providers: add a module that states a `ProviderTable`, and name it here."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.sidecar.core.providers.anthropic import ANTHROPIC
from sluicegate.sidecar.core.providers.api import Api, ErrorShape, ProviderTable, Wire
from sluicegate.sidecar.core.providers.openai import OPENAI
from sluicegate.sidecar.core.providers.passthrough import GOOGLE, MISTRAL
from sluicegate.wire.words import Provider

MOUNTED: tuple[ProviderTable, ...] = (OPENAI, ANTHROPIC, GOOGLE, MISTRAL)
"""Those with a base path of their own on the sidecar."""

_BY_PROVIDER: dict[Provider, ProviderTable] = {
    **{table.provider: table for table in MOUNTED},
    # They speak OpenAI's wire and are reached by pool only.
    Provider.OPENAI_COMPATIBLE: replace(OPENAI, provider=Provider.OPENAI_COMPATIBLE, mount="", endpoint=""),
    Provider.AZURE_OPENAI: replace(OPENAI, provider=Provider.AZURE_OPENAI, mount="", endpoint=""),
    Provider.GOOGLE_VERTEX: replace(GOOGLE, provider=Provider.GOOGLE_VERTEX, mount="", endpoint=""),
}


def table_of(provider: Provider) -> ProviderTable:
    """The table of a provider; every member of `Provider` has one."""
    return _BY_PROVIDER[provider]


__all__ = ["ANTHROPIC", "MOUNTED", "OPENAI", "Api", "ErrorShape", "ProviderTable", "Wire", "table_of"]
