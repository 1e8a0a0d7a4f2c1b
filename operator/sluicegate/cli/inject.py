# SPDX-License-Identifier: Apache-2.0
"""`sluicegate inject -f FILE`: manifests in, manifests with the sidecar out; what was done is said on standard error.

For clusters where the webhook may not be, and to see what it would do. Whoever runs it asks for the sidecar: only a
pod that refuses it (`sluicegate.dev/inject: "false"`), or that cannot have it, is left as it is. A second run changes
nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.cli.cluster import UsageError, installed, reached
from sluicegate.cli.flags import add_cluster
from sluicegate.cli.injection import Injecting, apply, of_cluster, offline
from sluicegate.cli.manifests import Document, ManifestError, malformed, objects, pod_of, read, write
from sluicegate.cli.tables import out
from sluicegate.cli.views import bounded
from sluicegate.injector.annotations import INJECT, NAMESPACE_LABEL
from sluicegate.injector.annotations import read as wishes_of
from sluicegate.injector.decide import ENABLED, decide
from sluicegate.injector.patch import patch


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one object."""

    what: str
    injected: bool
    reason: str
    warnings: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "-f", "--filename", action="append", required=True, metavar="FILE", help="YAML or JSON; - is standard input"
    )
    parser.add_argument(
        "-n", "--namespace", default="default", metavar="NAME", help="of objects that do not say it (default default)"
    )
    add_cluster(parser)
    parser.add_argument("--image", default="", metavar="IMAGE", help="the sidecar's image; without a cluster")
    parser.add_argument("--broker", default="", metavar="HOST:PORT", help="the broker as pods reach it, with --image")
    parser.add_argument(
        "--broker-ca", type=Path, metavar="FILE", help="PEM of the broker's authorities, with --image; else plain text"
    )


def run(options: argparse.Namespace) -> int:
    """Exit code 0; 1 where files or the cluster cannot be read; 2 for wrong usage or what is no manifest."""
    return bounded(options.called, _run(options))


async def _run(options: argparse.Namespace) -> int:
    documents: list[Document] = []
    for name in options.filename:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")  # noqa: ASYNC240 - before any work
        try:
            documents.extend(read(text))
        except ManifestError as problem:
            raise UsageError(f"{name}: {problem}") from None
    injecting = await _injecting(options)
    reports = [report for document in documents for report in inject(document, injecting, options.namespace)]
    out(write(documents))
    sys.stderr.write(told(reports))
    return 0


async def _injecting(options: argparse.Namespace) -> Injecting:
    if options.image or options.broker or options.broker_ca:
        if not (options.image and options.broker):
            raise UsageError("--image and --broker go together: they stand for what the cluster's injector is told")
        return offline(options.image, options.broker, options.broker_ca.read_text() if options.broker_ca else "")
    async with reached(options) as client:
        return await of_cluster(client, await installed(client, options))


def inject(document: Document, injecting: Injecting, namespace: str) -> list[Report]:
    """Injects every object of `document`, in place. `namespace`: of those that do not name theirs."""
    reports: list[Report] = []
    for resource in objects(document.value):
        report = _one(resource, injecting, namespace)
        document.changed = document.changed or report.injected
        reports.append(report)
    return reports


def _one(resource: dict[str, Any], injecting: Injecting, namespace: str) -> Report:
    own = resource.get("metadata") or {}
    what = f"{str(resource.get('kind', '?')).lower()}/{own.get('name') or own.get('generateName') or '?'}"
    pod = pod_of(resource)
    if pod is None:
        return Report(what, False, "it makes no pods")
    if problem := malformed(pod):
        return Report(what, False, f"it is malformed: {problem}")
    metadata = pod.get("metadata") or {}
    asked = {**pod, "metadata": metadata}
    decision = decide(asked, own.get("namespace") or namespace, {NAMESPACE_LABEL: ENABLED}, injecting.excluded)
    if not decision.inject:
        return Report(what, False, decision.sentence)
    made = patch(asked, injecting.injection, wishes_of(metadata.get("annotations") or {}))
    misplaced = pod is not resource and INJECT in (own.get("annotations") or {})
    extra = (f"annotation {INJECT} stands on the {resource['kind']}, where it does nothing",) if misplaced else ()
    if not made.operations:
        return Report(what, False, "it has the sidecar already, and lacks nothing", (*made.warnings, *extra))
    pod["metadata"] = metadata
    apply(pod, made.operations)
    return Report(what, True, "", (*made.warnings, *extra))


def told(reports: list[Report]) -> str:
    """The report for people, one line an object."""
    lines = [""]
    for report in reports:
        lines.append(f"{report.what} injected" if report.injected else f"{report.what} skipped: {report.reason}")
        lines.extend(f"  ‼ {warning}" for warning in report.warnings)
    return "\n".join(lines) + "\n\n"
