# SPDX-License-Identifier: Apache-2.0
"""The bars of a run that need no run."""

from __future__ import annotations

import pytest

from sluicegate.cli import report


@pytest.mark.parametrize(("share", "largest", "ok"), [(0.046, 0.005, True), (0.044, 0.005, False), (0.0, 0.06, False)])
def test_a_guarantee_is_kept_but_for_what_is_coming_together(share: float, largest: float, ok: bool) -> None:
    pool = report.PoolTruth(
        admitted=1,
        quota_429s=0,
        binding="tokens/60s",
        use=1.0,
        charged_per_second=(),
        rejected_per_second=(),
        tier_share={"Free": share},
        largest={"Free": largest},
    )
    phase = report.Phase(title="", seconds=50.0, results=(), pools={"p": pool})
    checks = report.scheduled_checks(phase, top_tier="Critical", guarantees={"Free": 0.05}, violations=())
    assert {check.name: check.ok for check in checks}["Free guarantee of 5% on p"] is ok
