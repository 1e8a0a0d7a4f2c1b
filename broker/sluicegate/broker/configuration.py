# SPDX-License-Identifier: Apache-2.0
"""What configuration is in effect, and what is wrong with its documents. The last one applied wins, whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence

from sluicegate.broker.core import manifests
from sluicegate.broker.core.config import Snapshot
from sluicegate.broker.core.documents import Compiled, compile_documents
from sluicegate.broker.core.events import Configure
from sluicegate.broker.core.findings import Finding, Severity
from sluicegate.broker.core.manifests import Manifests
from sluicegate.broker.runtime import Runtime

log = logging.getLogger(__name__)

Applied = Callable[[Snapshot], None]


class Configuration:
    """Compiles documents and hands the result to the core. `on_applied` hears of every change, after the core."""

    def __init__(self, runtime: Runtime) -> None:
        self.compiled = Compiled()
        self.on_applied: list[Applied] = []
        self.applications = 0
        self._runtime = runtime

    def apply(self, read: Manifests) -> Compiled:
        """Put the documents into effect. Bad ones stay out, or keep their last good version; see the findings."""
        compiled = compile_documents(read.documents, unreadable=read.unreadable, previous=self.compiled)
        compiled = Compiled(compiled.snapshot, (*read.findings, *compiled.findings), compiled.origins)
        _log_new(compiled.findings, self.compiled.findings)
        changed = compiled.snapshot.version != self.compiled.snapshot.version
        self.compiled = compiled
        self.applications += 1
        if changed or self.applications == 1:
            snapshot = compiled.snapshot
            self._runtime.submit(Configure(snapshot), lambda _: self._applied(snapshot))
            log.info(
                "configuration in effect",
                extra={
                    "version": snapshot.version,
                    "pools": len(snapshot.pools),
                    "tenants": len(snapshot.tenants),
                    "findings": len(compiled.findings),
                },
            )
        return compiled

    def apply_json(self, documents: Iterable[tuple[str, str]]) -> Compiled:
        """The same for (source, JSON) pairs, as ApplyConfig sends them; each is an origin of its own."""
        return self.apply(_parse(documents))

    def _applied(self, snapshot: Snapshot) -> None:
        for heard in self.on_applied:
            heard(snapshot)


def _parse(documents: Iterable[tuple[str, str]]) -> Manifests:
    read: list[manifests.RawDocument] = []
    findings: list[Finding] = []
    unreadable: set[str] = set()
    for source, text in documents:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            findings.append(Finding(source, "", "", "", f"not valid JSON: {error}", Severity.ERROR))
            unreadable.add(source)
            continue
        read.extend(manifests.flatten(source, source, data, findings))
    return Manifests(tuple(read), tuple(findings), frozenset(unreadable))


def _log_new(findings: Sequence[Finding], before: Sequence[Finding]) -> None:
    known = set(before)
    for finding in findings:
        if finding not in known:
            level = logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING
            log.log(level, "%s", finding, extra={"source": finding.source, "document": finding.document})
