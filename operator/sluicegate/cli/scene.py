# SPDX-License-Identifier: Apache-2.0
"""The demo's scene: its tenants, its two pools with the emulator's matching limits, and their documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sluicegate.cli.load import Caller, Target
from sluicegate.testing.config import EmulatorConfig

TIERS = ("Critical", "Premium", "Standard", "Free")
HEADROOM_PERCENT = 10  # of each bucket, for the highest tier alone
GUARANTEES = {"Critical": 30, "Premium": 25, "Standard": 10, "Free": 5}

# Together three times what the limits allow; `share` is each tenant's demand as a part of them.
CALLERS = (
    Caller("trading/trading-desk", "Critical", "risk", 0.2),
    Caller("acme/acme", "Premium", "chat", 0.6),
    Caller("studio/studio", "Standard", "enrich", 1.0),
    Caller("hobby/hobby", "Free", "summarize", 1.2),
)

OPENAI_TPM, OPENAI_RPM = 60_000, 600
ANTHROPIC_RPM, ANTHROPIC_ITPM, ANTHROPIC_OTPM = 300, 30_000, 15_000
BURST_SECONDS = 10

TARGETS = (
    Target("openai", "gpt-4o", 5.0, words=(30, 100), max_tokens=(60, 180)),
    Target("anthropic", "claude-sonnet-4-6", 4.2, words=(30, 100), max_tokens=(40, 90)),
)


def provider(seed: int, foreign_percent: float = 0.0) -> EmulatorConfig:
    """The emulator's side of the scene. `foreign_percent`: what others draw of each pool's limits."""
    pace = {"latency": "400ms", "latencySigma": 0.4, "latencyMax": "3s", "tokensPerSecond": 150}
    foreign = {"foreign": {"percent": foreign_percent, "callTokens": 200}} if foreign_percent else {}
    return EmulatorConfig.from_data(
        {
            "seed": seed,
            "pools": [
                {
                    "name": "gpt-4o",
                    "wire": "OpenAI",
                    "models": ["gpt-4o*"],
                    "limits": _limits(Requests=OPENAI_RPM, Tokens=OPENAI_TPM),
                    "outputTokens": {"median": 80, "sigma": 0.4, "max": 400},
                    "pace": pace,
                    **foreign,
                },
                {
                    "name": "claude-sonnet",
                    "wire": "Anthropic",
                    "models": ["claude-*"],
                    "limits": _limits(Requests=ANTHROPIC_RPM, InputTokens=ANTHROPIC_ITPM, OutputTokens=ANTHROPIC_OTPM),
                    "outputTokens": {"median": 60, "sigma": 0.3, "max": 400},
                    "pace": pace,
                    **foreign,
                },
            ],
        }
    )


def _limits(**limits: int) -> list[dict[str, Any]]:
    burst = f"{BURST_SECONDS}s"
    return [{"resource": name, "limit": limit, "window": "1m", "burst": burst} for name, limit in limits.items()]


def documents(emulator: str) -> list[dict[str, Any]]:
    """The ProviderPool and TenantPolicy documents of the scene, for a provider at `emulator` (URL)."""
    tiers: list[dict[str, Any]] = [
        {
            "name": name,
            "guaranteedPercent": percent,
            **({"reservedHeadroomPercent": HEADROOM_PERCENT} if name == "Critical" else {}),
        }
        for name, percent in GUARANTEES.items()
    ]
    pools = [
        _pool(
            "gpt-4o",
            "OpenAI",
            f"{emulator}/v1",
            ["gpt-4o", "gpt-4o-2024-*"],
            tiers,
            Requests=OPENAI_RPM,
            Tokens=OPENAI_TPM,
        ),
        _pool(
            "claude-sonnet",
            "Anthropic",
            emulator,
            ["claude-sonnet-*"],
            tiers,
            Requests=ANTHROPIC_RPM,
            InputTokens=ANTHROPIC_ITPM,
            OutputTokens=ANTHROPIC_OTPM,
        ),
    ]
    return pools + [_policy(caller) for caller in CALLERS]


def _pool(
    name: str, provider: str, endpoint: str, models: list[str], tiers: list[dict[str, Any]], **limits: int
) -> dict[str, Any]:
    return {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": name},
        "spec": {
            "provider": provider,
            "endpoint": endpoint,
            "models": models,
            "limits": [{"resource": resource, "limit": limit, "window": "1m"} for resource, limit in limits.items()],
            "tiers": tiers,
        },
    }


def _policy(caller: Caller) -> dict[str, Any]:
    namespace, name = caller.tenant.split("/")
    return {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "TenantPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"tier": caller.tier, "queue": {"maxDepth": 500, "maxWait": "20s"}},
    }


def write_documents(folder: Path, emulator: str) -> None:
    """Writes the scene's documents to `folder`/scene.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scene.yaml").write_text(yaml.safe_dump_all(documents(emulator), sort_keys=False))
