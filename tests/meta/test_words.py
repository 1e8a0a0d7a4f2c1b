# SPDX-License-Identifier: Apache-2.0
"""The one table of words: each spelling leads back to its member, and the wire's enums are the same sets."""

from __future__ import annotations

import ast
import re
from enum import StrEnum
from pathlib import Path

import pytest

from sluicegate.wire import words
from tests.meta import protos

ENUMS = [
    thing
    for thing in vars(words).values()
    if isinstance(thing, type) and issubclass(thing, StrEnum) and thing not in (StrEnum, words.Word)
]
WIRE_ENUMS = [enum for file in protos.descriptors().file for enum in file.enum_type if hasattr(words, enum.name)]


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_every_spelling_leads_back_to_its_member(enum: type[StrEnum]):
    for member in enum:
        assert words.from_camel(enum, words.camel(member)) is member
        assert words.from_kebab(enum, words.kebab(member)) is member
        assert enum(member.value) is member


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_a_member_is_the_same_key_as_its_text(enum: type[StrEnum]):
    assert {member: member.name for member in enum} == {str(member): member.name for member in enum}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_spellings_are_in_their_case(enum: type[StrEnum]):
    for member in enum:
        assert member.value == member.name.lower()
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", member.value)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", words.kebab(member))
        # xAI and vLLM are how these two spell themselves.
        assert re.fullmatch(r"([A-Z]+[a-z]+)+|[A-Z][A-Za-z]+|xAI|vLLM", words.camel(member))


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
@pytest.mark.parametrize(
    ("parse", "spell"), [(words.from_camel, words.camel), (words.from_kebab, words.kebab)], ids=["camel", "kebab"]
)
def test_an_unknown_spelling_is_refused_with_the_allowed_ones(enum, parse, spell):
    with pytest.raises(ValueError, match="'no such word' is not one of") as refusal:
        parse(enum, "no such word")
    assert str(refusal.value).endswith(", ".join(spell(member) for member in enum))


@pytest.mark.parametrize("wire_enum", WIRE_ENUMS, ids=lambda enum: enum.name)
def test_the_wire_has_the_same_members(wire_enum):
    enum: type[StrEnum] = getattr(words, wire_enum.name)
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", wire_enum.name).upper() + "_"
    on_the_wire = {value.name.removeprefix(prefix) for value in wire_enum.value} - {"UNSPECIFIED"}
    assert on_the_wire == {member.name for member in enum}


def test_the_wire_takes_its_enums_from_the_table():
    assert len(WIRE_ENUMS) >= 7


def test_the_table_depends_on_nothing():
    tree = ast.parse(Path(words.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"__future__", "enum", "typing"}
