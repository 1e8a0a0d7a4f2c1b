# SPDX-License-Identifier: Apache-2.0
"""Each transcript of this directory happens as written. REWRITE_TRANSCRIPTS=1 writes down what happens instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sluicegate.broker.core.audit import audit
from tests.scenarios.transcript import play

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    happened, world = play(written)
    assert audit(world.decisions) == []
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(happened, encoding="utf-8")
    assert happened == path.read_text(encoding="utf-8")


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 15
