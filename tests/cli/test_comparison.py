# SPDX-License-Identifier: Apache-2.0
"""The main job on real traffic, for a minute and a half: the demo's bars, in the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.cli import comparison, report, scene
from sluicegate.cli.load import Progress, plan

SECONDS = 90.0
"""Over 45, 1 % of the calls are the four that come while foreign use is learned, and use lacks 2 % at the ends."""


@pytest.mark.xdist_group("real time")  # never side by side
@pytest.mark.timeout(240)
async def test_three_times_the_limit_without_a_quota_429(tmp_path: Path) -> None:
    ran = await comparison.run_scheduled(
        "test",
        plan(scene.CALLERS, scene.TARGETS, SECONDS, seed=11),
        scene.provider(seed=11),
        tmp_path,
        seconds=SECONDS,
        progress=Progress(),
    )
    assert len(ran.phase.results) > 1_400
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
    ran = await comparison.run_scheduled(
        "test",
        plan(scene.CALLERS, scene.TARGETS, SECONDS, seed=12),
        scene.provider(seed=12, foreign_percent=30),
        tmp_path,
        seconds=SECONDS,
        progress=Progress(),
    )
    assert [check for check in report.foreign_checks(ran.phase) if not check.ok] == []
