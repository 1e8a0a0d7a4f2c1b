# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions on a real API server: good documents are taken, bad ones refused in words."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.broker.core import manifests, schema
from sluicegate.broker.core.documents import compile_documents
from sluicegate.broker.core.manifests import RawDocument
from sluicegate.operator.core.crds import RULES
from tests.cluster.control_plane import ControlPlane

EXAMPLES = Path(__file__).parents[2] / "examples"
EVERY_FIELD = Path(__file__).parents[1] / "data" / "every-field.yaml"

POOL: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "ProviderPool",
    "metadata": {"name": "p"},
    "spec": {
        "provider": "OpenAI",
        "endpoint": "https://api.openai.com/v1",
        "models": ["m"],
        "limits": [{"resource": "Tokens", "limit": 1000, "window": "1m"}],
    },
}
POLICY: dict[str, Any] = {
    "apiVersion": "sluicegate.dev/v1alpha1",
    "kind": "TenantPolicy",
    "metadata": {"name": "t", "namespace": "default"},
    "spec": {},
}


def changed(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    out = copy.deepcopy(document)
    out["spec"].update(fields)
    return out


def dry_run(plane: ControlPlane, document: dict[str, Any]) -> tuple[int, str]:
    done = plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(document), check=False)
    return done.returncode, done.stderr


def test_the_examples_are_taken_as_they_stand(plane: ControlPlane):
    for path in sorted(EXAMPLES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["apiVersion"].startswith("sluicegate.dev/"):
                document["metadata"].pop("namespace", None)
                code, words = dry_run(plane, document)
                assert code == 0, f"{path.name}: {words}"


def test_a_text_with_every_field_is_taken_and_means_what_it_means_as_a_file(plane: ControlPlane):
    """That it has every field, tests/documents shows."""
    text = EVERY_FIELD.read_text()
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "every-field"}})
    done = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=text)
    taken, read = json.loads(done.stdout)["items"], manifests.read({"all.yaml": text}).documents
    served = [{**item, "metadata": raw.data["metadata"]} for item, raw in zip(taken, read, strict=True)]
    kept = compile_documents(RawDocument(raw.source, item) for item, raw in zip(served, read, strict=True))
    assert kept.findings == ()
    expected = compile_documents(read).snapshot
    assert (kept.snapshot.pools, kept.snapshot.tenants) == (expected.pools, expected.tenants)


FALLBACKS: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "pool": "other",
    "cached": {"maxAge": "1h"},
    "degrade": {"message": "later"},
    "trim": {"inputTokens": 2000},
}


def test_each_fallback_is_taken_alone_and_none_beside_another(plane: ControlPlane):
    assert tuple(FALLBACKS) == schema.FALLBACKS
    for option, value in FALLBACKS.items():
        task = {"taskType": "a", "fallback": [{option: value}]}
        code, words = dry_run(plane, changed(POLICY, tasks=[task]))
        assert code == 0, words
        task["fallback"] = [{option: value} | ({"pool": "x"} if option != "pool" else {"model": "x"})]
        code, words = dry_run(plane, changed(POLICY, tasks=[task]))
        assert code != 0
        assert "exactly one of model, pool, cached, degrade and trim" in words


