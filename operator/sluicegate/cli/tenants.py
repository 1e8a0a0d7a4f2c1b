# SPDX-License-Identifier: Apache-2.0
"""`sluicegate tenants`: what each tenant has waiting and under way, and what it got."""

from __future__ import annotations

import argparse

from sluicegate.cli.flags import add_broker, add_cluster, add_output
from sluicegate.cli.pools import tenant_value, tenants_table
from sluicegate.cli.tables import out, structured
from sluicegate.cli.views import bounded, views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-n", "--namespace", default="", metavar="NAME", help="only the tenants of this namespace")
    which.add_argument("-A", "--all-namespaces", action="store_true", help="the tenants of all namespaces (default)")
    add_cluster(parser)
    add_broker(parser)
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 0, 1 where the broker cannot be asked, 2 for wrong usage."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    async with views(options) as broker:
        found = await broker.tenants()
    prefix = f"{options.namespace}/" if options.namespace else ""
    tenants = [tenant_value(tenant) for tenant in found if tenant.name.startswith(prefix)]
    if options.output in ("json", "yaml"):
        out(structured({"tenants": tenants}, options.output))
    elif tenants:
        out(tenants_table(tenants, wide=options.output == "wide"))
    else:
        where = f" of namespace {options.namespace}" if options.namespace else ""
        out(f"No tenant{where} has called since the broker started.\n")
    return 0
