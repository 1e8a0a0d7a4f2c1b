# SPDX-License-Identifier: Apache-2.0
"""The documents of a directory (or of one file), read at the start and again whenever it changes.

Files end in .yaml, .yml or .json; hidden ones are left out, so that the `..data` links of a mounted ConfigMap are not
read twice. A file that cannot be read keeps what it held before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path

from watchfiles import awatch

from sluicegate.broker.configuration import Configuration
from sluicegate.broker.core import manifests
from sluicegate.broker.core.findings import Finding, Severity
from sluicegate.broker.core.manifests import MAX_BYTES, Manifests

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
_MAX_FILES = 10_000
_DEBOUNCE_MS = 300
_STEP_MS = 50
_AGAIN = 1.0


def read_directory(path: Path) -> Manifests:
    """The documents below `path`. Never raises: what cannot be read is a finding. Blocks."""
    texts: dict[str, str] = {}
    findings: list[Finding] = []
    unreadable: set[str] = set()
    try:
        files = [path] if path.is_file() else sorted(_files(path))[:_MAX_FILES]
    except OSError as error:
        return Manifests((), (_unreadable(str(path), error),), frozenset())
    if not path.exists():
        message = "does not exist: name a directory or a file of YAML documents"
        return Manifests((), (Finding(str(path), "", "", "", message, Severity.ERROR),), frozenset())
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"is larger than the {MAX_BYTES} bytes allowed")
            texts[name] = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            findings.append(_unreadable(name, error))
            unreadable.add(name)
    read = manifests.read(texts)
    return dataclasses.replace(
        read, findings=(*findings, *read.findings), unreadable=read.unreadable | frozenset(unreadable)
    )


def _files(path: Path) -> list[Path]:
    return [
        file
        for file in path.rglob("*")
        if file.suffix in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]


def _unreadable(name: str, error: Exception) -> Finding:
    return Finding(name, "", "", "", f"cannot be read: {error}", Severity.ERROR)


class ConfigWatch:
    """Keeps `configuration` at what `path` says."""

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self.reloads = 0
        self._path = path
        self._configuration = configuration
        self._last: Manifests | None = None

    async def load(self) -> None:
        """Read the documents now and apply them, unless nothing differs from the last time."""
        read = await asyncio.to_thread(read_directory, self._path)
        if not read.documents and read.findings and self._last is not None and not self._path.exists():
            log.error("the configuration directory is gone; what it held stays in effect")
            return
        if read != self._last:
            self._last = read
            self.reloads += 1
            self._configuration.apply(read)

    async def run(self) -> None:
        """Reload on change, until cancelled."""
        while True:
            try:
                await self.load()  # what changed before the watch began
                watched = self._path if self._path.is_dir() else self._path.parent
                async for _ in awatch(watched, debounce=_DEBOUNCE_MS, step=_STEP_MS):
                    await self.load()
            except (OSError, RuntimeError) as error:
                log.error("the configuration cannot be watched", extra={"path": str(self._path), "error": str(error)})
            await asyncio.sleep(_AGAIN)
