# SPDX-License-Identifier: Apache-2.0
"""`sluicegate up`: broker and sidecar on this machine's loopback, in the foreground, without a cluster.

The tenant header is trusted, since whoever can reach loopback is the user. `SLUICEGATE_SIDECAR_*`, and of
`SLUICEGATE_BROKER_*` what does not say where it serves and whom it believes, hold here as well; options win.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import uvloop

from sluicegate.broker import settings as broker_settings
from sluicegate.broker.main import start_broker
from sluicegate.sidecar import settings as sidecar_settings
from sluicegate.sidecar.main import start_sidecar
from sluicegate.wire import logs

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
PORTS = {
    "sidecar": (15080, "where apps call"),
    "broker": (15051, "gRPC"),
    "admin": (15090, "the broker's /metrics and /debug"),
    "sidecar-admin": (15081, "the sidecar's /metrics"),
}
READY_WITHIN = 10.0
_OF_THE_BROKER = ("SESSION_GRACE", "DRAIN", "MAX_TENANT_LABELS")


class NotReadyError(Exception):
    """The sidecar does not reach the broker beside it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sluicegate up`."""
    parser.add_argument(
        "-f", "--folder", type=Path, required=True, metavar="DIR", help="ProviderPool and TenantPolicy documents"
    )
    for name, (default, what) in PORTS.items():
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
    """Serves until SIGTERM or SIGINT; a second one stops at once.

    0: stopped; 1: a port is taken, or the sidecar does not reach the broker; 2: there is no such folder, or the
    environment is wrong.
    """
    if not options.folder.exists():
        sys.stderr.write(f"sluicegate up: -f {options.folder}: there is no such folder\n")
        return 2
    try:
        settings = _settings(options, os.environ)
    except (broker_settings.SettingsError, sidecar_settings.SettingsError) as problems:
        sys.stderr.write("".join(f"sluicegate up: {problem}\n" for problem in str(problems).splitlines()))
        return 2
    logs.configure(options.log_level)
    try:
        uvloop.run(_serve(*settings))
    except OSError as error:
        sys.stderr.write(f"sluicegate up: {_cause(error, options)}\n")
        return 1
    except NotReadyError as error:
        sys.stderr.write(f"sluicegate up: {error}\n")
        return 1
    return 0


def _settings(
    options: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[broker_settings.Settings, sidecar_settings.Settings]:
    names = [broker_settings.PREFIX + name for name in _OF_THE_BROKER]
    broker = broker_settings.parse([], {name: environment[name] for name in names if name in environment})
    sidecar = sidecar_settings.read_settings(environment)
    return replace(
        broker,
        config=options.folder,
        host=HOST,
        port=options.broker_port,
        admin_host=HOST,
        admin_port=options.admin_port,
        decisions=options.decisions,
        trust_claims=True,
    ), replace(
        sidecar,
        host=HOST,
        port=options.sidecar_port,
        admin_host=HOST,
        admin_port=options.sidecar_admin_port,
        broker_ca=None,
        token_file=None,
    )


def _cause(error: OSError, options: argparse.Namespace) -> str:
    """What a user can do about `error`, which names the port where one is taken."""
    for name in PORTS:
        taken = getattr(options, f"{name.replace('-', '_')}_port")
        if taken and re.search(rf"\b{taken}\b", str(error)):
            return f"port {taken} on {HOST} is taken; --{name}-port names another, 0 a free one"
    return str(error)


async def _serve(broker_side: broker_settings.Settings, sidecar_side: sidecar_settings.Settings) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if asked_to_stop.is_set():
            log.warning("stopped at once by a second %s", number.name)
            os._exit(128 + number)
        log.info("stopping, %g s of grace; a second %s stops at once", sidecar_side.grace, number.name)
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    broker = await start_broker(broker_side)
    try:
        sidecar = await start_sidecar(replace(sidecar_side, broker=f"{HOST}:{broker.port}"))
        try:
            if not await sidecar.broker.ready(within=READY_WITHIN):
                raise NotReadyError(
                    f"the sidecar did not reach the broker at {HOST}:{broker.port} within {READY_WITHIN:g} s"
                )
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
