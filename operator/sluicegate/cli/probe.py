# SPDX-License-Identifier: Apache-2.0
"""`sluicegate probe`: one real acquire and settle at a broker, as a sidecar would; `helm test` runs it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import uuid
from pathlib import Path

import grpc
import grpc.aio

from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc, types_pb2
from sluicegate.wire import convert, durations
from sluicegate.wire.channel import client_options
from sluicegate.wire.errors import from_rpc_error
from sluicegate.wire.words import ErrorClass, Provider, from_kebab, kebab

_PAUSE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--broker", required=True, help="host:port of the broker")
    parser.add_argument("--ca", type=Path, help="PEM file of the authorities to trust; without: plain text")
    parser.add_argument("--token-file", type=Path, help="the ServiceAccount token that proves the caller")
    parser.add_argument("--provider", default=kebab(Provider.OPENAI), help="such as openai (default)")
    parser.add_argument("--model", default="probe", help="a model; one that is in no pool is granted as unmanaged")
    parser.add_argument("--timeout", default="10s", help="how long to try (default 10s)")


def run(options: argparse.Namespace) -> int:
    """Exit code 0 when the broker granted a slot and took it back, 1 when not, 2 for wrong flags."""
    try:
        provider = from_kebab(Provider, options.provider)
        limit = durations.parse(options.timeout)
    except ValueError as problem:
        sys.stderr.write(f"sluicegate probe: {problem}\n")
        return 2
    try:
        said = asyncio.run(_probe(options, provider, limit))
    except (OSError, grpc.aio.AioRpcError) as problem:
        sys.stderr.write(f"sluicegate probe: {_words(problem)}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


async def _probe(options: argparse.Namespace, provider: Provider, limit: float) -> str:
    """Tries until it works or the time is up: a broker that has just been installed may not be ready."""
    deadline = time.monotonic() + limit
    while True:
        try:
            return await _once(options, provider, max(0.1, deadline - time.monotonic()))
        except (OSError, grpc.aio.AioRpcError) as problem:
            away = isinstance(problem, OSError) or problem.code() is grpc.StatusCode.UNAVAILABLE
            if not away or time.monotonic() + _PAUSE > deadline:
                raise
            await asyncio.sleep(_PAUSE)


async def _once(options: argparse.Namespace, provider: Provider, within: float) -> str:
    metadata = None
    if options.token_file:
        metadata = (("authorization", f"Bearer {options.token_file.read_text().strip()}"),)
    call = pb.CallRequest(
        call_id=f"probe-{uuid.uuid4().hex}",
        provider=convert.PROVIDER.to_proto(provider),
        model=options.model,
        estimate=types_pb2.Estimate(input_tokens=1, max_output_tokens=1),
    )
    async with _channel(options) as channel:
        stub = budget_service_pb2_grpc.BudgetServiceStub(channel)
        begun = time.monotonic()
        answer = await stub.Acquire(pb.AcquireRequest(call=call), timeout=within, metadata=metadata)
        took = (time.monotonic() - begun) * 1_000
        settlement = pb.Settlement(
            call_id=call.call_id, error_class=convert.ERROR_CLASS.to_proto(ErrorClass.CANCELLED), dispatched=False
        )
        await stub.Settle(pb.SettleRequest(settlement=settlement), timeout=within, metadata=metadata)
    kind = answer.WhichOneof("answer")
    given = answer.grant if kind == "grant" else answer.fallback
    pool = f"pool {given.pool}" if given.pool else "no pool"
    return f"{kind} ({given.reason}) from {pool} for tenant {given.tenant or '-'} in {took:.1f} ms"


def _channel(options: argparse.Namespace) -> grpc.aio.Channel:
    if options.ca is None:
        return grpc.aio.insecure_channel(options.broker, options=client_options())
    credentials = grpc.ssl_channel_credentials(options.ca.read_bytes())
    return grpc.aio.secure_channel(options.broker, credentials, options=client_options())


def _words(problem: OSError | grpc.aio.AioRpcError) -> str:
    if isinstance(problem, OSError):
        return f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem)
    refusal = from_rpc_error(problem)
    if refusal is not None:
        return f"{refusal.reason}: {refusal.message}"
    return f"{problem.code().name}: {problem.details()}"
