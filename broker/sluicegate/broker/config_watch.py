# SPDX-License-Identifier: Apache-2.0
"""The documents of a directory (or of one file), read at the start and again whenever it changes.

Files end in .yaml, .yml or .json; hidden ones are left out, so that the `..data` links of a mounted ConfigMap are not
read twice. A file that cannot be read keeps what it held before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_LOOK_EVERY_MS = 2_000
_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Texts:
    """What a directory held: the text of each file, and what could not be read."""

    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    findings: tuple[Finding, ...] = ()
    unreadable: frozenset[str] = frozenset()

    def parse(self) -> Manifests:
        read = manifests.read(self.texts)
        return Manifests(read.documents, (*self.findings, *read.findings), read.unreadable | self.unreadable)


def read_directory(path: Path) -> Texts:
    """The texts below `path`. Never raises: what cannot be read is a finding. Blocks."""
    if not path.exists():
        message = "does not exist: name a directory or a file of YAML documents"
        return Texts(findings=(Finding(str(path), "", "", "", message, Severity.ERROR),))
    texts: dict[str, str] = {}
    findings: list[Finding] = []
    unreadable: set[str] = set()
    try:
        files = [path] if path.is_file() else sorted(_files(path))[:_MAX_FILES]
    except OSError as error:
        return Texts(findings=(_unreadable(str(path), error),))
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"is larger than the {MAX_BYTES} bytes allowed")
            texts[name] = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            findings.append(_unreadable(name, error))
            unreadable.add(name)
    return Texts(texts, tuple(findings), frozenset(unreadable))


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
        self._last: Texts | None = None

    async def load(self) -> None:
        """Read the documents now and apply them, unless nothing differs from the last time."""
        texts = await asyncio.to_thread(read_directory, self._path)
        if texts == self._last:
            return
        if self._last is not None and not texts.texts and texts.findings:
            log.error("the configuration is gone; what it held stays in effect", extra={"path": str(self._path)})
            self._last = texts
            return
        self._last = texts
        self.reloads += 1
        self._configuration.apply(await asyncio.to_thread(texts.parse))

    async def run(self) -> None:
        """Reload on change, until cancelled. Now and then it looks without being told: not all file systems tell."""
        while True:
            try:
                watched = self._path if self._path.is_dir() else self._path.parent
                changes = awatch(
                    watched, debounce=_DEBOUNCE_MS, step=_STEP_MS, rust_timeout=_LOOK_EVERY_MS, yield_on_timeout=True
                )
                async for _ in changes:
                    await self.load()
            except (OSError, RuntimeError) as error:
                log.error("the configuration cannot be watched", extra={"path": str(self._path), "error": str(error)})
            await asyncio.sleep(_AGAIN)
