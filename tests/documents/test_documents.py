# SPDX-License-Identifier: Apache-2.0
"""Documents to configuration, and what findings say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sluicegate.broker.core import manifests, schema
from sluicegate.broker.core.documents import Compiled, compile_documents
from sluicegate.broker.core.events import Acquire
from sluicegate.broker.core.findings import Severity
from sluicegate.broker.core.manifests import RawDocument
from sluicegate.broker.core.references import globs_meet
from sluicegate.broker.core.resolve import Resolver
from sluicegate.broker.core.units import MeterKey, Workload
from sluicegate.wire.values import Estimate, UseCached, UseDegraded, UseModel, UsePool
from sluicegate.wire.words import LearnLimits, Resource


def pool(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sluicegate.dev/v1alpha1",
        "kind": "ProviderPool",
        "metadata": {"name": name},
        "spec": {
            "provider": "OpenAI",
            "endpoint": "https://api.openai.com/v1",
            "models": [f"{name}-model"],
            "limits": [{"resource": "Tokens", "limit": 30000, "window": "1m"}],
            **spec,
        },
    }


def policy(name: str = "t", namespace: str | None = "ns", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": "sluicegate.dev/v1alpha1", "kind": "TenantPolicy", "metadata": metadata, "spec": spec}


def compiled(*documents: dict[str, Any], previous: Compiled | None = None) -> Compiled:
    raw = [RawDocument(f"f{i}.yaml:1", document, f"f{i}.yaml") for i, document in enumerate(documents)]
    return compile_documents(raw, previous=previous)


EXAMPLE = """
apiVersion: sluicegate.dev/v1alpha1
kind: ProviderPool
metadata: {name: gpt}
spec:
  provider: OpenAI
  endpoint: https://api.openai.com/v1
  models: [gpt-4o, "gpt-4o-2024-*"]
  learnLimits: Off
  limits:
  - {resource: Tokens, limit: 30000, window: 1m, algorithm: Bucket, burst: 1m}
  - {resource: Requests, limit: 500, window: 1m, burst: 50}
  - {resource: Requests, limit: 10000, window: 24h}
  failover:
  - {pool: claude, models: {gpt-4o: claude-sonnet-4-5}}
