# SPDX-License-Identifier: Apache-2.0
"""The main job on real traffic, for most of a minute: the demo's bars, in the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.cli import comparison, report, scene
from sluicegate.cli.load import Progress, plan

SECONDS = 45.0


@pytest.mark.xdist_group("real time")  # never side by side
@pytest.mark.timeout(180)
async def test_three_times_the_limit_without_a_quota_429(tmp_path: Path) -> None:
    ran = await comparison.run_scheduled(
        "test",
        plan(scene.CALLERS, scene.TARGETS, SECONDS, seed=11),
        scene.provider(seed=11),
        tmp_path,
        seconds=SECONDS,
        progress=Progress(),
    )
    assert len(ran.phase.results) > 700
    missed = [
        check
        for check in report.scheduled_checks(
            ran.phase, top_tier="Critical", guarantees={"Free": 0.05}, violations=report.violations(ran.decisions)
        )
        if not check.ok
    ]
    assert missed == []


@pytest.mark.xdist_group("real time")  # never side by side
@pytest.mark.timeout(240)
async def test_with_foreign_use_of_the_keys_no_app_sees_a_quota_429(tmp_path: Path) -> None:
    seconds = 2 * SECONDS  # 1 % of the calls of one are 4, as many as come while the foreign use is learned
    ran = await comparison.run_scheduled(
        "test",
        plan(scene.CALLERS, scene.TARGETS, seconds, seed=12),
        scene.provider(seed=12, foreign_percent=30),
        tmp_path,
        seconds=seconds,
        progress=Progress(),
    )
    assert [check for check in report.foreign_checks(ran.phase) if not check.ok] == []
