# SPDX-License-Identifier: Apache-2.0
"""The table of a call's life, refusals, repeats, safe shares, routes, the cache and the settings."""

from __future__ import annotations

import json

import pytest

from sluicegate.sidecar.cache import ResponseCache
from sluicegate.sidecar.core.errors import Explanation, Refusal, refuse, status_of
from sluicegate.sidecar.core.plan import TABLE, Duty, Plan, State, Step
from sluicegate.sidecar.core.providers import ErrorShape, table_of
from sluicegate.sidecar.core.repeat import RefusedCalls
from sluicegate.sidecar.core.routes import Route, Routes, target_of
from sluicegate.sidecar.core.safeshare import SafeShares, Share
from sluicegate.sidecar.settings import SettingsError, read_settings
from sluicegate.sidecar.upstream import check_endpoint
from sluicegate.wire.values import Estimate
from sluicegate.wire.words import Latency, Outcome, Provider, Reason, Resource


def ways(state: State, depth: int = 7) -> list[list[tuple[Step, Duty]]]:
    if state is State.DONE:
        return [[]]
    if depth == 0:
        return []
    found = []
    for (before, step), (after, duty) in TABLE.items():
        if before is state:
            found += [[(step, duty), *rest] for rest in ways(after, depth - 1)]
    return found


def test_on_every_way_each_attempt_is_settled_exactly_once():
    all_ways = ways(State.PARSED)
    assert len(all_ways) > 20
    for way in all_ways:
        steps = [step for step, _ in way]
        duties = [duty for _, duty in way]
        settled = duties.count(Duty.SETTLE) + duties.count(Duty.SETTLE_AND_WAIT)
        assert settled == steps.count(Step.GRANT)
        # Whoever leaves while waiting is cancelled, and nobody else.
        waiting = steps[-1] is Step.CLIENT_GONE and duties[-1] is Duty.CANCEL
        assert duties.count(Duty.CANCEL) == int(waiting)


def test_a_step_that_cannot_happen_is_a_defect():
    with pytest.raises(ValueError, match="grant cannot happen to a call that is parsed"):
        Plan().advance(Step.GRANT)


def test_a_refusal_in_both_shapes():
    explanation = Explanation(Outcome.REJECTED, "predicted_wait", "gpt", 0.25, 1, "tokens/1m")
    refusal = Refusal(429, "too long", explanation, 2.2, mitigation="reduce_tokens", fits_now=90)
    assert dict(refusal.headers()) == {
        "x-sluicegate-outcome": "rejected",
        "x-sluicegate-reason": "predicted-wait",
        "x-sluicegate-wait-ms": "250",
        "x-sluicegate-attempts": "1",
        "x-sluicegate-pool": "gpt",
        "x-sluicegate-binding-limit": "tokens/1m",
        "x-should-retry": "false",
        "retry-after": "3",
        "retry-after-ms": "2200",
        "x-sluicegate-mitigation": "reduce-tokens",
        "x-sluicegate-fits-now": "90",
    }
    openai = json.loads(refusal.body(ErrorShape.OPENAI))["error"]
    assert openai == {"message": "too long", "type": "rate_limit_error", "param": None, "code": "predicted_wait"}
    anthropic = json.loads(refusal.body(ErrorShape.ANTHROPIC))
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "rate_limit_error")


def test_what_comes_over_the_wire_makes_no_header_of_its_own():
    headers = dict(Explanation(Outcome.GRANTED, "a\r\nx-evil: 1", "é").headers())
    assert headers["x-sluicegate-reason"] == "ax-evil: 1"
    assert headers["x-sluicegate-pool"] == ""


@pytest.mark.parametrize(
    ("reason", "status"),
    [("predicted_wait", 429), ("unknown_pool", 404), ("access_denied", 403), ("shutting_down", 503), ("of later", 429)],
)
def test_statuses(reason: str, status: int):
    assert {status_of(reason, shape) for shape in ErrorShape} == {status}


