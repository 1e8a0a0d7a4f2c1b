# SPDX-License-Identifier: Apache-2.0
"""One API server for all tests of this level, in each test process.

`make test` builds its programs before; where that is impossible, these tests are skipped and the summary says why,
loudly, or they fail: SLUICEGATE_CLUSTER=required.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sluicegate.operator.core.crds import definitions
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.toolchain import API_SERVER, NO_API_SERVER, ToolError, required, tool


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that knows our custom resources."""
    try:
        for name in API_SERVER:
            tool(name)
    except ToolError as problem:
        if required():
            raise
        pytest.skip(f"{NO_API_SERVER}: {problem}")
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        running.apply(*definitions())
        names = [definition["metadata"]["name"] for definition in definitions()]
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)
        yield running
