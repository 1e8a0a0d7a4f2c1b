# SPDX-License-Identifier: Apache-2.0
"""What the environment of a sidecar may change, and what it must not: proxies, `.netrc`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from multidict import CIMultiDict

from sluicegate.sidecar.upstream import HttpTransport, Timeouts, UpstreamError
from tests.proxy.scripted import Exchange, ScriptedProvider, stand
from tests.proxy.test_calls import CHAT, complete, post

TIMEOUTS = Timeouts(2.0, 2.0, 2.0)


async def answer(exchange: Exchange) -> None:
    await exchange.reply(b"{}")


async def ask(url: str) -> int:
    transport = HttpTransport(TIMEOUTS)
    try:
        response = await transport.send("POST", url, CIMultiDict({"x-api-key": "of-the-app"}), b"{}")
        response.close()
        return response.status
    finally:
        await transport.close()


async def test_a_netrc_never_brings_credentials_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password of-somebody-else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    provider = ScriptedProvider(answer)
    await provider.start()
    assert await ask(f"http://127.0.0.1:{provider.port}/v1") == 200
    assert provider.requests[0].header("authorization") is None
    await provider.stop()


async def test_the_proxy_of_the_environment_is_taken_but_for_what_no_proxy_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = ScriptedProvider(answer)
    await proxy.start()
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", ".inside.test,other.test")
    assert await ask("http://provider.test/v1") == 200
    assert proxy.requests[0].line.startswith("POST http://provider.test/v1 ")
    assert str(proxy.requests[0].header("proxy-authorization")).startswith("Basic ")
    for name in ("host.inside.test", "other.test"):
        with pytest.raises(UpstreamError) as refused:
            await ask(f"http://{name}/v1")
        assert (refused.value.fault, refused.value.dispatched) == ("connect", False)
    assert len(proxy.requests) == 1

    provider = ScriptedProvider(answer)
    await provider.start()
    assert await ask(f"http://127.0.0.1:{provider.port}/v1") == 200  # this machine needs no proxy
    assert len(proxy.requests) == 1
    await asyncio.gather(provider.stop(), proxy.stop())


async def test_a_proxy_that_refuses_is_not_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbid(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

    proxy = ScriptedProvider(forbid)
    await proxy.start()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(UpstreamError) as refused:
        await ask("https://provider.test/v1")
    assert (refused.value.fault, refused.value.dispatched) == ("proxy", False)
    await proxy.stop()


async def test_an_egress_proxy_does_not_come_between_sidecar_and_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with stand(complete) as s:  # asserts that it is ready
        assert (await post(s, CHAT))[0] == 200
