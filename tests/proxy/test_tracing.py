# SPDX-License-Identifier: Apache-2.0
"""Spans of real calls, kept by the SDK's exporter in memory, and once sent to a real receiver of OTLP over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sluicegate.sidecar import semconv
from sluicegate.sidecar.core.providers import Wire
from sluicegate.sidecar.settings import read_settings
from sluicegate.sidecar.tracing import Tracing
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.wire import convert
from sluicegate.wire.words import Outcome, Provider, Reason
from tests.proxy.scripted import Exchange, Stand, eventually, granted, rejected, stand
from tests.proxy.test_calls import CHAT, COMPLETION, last_usage, piece

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
KEY, SECRET = "sk-do-not-record-me", "the prompt that nobody may record"


class Kept:
    """The spans that ended, and the tracing that makes them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing("team", "pod-1", "1.2.3", SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    async def call(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The call's span, once it has ended, and its attempts in order."""
        await eventually(lambda: any(span.kind is SpanKind.SERVER for span in self.spans))
        (server,) = [span for span in self.spans if span.kind is SpanKind.SERVER]
        return server, [span for span in self.spans if span.kind is SpanKind.CLIENT]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


async def answer(exchange: Exchange) -> None:
    await exchange.reply(json.dumps(COMPLETION).encode())


def waited(call: pb.CallRequest, attempt: int) -> pb.Grant:
    return granted(call, attempt, waited=convert.to_duration(1.5))


async def post(at: Stand, traceparent: str = "", **more: Any) -> tuple[int, dict[str, str]]:
    headers = {"authorization": f"Bearer {KEY}", **({"traceparent": traceparent} if traceparent else {})}
    body = {**CHAT, "messages": [{"role": "user", "content": SECRET}], **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{at.url}/openai/v1/chat/completions", json=body, headers=headers) as response,
    ):
        await response.read()
        return response.status, dict(response.headers)


async def test_a_call_is_a_span_under_the_apps_and_its_attempt_one_under_that():
    kept = Kept()
    async with stand(answer, waited, traces=kept.tracing) as at:
        status, _ = await post(at, PARENT)
        assert status == 200
        server, (client,) = await kept.call()
        assert (server.name, server.kind) == ("sluicegate chat", SpanKind.SERVER)
        assert server.parent is not None
        assert (f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, PARENT.split("-")[2])
        assert dict(server.attributes or {}) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "sluicegate.outcome": "granted",
            "sluicegate.reason": "room",
            "sluicegate.pool": "gpt",
            "sluicegate.tenant": "acme/acme",
            "sluicegate.tier": "Premium",
            "sluicegate.attempts": 1,
            "sluicegate.queue_wait": 1.5,
        }
        assert client.parent is not None
        assert client.parent.span_id == server.context.span_id
        assert client.name == "chat gpt-4o"
        assert dict(client.attributes or {}) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 8,
            "gen_ai.usage.output_tokens": 2,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "server.address": "127.0.0.1",
            "server.port": at.provider.port,
            "sluicegate.pool": "gpt",
            "sluicegate.attempt": 1,
        }
        assert client.resource.attributes["service.name"] == "sluicegate-sidecar"
        assert client.resource.attributes["k8s.pod.name"] == "pod-1"
        # What the provider got in the place of the app's own is the attempt's.
        sent = at.provider.requests[0].header("traceparent")
        assert sent == f"00-{TRACE}-{client.context.span_id:016x}-01"
    told = "".join(span.to_json() for span in kept.spans)
    assert KEY not in told
    assert SECRET not in told
    assert "hi" not in [value for span in kept.spans for value in (span.attributes or {}).values()]


async def test_a_provider_gets_no_traceparent_that_the_app_did_not_send():
    kept = Kept()
    async with stand(answer, traces=kept.tracing) as at:
        await post(at)
        server, _ = await kept.call()
        assert server.parent is None
        assert at.provider.requests[0].header("traceparent") is None


async def test_each_attempt_has_its_error_and_the_last_its_usage():
    async def busy_then_well(exchange: Exchange) -> None:
        if len(at.provider.requests) == 1:
            await exchange.reply(b'{"error":{"message":"overloaded"}}', "503 Service Unavailable")
        else:
            await answer(exchange)

    kept = Kept()
    async with stand(busy_then_well, traces=kept.tracing) as at:
        status, _ = await post(at)
        assert status == 200
        server, (first, second) = await kept.call()
    assert (first.attributes or {})["error.type"] == "overload"
    assert first.status.status_code is StatusCode.ERROR
    assert semconv.INPUT_TOKENS not in (first.attributes or {})
    assert (second.attributes or {})[semconv.OUTPUT_TOKENS] == 2
    assert second.status.status_code is StatusCode.UNSET
    assert [(span.attributes or {})[semconv.ATTEMPT] for span in (first, second)] == [1, 2]
    assert (server.attributes or {})[semconv.ATTEMPTS] == 2


async def test_a_refused_call_says_why_and_how_long_it_waited():
    def no(call: pb.CallRequest, attempt: int) -> pb.Reject:
        return rejected(call, Reason.PREDICTED_WAIT, 30.0)

    kept = Kept()
    async with stand(answer, no, traces=kept.tracing) as at:
        status, _ = await post(at)
        server, attempts = await kept.call()
    assert status == 429
    assert not attempts
    said = dict(server.attributes or {})
    assert said["sluicegate.outcome"] == Outcome.REJECTED.value
    assert said["sluicegate.reason"] == "predicted_wait"
    assert said["sluicegate.attempts"] == 0
    assert isinstance(said["sluicegate.queue_wait"], float)
    assert 0 <= said["sluicegate.queue_wait"] < 5
    assert said["http.response.status_code"] == 429
    assert server.status.status_code is StatusCode.UNSET  # the app asked for too much: no fault of the server's


