# SPDX-License-Identifier: Apache-2.0
"""The tests run over the core that `make test` means, its source or what mypyc made of it; both decide alike."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.broker.core import bucket, dispatcher, line, meter, pool, predict, queue, tiers, window
from sluicegate.broker.core.config import DEFAULT_TIERS
from tests.fairness.world import Offer, run

COMPILED = os.environ.get("SLUICEGATE_COMPILED") == "1"


@pytest.mark.parametrize("module", [bucket, dispatcher, line, meter, pool, predict, queue, tiers, window])
def test_the_core_is_compiled_exactly_where_it_should_be(module) -> None:
    assert str(module.__file__).endswith(".so" if COMPILED else ".py")


@pytest.mark.parametrize("part", ["broker", "sidecar", "operator", "injector", "cli"])
def test_every_part_can_be_loaded_over_it(part: str) -> None:
    assert importlib.import_module(f"sluicegate.{part}.main").main


def digest() -> str:
    """Of every decision of ten minutes at twice the limit."""
    offers = [Offer(f"a/{tier.name}", tier.name, 2, 0.5, (300, 900), max_wait=30.0) for tier in DEFAULT_TIERS]
    result = run(offers, DEFAULT_TIERS, seconds=600.0, per_minute=36_000.0)
    assert len(result.decisions) > 1_000
    return hashlib.sha256(repr(result.decisions).encode()).hexdigest()


def test_another_process_with_the_source_takes_the_same_decisions() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHASHSEED")}
    code = "from tests.core.test_compiled import digest, pool; print(pool.__file__[-3:], digest())"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert told.stdout.split() == [".py", digest()], told.stderr
