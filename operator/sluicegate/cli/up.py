# SPDX-License-Identifier: Apache-2.0
"""`sluicegate up`: broker and sidecar on this machine's loopback, in the foreground, without a cluster.

The tenant header is trusted, since whoever can reach loopback is the user.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from sluicegate.broker.main import Settings as BrokerSettings
from sluicegate.broker.main import start_broker
from sluicegate.sidecar.main import start_sidecar
from sluicegate.sidecar.settings import Settings as SidecarSettings
from sluicegate.wire import logs

HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sluicegate up`."""
    parser.add_argument(
        "-f", "--folder", type=Path, required=True, metavar="DIR", help="ProviderPool and TenantPolicy documents"
    )
    ports = {
        "sidecar": (15080, "where apps call"),
        "broker": (15051, "gRPC"),
        "admin": (15090, "the broker's /metrics and /debug"),
        "sidecar-admin": (15081, "the sidecar's /metrics"),
    }
    for name, (default, what) in ports.items():
        parser.add_argument(
            f"--{name}-port",
            type=int,
            default=default,
            metavar="PORT",
            help=f"{what}; 0 takes a free one",
        )
    parser.add_argument("--decisions", type=Path, metavar="FILE", help="append every decision as a line of JSON")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. 0: stopped; 1: a port is taken; 2: there is no such folder."""
    if not options.folder.exists():
        sys.stderr.write(f"sluicegate up: -f {options.folder}: there is no such folder\n")
        return 2
    logs.configure(options.log_level)
    try:
        uvloop.run(_serve(options))
    except OSError as error:
        sys.stderr.write(f"sluicegate up: {error}\n")
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    broker = await start_broker(
        BrokerSettings(
            config=options.folder,
            host=HOST,
            port=options.broker_port,
            admin_host=HOST,
            admin_port=options.admin_port,
            decisions=options.decisions,
            trust_claims=True,
        )
    )
    try:
        sidecar = await start_sidecar(
            SidecarSettings(
                host=HOST,
                port=options.sidecar_port,
                admin_host=HOST,
                admin_port=options.sidecar_admin_port,
                broker=f"{HOST}:{broker.port}",
            )
        )
        try:
            await sidecar.broker.ready(within=10.0)
            apps = f"http://{HOST}:{sidecar.port}"
            ready = {
                "ready": True,
                "openai": f"{apps}/openai/v1",
                "anthropic": f"{apps}/anthropic",
                "google": f"{apps}/google",
                "mistral": f"{apps}/mistral/v1",
                "broker": f"{HOST}:{broker.port}",
                "admin": f"http://{HOST}:{broker.admin_port}",
                "sidecar-admin": f"http://{HOST}:{sidecar.admin_port}",
            }
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            await asked_to_stop.wait()
        finally:
            await sidecar.stop()
    finally:
        await broker.stop()
