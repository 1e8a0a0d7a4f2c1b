# SPDX-License-Identifier: Apache-2.0
"""The Session stream of a real broker over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from sluicegate.broker import sessions
from sluicegate.broker.core.dispatcher import Dispatcher
from sluicegate.broker.core.effects import Effect
from sluicegate.broker.core.events import Acquire, Event
from sluicegate.broker.server import RunningBroker, start_broker
from sluicegate.broker.settings import Settings
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import types_pb2
from sluicegate.wire import errors
from sluicegate.wire.words import Reason
from tests.broker.client import SessionClient, call, settled
from tests.broker.conftest import POOL, SLOW_POOL


async def eventually(so: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not so():  # noqa: ASYNC110 the core tells nobody when a count changes
            await asyncio.sleep(0.02)


def waiting(broker: RunningBroker) -> int:
    return sum(t.waiting for t in broker.runtime.dispatcher.tenant_status(broker.runtime.clock()))


def in_flight(broker: RunningBroker) -> int:
    return sum(p.in_flight for p in broker.runtime.dispatcher.pool_status(broker.runtime.clock()))


async def test_welcome_brings_epoch_routes_shares_and_what_to_do_alone(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.until(lambda: bool(client.messages) and bool(client.version))
        first = client.messages[0]
        assert first.welcome.epoch
        assert first.config_version == broker.runtime.snapshot.version
        assert {route.pool: list(route.models) for route in first.routes} == {
            "gpt-4o": ["gpt-4o", "gpt-4o-2024-*"],
            "slow": ["slow-model"],
        }
        assert first.on_broker_unavailable == types_pb2.ON_BROKER_UNAVAILABLE_FAIL_CLOSED
        assert {share.pool for share in first.safe_shares} == {"gpt-4o", "slow"}
        assert all(share.amount > 0 for share in first.safe_shares)


async def test_a_call_is_granted_observed_and_settled(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        grant = await client.grant("c1")
        assert (grant.pool, grant.tenant, grant.tier, grant.reason) == ("gpt-4o", "acme/acme", "Premium", "room")
        assert in_flight(broker) == 1
        reading = types_pb2.MeterReading(resource=types_pb2.RESOURCE_REQUESTS, limit=60000, remaining_low=59999)
        await client.send(observations=[pb.Observation(call_id="c1", readings=[reading])], settlements=[settled("c1")])
        await eventually(lambda: in_flight(broker) == 0)


async def test_calls_of_one_message_are_answered_in_few_messages(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("warm")])
        await client.grant("warm")
        readings = [
            types_pb2.MeterReading(
                resource=resource, window_seconds=60, limit=limit, remaining_low=limit - 100, remaining_high=limit - 99
            )
            for resource, limit in ((types_pb2.RESOURCE_REQUESTS, 60_000), (types_pb2.RESOURCE_TOKENS, 60_000_000))
        ]
        await client.send(observations=[pb.Observation(call_id="warm", readings=readings)])
        await client.send(settlements=[settled("warm")])
        await eventually(lambda: in_flight(broker) == 0)
        before = len(client.messages)
        await client.send(acquires=[call(f"c{i}") for i in range(300)])
        await client.until(lambda: sum(len(m.grants) for m in client.messages[before:]) == 300)
        assert len([m for m in client.messages[before:] if m.grants]) <= 30


async def test_a_repeated_call_gets_the_same_answer(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        first = await client.grant("c1")
        await client.send(acquires=[call("c1")])
        await client.until(lambda: sum(g.call_id == "c1" for m in client.messages for g in m.grants) == 2)
        assert client.grants["c1"] == first
        assert in_flight(broker) == 1


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (pb.CallRequest(call_id="bad"), ["call.model: is required"]),
        (call("bad", model="m" * 257), ["call.model", "257 characters; at most 256"]),
        (call("bad", tokens=-5), ["call.estimate.input_tokens: -5 is not from 0 to"]),
        (call("bad", tenant="acme"), ["call.tenant: 'acme' is not of the form namespace/name"]),
        (call("bad", pool="a\nb"), ["call.pool", "control characters"]),
        (
            call(
                "bad",
                criticality=types_pb2.Criticality(
                    fallback=[types_pb2.FallbackOption()], latency=types_pb2.Latency.ValueType(77)
                ),
            ),
            ["call.criticality.fallback[0]: must say one of", "call.criticality.latency: 77 is not a known Latency"],
        ),
    ],
)
async def test_an_invalid_call_is_rejected_and_the_stream_lives(
    broker: RunningBroker, request_: pb.CallRequest, names: list[str]
) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[request_])
        reject = await client.rejection("bad")
        assert reject.reason == Reason.INVALID_REQUEST
        assert all(name in reject.message for name in names), reject.message
        await client.send(acquires=[call("good")])
        await client.grant("good")


async def test_an_absurd_settlement_still_ends_its_reservation(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        await client.grant("c1")
        absurd = settled("c1", usage=types_pb2.Usage(input_tokens=-(10**15)))
        absurd.error_class = 55  # type: ignore[assignment]
        absurd.quota.limit = float("nan")
        await client.send(settlements=[absurd], observations=[pb.Observation(call_id="nobody")])
        await eventually(lambda: in_flight(broker) == 0)


@pytest.mark.parametrize(
    ("hello", "named"),
    [
        (pb.Hello(), "hello.session_id: is required"),
        (pb.Hello(session_id="unary"), "hello.session_id: 'unary' is taken"),
        (pb.Hello(session_id="s", pod="x" * 300), "hello.pod"),
    ],
)
async def test_a_bad_hello_ends_the_stream_with_a_reason(broker: RunningBroker, hello: pb.Hello, named: str) -> None:
    client = SessionClient(broker.port)
    client._hello = hello
    async with client:
        await client.until(client.done.is_set)
        assert client.ended is not None
        assert client.ended.code() is grpc.StatusCode.INVALID_ARGUMENT
        refusal = errors.from_rpc_error(client.ended)
        assert refusal is not None
        assert named in refusal.message


async def test_a_cancelled_call_frees_its_place(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1", "slow-model"), call("c2", "slow-model")])
        await client.grant("c1")
        await eventually(lambda: waiting(broker) == 1)
        await client.send(cancels=["c2"])
        await eventually(lambda: waiting(broker) == 0)


async def test_a_lost_session_frees_its_calls_after_the_grace(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1", "slow-model"), call("c2", "slow-model")])
        await client.grant("c1")
        await eventually(lambda: waiting(broker) == 1)
    assert waiting(broker) == 1, "within the grace it keeps its place"
    await eventually(lambda: waiting(broker) == 0 and in_flight(broker) == 0)


async def test_a_session_that_returns_in_time_keeps_its_calls(settings: Settings) -> None:
    broker = await start_broker(dataclasses.replace(settings, session_grace=1.0))
    try:
        async with SessionClient(broker.port) as client:
            await client.send(acquires=[call("c1", "slow-model"), call("c2", "slow-model")])
            await client.grant("c1")
        async with SessionClient(broker.port) as client:
            held = pb.Attachment(call=call("c1", "slow-model"), granted=True, pool="slow", attempt=1)
            await client.send(attachments=[held, pb.Attachment(call=call("c2", "slow-model"))])
            await asyncio.sleep(1.3)
            assert (in_flight(broker), waiting(broker)) == (1, 1)
            await client.send(settlements=[settled("c1")])
            await eventually(lambda: in_flight(broker) == 0)
    finally:
        await broker.stop()


async def test_a_second_stream_takes_the_place_of_the_first(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as first, SessionClient(broker.port) as second:
        await first.until(first.done.is_set)
        await second.send(acquires=[call("c1")])
        await second.grant("c1")


@contextlib.asynccontextmanager
async def crowd(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[SessionClient], SessionClient]]:
    """As many sessions as are told something at a time, and one that is told nothing more unasked."""
    monkeypatch.setattr(sessions, "_SHARES_EVERY", 3600.0)
    monkeypatch.setattr(sessions, "_APART", 3600.0)
    broker = await start_broker(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(broker.stop)
        clients = [SessionClient(broker.port, f"s{n}") for n in range(sessions._AT_ONCE + 1)]
        for client in clients:
            await stack.enter_async_context(client)
            await client.until(lambda: bool(client.version))  # noqa: B023 awaited here
        *at_once, last = clients
        yield at_once, last


def first(client: SessionClient, so: Callable[[pb.SessionResponse], bool]) -> int:
    """Which of the messages that it heard is the first one that is so."""
    return next((n for n, message in enumerate(client.messages) if so(message)), len(client.messages))


async def test_what_is_configured_goes_to_some_sessions_at_a_time_and_to_each_before_its_next_answer(
    settings: Settings, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowd(settings, monkeypatch) as (at_once, last):
        before = last.version
        (documents / "more.yaml").write_text(POOL.replace("name: gpt-4o", "name: other").replace("gpt-4o", "gpt-9"))
        for client in at_once:
            await client.until(lambda: client.version != before, within=10)  # noqa: B023 awaited here
        assert last.version == before
        await last.send(acquires=[call("c1", "gpt-9")])
        assert (await last.grant("c1")).pool == "other"
        told = first(last, lambda message: "other" in {route.pool for route in message.routes})
        assert told <= first(last, lambda message: bool(message.grants))


async def test_a_call_that_a_change_lets_go_hears_of_the_change_first(
    settings: Settings, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowd(settings, monkeypatch) as (_, last):
        await last.send(acquires=[call("c1", "slow-model"), call("c2", "slow-model")])
        await last.grant("c1")
        moved = "https://moved.example.com/v1"
        (documents / "slow.yaml").write_text(
            SLOW_POOL.replace("limit: 1,", "limit: 6000,").replace("https://api.openai.com/v1", moved)
        )
        await last.until(lambda: "c2" in last.grants, within=10)
        told = first(last, lambda message: moved in {route.endpoint for route in message.routes})
        assert told <= first(last, lambda message: "c2" in {grant.call_id for grant in message.grants})


async def test_a_retriable_outcome_goes_back_to_the_queue(broker: RunningBroker) -> None:
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1")])
        await client.grant("c1")
        failed = pb.Settlement(
            call_id="c1", attempt=1, error_class=types_pb2.ERROR_CLASS_SERVER, dispatched=True, retriable=True
        )
        await client.send(settlements=[failed])
        await client.until(lambda: any(m.retries for m in client.messages))
        await client.until(lambda: client.grants["c1"].attempt == 2, within=10)


async def test_a_stopping_broker_asks_sessions_to_come_back(settings: Settings) -> None:
    broker = await start_broker(settings)
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("c1", "slow-model"), call("c2", "slow-model")])
        await client.grant("c1")
        await broker.stop()
        await client.until(client.done.is_set)
        last = [m for m in client.messages if m.HasField("reconnect_after")]
        assert last
        assert 0 < last[-1].reconnect_after.ToTimedelta().total_seconds() < 5
        assert client.ended is None, "the stream ended in good order"
        assert "c2" not in client.rejects, "what waits may attach again"


async def test_a_fault_of_the_core_answers_the_call_and_spares_the_rest(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Dispatcher.handle

    def faulty(self: Dispatcher, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Acquire) and event.call_id == "cursed":
            raise ZeroDivisionError
        return handle(self, event, now)

    monkeypatch.setattr(Dispatcher, "handle", faulty)
    async with SessionClient(broker.port) as client:
        await client.send(acquires=[call("cursed"), call("fine")])
        assert (await client.rejection("cursed")).reason == Reason.BROKER_UNAVAILABLE
        await client.grant("fine")
    assert broker.runtime.faults == 1
