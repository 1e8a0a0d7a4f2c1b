# SPDX-License-Identifier: Apache-2.0
"""The flags that commands share, spelled as kubectl's are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Which cluster, and which installation in it."""
    parser.add_argument("--kubeconfig", default="", metavar="FILE", help="default: $KUBECONFIG, else ~/.kube/config")
    parser.add_argument("--context", default="", metavar="NAME", help="a context of the kubeconfig")
    parser.add_argument(
        "--system-namespace",
        default=os.environ.get("SLUICEGATE_SYSTEM_NAMESPACE", ""),
        metavar="NAME",
        help="where Sluicegate is installed; default: looked up by labels",
    )


def add_system_namespace_as_n(parser: argparse.ArgumentParser) -> None:
    """`-n` of commands that look at the installation and at nothing else."""
    parser.add_argument(
        "-n",
        "--namespace",
        dest="system_namespace",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="as --system-namespace",
    )


def add_broker(parser: argparse.ArgumentParser) -> None:
    """How to reach the broker."""
    parser.add_argument(
        "--broker",
        default="",
        metavar="HOST:PORT",
        help="a broker without a cluster, in plain text, such as that of `sluicegate up`: 127.0.0.1:15051",
    )
    parser.add_argument(
        "--via",
        default="",
        metavar="HOST:PORT",
        help="reach the cluster's broker at this address, with TLS and token, instead of by `kubectl port-forward`",
    )


def add_output(parser: argparse.ArgumentParser, formats: Sequence[str] = ("table", "wide", "json", "yaml")) -> None:
    """`-o`; the first format is the default."""
    parser.add_argument("-o", "--output", choices=formats, default=formats[0], help="default: %(default)s")
