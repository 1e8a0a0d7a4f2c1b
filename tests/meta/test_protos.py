# SPDX-License-Identifier: Apache-2.0
"""The wire's files: style (the rules that buf calls STANDARD and COMMENTS) and current generated code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.meta import protos

FILES = list(protos.descriptors().file)


def test_generated_code_is_current(tmp_path: Path):
    protos.generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(protos.GENERATED): path.read_bytes()
        for path in protos.GENERATED.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    stale = sorted(str(name) for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    assert stale == [], "run `make proto` and commit proto/gen"


def test_there_are_files_to_check():
    assert len(FILES) == len(protos.proto_files()) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_package_matches_directory_and_has_a_version(file: FileDescriptorProto):
    assert file.package == str(Path(file.name).parent).replace("/", ".")
    assert re.fullmatch(r"sluicegate\.v\d+((alpha|beta)\d+)?", file.package)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_one_service_per_file_named_for_it(file: FileDescriptorProto):
    stem = Path(file.name).stem
    expected = ["".join(part.capitalize() for part in stem.split("_"))] if stem.endswith("_service") else []
    assert [service.name for service in file.service] == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_rpc_has_its_own_request_and_response(file: FileDescriptorProto):
    for service in file.service:
        for method in service.method:
            assert method.input_type == f".{file.package}.{method.name}Request"
            assert method.output_type == f".{file.package}.{method.name}Response"


def test_rpc_names_are_unique_so_that_no_message_serves_two():
    names = Counter(method.name for file in FILES for service in file.service for method in service.method)
    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_enum_members_carry_the_enum_and_zero_is_unspecified(file: FileDescriptorProto):
    enums = [*file.enum_type, *(enum for message in file.message_type for enum in message.enum_type)]
    for enum in enums:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        assert enum.value[0].name == prefix + "UNSPECIFIED"
        assert enum.value[0].number == 0
        assert [value.name for value in enum.value if not value.name.startswith(prefix)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_names_are_in_the_usual_case(file: FileDescriptorProto):
    for message in file.message_type:
        assert re.fullmatch(r"([A-Z][a-z0-9]+)+", message.name)
        assert [field.name for field in message.field if not re.fullmatch(r"[a-z][a-z0-9_]*", field.name)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_messages_enums_services_and_rpcs_are_documented(file: FileDescriptorProto):
    commented = {
        tuple(location.path) for location in file.source_code_info.location if location.leading_comments.strip()
    }
    assert [name for path, name in _documented_things(file) if path not in commented] == []


# Field numbers in FileDescriptorProto and ServiceDescriptorProto, of which a source location's path is made.
_MESSAGE, _ENUM, _SERVICE, _METHOD = 4, 5, 6, 2


def _documented_things(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, message in enumerate(file.message_type):
        if not message.name.endswith(("Request", "Response")):  # the rpc's comment speaks for these
            yield (_MESSAGE, index), message.name
    for index, enum in enumerate(file.enum_type):
        yield (_ENUM, index), enum.name
    for index, service in enumerate(file.service):
        yield (_SERVICE, index), service.name
        for number, method in enumerate(service.method):
            yield (_SERVICE, index, _METHOD, number), f"{service.name}.{method.name}"