def test_an_account_that_cannot_pay_is_refused_as_its_provider_would():
    refused = {shape: status_of("billing", shape) for shape in ErrorShape}
    assert refused.pop(ErrorShape.ANTHROPIC) == refused.pop(ErrorShape.MISTRAL) == 402
    assert set(refused.values()) == {429}
    refusal = Refusal(429, "it cannot pay", Explanation(Outcome.REJECTED, "billing", "gpt"), code="billing")
    error = json.loads(refusal.body(ErrorShape.OPENAI))["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    refusal = Refusal(402, "it cannot pay", Explanation(Outcome.REJECTED, "billing", "claude"), code="billing")
    assert json.loads(refusal.body(ErrorShape.ANTHROPIC))["error"]["type"] == "billing_error"


def test_a_repeat_is_refused_for_the_predicted_wait_and_no_longer():
    calls = RefusedCalls(size=2)
    calls.remember(b"a", refuse(429, Reason.PREDICTED_WAIT, "x", retry_after=10.0), 10.0, 100.0, "v1")
    calls.remember(b"n", refuse(429, Reason.BILLING, "x"), 20.0, 100.0, "v1")
    found = calls.find(b"a", 104.0, "v1")
    assert found is not None
    assert found.retry_after == pytest.approx(6.0)
    assert found.explanation.reason == "repeat_refused"
    unpaid = calls.find(b"n", 110.0, "v1")
    assert unpaid is not None
    assert unpaid.retry_after is None
    assert calls.find(b"n", 111.0, "v2") is None, "a new configuration may let it through"
    assert calls.find(b"a", 110.0, "v1") is None
    for name in (b"b", b"c", b"d"):
        calls.remember(name, refuse(429, Reason.PREDICTED_WAIT, "x", retry_after=1e9), 1e9, 0.0, "v1")
    assert len(calls) == 2
    assert calls.find(b"d", 86_399.0, "v1") is not None
    assert calls.find(b"d", 86_401.0, "v1") is None


def test_a_safe_share_is_all_or_nothing_and_refills_evenly():
    shares = SafeShares()
    shares.grant("p", Share(Resource.REQUESTS, 60.0, 6.0), 0.0)
    shares.grant("p", Share(Resource.TOKENS, 60.0, 600.0), 0.0)
    call = Estimate(100, 20, max_output_tokens=200)
    assert [shares.spend("p", call, 0.0) for _ in range(3)] == [True, True, False]
    assert not shares.spend("p", call, 29.0)
    assert shares.spend("p", call, 30.0)
    assert not shares.spend("other", call, 0.0)
    shares.grant("p", Share(Resource.TOKENS, 60.0, 100.0), 31.0)
    assert not shares.spend("p", call, 10_000.0)
    shares.forget(frozenset())
    assert not shares.spend("p", Estimate(0), 10_000.0)


ROUTES = Routes(
    {
        "gpt": Route("gpt", Provider.OPENAI, "https://x/v1", ("gpt-4o", "gpt-4o-*")),
        "mini": Route("mini", Provider.OPENAI, "https://x/v1", ("gpt-4o-mini",)),
        "claude": Route("claude", Provider.ANTHROPIC, "https://y", ("claude-*",)),
    }
)


@pytest.mark.parametrize(
    ("path", "provider", "pool", "rest"),
    [
        ("/openai/v1/chat/completions", Provider.OPENAI, "", "/chat/completions"),
        ("/anthropic/v1/messages", Provider.ANTHROPIC, "", "/v1/messages"),
        ("/google/v1beta/models", Provider.GOOGLE_GEMINI, "", "/v1beta/models"),
        ("/mistral/v1/chat/completions", Provider.MISTRAL, "", "/chat/completions"),
        ("/pools/claude/v1/messages", Provider.ANTHROPIC, "claude", "/v1/messages"),
        ("/pools/claude/anthropic/v1/messages", Provider.ANTHROPIC, "claude", "/v1/messages"),
        ("/pools/gpt/v1/embeddings", Provider.OPENAI, "gpt", "/embeddings"),
        ("/pools/nope/v1/messages", Provider.ANTHROPIC, "nope", "/v1/messages"),
    ],
)
def test_paths(path: str, provider: Provider, pool: str, rest: str):
    target = target_of(path, ROUTES)
    assert target is not None
    assert (target.table.provider, target.pool, target.rest) == (provider, pool, rest)


@pytest.mark.parametrize("path", ["/", "/openai", "/openai/v2/x", "/openai/v1x", "/pools/", "/pools"])
def test_paths_that_are_none_of_ours(path: str):
    assert target_of(path, ROUTES) is None


def test_exact_names_come_before_globs_and_every_provider_has_a_table():
    assert [r.pool for r in ROUTES.claiming(Provider.OPENAI, "gpt-4o-mini")] == ["mini"]
    assert [r.pool for r in ROUTES.claiming(Provider.OPENAI, "gpt-4o-2024")] == ["gpt"]
    assert ROUTES.claiming(Provider.ANTHROPIC, "gpt-4o") == ()
    assert all(table_of(provider).provider is provider for provider in Provider)


@pytest.mark.parametrize(
    ("endpoint", "plain", "fine"),
    [
        ("https://api.example.com", False, True),
        ("http://127.0.0.1:9/v1", False, True),
        ("http://localhost:9", False, True),
        ("http://[::1]:9", False, True),
        ("http://10.0.0.1", False, False),
        ("http://10.0.0.1", True, True),
        ("ftp://x", True, False),
        ("", True, False),
        ("http://localhost.evil.example", False, False),
    ],
)
def test_a_key_goes_in_plain_text_only_over_loopback_or_where_allowed(endpoint: str, plain: bool, fine: bool):
    assert (check_endpoint(endpoint, allow_plaintext=plain) is None) is fine


def test_the_cache_keeps_the_latest_answers_and_is_bounded():
    cache = ResponseCache(8000)
    cache.store(b"k", "t", "c", b"x" * 100, now=3.0)
    found = cache.find(b"k")
    assert found is not None
    assert (found.tenant, found.content_type, found.body, found.stored) == ("t", "c", b"x" * 100, 3.0)
    cache.store(b"large", "t", "c", b"x" * 1001, now=0.0)
    cache.store(b"empty", "t", "c", b"", now=0.0)
    assert cache.find(b"large") is None
    assert cache.find(b"empty") is None
    for n in range(100):
        cache.store(bytes([n]), "t", "c", b"y" * 100, now=0.0)
        cache.store(bytes([n]), "t", "c", b"y" * 90, now=0.0)
        assert cache.find(bytes([0])) is not None  # what is used stays
        assert cache.size <= 8000
    assert cache.find(b"k") is None


def test_settings_report_all_problems_together():
    with pytest.raises(SettingsError) as caught:
        read_settings(
            {
                "SLUICEGATE_SIDECAR_PORT": "70000",
                "SLUICEGATE_SIDECAR_GRACE": "soon",
                "SLUICEGATE_SIDECAR_MAX_BODY": "0",
                "SLUICEGATE_SIDECAR_BROKER_CA": "/nowhere",
                "SLUICEGATE_SIDECAR_DEFAULT_LATENCY": "fast",
            }
        )
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "SLUICEGATE_SIDECAR_PORT",
        "SLUICEGATE_SIDECAR_BROKER_CA",
        "SLUICEGATE_SIDECAR_MAX_BODY",
        "SLUICEGATE_SIDECAR_GRACE",
        "SLUICEGATE_SIDECAR_DEFAULT_LATENCY",
    ]
    assert "'70000' is not allowed; allowed: a port" in lines[0]


def test_settings_from_the_environment():
    settings = read_settings(
        {
            "SLUICEGATE_SIDECAR_PORT": "0",
            "SLUICEGATE_SIDECAR_GRACE": "1m30s",
            "SLUICEGATE_SIDECAR_DEFAULT_LATENCY": "batch",
            "OTHER": "x",
        }
    )
    assert (settings.port, settings.grace, settings.defaults.criticality.latency) == (0, 90.0, Latency.BATCH)
    assert settings.max_body == 32 * 1024 * 1024
