# SPDX-License-Identifier: Apache-2.0
"""The shape of the repository: what must not exist, what each file starts with, and what no file may name."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from sluicegate.wire.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PORTIONS = CONFIG["tool"]["hatch"]["build"]["dev-mode-dirs"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def test_the_version_is_said_alike() -> None:
    chart = yaml.safe_load((ROOT / "charts/sluicegate/Chart.yaml").read_text())
    assert CONFIG["project"]["version"] == VERSION == chart["appVersion"]


def committed_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def own_source(path: Path) -> bool:
    return not path.is_relative_to(ROOT / "proto/gen")


def packages() -> set[str]:
    """The top packages inside the namespace, by what is on disk."""
    return {
        f"sluicegate.{path.name}"
        for portion in PORTIONS
        for path in (ROOT / portion / "sluicegate").glob("*/")
        if any(path.rglob("*.py"))
    }


def test_sluicegate_is_a_namespace_without_an_init():
    assert [path for path in committed_files() if path.match("sluicegate/__init__.py*")] == []
    assert len(list(importlib.import_module("sluicegate").__path__)) >= 2


def test_no_package_at_the_root_hides_the_standard_library_operator():
    assert not (ROOT / "operator/__init__.py").exists()


def test_the_wheel_holds_the_whole_namespace_and_nothing_beside_it(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    inside = {f"sluicegate.{name.split('/')[1]}" for name in names if name.startswith("sluicegate/")}
    assert top == {"sluicegate"}
    assert inside == packages()
    assert "sluicegate/v1/types_pb2.py" in names


def test_every_package_is_under_the_import_contracts():
    assert packages() == set(CONFIG["tool"]["importlinter"]["root_packages"])


def test_every_package_inside_the_namespace_is_a_regular_one():
    folders = {path.parent for portion in PORTIONS for path in (ROOT / portion / "sluicegate").glob("*/**/*.py")}
    assert sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_every_package_tells_type_checkers_that_it_is_typed():
    untyped = [name for name in packages() if not list(ROOT.glob(f"**/{name.replace('.', '/')}/py.typed"))]
    assert untyped == []


def test_source_files_start_with_their_licence():
    suffixes = {".py", ".proto"}
    marks = ("# SPDX-License-Identifier: Apache-2.0\n", "// SPDX-License-Identifier: Apache-2.0\n")
    bare = [
        str(path.relative_to(ROOT))
        for path in committed_files()
        if path.suffix in suffixes and own_source(path) and not path.read_text().startswith(marks)
    ]
    assert bare == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_hold_versions_and_hashes_and_nothing_else(lock: Path):
    line = re.compile(
        r"""  \#.*                                     # a comment
            | [a-z0-9][a-z0-9-]*==[^\s@]+ (\ ;\ .*)? \ \\  # name==version ; marker
            | \ {4}--hash=sha256:[0-9a-f]{64} (\ \\)?
            | \ {4}\#.*                                # via whom
        """,
        re.VERBOSE,
    )
    assert [text for text in lock.read_text().splitlines() if not line.fullmatch(text)] == []


def test_no_file_names_a_package_index_or_a_place_on_one_machine():
    # Written so that this file does not match itself.
    forbidden = re.compile(
        r"pypi\.|pythonhosted\.|npmjs\.|--(?:extra-)?index-ur[l]|--find-link[s]|https?://\S+/simpl[e]\b"
        r"|(?<![\w.])/(?:work|root|hom[e]|opt/wheel[s])/"
    )
    found = []
    for path in committed_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in forbidden.finditer(text)]
    assert found == []


@pytest.mark.parametrize("component", ["broker", "sidecar"])
def test_a_core_imports_nothing_of_its_own_shell(component: str):
    core = ROOT / component / "sluicegate" / component / "core"
    inside, shell = f"sluicegate.{component}.core", f"sluicegate.{component}"
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted(core.rglob("*.py"))
        for name in imports_of(path)
        if f"{name}.".startswith(f"{shell}.") and not f"{name}.".startswith(f"{inside}.")
    ]
    assert list(core.rglob("*.py")) != []
    assert found == []


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_modules_stay_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in committed_files()
        if path.suffix == ".py"
        and path.is_relative_to(ROOT)
        and path.relative_to(ROOT).parts[0] in {"proto", "broker", "sidecar", "operator"}
        and own_source(path)
        and (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


def test_modules_have_nouns_for_names():
    names = {"utils", "util", "helpers", "manager", "managers", "misc", "common"}
    assert [str(path) for path in committed_files() if path.suffix == ".py" and path.stem in names] == []
