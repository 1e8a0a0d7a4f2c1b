# SPDX-License-Identifier: Apache-2.0
"""`sluicegate up` as a user runs it: a process, files, real SDKs, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
import yaml

from sluicegate.cli import scene
from sluicegate.testing.config import EmulatorConfig
from sluicegate.testing.emulator import Emulator, serve

READY_WITHIN = 30.0


@asynccontextmanager
async def up(folder: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    ports = [word for name in ("sidecar", "broker", "admin", "sidecar-admin") for word in (f"--{name}-port", "0")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluicegate.cli.main", "up", "-f", str(folder), *ports, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(await asyncio.wait_for(process.stdout.readline(), READY_WITHIN))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with await serve(scene.provider(seed=3)) as running:
        yield running


def chat_client(ready: dict[str, Any], tenant: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=ready["openai"], api_key="sk-test", default_headers={"x-sluicegate-tenant": tenant}
    )


async def get_json(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


async def test_both_sdks_get_answers_and_the_decisions_are_logged(tmp_path: Path, emulator: Emulator) -> None:
    scene.write_documents(tmp_path / "config", emulator.url)
    decisions = tmp_path / "decisions.jsonl"
    async with up(tmp_path / "config", "--decisions", str(decisions)) as (process, ready):
        assert ready["ready"] is True
        async with chat_client(ready, "acme/acme") as client:
            raw = await client.chat.completions.with_raw_response.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}], max_tokens=20
            )
            assert raw.parse().choices[0].message.content
            assert raw.headers["x-sluicegate-outcome"] == "granted"
            assert raw.headers["x-sluicegate-pool"] == "gpt-4o"
        async with (
            anthropic.AsyncAnthropic(base_url=ready["anthropic"], api_key="sk-test") as claude,
            claude.messages.stream(
                model="claude-sonnet-4-6", max_tokens=30, messages=[{"role": "user", "content": "hello"}]
            ) as stream,
        ):
            assert await stream.get_final_text()
        async with aiohttp.ClientSession() as session, session.get(f"{ready['admin']}/metrics") as response:
            metrics = await response.text()
        assert 'tenant="acme/acme"' in metrics
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    logged = [json.loads(line) for line in decisions.read_text().splitlines()]
    assert {(entry["pool"], entry["tenant"]) for entry in logged} == {
        ("gpt-4o", "acme/acme"),
        ("claude-sonnet", "default/unassigned"),
    }


async def test_a_changed_folder_takes_effect_and_a_bad_document_takes_no_other_down(
    tmp_path: Path, emulator: Emulator
) -> None:
    config = tmp_path / "config"
    scene.write_documents(config, emulator.url)
    async with up(config) as (_, ready):
        async with chat_client(ready, "late/late") as client:
            with pytest.raises(openai.APIStatusError) as refused:
                await ask(client)
            assert "late/late" in refused.value.message

            policy = {
                "apiVersion": "sluicegate.dev/v1alpha1",
                "kind": "TenantPolicy",
                "metadata": {"name": "late", "namespace": "late"},
                "spec": {"tier": "Premium"},
            }
            broken = json.loads(json.dumps(policy))
            broken["metadata"]["name"] = "broken"
            broken["spec"]["weight"] = -3
            (config / "late.yaml").write_text(yaml.safe_dump_all([broken, policy]))
            for _ in range(100):
                try:
                    answer = await ask(client)
                    break
                except openai.APIStatusError:
                    await asyncio.sleep(0.1)
            else:
                pytest.fail("the new policy did not take effect within 10 s")
            assert answer.choices
        findings = json.dumps(await get_json(f"{ready['admin']}/debug/findings"))
        assert "late.yaml" in findings
        assert "weight" in findings
        assert "-3" in findings


async def ask(client: openai.AsyncOpenAI) -> Any:
    return await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hello"}], max_tokens=5
    )


async def test_the_examples_at_an_idle_provider_never_wait(tmp_path: Path) -> None:
    """Day limits, which no header of OpenAI names, included."""
    examples = Path(__file__).parents[2] / "examples"
    async with await serve(EmulatorConfig.from_file(examples / "pools.yaml")) as provider:
        for file in examples.glob("*.yaml"):
            text = file.read_text().replace("https://api.openai.com", provider.url)
            (tmp_path / file.name).write_text(text.replace("https://api.anthropic.com", provider.url))
        async with up(tmp_path) as (_, ready), chat_client(ready, "acme/acme") as client:
            for _ in range(8):
                raw = await client.chat.completions.with_raw_response.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "hello"}], max_tokens=5
                )
                assert int(raw.headers["x-sluicegate-wait-ms"]) < 5_000


async def test_a_folder_that_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluicegate.cli.main", "up", "-f", str(tmp_path / "nowhere")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert "nowhere" in stderr.decode()


@asynccontextmanager
async def failing(folder: Path, *options: str, **environment: str) -> AsyncIterator[tuple[int | None, str]]:
    """`sluicegate up` that does not come up: its exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluicegate.cli.main", "up", "-f", str(folder), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    yield process.returncode, stderr.decode()


@pytest.mark.parametrize("name", ["sidecar", "broker", "admin", "sidecar-admin"])
async def test_a_taken_port_is_named_with_its_option(name: str, tmp_path: Path) -> None:
    scene.write_documents(tmp_path, "http://127.0.0.1:9")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ports = dict.fromkeys(("sidecar", "broker", "admin", "sidecar-admin"), "0") | {name: str(port)}
    options = [word for each, number in ports.items() for word in (f"--{each}-port", number)]
    async with failing(tmp_path, *options) as (status, text):
        assert status == 1
        assert f"port {port} on 127.0.0.1 is taken; --{name}-port names another" in text
    server.close()


async def test_a_wrong_environment_is_said_at_once(tmp_path: Path) -> None:
    wrong = {"SLUICEGATE_SIDECAR_GRACE": "soon"}
    async with failing(tmp_path, **wrong) as (status, text):
        assert status == 2
        assert "SLUICEGATE_SIDECAR_GRACE" in text
        assert "soon" in text


async def test_settings_of_the_environment_hold_and_a_second_signal_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {
        "pools": [
            {
                "name": "gpt-4o",
                "wire": "OpenAI",
                "models": ["gpt-4o*"],
                "limits": [{"resource": "Requests", "limit": 600}],
                "pace": {"latency": "60s", "latencyMax": "60s"},
            }
        ]
    }
    monkeypatch.setenv("SLUICEGATE_SIDECAR_MAX_BODY", "100")
    monkeypatch.setenv("SLUICEGATE_SIDECAR_GRACE", "40s")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    async with await serve(EmulatorConfig.from_data(slow)) as provider:
        scene.write_documents(tmp_path, provider.url)
        async with up(tmp_path) as (process, ready), aiohttp.ClientSession() as session:
            url = f"{ready['openai']}/chat/completions"
            large = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 200}]}
            async with session.post(url, json=large) as response:
                assert response.status == 413
            small = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
            waiting = asyncio.create_task(session.post(url, json=small, headers={"authorization": "Bearer sk-test"}))
            await asyncio.sleep(0.5)
            assert not waiting.done(), (await waiting).status
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.5)
            assert process.returncode is None
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 5) == 128 + signal.SIGINT
            with pytest.raises(aiohttp.ClientError):
                await waiting
            assert process.stderr is not None
            assert b"stopping" in await process.stderr.read()
