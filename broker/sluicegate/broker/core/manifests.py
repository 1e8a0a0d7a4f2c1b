# SPDX-License-Identifier: Apache-2.0
"""YAML text to raw documents, with where each began.

Words such as `Off`, `yes` or `2026-01-01` stay text, as Kubernetes and YAML 1.2 read them: only `true` and `false`
are truth values. A key that stands twice is an error, since one of the two would be lost in silence.
"""

# PyYAML's types leave its nodes open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from sluicegate.broker.core.findings import Finding, Severity, shown

MAX_BYTES = 4 * 1024 * 1024
_GROUP = "sluicegate.dev/"
_KINDS = ("ProviderPool", "TenantPolicy")


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One document as it was read. `source` names the place for people, `origin` the file or object it belongs to."""

    source: str
    data: Mapping[str, Any]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a set of texts held. `unreadable`: origins of which some part could not be read."""

    documents: tuple[RawDocument, ...] = ()
    findings: tuple[Finding, ...] = ()
    unreadable: frozenset[str] = field(default_factory=frozenset[str])


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return cast(dict[Any, Any], super().construct_mapping(node, deep=deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


def read(texts: Mapping[str, str]) -> Manifests:
    """The documents of `texts` (name -> YAML, one or more documents each). Never raises: what is wrong is a finding.

    Documents before a syntax error of the same text are read. Objects of other API groups are left out in silence,
    so that a directory may hold Deployments beside the policies.
    """
    documents: list[RawDocument] = []
    findings: list[Finding] = []
    unreadable: set[str] = set()
    for name, text in texts.items():
        try:
            for line, data in _load(text):
                documents.extend(flatten(f"{name}:{line}", name, data, findings))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{name}:{mark.line + 1}" if mark else name
            said = ", ".join(part for part in (error.context, error.problem) if part)
            findings.append(Finding(place, "", "", "", f"not valid YAML: {said}", Severity.ERROR))
            unreadable.add(name)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            findings.append(Finding(name, "", "", "", f"not valid YAML: {said}", Severity.ERROR))
            unreadable.add(name)
    return Manifests(tuple(documents), tuple(findings), frozenset(unreadable))


def _load(text: str) -> Iterator[tuple[int, Any]]:
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text)} characters are more than the {MAX_BYTES} allowed")
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


def flatten(source: str, origin: str, data: Any, findings: list[Finding]) -> Iterator[RawDocument]:
    """A `List` is what `kubectl get -o yaml` prints."""
    match data:
        case None:
            return
        case {"kind": "List", "items": [*items]}:
            for index, item in enumerate(items):
                yield from flatten(f"{source} items[{index}]", origin, item, findings)
        case {"kind": kind, "apiVersion": version}:
            if str(version).startswith(_GROUP) or kind in _KINDS:
                yield RawDocument(source, data, origin)
        case dict():
            missing = "apiVersion" if "apiVersion" not in data else "kind"
            message = (
                f"is required: {_GROUP}v1alpha1" if missing == "apiVersion" else f"is required: {' or '.join(_KINDS)}"
            )
            findings.append(Finding(source, str(data.get("kind", "")), missing, "", message, Severity.ERROR))
        case _:
            message = "must be a mapping with apiVersion, kind, metadata and spec"
            findings.append(Finding(source, "", "", shown(data), message, Severity.ERROR))
