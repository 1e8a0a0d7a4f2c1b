# SPDX-License-Identifier: Apache-2.0
"""`sluicegate queue POOL`: who waits, why, and for how long still, in the order in which they would go."""

from __future__ import annotations

import argparse

from sluicegate.cli.flags import add_broker, add_cluster, add_output, add_system_namespace_as_n
from sluicegate.cli.pools import call_value, queue_table
from sluicegate.cli.tables import out, structured
from sluicegate.cli.views import bounded, views

_MOST = 1_000


def _limit(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("pool", metavar="POOL", help="the pool")
    parser.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="how many calls to show (default %(default)s)"
    )
    add_system_namespace_as_n(parser)
    add_cluster(parser)
    add_broker(parser)
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 0, 1 where the broker cannot be asked or has no such pool, 2 for wrong usage."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    async with views(options) as broker:
        found, more = await broker.queue(options.pool, options.limit)
    calls = [call_value(place, call) for place, call in enumerate(found, 1)]
    if options.output in ("json", "yaml"):
        out(structured({"pool": options.pool, "calls": calls, "more": more}, options.output))
    elif calls:
        rest = "(more wait; --limit shows more)\n" if more else ""
        out(queue_table(calls, wide=options.output == "wide") + rest)
    else:
        out(f"Nothing waits for {options.pool}.\n")
    return 0
