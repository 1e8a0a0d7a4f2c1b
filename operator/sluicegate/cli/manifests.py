# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests as text: several documents, read and written so that what was not changed stays as it was.

A document that was not changed is written back letter by letter, comments and all; a changed one by PyYAML. Words are
read as Kubernetes reads them: no dates, no base-60 numbers.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_SEPARATOR = re.compile(r"^---(?=\s|$)[^\S\n]*", re.MULTILINE)
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job")


class ManifestError(ValueError):
    """The text is no YAML; the message says where."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without timestamps and sexagesimal numbers, which Kubernetes does not know."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"([-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


@dataclass(slots=True)
class Document:
    """One document: its text as it came and what it says. `changed` documents are written anew."""

    text: str
    value: Any
    changed: bool = False


def read(text: str) -> list[Document]:
    """The documents of `text`. Raises ManifestError."""
    documents: list[Document] = []
    for number, part in enumerate(_SEPARATOR.split(text), 1):
        try:
            value = _value(part)
            json.dumps(
                value, ensure_ascii=False, default=str
            ).encode()  # can be written again: no cycle, no half character
        except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
            raise ManifestError(f"document {number}: {' '.join(str(error).split())}") from None
        if value is not None or part.strip():
            documents.append(Document(part.strip("\n") + "\n", value))
    return documents


def _value(text: str) -> Any:
    """JSON by its own rules where it is JSON: PyYAML reads its escapes of two halves as two characters."""
    if text.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def write(documents: list[Document]) -> str:
    """The documents as text."""
    parts = [
        yaml.dump(d.value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
        if d.changed
        else d.text
        for d in documents
    ]
    return "---\n".join(parts)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a document, those of Lists too."""
    if not isinstance(value, dict):
        return
    items = value.get("items")
    if str(value.get("kind", "")).endswith("List") and isinstance(items, list):
        for item in items:
            yield from objects(item)
    else:
        yield value


def pod_of(resource: dict[str, Any]) -> dict[str, Any] | None:
    """What becomes the pod: the Pod itself or a workload's template; None where it has none."""
    holder: Any = resource
    kind = resource.get("kind")
    if kind == "CronJob":
        holder = _at(resource, "spec", "jobTemplate", "spec", "template")
    elif kind in _WORKLOADS:
        holder = _at(resource, "spec", "template")
    elif kind != "Pod":
        return None
    return holder if isinstance(holder, dict) and isinstance(holder.get("spec"), dict) else None


def malformed(pod: dict[str, Any]) -> str:
    """What of a pod nobody could read, as the API server would say; empty for nothing."""
    metadata, spec = pod.get("metadata") or {}, pod["spec"]
    if not isinstance(metadata, dict) or not isinstance(metadata.get("annotations") or {}, dict):
        return "metadata.annotations must be a map"
    for kind in ("initContainers", "containers", "volumes"):
        for index, entry in enumerate(_listed(spec.get(kind))):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                return f"spec.{kind}[{index}] must be a map with a name"
            for inner in ("env", "ports"):
                if not all(isinstance(each, dict) for each in _listed(entry.get(inner))):
                    return f"spec.{kind}[{index}].{inner} must be a list of maps"
    return ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
