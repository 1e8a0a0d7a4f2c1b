# SPDX-License-Identifier: Apache-2.0
"""The injector's webhook: its configuration, its certificate, and whether a pod that asks comes back injected."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from sluicegate.cli.checks.control_plane import INSTALLED
from sluicegate.cli.checks.model import Check, Found, Ok, Result, Severity, Skip
from sluicegate.cli.checks.world import World
from sluicegate.injector.annotations import INJECT, NAMESPACE_LABEL
from sluicegate.injector.decide import CONTAINER, DISABLED
from sluicegate.kube.client import ApiError, KubeError

CONFIGURED = "webhook"
_PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_SOON = dt.timedelta(days=14)


async def _configuration(world: World) -> dict[str, Any] | None:
    """The configuration whose webhooks are ours."""
    part = world.part("injector")
    name = part.environment.get("SLUICEGATE_INJECTOR_WEBHOOK") or part.name if part else ""
    try:
        return await world.client.get(f"{_PATH}/{name}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _bundle(configuration: dict[str, Any]) -> list[x509.Certificate]:
    """The authorities that the API server trusts. Raises ValueError."""
    bundles = {hook["clientConfig"].get("caBundle", "") for hook in configuration.get("webhooks") or []}
    if bundles == {""} or not bundles:
        raise ValueError("has no caBundle: the injector has not published its authority")
    if len(bundles) > 1:
        raise ValueError("has webhooks with different caBundles")
    try:
        return x509.load_pem_x509_certificates(base64.b64decode(bundles.pop()))
    except (ValueError, binascii.Error):
        raise ValueError("has a caBundle that holds no certificate") from None


async def _there(world: World) -> Result:
    if world.part("injector") is None:
        return Skip("no injector is installed (injector.enabled)")
    configuration = await _configuration(world)
    if configuration is None:
        return Found(("there is no MutatingWebhookConfiguration of the injector's name",))
    name = configuration["metadata"]["name"]
    try:
        count = len(_bundle(configuration))
    except ValueError as problem:
        return Found((f"MutatingWebhookConfiguration {name} {problem}",))
    return Ok(f"{name}, {count} authorit{'y' if count == 1 else 'ies'}")


async def _certificate(world: World) -> Result:
    part = world.part("injector")
    assert part is not None
    secret = part.ref("SLUICEGATE_INJECTOR_TLS_SECRET")
    if secret is None:
        return Skip("the certificate is the user's own, in a Secret that the injector does not keep")
    held = (await world.client.get(secret.secret)).get("data") or {}
    try:
        served = x509.load_pem_x509_certificate(base64.b64decode(held.get("tls.crt", "")))
    except (ValueError, binascii.Error):
        return Found((f"Secret {secret} has no certificate in tls.crt",))
    left = served.not_valid_after_utc - world.now
    wrong: list[str] = []
    severity = Severity.FAIL
    configuration = await _configuration(world)
    if configuration is not None and not _issued(served, _bundle(configuration)):
        wrong.append(f"the certificate in Secret {secret} is of no authority in the caBundle")
    if left <= dt.timedelta(0):
        wrong.append(f"the certificate in Secret {secret} ended on {served.not_valid_after_utc:%Y-%m-%d}")
    if not wrong and left < _SOON:
        severity = Severity.WARN
        wrong.append(
            f"the certificate in Secret {secret} ends on {served.not_valid_after_utc:%Y-%m-%d}, in {left.days} days"
        )
    return Found(tuple(wrong), severity) if wrong else Ok(f"until {served.not_valid_after_utc:%Y-%m-%d}")


def _issued(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


async def _injects(world: World) -> Result:
    part = world.part("injector")
    assert part is not None
    excluded = part.environment.get("SLUICEGATE_INJECTOR_EXCLUDED_NAMESPACES", "").split(",")
    namespaces = {
        n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in await world.all("/api/v1/namespaces")
    }
    open_ones = [
        name for name, labels in namespaces.items() if name not in excluded and labels.get(NAMESPACE_LABEL) != DISABLED
    ]
    if not open_ones:
        return Skip("every namespace is excluded from injection")
    namespace = "default" if "default" in open_ones else min(open_ones)
    path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        made = await world.client.create(path, _pod(namespace), dryRun="All")
    except ApiError as error:
        if error.status in (401, 403) and "webhook" not in str(error):
            return Skip(f"a pod may not be tried in namespace {namespace}: {error}")
        return Found((f"a pod that asks for injection in namespace {namespace} is refused: {error}",))
    except KubeError as error:
        return Found((str(error),))
    if not any(container["name"] == CONTAINER for container in made["spec"].get("initContainers") or []):
        return Found((f"a pod that asks for it in namespace {namespace} came back without the sidecar",))
    return Ok(f"dry run in namespace {namespace}")


def _pod(namespace: str) -> dict[str, Any]:
    """It meets the restricted standard, so that only the injector is tried."""
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    metadata = {"generateName": "sluicegate-check-", "namespace": namespace, "annotations": {INJECT: "true"}}
    container = {"name": "app", "image": "sluicegate-check", "securityContext": security}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


INJECTION = "injection"
WEBHOOK = (
    Check(CONFIGURED, INJECTION, "the webhook is configured", Severity.FAIL, _there, (INSTALLED,), starting=True),
    Check("webhook-certificate", INJECTION, "its certificate is good", Severity.FAIL, _certificate, (CONFIGURED,)),
    Check(
        "injector-answers",
        INJECTION,
        "a pod that asks is injected",
        Severity.FAIL,
        _injects,
        (CONFIGURED,),
        starting=True,
    ),
)
