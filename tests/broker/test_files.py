# SPDX-License-Identifier: Apache-2.0
"""Documents from real files, the decision log, the admin server, and settings."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluicegate.broker.core.effects import Decision, Party
from sluicegate.broker.decisions import WATCHER_BUFFER, DecisionLog
from sluicegate.broker.outbox import Outbox
from sluicegate.broker.server import RunningBroker, start_broker
from sluicegate.broker.settings import Settings, SettingsError, parse
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire.words import Outcome, Reason
from tests.broker.client import SessionClient, call, settled
from tests.broker.conftest import POOL
from tests.broker.test_session import eventually


async def test_a_changed_file_takes_effect_and_sessions_hear_of_it(broker: RunningBroker, documents: Path) -> None:
    async with SessionClient(broker.port) as client:
        await client.until(lambda: bool(client.version))
        before = client.version
        (documents / "more.yaml").write_text(POOL.replace("name: gpt-4o", "name: other").replace("gpt-4o", "gpt-9"))
        await client.until(lambda: client.version not in ("", before), within=10)
        assert {route.pool for route in client.messages[-1].routes} >= {"gpt-4o", "other", "slow"}
    assert broker.configuration.compiled.findings == ()


async def test_a_broken_file_keeps_what_was_good(broker: RunningBroker, documents: Path) -> None:
    version = broker.runtime.snapshot.version
    (documents / "pool.yaml").write_text(POOL + "  oops: [\n")
    await eventually(lambda: bool(broker.configuration.compiled.findings), within=10)
    (documents / "policy.yaml").write_text(
        (documents / "policy.yaml").read_text().replace("tier: Premium", "tire: Premium")
    )
    await eventually(lambda: any("tire" in f.field for f in broker.configuration.compiled.findings), within=10)
    assert broker.runtime.snapshot.version == version, "both keep their last good version"
    text = "\n".join(str(finding) for finding in broker.configuration.compiled.findings)
    assert "pool.yaml:" in text
    assert "not valid YAML" in text
    assert "TenantPolicy acme/acme spec.tire = 'Premium': unknown field; did you mean tier?" in text
    assert text.count("its last good version stays in effect") == 2


async def test_a_missing_directory_is_a_finding_and_the_broker_serves(tmp_path: Path) -> None:
    broker = await start_broker(Settings(config=tmp_path / "absent", port=0, admin_port=0, drain=0.5))
    try:
        assert "does not exist" in str(broker.configuration.compiled.findings[0])
    finally:
        await broker.stop()


async def test_two_brokers_cannot_share_a_port(broker: RunningBroker) -> None:
    with pytest.raises(OSError, match="--port: cannot serve on"):
        await start_broker(Settings(port=broker.port, admin_port=0))


async def test_the_decision_log_holds_every_decision(settings: Settings) -> None:
    broker = await start_broker(settings)
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1"), call("c2", pool="nowhere")])
        await client.grant("c1")
        await client.rejection("c2")
    await broker.stop()
    assert settings.decisions is not None
    lines = [json.loads(line) for line in settings.decisions.read_text().splitlines()]
    by_call = {line["call"]: line for line in lines}
    assert by_call["c1"]["outcome"] == "granted"
    assert by_call["c1"]["reason"] == "room"
    assert by_call["c1"]["tenant"] == "acme/acme"
    assert by_call["c1"]["tier"] == "Premium"
    assert by_call["c1"]["pool"] == "gpt-4o"
    assert set(by_call["c1"]["waiting"].values()) <= {0}
    assert by_call["c1"]["time"].endswith("Z")
    assert by_call["c2"]["reason"] == "unknown_pool"


async def test_the_admin_server_tells_health_metrics_and_state(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{broker.admin_port}"
        await client.send(acquires=[call("c1", criticality={"task_type": "chat"})])
        await client.grant("c1")
        await client.send(settlements=[settled("c1")])
        await client.send(acquires=[call("c2")])
        await client.grant("c2")
        day = types_pb2.QuotaRejection(resource=types_pb2.RESOURCE_REQUESTS, window_seconds=86_400.0)
        over = pb.Settlement(call_id="c2", error_class=types_pb2.ERROR_CLASS_QUOTA, dispatched=True, quota=day)
        await client.send(settlements=[over])
        await client.send(acquires=[call(f"s{i}", "slow-model") for i in range(3)])
        await client.grant("s0")
        for page in ("/livez", "/readyz"):
            async with http.get(base + page) as response:
                assert (response.status, await response.text()) == (200, "ok\n")
        async with http.get(base + "/metrics") as response:
            text = await response.text()
        party = 'pool="gpt-4o",task_type="chat",tenant="acme/acme",tier="Premium"'
        for line in (
            f'sluicegate_requests_total{{outcome="granted",{party}}} 1.0',
            f'sluicegate_tokens_consumed_total{{kind="input",{party}}} 10.0',
            'sluicegate_queue_depth{pool="slow",task_type="",tenant="acme/acme",tier="Premium"} 2.0',
            'sluicegate_sessions{state="connected"} 1.0',
            'sluicegate_config_findings{severity="error"} 0.0',
            'sluicegate_provider_responses_total{class="none",pool="gpt-4o"} 1.0',
            'sluicegate_provider_responses_total{class="quota_daily",pool="gpt-4o"} 1.0',
            'sluicegate_reserved_ratio_count{pool="gpt-4o"} 1.0',
            'sluicegate_reserved_ratio_sum{pool="gpt-4o"} 0.9333333333333333',
            'sluicegate_estimate_ratio_count{pool="gpt-4o"} 1.0',
            'sluicegate_estimate_ratio_sum{pool="gpt-4o"} 1.0',
            "sluicegate_core_faults_total 0.0",
        ):
            name, _, rest = line.partition("{")
            labels = set(rest.partition("}")[0].split(","))
            assert any(
                found.startswith(name)
                and labels <= set(found.partition("{")[2].partition("}")[0].split(","))
                and found.endswith(line.rpartition(" ")[2])
                for found in text.splitlines()
            ), line
        assert f'sluicegate_config_version_info{{version="{broker.runtime.snapshot.version}"}} 1.0' in text
        for page in ("pools", "queues", "tenants", "findings", "config"):
            async with http.get(f"{base}/debug/{page}") as response:
                assert response.status == 200
                data = await response.json()
                if page == "queues":
                    assert [c["call_id"] for c in data["slow"]] == ["s1", "s2"]


async def test_a_slow_watcher_is_told_how_many_it_missed() -> None:
    log = DecisionLog()
    watcher = log.watch("")
    decision = Decision(0.0, "c", Party("t", "Free", ""), "p", "m", Outcome.GRANTED, Reason.ROOM, 0.0, 1, None, ())
    log.witness([decision] * (WATCHER_BUFFER + 7), 0.0)
    assert (await watcher.take())[1] == 7
    assert (await watcher.take())[1] == 0


async def test_an_outbox_that_nobody_empties_is_stuck_and_bounded() -> None:
    outbox = Outbox(capacity=3)
    for index in range(10):
        outbox.reject(pb.Reject(call_id=str(index)))
    assert outbox.stuck
    assert len(outbox) <= 4


async def test_answers_of_one_turn_leave_together() -> None:
    outbox = Outbox()
    waiting = asyncio.ensure_future(outbox.next())
    await asyncio.sleep(0)
    for index in range(5):
        outbox.reject(pb.Reject(call_id=str(index)))
    message = await waiting
    assert message is not None
    assert len(message.rejects) == 5
    outbox.close()
    assert await outbox.next() is None


def test_settings_come_from_flags_over_environment() -> None:
    settings = parse(
        ["--port", "0", "--trust-claims", "--session-grace", "1m"],
        {"SLUICEGATE_BROKER_PORT": "9", "SLUICEGATE_BROKER_CONFIG": "/etc/x", "OTHER": "y"},
    )
    assert (settings.port, settings.trust_claims, settings.session_grace) == (0, True, 60.0)
    assert settings.config == Path("/etc/x")


def test_all_problems_of_the_settings_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(["--port", "70000", "--drain", "5"], {"SLUICEGATE_BROKER_LOG_LEVEL": "loud"})
    assert len(caught.value.problems) == 3
    assert "--port = '70000': must be a whole number from 0 to 65535" in str(caught.value)
    assert "--drain = '5': '5' is not a duration" in str(caught.value)
    assert "SLUICEGATE_BROKER_LOG_LEVEL = 'loud': must be one of debug, info" in str(caught.value)


def test_the_program_serves_and_stops_clean_on_sigterm(documents: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sluicegate.broker.main",
            "--config",
            str(documents),
            "--port",
            "0",
            "--admin-port",
            "0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        serving = next(line for line in map(json.loads, lines) if line["message"] == "serving")
        assert serving["port"] > 0
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(10) == 0
    assert json.loads(rest.splitlines()[-1])["message"] == "stopped"


async def test_a_call_counts_once_however_many_attempts_it_takes(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        await client.grant("c1")
        failed = pb.Settlement(
            call_id="c1", attempt=1, error_class=types_pb2.ERROR_CLASS_SERVER, dispatched=True, retriable=True
        )
        await client.send(settlements=[failed])
        await client.until(lambda: any(grant.attempt == 2 for m in client.messages for grant in m.grants), within=10)
        url = f"http://127.0.0.1:{broker.admin_port}/metrics"

        async def value(name: str, labels: dict[str, str]) -> float:
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                families = text_string_to_metric_families(await response.text())
            return sum(s.value for f in families for s in f.samples if s.name == name and s.labels == labels)

        async def becomes(name: str, labels: dict[str, str], wanted: float) -> None:
            async with asyncio.timeout(5):
                while await value(name, labels) != wanted:  # noqa: ASYNC110 - a metric tells nobody
                    await asyncio.sleep(0.02)

        party = {"pool": "gpt-4o", "task_type": "", "tenant": "acme/acme", "tier": "Premium"}
        granted = {**party, "outcome": "granted"}
        assert await value("sluicegate_attempts_total", party) == 2
        assert not await value("sluicegate_requests_total", granted)
        await client.send(settlements=[settled("c1", attempt=2)])
        await becomes("sluicegate_requests_total", granted, 1)
        assert await value("sluicegate_queue_wait_seconds_count", granted) == 1

        await client.send(acquires=[call("c2")])
        await client.grant("c2")
        final = pb.Settlement(call_id="c2", error_class=types_pb2.ERROR_CLASS_BILLING, dispatched=True, retriable=True)
        await client.send(settlements=[final])
        await becomes("sluicegate_requests_total", {**party, "outcome": "rejected"}, 1)
        assert await value("sluicegate_requests_total", granted) == 1
