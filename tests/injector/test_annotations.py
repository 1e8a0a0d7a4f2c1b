# SPDX-License-Identifier: Apache-2.0
"""What the injector lets through, the sidecar starts with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.injector.annotations import PREFIX, TABLE, read
from sluicegate.sidecar.settings import read_settings

SETTINGS = {row.name: row.setting for row in TABLE if row.setting}
PIECES = [
    "model:",
    "pool:",
    "cached:",
    "trim:",
    "degrade",
    ":",
    ",",
    " ",
    "gpt-4o",
    "10m",
    "0",
    "7",
    "1e3",
    "-",
    ".",
    "é",
]
texts = st.one_of(
    st.lists(st.sampled_from([*PIECES, "s", "ms", "h", "real-time", "batch"]), max_size=8).map("".join),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12),
)


@given(st.sampled_from(sorted(SETTINGS)), texts)
def test_a_sidecar_starts_with_whatever_annotation_is_allowed(name: str, text: str):
    wishes = read({PREFIX + name: text})
    assert bool(wishes.values) != bool(wishes.problems)
    for key, value in wishes.values.items():
        read_settings({SETTINGS[key]: value})


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("model:gpt-4o-mini, pool:claude-sonnet, cached:10m, trim:2000, degrade", True),
        ("degrade:Please try later: now", True),
        ("gpt-4o-mini", False),
        ("model", False),
        ("cached:soon", False),
        ("trim:0", False),
        ("degrade,", False),
        (",".join(["degrade"] * 9), False),
    ],
)
def test_a_fallback_is_one_that_a_call_may_name(text: str, good: bool):
    wishes = read({f"{PREFIX}fallback": text})
    assert bool(wishes.values) == good
    assert good or "model:NAME" in wishes.problems[0]
