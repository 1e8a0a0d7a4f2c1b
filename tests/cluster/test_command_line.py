# SPDX-License-Identifier: Apache-2.0
"""The command line against the broker of a real cluster: token, port-forward, TLS; and what the image promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.installation import NAMESPACE, RELEASE, Installation
from tests.cluster.toolchain import tool

pytestmark = pytest.mark.timeout(1_500)


def said(installed: Installation, *arguments: str) -> str:
    """What `kubectl sluicegate` prints for these arguments, with both on the PATH as a user has them."""
    own = Path(sys.executable).parent
    path = f"{tool('kubectl').parent}:{own}:{os.environ['PATH']}"
    command = ["kubectl", "sluicegate", *arguments, "--kubeconfig", installed.node.plane.kubeconfig]
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}{installed.state()}"
    return done.stdout


def told(installed: Installation, *arguments: str) -> Any:
    """The same as JSON."""
    return json.loads(said(installed, *arguments, "-o", "json"))


def test_check_finds_nothing_wrong(installed: Installation) -> None:
    found = told(installed, "check")
    assert {check["id"]: check["details"] for check in found["checks"] if check["result"] != "ok"} == {}


def test_status_tenants_and_queue_come_from_the_live_broker(installed: Installation) -> None:
    assert "gpt-4o" in json.dumps(told(installed, "status"))
    text = json.dumps(told(installed, "tenants"))
    assert "acme/acme" in text
    assert "hobby/hobby" in text
    assert told(installed, "queue", "gpt-4o") is not None


def test_explain_says_whose_a_running_pod_is(installed: Installation) -> None:
    pod = installed.pods("acme", "app=app")[0]["metadata"]["name"]
    words = said(installed, "explain", pod, "-n", "acme")
    assert "acme/acme" in words
    assert "Premium" in words


@pytest.mark.parametrize("part", ["broker", "operator", "injector"])
def test_a_part_runs_as_nobody_on_a_read_only_root(installed: Installation, part: str) -> None:
    program = (
        "import os, sys\ntry:\n open('/written', 'w')\nexcept OSError as e: print(os.getuid(), e.errno)\n"
        "else: sys.exit('the root is writable')"
    )
    target = f"deployment/{RELEASE}-{part}"
    execute = partial(installed.node.plane.kubectl, "exec", "-n", NAMESPACE, target, "--", "/opt/sluicegate/bin/python")
    installed.until(lambda: execute("-c", program, check=False).stdout.strip() == "65532 30", f"65532, EROFS of {part}")


def test_the_image_is_small(installed: Installation) -> None:
    size = next(path for path in installed.node.archives if path.name.startswith("product-")).stat().st_size / 1e6
    print(f"the product's image has {size:.0f} MB unpacked, with Debian and Python")
    assert size < 350
