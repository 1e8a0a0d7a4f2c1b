# SPDX-License-Identifier: Apache-2.0
"""The command line: `sluicegate COMMAND`. Each command is a module with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "up": ("sluicegate.cli.up", "run broker and sidecar on this machine, without a cluster"),
    "demo": ("sluicegate.cli.demo", "four tenants at three times the limit: scheduled, then with the SDKs' retries"),
    "probe": ("sluicegate.cli.probe", "acquire one slot at a broker and give it back"),
    "emulate": ("sluicegate.cli.emulate", "serve a provider emulator with real limits"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 a bar missed, 2 bad usage or configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="sluicegate", description="Token budgets for fleets of LLM agents.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the command that runs is imported: `up` needs no plotting, `emulate` no broker.
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for name, (module_name, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name == chosen:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