---
# only a comment
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat}
---
apiVersion: sluicegate.dev/v1alpha1
kind: ProviderPool
metadata: {name: claude, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  provider: Anthropic
  endpoint: https://api.anthropic.com
  models: ["claude-*"]
  limits: [{resource: InputTokens, limit: 30000, window: 1m}]
---
apiVersion: sluicegate.dev/v1alpha1
kind: TenantPolicy
metadata: {name: acme}
spec:
  tier: Premium
  tasks:
  - taskType: chat
    latency: RealTime
    maxWait: 800ms
    fallback:
    - model: gpt-4o
    - pool: claude
    - cached: {maxAge: 10m}
    - degrade: {message: busy}
"""


def test_a_good_text_has_no_findings_and_every_field_arrives() -> None:
    read = manifests.read({"all.yaml": EXAMPLE})
    result = compile_documents(read.documents)
    assert read.findings == ()
    assert result.findings == ()
    gpt = result.snapshot.pools["gpt"]
    assert gpt.learn_limits is LearnLimits.OFF, "Off is a word, no truth value"
    assert [limit.key for limit in gpt.limits] == [
        MeterKey(Resource.TOKENS, 60.0),
        MeterKey(Resource.REQUESTS, 60.0),
        MeterKey(Resource.REQUESTS, 86_400.0),
    ]
    assert [limit.burst for limit in gpt.limits] == [60.0, 6.0, None]
    assert gpt.failover[0].models == {"gpt-4o": "claude-sonnet-4-5"}
    tenant = result.snapshot.tenants["default/acme"]
    assert tenant.tasks["chat"].max_wait == pytest.approx(0.8)
    assert tenant.tasks["chat"].fallback == (
        UseModel("gpt-4o"),
        UsePool("claude"),
        UseCached(600.0),
        UseDegraded("busy"),
    )


EVERY_FIELD = Path(__file__).parents[1] / "data" / "every-field.yaml"
SPECS = {"ProviderPool": schema.ProviderPoolSpec, "TenantPolicy": schema.TenantPolicySpec}


def fields_of(annotation: Any, below: str = "") -> Iterator[str]:
    """The path of every field that a document may have, as it spells them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            path = f"{below}.{field.alias or name}"
            yield path
            yield from fields_of(field.annotation, path)
    for inner in get_args(annotation):
        yield from fields_of(inner, below)


def fields_in(value: Any, below: str, known: set[str]) -> Iterator[str]:
    """Of `known`, the paths of the fields that `value` has."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{below}.{name}"
            if path in known:
                yield path
                yield from fields_in(inner, path, known)
    elif isinstance(value, list):
        for entry in value:
            yield from fields_in(entry, below, known)


def test_a_text_with_every_field_of_the_schema_is_good() -> None:
    read = manifests.read({"all.yaml": EVERY_FIELD.read_text()})
    result = compile_documents(read.documents)
    assert read.findings + result.findings == ()
    assert len(result.snapshot.pools) + len(result.snapshot.tenants) == len(read.documents)
    for kind, spec in SPECS.items():
        known = set(fields_of(spec))
        assert {".tiers.slo.queueDepth", ".tasks.fallback.trim.inputTokens"} & known, "the walk reaches the leaves"
        specs = [document.data["spec"] for document in read.documents if document.data["kind"] == kind]
        assert set(fields_in(specs, "", known)) == known, "a field of the schema is not in the text"


ERRORS = [
    (pool(modls=["x"]), "spec.modls", "did you mean models?"),
    (pool(provider="OpenAi"), "spec.provider", "is not one of OpenAI, AzureOpenAI"),
    (pool(dialect="Groq"), "spec.dialect", "is for provider OpenAICompatible only"),
    (pool(provider="OpenAICompatible", dialect="grok"), "spec.dialect", "is not one of Groq, xAI, DeepSeek, Together"),
    (pool(provider="AzureOpenAI", endpoint=""), "spec.endpoint", "at least 1 character"),
    (pool(limits=[]), "spec.limits", "at least 1 item"),
    (
        pool(limits=[{"resource": "Tokens", "limit": 0, "window": "1m"}]),
        "spec.limits[0].limit",
        "greater than or equal to 1",
    ),
    (
        pool(limits=[{"resource": "Tokens", "limit": -3, "window": "1m"}]),
        "spec.limits[0].limit",
        "greater than or equal",
    ),
    (pool(limits=[{"resource": "Tokens", "limit": "5", "window": "1m"}]), "spec.limits[0].limit", "valid integer"),
    (pool(limits=[{"resource": "Tokens", "limit": 5, "window": 60}]), "spec.limits[0].window", "800ms, 30s, 1m"),
    (pool(limits=[{"resource": "Tokens", "limit": 5, "window": "1x"}]), "spec.limits[0].window", "is not a duration"),
    (pool(limits=[{"resource": "Tokens", "limit": 5}]), "spec.limits[0].window", "is required"),
    (pool(limits=[{"resource": "Tokens", "limit": 5, "window": "1m"}] * 2), "spec.limits[1]", "stands twice"),
    (
        pool(limits=[{"resource": "Tokens", "limit": 5, "window": "1m", "burst": "24h"}]),
        "spec.limits[0].burst",
        "at most 10m",
    ),
    (pool(endpoint="http://llm.example/v1"), "spec.endpoint", "set allowPlaintext: true"),
    (pool(endpoint="ftp://x"), "spec.endpoint", "must be a URL such as"),
    (pool(endpoint="https://u:secret@x/v1"), "spec.endpoint", "must not hold a user or a password"),
    (
        pool(tiers=[{"name": "A", "guaranteedPercent": 60}, {"name": "B", "guaranteedPercent": 50}]),
        "spec.tiers",
        "at most 100 in sum",
    ),
    (pool(tiers=[{"name": "A"}, {"name": "A"}]), "spec.tiers[1].name", "stands twice"),
    (
        pool(tiers=[{"name": "A", "guaranteedPercent": 60, "ceilingPercent": 50}]),
        "spec.tiers[0].ceilingPercent",
        "at least",
    ),
    (
        pool(access=[{"namespaces": ["*"], "maxTier": "Gold"}]),
        "spec.access[0].maxTier",
        "Critical, Premium, Standard, Free",
    ),
    (pool(access=[{"maxTier": "Free"}]), "spec.access[0]", "must have namespaces"),
    (policy(weight=0), "spec.weight", "greater than or equal to 1"),
    (policy(weight=True), "spec.weight", "valid integer"),
    (policy(tasks=[{"taskType": "a"}, {"taskType": "a"}]), "spec.tasks[1].taskType", "stands twice"),
    (policy(tasks=[{"taskType": "a", "fallback": [{}]}]), "spec.tasks[0].fallback[0]", "exactly one of"),
    (
        policy(tasks=[{"taskType": "a", "fallback": [{"trim": {"inputTokens": 0}}]}]),
        "spec.tasks[0].fallback[0].trim.inputTokens",
        "1",
    ),
    (
        policy(tasks=[{"taskType": "a", "fallback": [{"model": "m", "pool": "p"}]}]),
        "spec.tasks[0].fallback[0]",
        "exactly one",
    ),
    (
        policy(tasks=[{"taskType": "a", "latency": "Realtime"}]),
        "spec.tasks[0].latency",
        "RealTime, NearRealTime, Batch",
    ),
    (policy(onBehalfOf=["acme"]), "spec.onBehalfOf[0]", "must match"),
    (policy(name="Not_A_Name"), "metadata.name", "must match"),
    ({**policy(), "kind": "TenantPolcy"}, "kind", "must be one of ProviderPool, TenantPolicy"),
    ({**policy(), "apiVersion": "sluicegate.dev/v2"}, "apiVersion", "must be sluicegate.dev/v1alpha1"),
]


@pytest.mark.parametrize(("document", "field", "said"), ERRORS, ids=[f"{f}: {s}" for _, f, s in ERRORS])
def test_a_bad_document_stays_out_alone_and_is_told_why(document: dict[str, Any], field: str, said: str) -> None:
    result = compiled(pool("good"), document, policy("fine"))
    found = [finding for finding in result.findings if finding.severity is Severity.ERROR]
    assert [(f.source, f.field) for f in found] == [("f1.yaml:1", field)]
    assert said in found[0].message
    assert set(result.snapshot.pools) == {"good"}
    assert set(result.snapshot.tenants) == {"ns/fine"}


WARNINGS = [
    ([pool(failover=[{"pool": "pp"}]), pool("pq")], "spec.failover[0].pool", "is no ProviderPool, so it is left out"),
    ([pool(failover=[{"pool": "p"}])], "spec.failover[0].pool", "must be another pool"),
    ([pool("a", models=["x"]), pool("b", models=["x"])], "spec.models", "pool b of the same provider takes x too"),
    ([pool("a", models=["x-*"]), pool("b", models=["*-1"])], "spec.models", "pool b"),
    ([pool(), policy(tier="Premum")], "spec.tier", "did you mean Premium?"),
    (
        [pool(), policy(pools=[{"name": "q", "ceilings": [{"resource": "Tokens", "limit": 1, "window": "1m"}]}])],
        "spec.pools.name",
        "is no ProviderPool",
    ),
    (
        [pool(), policy(tasks=[{"taskType": "a", "fallback": [{"pool": "q"}]}])],
        "spec.tasks[0].fallback[0].pool",
        "left out",
    ),
    (
        [pool(), policy(tasks=[{"taskType": "a", "fallback": [{"model": "q"}]}])],
        "spec.tasks[0].fallback[0].model",
        "of no pool",
    ),
    ([policy("a"), policy("b")], "spec.workloads", "is selected by ns/a as well"),
    (
        [policy("a", onBehalfOf=["ns/b"], workloads=[{"serviceAccount": "x"}]), policy("b")],
        "spec.onBehalfOf[0]",
        "does not list ns/a under allowActors",
    ),
    ([policy("a", allowActors=["ns/zz"])], "spec.allowActors[0]", "is no TenantPolicy"),
    (
        [pool(limits=[{"resource": "Tokens", "limit": 5, "window": "1m", "burst": "5m"}])],
        "spec.limits[0].burst",
        "more through at once",
    ),
]


@pytest.mark.parametrize(("documents", "field", "said"), WARNINGS, ids=[f"{f}: {s}" for _, f, s in WARNINGS])
def test_what_spans_documents_is_a_warning_and_keeps_them_in(
    documents: list[dict[str, Any]], field: str, said: str
) -> None:
    result = compiled(*documents)
    assert [(f.field, f.severity) for f in result.findings] == [(field, Severity.WARNING)]
    assert said in result.findings[0].message
    assert len(result.snapshot.pools) + len(result.snapshot.tenants) == len(documents)


def test_pools_apart_by_key_do_not_overlap() -> None:
    apart = compiled(pool("a", models=["x"], keyFingerprints=["k1"]), pool("b", models=["x"], keyFingerprints=["k2"]))
    exact_beats_glob = compiled(pool("a", models=["x-1"]), pool("b", models=["x-*"]))
    assert (apart.findings, exact_beats_glob.findings) == ((), ())


def test_of_two_documents_of_one_name_the_older_wins() -> None:
    young, old = pool(maxAttempts=2), pool(maxAttempts=3)
    young["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    result = compiled(young, old)
    assert result.snapshot.pools["p"].max_attempts == 3
    assert [f.source for f in result.findings] == ["f0.yaml:1"]
    assert "taken by f1.yaml:1" in result.findings[0].message


def test_a_document_that_turns_bad_keeps_its_last_good_version() -> None:
    before = compiled(pool(maxAttempts=3))
    after = compiled(pool(maxAttempts=-1), previous=before)
    assert after.snapshot == before.snapshot
    assert [f.severity for f in after.findings] == [Severity.ERROR, Severity.WARNING]
    assert "its last good version stays in effect" in after.findings[1].message
    assert compiled(previous=after).snapshot.pools == {}, "a document that is gone is gone"


def test_a_document_that_turns_bad_is_not_replaced_by_another_of_its_name() -> None:
    """A mistake in the file that was in effect must not hand its tenant to a stray copy of lower rank."""
    first, stray = policy(tier="Premium"), policy(tier="Free")
    before = compiled(first, stray)
    after = compiled(policy(tier="Premium", weight=-1), stray, previous=before)
    assert after.snapshot == before.snapshot
    assert any("which was in effect before" in f.message and f.source == "f1.yaml:1" for f in after.findings)
    documents = [RawDocument("f1.yaml:1", stray, "f1.yaml")]
    unread = compile_documents(documents, unreadable=frozenset({"f0.yaml"}), previous=before)
    assert unread.snapshot == before.snapshot


def test_the_version_follows_the_content_alone() -> None:
    one, two = pool("a"), pool("b")
    assert compiled(one, two).snapshot.version == compiled(two, one).snapshot.version
    assert compiled(one, two).snapshot.version != compiled(one).snapshot.version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1,\nb: 2", "x.yaml:2: not valid YAML"),
        ("kind: x\nkind: y\n", "x.yaml:2: not valid YAML: the key 'kind' stands twice"),
        ("- 1\n", "must be a mapping"),
        ("kind: TenantPolicy\n", "apiVersion: is required"),
        ("\x00", "not valid YAML"),
        ("[" * 5_000, "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(text: str, said: str) -> None:
    read = manifests.read({"x.yaml": text, "y.yaml": EXAMPLE})
    assert said in "\n".join(str(finding) for finding in read.findings)
    assert len(read.documents) == 3


def test_a_key_in_a_document_is_not_repeated_in_a_finding() -> None:
    result = compiled(pool(credentials={"secretName": "s", "key": "sk-very secret"}, apiKey="sk-hidden"))
    assert len(result.findings) == 2
    assert "sk-" not in "\n".join(str(finding) for finding in result.findings)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "limits", "tier", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["ProviderPool", "TenantPolicy"]), JSON, JSON, JSON)
def test_no_document_is_so_absurd_that_reading_fails(kind: str, metadata: Any, spec: Any, more: Any) -> None:
    absurd = {"apiVersion": "sluicegate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "more": more}
    tricky = pool(limits=spec, tiers=metadata, access=more)
    result = compiled(absurd, tricky, pool("good"))
    assert "good" in result.snapshot.pools
    assert result.findings


@given(st.text("ab*?", max_size=6), st.text("ab*?", max_size=6))
def test_globs_that_meet_are_symmetric(one: str, other: str) -> None:
    assert globs_meet(one, other) == globs_meet(other, one)
    assert globs_meet(one, one)
    assert globs_meet(one, "*")


def test_of_two_policies_for_one_workload_the_older_gets_it_whatever_their_names() -> None:
    older, younger = policy("z"), policy("a")
    older["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    younger["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    result = compiled(younger, older)
    (finding,) = result.findings
    assert finding.document == "TenantPolicy ns/a"
    assert "selected by ns/z as well" in finding.message
    acquire = Acquire("", "", Workload("ns", "x"), None, "", Estimate(0))
    assert Resolver(result.snapshot, trust_claims=False).tenant(acquire) == result.snapshot.tenants["ns/z"]
    # The version says so too: a policy that is made again comes after the others.
    older["metadata"]["creationTimestamp"] = "2026-01-03T00:00:00Z"
    assert compiled(younger, older).snapshot.version != result.snapshot.version
