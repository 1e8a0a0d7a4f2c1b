# SPDX-License-Identifier: Apache-2.0
"""One real cluster for all tests of this level, with the chart installed as a user would.

Where this machine cannot be a node, the tests are skipped and the summary says why, loudly. `make test-cluster`
sets SLUICEGATE_CLUSTER=required, and then they fail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster.images import archives, base
from tests.cluster.installation import VERSION, Installation
from tests.cluster.machine import MachineError, prepare
from tests.cluster.node import Node, node
from tests.cluster.toolchain import API_SERVER, NO_API_SERVER, TOOLS, ToolError, built, required, tool

_WHY_NOT: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last word of a run without a cluster says so."""
    if _WHY_NOT:
        terminalreporter.section("NO CLUSTER HERE: nothing was tested on a real node", sep="*", red=True)
        terminalreporter.write_line(_WHY_NOT[0])
        if missing := [name for name in API_SERVER if built(name) is None]:
            terminalreporter.section(f"{NO_API_SERVER}: nothing was tested on one either", sep="*", red=True)
            terminalreporter.write_line(f"{', '.join(missing)}: not here, and not built")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the images on it."""
    try:
        prepare()
        for name in TOOLS:
            tool(name)
        base()
    except (MachineError, ToolError) as problem:
        if required():
            raise
        _WHY_NOT.append(str(problem))
        pytest.skip(f"*** NO CLUSTER HERE, so nothing was tested on a real node *** {problem}")
    images = archives(VERSION)  # where this fails, the product's Dockerfile may be why: no reason to skip
    begun = time.monotonic()
    with node(tmp_path_factory.mktemp("node"), images) as running:
        print(f"a node with its images is ready after {time.monotonic() - begun:.1f} s")
        yield running


@pytest.fixture(scope="session")
def installed(cluster: Node) -> Installation:
    """The chart with its default values, an emulator as the provider, two tenants' namespaces."""
    installation = Installation(cluster)
    installation.install()
    return installation
