# SPDX-License-Identifier: Apache-2.0
"""Generates the Python code of `proto/sluicegate/v1/*.proto`; `make proto` runs this file as a program.

`generate` writes messages, services and their type stubs. `descriptors` compiles the same files to
descriptors, for the tests that check their style.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "proto"
GENERATED = SOURCES / "gen"

_PACKAGE = '''# SPDX-License-Identifier: Apache-2.0
"""The wire, generated from proto/sluicegate/v1/*.proto by `make proto`: do not edit."""
'''


def proto_files() -> list[str]:
    """The project's .proto files, as protoc names them: relative to `proto/`."""
    return sorted(path.relative_to(SOURCES).as_posix() for path in (SOURCES / "sluicegate").rglob("*.proto"))


def _protoc(*options: str) -> None:
    well_known = str(files("grpc_tools") / "_proto")
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES}", f"-I{well_known}", *options, *proto_files()],
        check=True,
        cwd=SOURCES,
        env={**os.environ, "PATH": beside_python},  # protoc looks for its plug-ins there
    )


def generate(target: Path) -> None:
    """Write the generated modules below `target` (which must exist), as `sluicegate/v1/*_pb2*.py[i]`."""
    _protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )
    for proto in proto_files():
        if not _has_service(proto):
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):  # protoc writes empty ones
                (target / proto.replace(".proto", suffix)).unlink(missing_ok=True)

    package = target / "sluicegate" / "v1"
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "py.typed").touch()


def _has_service(proto: str) -> bool:
    return any(line.startswith("service ") for line in (SOURCES / proto).read_text().splitlines())


def descriptors() -> FileDescriptorSet:
    """The compiled files, without their imports, with source locations (comments)."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors.pb"
        _protoc(f"--descriptor_set_out={out}", "--include_source_info")
        return FileDescriptorSet.FromString(out.read_bytes())


def main() -> None:
    """Replace the committed generated code."""
    GENERATED.mkdir(exist_ok=True)
    for stale in (GENERATED / "sluicegate").rglob("*_pb2*.py*"):
        stale.unlink()
    generate(GENERATED)


if __name__ == "__main__":
    main()
