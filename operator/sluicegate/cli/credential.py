# SPDX-License-Identifier: Apache-2.0
"""Users of a kubeconfig whose credential comes from a program, as at most hosted clusters.

Source: Kubernetes' client authentication, client.authentication.k8s.io/v1 and v1beta1 (ExecCredential).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sluicegate.kube.client import KubeError

_TIMEOUT = 60.0


def credential(entry: Mapping[str, Any], kubeconfig: Path) -> dict[str, str]:
    """What the program of an `exec` entry says, as fields of a user. Raises KubeError with its words."""
    command = str(entry.get("command", ""))
    if "/" in command and not command.startswith("/"):
        command = str(kubeconfig.parent / command)
    asked = {"kind": "ExecCredential", "apiVersion": entry.get("apiVersion"), "spec": {"interactive": False}}
    environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    environment |= {str(pair["name"]): str(pair["value"]) for pair in entry.get("env") or []}
    arguments = [str(argument) for argument in entry.get("args") or []]
    try:
        # The user's own kubeconfig names the program, as for kubectl.
        done = subprocess.run(  # noqa: S603
            [command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise KubeError(f"{kubeconfig}: {command}: {error.strerror}. {entry.get('installHint', '')}".strip()) from None
    except subprocess.TimeoutExpired:
        raise KubeError(f"{kubeconfig}: {command} did not answer in {_TIMEOUT:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise KubeError(f"{kubeconfig}: {command} ended with {done.returncode}: {said}")
    try:
        status = json.loads(done.stdout)["status"]
        fields = {"token": str(status["token"])} if status.get("token") else {}
        if status.get("clientCertificateData"):
            fields["client-certificate-data"] = _encoded(status["clientCertificateData"])
            fields["client-key-data"] = _encoded(status["clientKeyData"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KubeError(f"{kubeconfig}: {command} answered with no ExecCredential") from None
    if not fields:
        raise KubeError(f"{kubeconfig}: {command} gave neither token nor certificate")
    return fields


def _encoded(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()
