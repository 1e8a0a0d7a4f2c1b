# SPDX-License-Identifier: Apache-2.0
"""Keys by pool come from files, and a rotated one is used without a restart."""

from __future__ import annotations

from pathlib import Path

from sluicegate.sidecar.credentials import KeyFiles


def test_keys_of_files_and_mounted_secrets_follow_a_rotation_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "gpt").write_text("sk-one\n")
    (tmp_path / "claude").mkdir()
    (tmp_path / "claude" / "token").write_text("sk-two")
    (tmp_path / "empty").write_text("")
    keys = KeyFiles(tmp_path)
    assert dict(keys) == {"gpt": "sk-one", "claude": "sk-two"}
    (tmp_path / "gpt").write_text("sk-three")
    assert keys["gpt"] == "sk-three"
    (tmp_path / "gpt").unlink()
    assert keys["gpt"] == "sk-three"
    assert keys.get("other", "") == ""
    assert "sk-" not in repr(keys)


def test_no_directory_is_no_key(tmp_path: Path) -> None:
    assert not KeyFiles(None)
    assert not KeyFiles(tmp_path / "missing")
