# SPDX-License-Identifier: Apache-2.0
"""Recorded responses of providers, where they are there: each means what its record says.

The project's own facts are in test_facts.py, so that a clone that stands alone misses nothing of the rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cli.classify import answer

CASES = Path(__file__).parents[3] / "shared" / "cases" / "providers.jsonl"


def cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no recorded cases at {CASES}"))]
    found = [json.loads(line) for line in CASES.read_text().splitlines()]
    return [pytest.param(case, id=case["id"]) for case in found]


@pytest.mark.parametrize("case", cases())
def test_a_recorded_response_means_what_its_record_says(case: dict[str, Any]):
    got = answer(case)
    expect = case["expect"]
    for key, wanted in expect.items():
        if key == "class_any_of":
            assert got["class"] in wanted, got
        elif wanted is None:
            # The record does not determine it; but a success never asks to wait.
            assert key != "retry_after_s" or expect["class"] != "ok" or got[key] is None, got
        elif isinstance(wanted, bool | str):
            assert got.get(key) == wanted, (key, got)
        else:
            assert got.get(key) == pytest.approx(wanted, abs=0.001), (key, got)


@pytest.mark.parametrize("case", cases())
def test_another_status_or_code_is_another_answer(case: dict[str, Any]):
    headers = {name: value for name, value in case["headers"].items() if name != "x-amzn-errortype"}
    case = {"provider": case["provider"], "headers": headers, "body": case["body"]}
    meant = {200: "ok", 401: "auth", 404: "invalid", 500: "server_error", 503: "overloaded", 402: "billing"}
    for status, wanted in meant.items():
        assert answer(case | {"status": status, "body": None})["class"] == wanted
    body = case["body"]
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
        return
    codes = {"insufficient_quota": "billing", "invalid_api_key": "auth", "overloaded_error": "overloaded"}
    for place in ("code", "type"):
        for code, wanted in codes.items():
            other = body | {"error": {"message": "", place: code}}
            assert answer(case | {"status": 429, "body": other})["class"] == wanted
