# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions, made from the schema of the documents, which files and custom resources share.

The API server checks what a structural schema and CEL can say; the rest, and everything that spans documents, the
operator reports as conditions. Rules below mirror those of `broker.core.translation`, with the same words.

Sources: Kubernetes' structural schemas and validation rules (CustomResourceDefinitions), API conventions (conditions),
GEP-713 (conditions of policies).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from sluicegate.broker.core import schema
from sluicegate.broker.core.documents import KINDS
from sluicegate.wire import durations

GROUP = "sluicegate.dev"
VERSION = "v1alpha1"
CONDITIONS = ("Accepted", "Programmed", "Ready")

_MAX_STRING = 2_048
_MAX_LABEL = 253


@dataclass(frozen=True, slots=True)
class _Names:
    """How kubectl calls a kind, and the columns that it prints."""

    plural: str
    short: str
    scope: str
    columns: tuple[tuple[str, str, str, int], ...]  # name, type, JSON path, priority


def _condition_column(name: str, priority: int = 0) -> tuple[str, str, str, int]:
    return (name, "string", f'.status.conditions[?(@.type=="{name}")].status', priority)


_REASON = ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0)
_AGE = ("Age", "date", ".metadata.creationTimestamp", 0)

NAMES: Mapping[str, _Names] = {
    "ProviderPool": _Names(
        "providerpools",
        "ppool",
        "Cluster",
        (
            ("Provider", "string", ".spec.provider", 0),
            ("Models", "string", ".spec.models", 1),
            ("Endpoint", "string", ".spec.endpoint", 1),
            _condition_column("Ready"),
            _REASON,
            _AGE,
        ),
    ),
    "TenantPolicy": _Names(
        "tenantpolicies",
        "tpol",
        "Namespaced",
        (
            ("Tier", "string", ".spec.tier", 0),
            ("Weight", "integer", ".spec.weight", 0),
            _condition_column("Ready"),
            _REASON,
            _condition_column("Accepted", 1),
            _condition_column("Programmed", 1),
            _AGE,
        ),
    ),
}

# ---- what spans fields: path below spec ("" is spec itself, "*" an entry of a list) -> rules

_Rule = tuple[str, str]  # CEL, message

_LOOPBACK = r"^http://(localhost|127\\.[0-9.]+|\\[::1\\]|[a-z0-9.-]+\\.localhost)(:[0-9]+)?(/|$)"

RULES: Mapping[str, Mapping[str, tuple[_Rule, ...]]] = {
    "ProviderPool": {
        "": (
            ("self.provider == oldSelf.provider", "provider cannot change: make another pool"),
            (
                "!has(self.dialect) || self.dialect == '' || self.provider == 'OpenAICompatible'",
                "dialect is for provider OpenAICompatible only",
            ),
            (
                (
                    f"self.endpoint.startsWith('https://') || self.endpoint.matches('{_LOOPBACK}')"
                    " || (self.endpoint.startsWith('http://') && has(self.allowPlaintext) && self.allowPlaintext)"
                ),
                (
                    "endpoint must be an https URL; plain http beyond loopback would send keys in the clear, and needs"
                    " allowPlaintext: true"
                ),
            ),
            (
                "!self.endpoint.contains('?') && !self.endpoint.contains('#') && !self.endpoint.contains('@')",
                "endpoint must end with its path (no ?, no #) and hold no user or password",
            ),
            (
                (
                    "!has(self.tiers) || !has(self.access) || self.access.all(a, !has(a.maxTier)"
                    " || self.tiers.exists(t, t.name == a.maxTier))"
                ),
                "access[].maxTier must be a tier of this pool",
            ),
        ),
        "tiers": (
            (
                "self.map(t, t.guaranteedPercent).sum() <= 100",
                "guaranteedPercent of all tiers must be at most 100 in sum",
            ),
            (
                "self.map(t, t.reservedHeadroomPercent).sum() <= 100",
                "reservedHeadroomPercent of all tiers must be at most 100 in sum",
            ),
        ),
        "tiers.*": (
            ("self.ceilingPercent >= self.guaranteedPercent", "ceilingPercent must be at least guaranteedPercent"),
        ),
        "access.*": (
            (
                "(has(self.namespaces) && size(self.namespaces) > 0) != has(self.namespaceSelector)",
                "must have either namespaces (names, or * for all) or namespaceSelector",
            ),
        ),
        "circuitBreaker": (
            ("duration(self.maxOpenFor) >= duration(self.openFor)", "maxOpenFor must be at least openFor"),
        ),
    },
    "TenantPolicy": {
        "tasks.*.fallback.*": (
            (
                f"[{', '.join(f'has(self.{option})' for option in schema.FALLBACKS)}].filter(x, x).size() == 1",
                f"must say {schema.ONE_FALLBACK}",
            ),
        ),
    },
}

_MAP_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ProviderPool": {"limits": ("resource", "window"), "tiers": ("name",)},
    "TenantPolicy": {"workloads": ("serviceAccount",), "pools": ("name",), "tasks": ("taskType",)},
}
"""Lists of named entries: an entry may stand once, and two appliers may each own one."""

