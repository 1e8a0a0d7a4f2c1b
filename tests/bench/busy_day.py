# SPDX-License-Identifier: Apache-2.0
"""A day of a busy pool in virtual time, in less than a minute of real time.

Eight tenants of four tiers offer more than the pool allows, all day, two calls a second. (A call costs some 150 to 220
us from arrival to settlement, the provider's arithmetic included: a minute holds about 300,000 of them.) The broker's
real budget and scheduler face the provider's arithmetic of `sluicegate.testing.limits`. Prints use of the limit, quota
429s and waits by tier. Exits 1 when the day takes longer than a minute, a call without foreign use gets a 429, or use
is below 97 %.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sluicegate.broker.core.audit import audit
from sluicegate.broker.core.config import DEFAULT_TIERS
from tests.fairness.world import Offer, run

DAY = 86_400.0
PER_MINUTE = 52_000.0
OFFERS = [
    Offer(f"a/{tier.lower()}{n}", tier, weight=n, rate=rate, tokens=(300, 900), max_wait=wait)
    for tier, rate, wait in (
        ("Critical", 0.16, 60),
        ("Premium", 0.24, 60),
        ("Standard", 0.32, 30),
        ("Free", 0.26, 30),
    )
    for n in (1, 2)
]


def main(seconds: float = DAY) -> int:
    start = time.perf_counter()
    result = run(OFFERS, DEFAULT_TIERS, seconds=seconds, per_minute=PER_MINUTE, warm_up=600.0)
    took = time.perf_counter() - start
    used = sum(result.tokens.values()) / (PER_MINUTE / 60.0 * (seconds - 600.0))
    inversions = audit(result.decisions)
    print(f"{result.offered:,} calls in {seconds / 3600:g} h of virtual time, {took:.1f} s of real time")
    print(f"use of the limit {used:.1%}, quota 429s {result.quota_rejections}, inversions {len(inversions)}")
    for tier in DEFAULT_TIERS:
        waits = sorted(result.waits[tier.name])
        served = f"{len(waits):>7,} granted"
        if waits:
            median, late = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
            print(f"{tier.name:>9}: {served}, wait p50 {median:6.2f} s, p99 {late:6.2f} s")
        else:
            print(f"{tier.name:>9}: {served}")
    failed = [
        text
        for bad, text in (
            (took * DAY / seconds > 60.0, "it took longer than a minute"),
            (result.quota_rejections > 0, "there were quota 429s"),
            (used < 0.97, "less than 97 % of the limit was used"),
            (bool(inversions), "a lower tier went before an eligible higher one"),
        )
        if bad
    ]
    for text in failed:
        print(f"FAILED: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else DAY))
