# SPDX-License-Identifier: Apache-2.0
"""`sluicegate-broker`: a broker in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys

from sluicegate.broker.server import RunningBroker, start_broker
from sluicegate.broker.settings import Settings, SettingsError, parse
from sluicegate.wire import logs

__all__ = ["RunningBroker", "Settings", "main", "start_broker"]

_COLLECT = (20_000, 20, 20)
"""Python's own thresholds collect in each turn of a busy broker, whose calls live longer: a tenth of its time."""


async def serve(settings: Settings) -> None:
    """Run until a signal asks to stop."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    broker = await start_broker(settings)
    try:
        await asked.wait()
    finally:
        await broker.stop()


def main() -> None:
    """Entry point. Exits 2 on wrong settings, 1 when it cannot serve."""
    try:
        settings = parse(sys.argv[1:], os.environ)
    except SettingsError as error:
        sys.stderr.write(f"sluicegate-broker: {error}\n")
        raise SystemExit(2) from None
    logs.configure(settings.log_level)
    gc.set_threshold(*_COLLECT)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings))
    except OSError as error:
        sys.stderr.write(f"sluicegate-broker: {error}\n")
        raise SystemExit(1) from None


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it has no wheel for this platform: asyncio's own loop serves as well
        return None
    return uvloop.Loop


if __name__ == "__main__":
    main()
