# SPDX-License-Identifier: Apache-2.0
"""Kubeconfigs whose user is a program: it is run, and the API server takes what it gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.installed import cli, results
from tests.cluster.control_plane import ControlPlane

SCRIPT = """\
import json, os, sys
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert asked["spec"]["interactive"] is False
status = {status}
print(json.dumps({{"kind": "ExecCredential", "apiVersion": asked["apiVersion"], "status": status}}))
"""


def kubeconfig(plane: ControlPlane, directory: Path, script: str) -> Path:
    (directory / "plugin.py").write_text(script)
    config: dict[str, Any] = json.loads(plane.kubeconfig.read_text())
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(directory / "plugin.py")],
        "env": [{"name": "GIVEN", "value": "yes"}],
        "interactiveMode": "Never",
    }
    config["users"][0]["user"] = {"exec": plugin}
    path = directory / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def status_of(plane: ControlPlane, kind: str) -> str:
    if kind == "token":
        plane.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "plugin", "namespace": "default"}}
        )
        token = plane.kubectl("create", "token", "plugin", "-n", "default").stdout.strip()
        return repr({"token": token})
    certificate, key = plane.admin.certificate.read_text(), plane.admin.key.read_text()
    return repr({"clientCertificateData": certificate, "clientKeyData": key})


@pytest.mark.parametrize(("kind", "may"), [("token", False), ("certificate", True)])
async def test_what_the_program_gives_is_who_asks(plane: ControlPlane, tmp_path: Path, kind: str, may: bool):
    path = kubeconfig(plane, tmp_path, SCRIPT.format(status=status_of(plane, kind)))
    code, out, err = await cli(path, "check", "--pre", "-o", "json")
    assert out, err
    assert (results(out)["pre-rights"][0] == "ok") is may
    assert (code == 0) is may


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('log in first')", "ended with 1: log in first"),
        ("print('hello')", "answered with no ExecCredential"),
        ("print('{\"status\": {}}')", "gave neither token nor certificate"),
    ],
)
async def test_a_program_that_gives_nothing_is_told(plane: ControlPlane, tmp_path: Path, script: str, words: str):
    code, _, err = await cli(kubeconfig(plane, tmp_path, script), "check", "--pre")
    assert code == 1
    assert words in err
