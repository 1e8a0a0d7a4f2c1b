# SPDX-License-Identifier: Apache-2.0
"""Where there can be no cluster, the run says so last and loudly, and fails where one is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(("required", "code"), [("", 0), ("required", 1)])
def test_who_is_not_root_is_told_loudly_that_nothing_was_tested(required: str, code: int):
    nobody = ["unshare", "--user"] if os.geteuid() == 0 else []  # whose files these stay
    if nobody and subprocess.run([*nobody, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may not make a user namespace here")
    done = subprocess.run(
        [*nobody, sys.executable, "-m", "pytest", "tests/cluster/test_uninstall.py", "-p", "no:cacheprovider"],
        cwd=CHECKOUT,
        env={**os.environ, "SLUICEGATE_CLUSTER": required},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert "a node needs root" in done.stdout
    if not required:
        assert "*** NO CLUSTER HERE: nothing was tested on a real node ***" in done.stdout
