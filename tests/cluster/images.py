# SPDX-License-Identifier: Apache-2.0
"""The images of the cluster tests, built here and kept outside the checkout, keyed by what they are made of.

`$XDG_CACHE_HOME/sluicegate/images` holds a Debian base (mmdebstrap) and the newest archive of each image, for
containerd. Buildah's store is there only while something is built: kept with its layers, which would spare a change of
the product half a minute, it would grow by gigabytes with each. No registry is asked.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.machine import run

_HERE = Path(__file__).parent / "recipes"
_CHECKOUT = Path(__file__).parents[2]
_SUITE = "bookworm"
_BASE = "localhost/sluicegate-test/base:1"
PRODUCT, APP, PAUSE = (
    "docker.io/sluicegate/sluicegate",
    "docker.io/sluicegate-test/app:1",
    "docker.io/sluicegate-test/pause:1",
)
_LONG = 900.0


def cache() -> Path:
    """Where everything is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(home) / "sluicegate" / "images"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def base() -> Path:
    """The minimal Debian that the images stand on, made where need be. Raises MachineError where it cannot be."""
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _base_tar()


def archives(version: str) -> list[Path]:
    """Archives of pause, app and product (tagged `version`), built where need be. Raises MachineError."""
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ground = _base_tar()
        sources = [
            _CHECKOUT / "Dockerfile",
            _CHECKOUT / "hatch_build.py",
            _CHECKOUT / "pyproject.toml",
            *sorted((_CHECKOUT / "requirements").iterdir()),
        ]
        for part in ("proto", "broker", "sidecar", "operator"):
            sources += sorted(
                path for path in (_CHECKOUT / part).rglob("*") if path.is_file() and path.suffix != ".pyc"
            )
        pause, app, product = (
            _archive("pause", _digest(_HERE / "pause.c")),
            _archive("app", _digest(ground, *sorted(_HERE.glob("app*")))),
            _archive("product", _digest(ground, *sources)),
        )
        if not all(path.exists() for path in (pause, app, product)):
            with _store():
                if not pause.exists():
                    _build_pause(pause)
                if not app.exists() or not product.exists():
                    _build_base(ground)
                if not app.exists():
                    _build_app(app)
                if not product.exists():
                    _build_product(product, version)
        return [pause, app, product]


def _say(words: str) -> None:
    print(f"{words}; it is kept in {cache()}", file=sys.stderr, flush=True)


def _digest(*paths: Path) -> str:
    """Of the contents; of the base's tar the name, which says what it is made of."""
    total = hashlib.sha256()
    for path in paths:
        total.update(str(path.relative_to(_CHECKOUT) if path.is_relative_to(_CHECKOUT) else path.name).encode())
        if path.suffix != ".tar":
            total.update(path.read_bytes())
    return total.hexdigest()[:12]


def _archive(name: str, digest: str) -> Path:
    return cache() / f"{name}-{digest}.tar"


def _older(path: Path) -> Iterable[Path]:
    return (other for other in cache().glob(f"{path.name.rsplit('-', 1)[0]}-*.tar") if other != path)


def _base_tar() -> Path:
    tar = cache() / f"base-{_SUITE}-1.tar"
    if not tar.exists():
        _say(f"making a minimal Debian {_SUITE}")
        partial = tar.with_name("partial-base.tar")
        options = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        options += [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("doc", "man", "locale")]
        run(["mmdebstrap", *options, _SUITE, partial], "no base image", timeout=_LONG)
        partial.rename(tar)
    return tar


@contextmanager
def _store() -> Iterator[None]:
    """Buildah's store, empty, and gone afterwards. What a killed run left goes first. Raises OSError where it stays."""
    store = cache() / "store"
    if store.exists():
        shutil.rmtree(store)
    store.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(store)


def _build_base(tar: Path) -> None:
    recipe = cache() / "base.Dockerfile"
    recipe.write_text(f'FROM scratch\nADD {tar.name} /\nCMD ["python3"]\n')
    ignore = cache() / ".dockerignore"
    ignore.write_text(f"*\n!{tar.name}\n")
    run([*_buildah(), "build", f"--tag={_BASE}", f"--file={recipe}", cache()], "no base image", timeout=_LONG)


def _build_pause(archive: Path) -> None:
    recipe = cache() / "pause"
    recipe.mkdir(exist_ok=True)
    run(["cc", "-static", "-Os", "-s", "-o", recipe / "pause", _HERE / "pause.c"], "no pause program")
    (recipe / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nCMD ["/pause"]\n')
    run([*_buildah(), "build", f"--tag={PAUSE}", f"--file={recipe / 'Dockerfile'}", recipe], "no pause image")
    _push(PAUSE, archive)


def _build_app(archive: Path) -> None:
    _say("building the image of the test's app")
    options = ["--isolation=chroot", f"--build-arg=BASE_IMAGE={_BASE}", *_secrets()]
    recipe = f"--file={_HERE / 'app.Dockerfile'}"
    run([*_buildah(), "build", *options, f"--tag={APP}", recipe, _HERE], "no app image", timeout=_LONG)
    _push(APP, archive)


def _build_product(archive: Path, version: str) -> None:
    _say("building the product's image")
    name = f"{PRODUCT}:{version}"
    flags = ["BUILD_FLAGS=--isolation=chroot", f"BASE_IMAGE={_BASE}", f"IMAGE={name}"]
    make = ["make", "images", f"BUILDER={' '.join(_buildah())}", *flags]
    run(make, "make images failed", cwd=_CHECKOUT, timeout=_LONG)
    _push(name, archive)


def _push(name: str, archive: Path) -> None:
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    run(
        [*_buildah(), "push", "--quiet", name, f"docker-archive:{partial}:{name}"], f"no archive of {name}", timeout=300
    )
    for old in _older(archive):
        old.unlink()
    partial.rename(archive)


def _buildah() -> list[str]:
    store = cache() / "store"
    return ["buildah", f"--root={store / 'root'}", f"--runroot={store / 'run'}", "--storage-driver=vfs"]


def _secrets() -> list[str]:
    """How this machine's pip reaches its index, as the Makefile says it."""
    homes = [Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf", Path("/etc/pip.conf")]
    given = {
        "pip-conf": next((path for path in homes if path.exists()), None),
        "ca": Path("/etc/ssl/certs/ca-certificates.crt"),
    }
    return [f"--secret=id={name},src={path}" for name, path in given.items() if path is not None and path.exists()]
