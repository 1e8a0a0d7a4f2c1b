# SPDX-License-Identifier: Apache-2.0
"""`sluicegate fingerprint`: what a ProviderPool's `keyFingerprints` says of a key.

The key comes on standard input, never as an argument, which every user of the machine could read.
"""

from __future__ import annotations

import argparse
import os
import sys

from sluicegate.sidecar.inbound import fingerprint_of
from sluicegate.sidecar.settings import PREFIX, Settings

_SALT = PREFIX + "FINGERPRINT_SALT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sluicegate fingerprint`."""
    parser.add_argument(
        "--salt",
        default=os.environ.get(_SALT) or Settings().fingerprint_salt,
        help=f"the salt that the sidecars have (default %(default)s; ${_SALT})",
    )


def run(options: argparse.Namespace) -> int:
    """Prints the fingerprint of the key on standard input. 2: there is none, or it has more than one line."""
    key = sys.stdin.read().strip()
    if not key or len(key.splitlines()) > 1:
        sys.stderr.write("sluicegate fingerprint: give one key on standard input, such as: printenv KEY | ...\n")
        return 2
    sys.stdout.write(fingerprint_of(key, options.salt) + "\n")
    return 0
