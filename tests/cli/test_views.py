# SPDX-License-Identifier: Apache-2.0
"""What people read, kept letter by letter in tests/cli/golden; and the same views of a real broker.

After a wanted change: `SLUICEGATE_GOLDEN=write pytest tests/cli/test_views.py`, and read the difference.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from google.protobuf.duration_pb2 import Duration

from sluicegate.broker.main import RunningBroker, Settings, start_broker
from sluicegate.cli import explain, pools, tables
from sluicegate.cli.check import ALL, as_value, headed, short, verdict_of
from sluicegate.cli.checks.before import PRE
from sluicegate.cli.checks.model import HINTS, Check, Found, Ok, Outcome, Result, Severity, Skip, run_checks
from sluicegate.cli.main import main
from sluicegate.v1 import budget_service_pb2 as budget
from sluicegate.v1 import budget_service_pb2_grpc, types_pb2
from sluicegate.v1 import introspection_service_pb2 as pb

GOLDEN = Path(__file__).parent / "golden"


def same(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("SLUICEGATE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def meter(resource: types_pb2.Resource.ValueType, limit: float, available: float, **more: Any) -> pb.MeterStatus:
    return pb.MeterStatus(
        resource=resource,
        window_seconds=60,
        algorithm=types_pb2.ALGORITHM_BUCKET,
        limit=limit,
        capacity=limit,
        available=available,
        **more,
    )


POOLS = [
    pb.PoolStatus(
        name="gpt-4o",
        provider=types_pb2.PROVIDER_OPENAI,
        endpoint="https://api.openai.com/v1",
        models=["gpt-4o"],
        meters=[
            meter(types_pb2.RESOURCE_REQUESTS, 500, 480.2, observed=True),
            meter(types_pb2.RESOURCE_TOKENS, 30_000, 123, reserved=2_500, foreign_rate=12.5, observed=True),
        ],
        tiers=[
            pb.TierStatus(name="Critical"),
            pb.TierStatus(name="Premium", waiting=1, tenants_waiting=1, oldest_wait=Duration(nanos=850_000_000)),
            pb.TierStatus(name="Free", waiting=31, tenants_waiting=2, oldest_wait=Duration(seconds=190)),
        ],
        in_flight=7,
        binding_limit="tokens/1m",
        breaker="closed",
    ),
    pb.PoolStatus(
        name="claude-sonnet",
        provider=types_pb2.PROVIDER_ANTHROPIC,
        endpoint="https://api.anthropic.com",
        models=["claude-sonnet-*"],
        meters=[meter(types_pb2.RESOURCE_OUTPUT_TOKENS, 8_000_000, 4_000_000)],
    ),
]


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_status(form: str):
    values = [pools.pool_value(pool) for pool in POOLS]
    if form in ("json", "yaml"):
        same(f"status.{form}", tables.structured({"pools": values}, form))
    else:
        same(f"status.{form}.txt", pools.status_table(values, wide=form == "wide") + "\n" + pools.tiers_table(values))


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_tenants(form: str):
    found = [
        pb.TenantStatus(
            name="acme/acme", tier="Premium", weight=10, waiting=1, in_flight=7, granted=8123, tokens_used=1_234_567
        ),
        pb.TenantStatus(name="hobby/unassigned", weight=1, waiting=31, rejected=12),
    ]
    values = [pools.tenant_value(tenant) for tenant in found]
    if form in ("json", "yaml"):
        same(f"tenants.{form}", tables.structured({"tenants": values}, form))
    else:
        same(f"tenants.{form}.txt", pools.tenants_table(values, wide=form == "wide"))


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_queue(form: str):
    found = [
        pb.WaitingCall(
            call_id="c1",
            tenant="acme/acme",
            tier="Premium",
            task_type="chat",
            latency=types_pb2.LATENCY_REAL_TIME,
            waited=Duration(nanos=850_000_000),
            predicted_wait=Duration(seconds=2, nanos=400_000_000),
            waits_for="budget tokens/1m",
            attempt=1,
        ),
        pb.WaitingCall(
            call_id="c2",
            tenant="hobby/hobby",
            tier="Free",
            latency=types_pb2.LATENCY_BATCH,
            waited=Duration(seconds=190),
            predicted_wait=Duration(seconds=315_576_000_000),
            waits_for="tier_order tokens/1m",
            attempt=2,
            chain_id="plan-7",
        ),
        pb.WaitingCall(call_id="c3", tenant="new/er", tier="Free", latency=99),  # type: ignore[arg-type]
    ]
    values = [pools.call_value(place, call) for place, call in enumerate(found, 1)]
    if form in ("json", "yaml"):
        same(f"queue.{form}", tables.structured({"pool": "gpt-4o", "calls": values, "more": 2}, form))
    else:
        same(f"queue.{form}.txt", pools.queue_table(values, wide=form == "wide"))


def test_explain():
    value = {
        "kind": "Pod",
        "namespace": "acme",
        "name": "chat-0",
        "serviceAccount": "chat",
        "injection": {
            "injected": True,
            "inject": True,
            "verdict": "asked_by_pod",
            "why": "the pod's annotation sluicegate.dev/inject asks for it",
            "status": {"version": "0.1.0", "image": "sluicegate/sluicegate:0.1.0"},
            "warnings": [
                "container app: OPENAI_BASE_URL was set already and stays: such calls do not pass the sidecar"
            ],
            "environment": [
                {
                    "container": "app",
                    "name": "OPENAI_BASE_URL",
                    "value": "http://x",
                    "note": "not the sidecar's: its calls pass by",
                }
            ],
        },
        "tenant": {"name": "acme/acme", "why": "TenantPolicy acme/acme selects ServiceAccount chat"},
        "values": [{"name": "max-wait", "value": "2s", "from": "annotation sluicegate.dev/max-wait"}],
        "pools": [
            {
                "name": "gpt-4o",
                "allowed": True,
                "tier": "Premium",
                "weight": 10,
                "ceilings": ["tokens 20000/1m"],
                "why": "an access rule covers it",
            },
            {"name": "other", "allowed": False, "tier": "", "weight": 0, "ceilings": [], "why": "no rule covers it"},
        ],
    }
    same("explain.txt", explain.drawn(value))


OUTCOMES = [
    Outcome("kubernetes-api", "kubernetes", "the API server answers", "ok", ("https://127.0.0.1:6443",), ""),
    Outcome("kubernetes-version", "kubernetes", "its version has native sidecars", "ok", (), ""),
    Outcome(
        "available",
        "control plane",
        "its Deployments are available",
        "fail",
        ("operator: no pod",),
        "docs/x.md#available",
    ),
    Outcome(
        "pushed", "control plane", "the broker runs what the operator wants", "skip", ("needs broker-answers",), ""
    ),
    Outcome(
        "misplaced", "workloads", "annotations stand on pod templates", "warn", ("one", "two"), "docs/x.md#misplaced"
    ),
]


def test_check():
    for form in ("table", "wide"):
        text, category = "", ""
        for outcome in OUTCOMES:
            text += headed(outcome, category, wide=form == "wide")
            category = outcome.category
        same(f"check.{form}.txt", f"{text}\n{verdict_of(OUTCOMES)}\n")
    same("check.short.txt", short(OUTCOMES))
    for form in ("json", "yaml"):
        same(f"check.{form}", tables.structured(as_value(OUTCOMES), form))


# ---- how checks are run


async def test_what_may_still_start_is_tried_again_until_the_common_deadline():
    now = 0.0
    tries: dict[str, int] = {}

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    def check(name: str, *results: Result, **more: Any) -> Check[None]:
        async def run(_: None) -> Result:
            tries[name] = tries.get(name, 0) + 1
            return results[min(tries[name], len(results)) - 1]

        return Check(name, "c", name, Severity.FAIL, run, **more)

    down = Found(("down",))
    checks = [
        check("comes", down, Ok(), starting=True),
        check("never", down, starting=True),
        check("at-once", down),
        check("after", Ok(), needs=("comes",)),
        check("missing", Ok(), needs=("comes", "never")),
        check("nothing", Skip("nothing to check")),
        check("after-skip", Ok(), needs=("nothing",)),
        check("only-warns", Found(("x",), Severity.WARN)),
        check("after-warning", Ok(), needs=("only-warns",)),
    ]
    found = {o.id: (o.verdict, o.details) async for o in run_checks(checks, None, wait=3.0, clock=clock)}
    assert found == {
        "comes": ("ok", ()),
        "never": ("fail", ("down",)),
        "at-once": ("fail", ("down",)),
        "after": ("ok", ()),
        "missing": ("skip", ("needs never",)),
        "nothing": ("skip", ("nothing to check",)),
        "after-skip": ("skip", ("needs nothing",)),
        "only-warns": ("warn", ("x",)),
        "after-warning": ("ok", ()),
    }
    assert tries["comes"] == 2
    assert 2 <= tries["never"] <= 4
    assert tries["at-once"] == 1


# ---- a real broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    pool = {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": "small"},
        "spec": {
            "provider": "OpenAI",
            "endpoint": "https://api.openai.com/v1",
            "models": ["m"],
            "limits": [{"resource": "Requests", "limit": 1, "window": "1m"}],
        },
    }
    policy = {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "TenantPolicy",
        "metadata": {"name": "acme", "namespace": "acme"},
        "spec": {"tier": "Premium", "queue": {"maxWait": "10m"}},
    }
    (tmp_path / "documents.yaml").write_text(yaml.safe_dump_all([pool, policy]))
    running = await start_broker(Settings(config=tmp_path, port=0, admin_port=0, drain=0.2, trust_claims=True))
    try:
        yield running
    finally:
        await running.stop()


async def cli(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluicegate.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_broker_without_a_cluster_tells_what_waits(broker: RunningBroker):
    address = f"127.0.0.1:{broker.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        stub = budget_service_pb2_grpc.BudgetServiceStub(channel)

        def acquire(name: str) -> Any:
            call = budget.CallRequest(
                call_id=name,
                provider=types_pb2.PROVIDER_OPENAI,
                model="m",
                tenant="acme/acme",
                estimate=types_pb2.Estimate(input_tokens=1),
            )
            return stub.Acquire(budget.AcquireRequest(call=call), timeout=60)

        await acquire("first")
        waiting = [acquire(name) for name in ("second", "third")]
        tasks = [asyncio.ensure_future(call) for call in waiting]
        try:
            calls: list[dict[str, Any]] = []
            for _ in range(50):
                code, out, err = await cli("queue", "small", "--broker", address, "-o", "json")
                assert code == 0, err
                calls = json.loads(out)["calls"]
                if len(calls) == 2:
                    break
            assert [call["callId"] for call in calls] == ["second", "third"]
            assert {call["tenant"] for call in calls} == {"acme/acme"}
            assert all(call["predictedWaitSeconds"] > 0 and "requests/1m" in call["waitsFor"] for call in calls)

            code, out, _ = await cli("queue", "small", "--broker", address, "--limit", "1")
            assert code == 0
            assert len(out.splitlines()) == 3
            assert "more wait" in out
            code, out, _ = await cli("status", "--broker", address, "-o", "yaml")
            (pool,) = yaml.safe_load(out)["pools"]
            assert pool["bindingLimit"] == "requests/1m"
            assert sum(tier["waiting"] for tier in pool["tiers"]) == 2
            code, out, _ = await cli("status", "small", "--broker", address)
            assert "◀ binding" in out
            assert "Premium" in out
            code, out, _ = await cli("tenants", "--broker", address, "-n", "acme", "-o", "json")
            (tenant,) = json.loads(out)["tenants"]
            assert (tenant["granted"], tenant["waiting"], tenant["tier"]) == (1, 2, "Premium")
            code, out, _ = await cli("tenants", "--broker", address, "-n", "none")
            assert out == "No tenant of namespace none has called since the broker started.\n"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_is_not_there_or_not_known_is_said(broker: RunningBroker):
    code, _, err = await cli("queue", "large", "--broker", f"127.0.0.1:{broker.port}")
    assert (code, "small" in err) == (1, True)
    code, _, err = await cli("status", "--broker", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("sluicegate status: the broker: UNAVAILABLE")
    code, _, err = await cli("queue", "small", "--limit", "0")
    assert code == 2
    assert "'0' is not a number from 1 to 1000" in err


def test_a_plugin_is_called_as_kubectl_calls_it(capsys: pytest.CaptureFixture[str]):
    def usage(program: str) -> str:
        with pytest.raises(SystemExit):
            main(["status", "--help"], program)
        return capsys.readouterr().out.splitlines()[0]

    assert usage("/usr/local/bin/kubectl-sluicegate").startswith("usage: kubectl sluicegate status")
    assert usage("/usr/local/bin/sluicegate").startswith("usage: sluicegate status")


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed does not depend on the terminal's width."""
    monkeypatch.setenv("COLUMNS", "40")


def test_a_probe_needs_no_extra():
    code = "import sys; sys.modules['rich'] = None; import sluicegate.cli.main, sluicegate.cli.probe"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60).returncode == 0


def test_every_hint_leads_to_a_section_and_every_section_is_of_a_check():
    page = Path(__file__).parents[2] / HINTS
    sections = [
        line.removeprefix("## ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    assert sections == list(dict.fromkeys(check.id for check in (*PRE, *ALL)))
