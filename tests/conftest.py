# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: bounded Hypothesis, and no asyncio task left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

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
