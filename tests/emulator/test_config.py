# SPDX-License-Identifier: Apache-2.0
"""What the emulator is told, and what it says when that cannot be."""

from __future__ import annotations

import ast
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import sluicegate.testing
from sluicegate.testing.command import main
from sluicegate.testing.config import ConfigError, EmulatorConfig
from sluicegate.testing.faults import Fault
from sluicegate.testing.values import parse_duration

POOL = {"name": "p", "wire": "OpenAI", "models": ["m"], "limits": [{"resource": "Tokens", "limit": 600}]}
FULL = """
seed: 3
keys: {sk-b: batch}
unknownKeys: null
pools:
- name: gpt
  wire: OpenAI
  account: batch
  models: [gpt-4o, "gpt-4o-*"]
  limits:
  - {resource: Requests, limit: 500, window: 1m, slice: 1s}
  - {resource: Tokens, limit: 30000, window: 1m, algorithm: Bucket, burst: 10s}
  - {resource: Requests, limit: 10000, window: 24h, algorithm: FixedWindow, inHeaders: false}
  admission: max
  chargeRejected: all
  outputTokens: {median: 80, sigma: 0.4, max: 500}
  pace: {latency: 200ms, latencySigma: 0.3, tokensPerSecond: 80}
  faults: {overload: 0.1, stream_break: 0.05}
  episodes: [{fault: Hang, at: 20s, for: 1m, rate: 0.5}]
  foreign: {percent: 30, start: 10s}
  changes: [{at: 30s, resource: Tokens, limit: 15000}]
"""
PROVIDER_POOL = """
apiVersion: sluicegate.dev/v1alpha1
kind: ProviderPool
metadata: {name: claude-sonnet}
spec:
  provider: Anthropic
  endpoint: https://api.anthropic.com
  models: ["claude-sonnet-*"]
  limits:
  - {resource: InputTokens, limit: 30000, window: 1m, burst: 1m}
  - {resource: OutputTokens, limit: 8000, window: 1m}
---
apiVersion: sluicegate.dev/v1alpha1
kind: TenantPolicy
metadata: {name: acme}
spec: {tier: Premium}
"""


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "emulator.yaml"
    path.write_text(FULL)
    config = EmulatorConfig.from_file(path)
    (pool,) = config.pools
    assert (config.seed, config.unknown_keys, config.keys) == (3, None, {"sk-b": "batch"})
    requests, tokens, daily = pool.limits.meters
    assert (requests.slice, tokens.size, daily.window, daily.algorithm) == (1.0, 5_000, 86_400, "fixed_window")
    assert (pool.limits.charge_rejected, pool.admission, pool.output.most) == ("all", "max", 500)
    assert pool.faults == {Fault.OVERLOAD: 0.1, Fault.STREAM_BREAK: 0.05}
    assert (pool.episodes[0].fault, pool.episodes[0].duration) == (Fault.HANG, 60)
    assert (pool.changes[0].at, pool.pace.latency) == (30, 0.2)
    assert pool.foreign is not None
    assert (pool.serves("gpt-4o-mini"), pool.serves("gpt-4")) == (True, False)


def test_provider_pool_documents_are_pools(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(PROVIDER_POOL)
    (pool,) = EmulatorConfig.from_file(path).pools
    assert (pool.name, pool.wire, [meter.limit for meter in pool.limits.meters]) == (
        "claude-sonnet",
        "anthropic",
        [30_000, 8_000],
    )


def change(**fields: Any) -> dict[str, Any]:
    return {"pools": [{**POOL, **fields}]}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "pools is missing"),
        ("text", "emulator: must be a mapping, not 'text'"),
        ({"pool": []}, "emulator.pool: is not known here; allowed are seed, keys, unknownKeys, pools"),
        (
            change(wire="Azure"),
            "emulator.pools[0].wire: must be one of OpenAI, Anthropic, AzureOpenAI, GoogleGemini",
        ),
        (change(limits=[]), "emulator.pools[0].limits: at least one limit is needed"),
        (change(limits=[{"resource": "Tokens"}]), "emulator.pools[0].limits[0]: limit is missing"),
        (change(limits=[{"resource": "Token", "limit": 1}]), "resource: must be one of Requests, Tokens, InputTokens"),
        (change(limits=[{"resource": "Tokens", "limit": -1}]), "limit must be a finite number above 0, not -1"),
        (change(limits=[{"resource": "Tokens", "limit": 1, "window": "1 min"}]), "window: must be a duration such as"),
        (change(faults={"boom": 0.1}), "faults.boom: must be one of absurd-headers"),
        (change(faults={"hang": 0.6, "auth": 0.6}), "the rates come to 1.2"),
        (change(episodes=[{"fault": "hang"}]), "episodes[0]: at is missing"),
        (change(foreign={"percent": "much"}), "foreign.percent: must be a number, not 'much'"),
        (change(changes=[{"resource": "Requests", "limit": 1}]), "the pool has no limit of requests to change"),
        (change(outputTokens=0), "median must be 1 token or more, not 0"),
        (change(pace={"tokensPerSecond": -5}), "pace.tokensPerSecond: must be 0 or more, not -5"),
        (change(maxConcurrent=1.5), "maxConcurrent: must be a whole number, not 1.5"),
        ({"pools": [POOL, POOL]}, "the name 'p' is used more than once"),
        ({"pools": [POOL], "keys": {"sk-secret": 5}}, "keys: must map credentials to the names of accounts"),
        ({"kind": "ProviderPool", "metadata": {}, "spec": {"provider": "Cohere"}}, "is not emulated: 'Cohere'"),
    ],
)
def test_bad_configuration_names_field_value_and_what_is_allowed(data: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EmulatorConfig.from_data(data)
    assert problem in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_every_problem_is_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps({"pools": [{**POOL, "wire": "x", "admission": "y", "nothing": 1}]}))
    assert main(["--file", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(path)) for line in lines)
    assert main(["--file", str(tmp_path / "missing.yaml")]) == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("1m30s", 90), ("24h", 86_400), (5, 5), (0.5, 0.5)]
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "m", "-1s", "1s ", -1, True, None, float("inf")])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(text)


def test_the_emulator_shares_no_code_with_what_it_judges() -> None:
    package = Path(sluicegate.testing.__file__).parent
    sources = sorted(package.glob("*.py"))
    assert len(sources) > 10
    imported = {
        name
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.startswith("sluicegate")
    }
    assert {name for name in imported if not name.startswith("sluicegate.testing")} == set()


async def test_the_command_says_when_it_is_ready_and_stops_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluicegate.testing.command", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert ready["ready"] is True
        assert ready["openai"].endswith("/v1")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
