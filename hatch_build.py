# SPDX-License-Identifier: Apache-2.0
"""The wheel with the broker's core compiled by mypyc, where `SLUICEGATE_COMPILE=1` asks for it; else a pure one.

The same modules take the same decisions for about half the CPU: docs/performance.md. It needs a C compiler and
Python's headers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = ("pyproject.toml", "proto", "broker")
_CORE = Path("broker/sluicegate/broker/core")
# What reads documents: pydantic and PyYAML make classes that mypyc cannot have, and it need not be quick.
_NOT = {"__init__", "documents", "findings", "manifests", "references", "schema", "translation"}
_MYPY = ["--config-file=pyproject.toml", "--follow-imports=silent", "--ignore-missing-imports"]


class CompiledCore(BuildHookInterface):
    """hatchling's `custom` hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the extension modules to the wheel. Fails where mypyc or the C compiler does."""
        if version == "editable" or os.environ.get("SLUICEGATE_COMPILE", "0") == "0":
            return
        self._made = tempfile.TemporaryDirectory()
        made = Path(self._made.name)
        for name in _SOURCES:
            shutil.copytree(name, made / name) if Path(name).is_dir() else shutil.copy(name, made)
        with contextlib.chdir(made):
            modules = [path for path in sorted(_CORE.glob("*.py")) if path.stem not in _NOT]
            _compile(modules, made / "lib")
        for built in (made / "lib").rglob("*.so"):
            build_data["force_include"][str(built)] = str(built.relative_to(made / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written."""
        del version, build_data, artifact_path
        if hasattr(self, "_made"):
            self._made.cleanup()


def _compile(modules: list[Path], into: Path) -> None:
    # Here, since a pure wheel needs neither.
    from mypyc.build import mypycify
    from setuptools import Distribution

    for path in modules:
        # The type checker has proved that nobody assigns. Proving it again at run time takes a fifth of a decision.
        text = path.read_text().replace("frozen=True, slots=True", "unsafe_hash=True, slots=True")
        if "frozen=True" in text:
            raise ValueError(f"{path}: a dataclass is written `frozen=True, slots=True`, so that it can be told here")
        path.write_text(text)
    names = [*_MYPY, *map(str, modules)]
    extensions = mypycify(names, group_name="sluicegate_broker_core", target_dir="c", debug_level="0")
    command: Any = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(into), "o"
    command.ensure_finalized()
    command.run()
