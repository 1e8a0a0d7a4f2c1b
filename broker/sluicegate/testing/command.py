# SPDX-License-Identifier: Apache-2.0
"""`sluicegate emulate`: the emulator from the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from sluicegate.testing.config import ConfigError, EmulatorConfig
from sluicegate.testing.emulator import serve

_DEFAULT: dict[str, object] = {
    "pools": [
        {
            "name": "gpt-4o",
            "wire": "OpenAI",
            "models": ["gpt-*", "o1*", "o3*", "o4*", "text-embedding-*"],
            "limits": [
                {"resource": "Requests", "limit": 500, "window": "1m"},
                {"resource": "Tokens", "limit": 30000, "window": "1m"},
            ],
            "pace": {"latency": 0.2, "latencySigma": 0.3, "tokensPerSecond": 80},
        },
        {
            "name": "claude",
            "wire": "Anthropic",
            "models": ["claude-*"],
            "limits": [
                {"resource": "Requests", "limit": 50, "window": "1m"},
                {"resource": "InputTokens", "limit": 30000, "window": "1m"},
                {"resource": "OutputTokens", "limit": 8000, "window": "1m"},
            ],
            "pace": {"latency": 0.3, "latencySigma": 0.3, "tokensPerSecond": 60},
        },
    ]
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sluicegate emulate` to `parser`."""
    parser.add_argument(
        "-f", "--file", metavar="FILE", help="configuration in YAML, or ProviderPool documents (default: a small tier)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=15099, help="port to listen on, 0 for a free one (default 15099)")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: the file's, or 1)")


def run_emulator(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Prints one line of JSON when ready; returns the exit status (2: bad configuration,
    1: cannot listen)."""
    try:
        config = EmulatorConfig.from_file(args.file) if args.file else EmulatorConfig.from_data(_DEFAULT)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        return 2
    if args.seed is not None:
        config = EmulatorConfig(config.pools, args.seed, config.keys, config.unknown_keys)
    try:
        import uvloop
    except ImportError:
        make_loop = None
    else:
        make_loop = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_serve_until_told(config, args.host, args.port))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {args.host}:{args.port}: {error}\n")
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command on its own: `python -m sluicegate.testing.command`."""
    parser = argparse.ArgumentParser(prog="sluicegate emulate", description="A provider on loopback, with real limits.")
    add_arguments(parser)
    return run_emulator(parser.parse_args(argv))


async def _serve_until_told(config: EmulatorConfig, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with await serve(config, host, port) as emulator:
        ready = {
            "ready": True,
            "openai": emulator.openai_url,
            "anthropic": emulator.anthropic_url,
            "stats": f"{emulator.url}/_emulator/stats",
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