BAD = [
    (POOL, {"provider": "OpenAi"}, "spec.provider"),
    (POOL, {"models": []}, "spec.models"),
    (POOL, {"models": ["m", "m"]}, "Duplicate value"),
    (POOL, {"limits": [{"resource": "Tokens", "limit": 0, "window": "1m"}]}, "greater than or equal to 1"),
    (POOL, {"limits": [{"resource": "Tokens", "limit": 5, "window": "a minute"}]}, "spec.limits[0].window"),
    (POOL, {"limits": [{"resource": "Tokens", "limit": 5, "window": "1m"}] * 2}, "Duplicate value"),
    (POOL, {"limits": [{"resource": "Tokens", "limit": 5}]}, "window"),
    (POOL, {"dialect": "Groq"}, "dialect is for provider OpenAICompatible only"),
    (POOL, {"endpoint": "http://gateway.example/v1"}, "allowPlaintext: true"),
    (POOL, {"endpoint": "https://user:secret@api.openai.com"}, "no user or password"),
    (POOL, {"endpoint": "https://api.openai.com/v1?key=1"}, "no ?"),
    (POOL, {"tiers": [{"name": "A", "guaranteedPercent": 60}, {"name": "B", "guaranteedPercent": 50}]}, "at most 100"),
    (
        POOL,
        {"tiers": [{"name": n, "reservedHeadroomPercent": 51} for n in "AB"]},
        "reservedHeadroomPercent of all tiers must be at most 100 in sum",
    ),
    (POOL, {"tiers": [{"name": "A", "guaranteedPercent": 60, "ceilingPercent": 50}]}, "at least guaranteedPercent"),
    (POOL, {"tiers": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
    (POOL, {"access": [{"maxTier": "Free"}]}, "either namespaces"),
    (
        POOL,
        {"tiers": [{"name": "A"}], "access": [{"namespaces": ["x"], "maxTier": "B"}]},
        "must be a tier of this pool",
    ),
    (POOL, {"circuitBreaker": {"openFor": "10m"}}, "at least openFor"),
    (POLICY, {"weight": 0}, "spec.weight"),
    (POLICY, {"tasks": [{"taskType": "a"}, {"taskType": "a"}]}, "Duplicate value"),
    (POLICY, {"tasks": [{"taskType": "a", "latency": "Fast"}]}, "RealTime"),
    (POLICY, {"tasks": [{"taskType": "a", "fallback": [{"model": "x", "pool": "y"}]}]}, "exactly one"),
    (POLICY, {"tasks": [{"taskType": "a", "fallback": [{}]}]}, "exactly one"),
    (POLICY, {"allowActors": ["acme"]}, "spec.allowActors[0]"),
    (POLICY, {"wieght": 3}, "unknown field"),
]


@pytest.mark.parametrize(("base", "fields", "words"), BAD, ids=[f"{i}-{words}" for i, (_, _, words) in enumerate(BAD)])
def test_what_is_wrong_is_refused_in_words(
    plane: ControlPlane, base: dict[str, Any], fields: dict[str, Any], words: str
):
    code, said = dry_run(plane, changed(base, **fields))
    assert code != 0
    assert words in said


def test_a_status_has_conditions_and_no_figure_that_moves(plane: ControlPlane):
    for kind in ("providerpools", "tenantpolicies"):
        (version,) = plane.get("crd", f"{kind}.sluicegate.dev")["spec"]["versions"]
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        assert set(status) == {"conditions", "observedGeneration", "programmedVersion"}


def test_every_rule_of_the_definitions_is_met_by_a_bad_document():
    messages = {message for kind in RULES.values() for rules in kind.values() for _, message in rules}
    unmet = {message for message in messages if not any(words in message for _, _, words in BAD)}
    assert unmet == {"provider cannot change: make another pool"}, "which takes two documents: below"


def test_kubectl_shows_what_a_person_asks_first(plane: ControlPlane):
    plane.apply(changed(POOL), changed(POLICY, tier="Free", weight=7))

    def rows(*what: str) -> dict[str, str]:
        head, *lines = plane.kubectl("get", *what).stdout.splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", head)]
        cut = [slice(a, b) for a, b in itertools.pairwise([*starts, None])]
        (line,) = lines
        return {head[part].strip(): line[part].strip() for part in cut}

    pool = rows("ppool", "p")
    assert list(pool) == ["NAME", "PROVIDER", "READY", "REASON", "AGE"]
    assert (pool["PROVIDER"], pool["READY"], pool["REASON"]) == ("OpenAI", "Unknown", "Pending")
    policy = rows("tpol", "t", "-n", "default", "-o", "wide")
    assert list(policy) == ["NAME", "TIER", "WEIGHT", "READY", "REASON", "ACCEPTED", "PROGRAMMED", "AGE"]
    assert [policy[name] for name in ("TIER", "WEIGHT", "READY", "ACCEPTED")] == ["Free", "7", "Unknown", "Unknown"]
    both = plane.kubectl("get", "sluicegate", "-A", "-o", "name").stdout.split()
    assert {"providerpool.sluicegate.dev/p", "tenantpolicy.sluicegate.dev/t"} <= set(both)


def test_a_fresh_object_has_its_defaults_and_says_that_nobody_looked_at_it_yet(plane: ControlPlane):
    plane.apply(changed(POOL, tiers=[{"name": "A", "slo": {"waitTarget": "1s"}}]), POLICY)
    pool = plane.get("ppool", "p")
    assert pool["spec"]["circuitBreaker"] == {
        "failureRatePercent": 50,
        "minimumCalls": 10,
        "window": "30s",
        "openFor": "15s",
        "maxOpenFor": "2m",
    }
    assert pool["spec"]["learnLimits"] == "Follow"
    assert pool["spec"]["tiers"][0]["ceilingPercent"] == 100
    assert pool["spec"]["tiers"][0]["slo"]["objectivePercent"] == 99
    policy = plane.get("tpol", "t", "-n", "default")
    assert policy["spec"]["tier"] == "Standard"
    assert {(c["type"], c["status"], c["reason"]) for c in policy["status"]["conditions"]} == {
        (name, "Unknown", "Pending") for name in ("Accepted", "Programmed", "Ready")
    }
    refused = plane.kubectl("apply", "-f", "-", stdin=json.dumps(changed(POOL, provider="Mistral")), check=False)
    assert "provider cannot change" in refused.stderr
