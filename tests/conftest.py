# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: bounded Hypothesis, no asyncio task left behind, a level that was left out is named."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster.toolchain import NO_API_SERVER

# A deadline per example would fail on a busy machine. The same examples run every time, for whoever changes something
# must be the one who sees it fail; SLUICEGATE_FUZZ=1 looks for new ones.
settings.register_profile(
    "sluicegate",
    deadline=None,
    derandomize=not os.environ.get("SLUICEGATE_FUZZ"),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sluicegate")

_SETTLE_SECONDS = 1.0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Here, since with -n the conftest of a level is read by the workers alone."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if NO_API_SERVER in str(report.longrepr)]
    if skipped:
        words = f"{NO_API_SERVER}: {len(skipped)} tests did not run"
        terminalreporter.section(words, sep="*", red=True)


@pytest.fixture(autouse=True)
def no_pending_tasks(request: pytest.FixtureRequest) -> None:
    """Fail a coroutine test that leaves tasks running once its own fixtures are torn down."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_tasks_at_end")


@pytest.fixture
async def _tasks_at_end() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _SETTLE_SECONDS
    while pending := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if loop.time() > give_up:
            pytest.fail(f"tasks still pending: {', '.join(sorted(str(task.get_coro()) for task in pending))}")
        await asyncio.sleep(0.01)
