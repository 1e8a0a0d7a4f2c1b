# SPDX-License-Identifier: Apache-2.0
"""Keys by pool, from one file or mounted Secret per pool, or as given; each goes to its own pool's provider alone.

Which pools there are is read once, since the session tells the broker at its start. A key is read again for each call
that needs it, so that a rotation needs no restart; while its file is missing or empty the last key stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path


class KeyFiles(Mapping[str, str]):
    """The keys in `directory`, one entry per pool; None or a missing directory: none. `given`: keys without a file."""

    def __init__(self, directory: Path | None, given: Mapping[str, str] | None = None) -> None:
        entries = directory.iterdir() if directory is not None and directory.is_dir() else ()
        self._paths = {path.name: path for path in entries if not path.name.startswith(".")}
        self._keys = dict(given or {}) | {name: key for name, path in self._paths.items() if (key := _key_in(path))}

    def __getitem__(self, pool: str) -> str:
        last = self._keys[pool]
        if pool in self._paths:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self._keys[pool] = _key_in(self._paths[pool]) or last
        return self._keys[pool]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyFiles({sorted(self._keys)})"


def _key_in(path: Path) -> str:
    """The key in a file, or in the only file of a directory (a mounted Secret)."""
    if path.is_dir():
        inside = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
        return inside[0].read_text().strip() if len(inside) == 1 else ""
    return path.read_text().strip()
