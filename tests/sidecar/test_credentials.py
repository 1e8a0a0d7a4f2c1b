# SPDX-License-Identifier: Apache-2.0
"""Keys by pool come from files, and a rotated one is used without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.sidecar.credentials import KeyFiles
from sluicegate.sidecar.settings import SettingsError, read_settings


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


def test_keys_may_be_given_without_files_and_are_never_shown(tmp_path: Path):
    (tmp_path / "b").write_text("from-a-file")
    settings = read_settings({"SLUICEGATE_SIDECAR_CREDENTIALS": '{"a": "sk-secret", "b": "sk-other"}'})
    keys = KeyFiles(tmp_path, settings.credentials)
    assert dict(keys) == {"a": "sk-secret", "b": "from-a-file"}
    assert "sk-" not in repr(keys) + repr(settings)
    with pytest.raises(SettingsError) as refused:
        read_settings({"SLUICEGATE_SIDECAR_CREDENTIALS": '["sk-secret"]'})
    assert "JSON object" in str(refused.value)
    assert "sk-secret" not in str(refused.value)