async def test_a_stream_that_the_app_leaves_ends_its_spans():
    async def endless(exchange: Exchange) -> None:
        await exchange.stream_head()
        while True:
            await exchange.chunk(piece("x"))
            await asyncio.sleep(0.01)

    kept = Kept()
    async with stand(endless, traces=kept.tracing) as at:
        body = {**CHAT, "stream": True}
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{at.url}/openai/v1/chat/completions", json=body)
            await response.content.readany()
            response.close()
        server, (client,) = await kept.call()
    assert (client.attributes or {})["error.type"] == "cancelled"
    assert semconv.HTTP_STATUS not in (server.attributes or {})


async def test_a_streams_usage_is_in_its_span():
    async def stream(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(piece("x") + last_usage(20, 7) + b"data: [DONE]\n\n")
        await exchange.send(b"0\r\n\r\n")

    kept = Kept()
    async with stand(stream, traces=kept.tracing) as at:
        await post(at, stream=True)
        _, (client,) = await kept.call()
    assert (client.attributes or {})[semconv.INPUT_TOKENS] == 20
    assert (client.attributes or {})[semconv.OUTPUT_TOKENS] == 7


@pytest.mark.parametrize(("flag", "spans"), [("01", 2), ("03", 2), ("00", 0), ("02", 0)])
async def test_the_app_decides_what_is_sampled_and_the_ratio_where_it_says_nothing(
    flag: str, spans: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    kept = Kept()
    async with stand(answer, traces=kept.tracing) as at:
        parent = PARENT[:-2] + flag
        await post(at)
        await post(at, parent)
        await eventually(lambda: len(kept.spans) >= spans)
        if not spans:
            assert at.provider.requests[1].header("traceparent") == parent
    assert len(kept.spans) == spans


async def test_a_sampler_that_asks_no_parent_samples_what_the_app_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    kept = Kept()
    async with stand(answer, traces=kept.tracing) as at:
        await post(at, PARENT[:-2] + "00")
        server, _ = await kept.call()
    assert server.parent is not None


async def test_of_calls_without_a_trace_the_ratio_is_sampled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    kept = Kept()
    async with stand(answer, traces=kept.tracing) as at:
        for _ in range(400):
            await post(at)
        servers = [span for span in kept.spans if span.kind is SpanKind.SERVER]
    ids = {span.context.trace_id for span in servers}
    assert 55 < len(ids) < 145  # five standard deviations of 100
    assert len(ids) == len(servers)
    assert all(span.parent is None for span in servers)
    # The id itself decides, by its right half: whoever samples the trace further on by the same ratio keeps it.
    assert all(number & ((1 << 64) - 1) < 1 << 62 for number in ids)


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "00-0-0-01",
        f"00-{'0' * 32}-{'0' * 16}-01",
        f"00-{'0' * 32}-{'1' * 16}-00",
        f"00-{'1' * 32}-{'0' * 16}-00",
        f"00-{'1' * 32}-{'1' * 16}-00-more",
        "ff" * 600,
    ],
)
async def test_a_traceparent_that_is_none_starts_a_trace_of_its_own(bad: str):
    kept = Kept()
    async with stand(answer, traces=kept.tracing) as at:
        status, _ = await post(at, bad)
        server, _ = await kept.call()
    assert status == 200
    assert server.parent is None


async def test_spans_reach_a_collector_as_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch):
    got: list[tuple[str, str | None, ExportTraceServiceRequest]] = []

    async def receive(request: web.BaseRequest) -> web.StreamResponse:
        message = ExportTraceServiceRequest.FromString(await request.read())
        got.append((request.path, request.headers.get("x-team"), message))
        return web.Response(body=b"", content_type="application/x-protobuf")

    runner = web.ServerRunner(web.Server(receive))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_SERVICE_NAME": "gate",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_settings(environment).tracing
    async with stand(answer, tracing=True) as at:
        await post(at, PARENT)
    await runner.cleanup()
    ((path, team, message),) = got  # what was left when the sidecar stopped
    assert (path, team) == ("/v1/traces", "blue")
    (spans,) = message.resource_spans
    said = {pair.key: pair.value.string_value for pair in spans.resource.attributes}
    assert said["service.name"] == "gate"
    assert said["deployment.environment.name"] == "test"
    assert spans.scope_spans[0].schema_url == semconv.SCHEMA_URL
    assert {span.trace_id.hex() for span in spans.scope_spans[0].spans} == {TRACE}
    assert KEY.encode() not in message.SerializeToString()
    assert SECRET.encode() not in message.SerializeToString()


async def test_a_collector_that_is_down_costs_calls_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    begun = asyncio.get_running_loop().time()
    async with stand(answer, tracing=True) as at:
        assert {(await post(at))[0] for _ in range(20)} == {200}
        served = asyncio.get_running_loop().time() - begun
    stopped = asyncio.get_running_loop().time() - begun - served
    assert stopped < 5
    assert at.sample("sluicegate_sidecar_calls_total", provider="openai", outcome="granted", reason="room") == 20


async def test_variables_that_opentelemetry_refuses_cost_the_traces_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    async with stand(answer, tracing=True) as at:
        assert (await post(at))[0] == 200
    assert "OTEL_*" in caplog.text


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_only_an_endpoint_switches_it_on(environment: dict[str, str], on: bool):
    assert read_settings(environment).tracing is on


def test_a_sidecar_without_it_does_not_load_it():
    program = "import sys, sluicegate.sidecar.main; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_wire_and_provider_has_a_name():
    assert set(semconv.OPERATIONS) == set(Wire)
    assert set(Provider) - set(semconv.PROVIDERS) == {Provider.OPENAI_COMPATIBLE}
