# SPDX-License-Identifier: Apache-2.0
"""Where there can be no cluster or API server, the run says so last and loudly, and fails where they are required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def ran(*command: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def pytest_of(tests: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", tests, "-p", "no:cacheprovider", *options]


@pytest.mark.parametrize(("required", "code"), [("", 0), ("required", 1)])
def test_who_is_not_root_is_told_loudly_that_nothing_was_tested(required: str, code: int):
    nobody = ["unshare", "--user"] if os.geteuid() == 0 else []  # whose files these stay
    if nobody and subprocess.run([*nobody, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may not make a user namespace here")
    done, said = ran(*nobody, *pytest_of("tests/cluster/test_uninstall.py"), SLUICEGATE_CLUSTER=required)
    assert done == code, said
    assert "a node needs root" in said
    if not required:
        assert "*** NO CLUSTER HERE: nothing was tested on a real node ***" in said


@pytest.mark.parametrize(("required", "code"), [("", 0), ("required", 1)])
def test_where_kubernetes_cannot_be_built_each_level_says_so_or_fails(required: str, code: int, tmp_path: Path):
    nothing = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": ""}
    told = nothing | {"SLUICEGATE_CLUSTER": required}
    done, said = ran(sys.executable, "-m", "tests.cluster.toolchain", "etcd", **told)
    assert done == code
    assert f"The tests that need it will {'FAIL' if required else 'be SKIPPED'}" in said
    # The second is the last that `make test` runs.
    for tests, options in (("tests/apiserver/test_kube.py", ["-n", "1"]), ("tests/cluster/test_uninstall.py", [])):
        done, said = ran(*pytest_of(tests, *options), **told)
        assert done == code, said
        assert " passed" not in said
        if not required:
            assert "*** NO API SERVER HERE: " in said
