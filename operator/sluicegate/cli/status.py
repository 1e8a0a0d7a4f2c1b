# SPDX-License-Identifier: Apache-2.0
"""`sluicegate status`: every pool by its limits, the one that binds, and what waits."""

from __future__ import annotations

import argparse

from sluicegate.cli.flags import add_broker, add_cluster, add_output, add_system_namespace_as_n
from sluicegate.cli.pools import pool_value, status_table, tiers_table
from sluicegate.cli.tables import out, structured
from sluicegate.cli.views import bounded, views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("pool", nargs="?", default="", metavar="POOL", help="only this pool")
    add_system_namespace_as_n(parser)
    add_cluster(parser)
    add_broker(parser)
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 0, 1 where the broker cannot be asked, 2 for wrong usage."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    async with views(options) as broker:
        answer = await broker.pools(options.pool)
    pools = [pool_value(pool) for pool in answer.pools]
    if options.output in ("json", "yaml"):
        whole = {"configVersion": answer.config_version, "brokerVersion": answer.broker_version, "pools": pools}
        out(structured(whole, options.output))
        return 0
    if not pools:
        out("No pools: no ProviderPool is in effect.\n")
        return 0
    waiting = tiers_table(pools)
    out(status_table(pools, wide=options.output == "wide") + (f"\n{waiting}" if waiting else ""))
    return 0
