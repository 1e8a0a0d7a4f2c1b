# SPDX-License-Identifier: Apache-2.0
"""The command line: `sluicegate COMMAND`, or `kubectl sluicegate COMMAND` where it was called as a plugin.

Each command is a module with `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import PurePath

COMMANDS = {
    "check": ("sluicegate.cli.check", "find what is wrong with an installation, or in the way of one (--pre)"),
    "status": ("sluicegate.cli.status", "pools and their limits, the one that binds, and what waits"),
    "tenants": ("sluicegate.cli.tenants", "what each tenant has waiting and under way, and what it got"),
    "queue": ("sluicegate.cli.waiting", "who waits for a pool, why, and for how long still"),
    "explain": ("sluicegate.cli.explain", "why a pod is injected or not, and which policy holds for it"),
    "inject": ("sluicegate.cli.inject", "put the sidecar into manifests, without a webhook"),
    "up": ("sluicegate.cli.up", "run broker and sidecar on this machine, without a cluster"),
    "demo": ("sluicegate.cli.demo", "four tenants at three times the limit: scheduled, then with the SDKs' retries"),
    "probe": ("sluicegate.cli.probe", "acquire one slot at a broker and give it back"),
    "fingerprint": ("sluicegate.cli.fingerprint", "what keyFingerprints says of a key (on standard input)"),
    "classify": ("sluicegate.cli.classify", "say what provider responses mean, one JSON object a line"),
    "emulate": ("sluicegate.cli.emulate", "serve a provider emulator with real limits"),
}


def called_as(program: str) -> str:
    """What the user typed: kubectl runs the file `kubectl-sluicegate` for `kubectl sluicegate`."""
    return "kubectl sluicegate" if PurePath(program).name.startswith("kubectl-") else "sluicegate"


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 a bar missed, 2 bad usage or configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = called_as(sys.argv[0] if program is None else program)
    parser = argparse.ArgumentParser(prog=name, description="Token budgets for fleets of LLM agents.")
    parser.add_argument("--version", action="version", version=f"{name} {metadata.version('sluicegate')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the command that runs is imported: `up` needs no plotting, `emulate` no broker.
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for command_name, (module_name, help_text) in COMMANDS.items():
        command = commands.add_parser(command_name, help=help_text, description=help_text)
        if command_name == chosen:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run, called=f"{name} {command_name}")
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