_SETS: Mapping[str, frozenset[str]] = {
    "ProviderPool": frozenset({"models", "keyFingerprints"}),
    "TenantPolicy": frozenset({"allowActors"}),
}


def definitions() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions, ready for the API server, in the order of their names."""
    return [_definition(kind, NAMES[kind]) for kind in sorted(KINDS, key=lambda kind: NAMES[kind].plural)]


def _definition(kind: str, names: _Names) -> dict[str, Any]:
    columns = [
        {"name": name, "type": kind_, "jsonPath": path, **({"priority": priority} if priority else {})}
        for name, kind_, path, priority in names.columns
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": names.scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": names.plural,
                "singular": kind.lower(),
                "shortNames": [names.short],
                "categories": ["sluicegate"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": _document(kind)},
                }
            ],
        },
    }


def _document(kind: str) -> dict[str, Any]:
    model: type[BaseModel] = schema.ProviderPoolSpec if kind == "ProviderPool" else schema.TenantPolicySpec
    described = model.model_json_schema(by_alias=True)
    spec = _Structural(kind, described.get("$defs", {})).convert(described, "")
    return {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status(),
        },
    }


class _Structural:
    """JSON Schema as pydantic writes it, to the structural form of Kubernetes: no references, one type each."""

    def __init__(self, kind: str, definitions: Mapping[str, Any]) -> None:
        self._kind = kind
        self._definitions = definitions

    def convert(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        node = self._plain(node)
        out = {key: node[key] for key in _KEPT if key in node}
        rules = [{"rule": rule, "message": message} for rule, message in RULES[self._kind].get(path, ())]
        if rules:
            out["x-kubernetes-validations"] = rules
        match node.get("type"):
            case "object":
                self._object(node, path, out)
            case "array":
                out["items"] = self.convert(node["items"], _below(path, "*"))
                if keys := _MAP_KEYS[self._kind].get(path):
                    out["x-kubernetes-list-type"] = "map"
                    out["x-kubernetes-list-map-keys"] = list(keys)
                elif path in _SETS[self._kind]:
                    out["x-kubernetes-list-type"] = "set"
            case "string" if "enum" not in out:
                out.setdefault("maxLength", _MAX_STRING)
            case "integer":
                out["format"] = "int64"
            case _:
                pass
        return out

    def _object(self, node: Mapping[str, Any], path: str, out: dict[str, Any]) -> None:
        if "properties" not in node:
            out["additionalProperties"] = {"type": "string", "maxLength": _MAX_LABEL}
            return
        properties: dict[str, Any] = {}
        for name, field in node["properties"].items():
            properties[name] = self.convert(field, _below(path, name))
            default = _default(field, properties[name])
            if default is not None:
                properties[name]["default"] = default
        out["properties"] = properties

    def _plain(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """`node` without reference and without the null that stands for an absent field."""
        while True:
            if "$ref" in node:
                rest = {key: value for key, value in node.items() if key != "$ref"}
                node = {**self._definitions[node["$ref"].rsplit("/", 1)[-1]], **rest}
            elif "anyOf" in node:
                rest = {key: value for key, value in node.items() if key != "anyOf"}
                (only,) = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
                node = {**only, **rest}
            else:
                return node


_KEPT = (
    "type",
    "description",
    "required",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _default(field: Mapping[str, Any], converted: Mapping[str, Any]) -> Any:
    """The default as a document spells it; None: there is none."""
    default = field.get("default")
    if converted.get("type") == "object" and "properties" in converted:
        # Spelled out, since the API server checks rules on a default before it fills in what lies below.
        below = {name: part["default"] for name, part in converted["properties"].items() if "default" in part}
        return below if default is not None else None
    if default is None or default in ([], {}, ""):
        return None
    if isinstance(default, list):
        return [_default({"default": entry}, converted["items"]) for entry in cast("list[object]", default)]
    if "enum" in converted:
        return next(choice for choice in converted["enum"] if choice.lower() == str(default).replace("_", "").lower())
    if converted.get("pattern") == durations.PATTERN:
        return durations.spell(float(default))
    return default


def _status() -> dict[str, Any]:
    pending = [
        {
            "type": name,
            "status": "Unknown",
            "reason": "Pending",
            "message": "waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
        for name in CONDITIONS
    ]
    string = {"type": "string"}
    condition = {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {**string, "maxLength": 316},
            "status": {**string, "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {**string, "format": "date-time"},
            "reason": {
                **string,
                "maxLength": 1024,
                "minLength": 1,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
            "message": {**string, "maxLength": 32768},
        },
    }
    return {
        "type": "object",
        "default": {"conditions": pending},
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "programmedVersion": {
                **string,
                "maxLength": 64,
                "description": "The version of the configuration in which the broker took this generation.",
            },
            "conditions": {
                "type": "array",
                "maxItems": 8,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition,
            },
        },
    }
