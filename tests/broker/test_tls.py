# SPDX-License-Identifier: Apache-2.0
"""TLS with the user's own files: a new certificate is taken while streams are open, a broken one is not."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import ssl
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from sluicegate.broker import tls
from sluicegate.broker.server import start_broker
from sluicegate.broker.settings import Settings
from sluicegate.kube.certificates import Keyring, renew
from sluicegate.v1 import budget_service_pb2 as pb
from sluicegate.v1 import budget_service_pb2_grpc
from tests.broker.client import call


def write(directory: Path, ring: Keyring) -> tuple[Path, Path]:
    certificate, key = directory / "tls.crt", directory / "tls.key"
    key.write_bytes(ring.served.key)
    certificate.write_bytes(ring.served.certificate)
    return certificate, key


def served(port: int) -> str:
    return ssl.get_server_certificate(("localhost", port), timeout=5)


async def until_served(port: int, ring: Keyring) -> None:
    deadline = time.monotonic() + 15
    while (await asyncio.to_thread(served, port)).strip() != ring.served.certificate.decode().strip():
        assert time.monotonic() < deadline, "the new certificate is not served"
        await asyncio.sleep(0.05)


async def test_a_new_certificate_is_served_while_old_streams_go_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tls, "_FILES_EVERY", 0.05)
    now = dt.datetime.now(dt.UTC)
    first, second = (renew(None, "broker", ["localhost"], now) for _ in range(2))
    certificate, key = write(tmp_path, first)
    broker = await start_broker(dataclasses.replace(settings, tls_cert=certificate, tls_key=key))
    try:
        credentials = grpc.ssl_channel_credentials(first.bundle)
        async with grpc.aio.secure_channel(f"localhost:{broker.port}", credentials) as channel:
            stream = budget_service_pb2_grpc.BudgetServiceStub(channel).Session()
            await stream.write(pb.SessionRequest(hello=pb.Hello(session_id="s")))
            assert isinstance(await asyncio.wait_for(stream.read(), 5), pb.SessionResponse)
            write(tmp_path, second)
            await until_served(broker.port, second)
            for other in (b"broken", first.served.certificate):  # which is not the key's
                certificate.write_bytes(other)
                await asyncio.sleep(0.2)
                await until_served(broker.port, second)
            await stream.write(pb.SessionRequest(acquires=[call("a")]))
            granted: list[pb.Grant] = []
            async with asyncio.timeout(5):
                while not granted:
                    message = await stream.read()
                    assert isinstance(message, pb.SessionResponse)
                    granted = list(message.grants)
            assert granted[0].call_id == "a"
            stream.cancel()
    finally:
        await broker.stop()


async def test_a_file_that_is_no_certificate_is_said_at_the_start(settings: Settings, tmp_path: Path):
    (tmp_path / "tls.crt").write_text("x")
    (tmp_path / "tls.key").write_text("x")
    wrong = dataclasses.replace(settings, tls_cert=tmp_path / "tls.crt", tls_key=tmp_path / "tls.key")
    with pytest.raises(OSError, match=r"(?i)pem|certificate"):
        await start_broker(wrong)
