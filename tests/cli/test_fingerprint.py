# SPDX-License-Identifier: Apache-2.0
"""`sluicegate fingerprint` says what the sidecar will say of the same key."""

from __future__ import annotations

import io

import pytest

from sluicegate.cli.main import main
from sluicegate.sidecar.inbound import fingerprint_of


@pytest.mark.parametrize(("options", "salt"), [([], "sluicegate"), (["--salt", "other"], "other")])
def test_it_is_the_sidecars_own(
    options: list[str], salt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-some-key\n"))
    assert main(["fingerprint", *options]) == 0
    assert capsys.readouterr().out == fingerprint_of("sk-some-key", salt) + "\n"


@pytest.mark.parametrize("given", ["", "\n", "one\ntwo\n"])
def test_anything_but_one_key_is_refused_without_repeating_it(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert main(["fingerprint"]) == 2
    said = capsys.readouterr()
    assert (said.out, "one key on standard input" in said.err, "two" in said.err) == ("", True, False)
