# SPDX-License-Identifier: Apache-2.0
"""One load, run in phases: through `sluicegate up`, and straight at the provider with the SDKs' own retries.

Each phase gets a fresh emulator with the same seed. The emulator's own accounts are the truth about what was
admitted and refused; it shares no code with the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sluicegate.cli import scene
from sluicegate.cli.load import Caller, Clients, Planned, Progress, play
from sluicegate.cli.report import Phase, PoolTruth
from sluicegate.testing.config import EmulatorConfig
from sluicegate.testing.emulator import Emulator, serve
from sluicegate.testing.truth import CallRecord

READY_WITHIN = 30.0
STOPS_WITHIN = 15.0
# Longer than the scene's longest max wait plus an answer; an app that waits longer has given up.
GIVE_UP_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A phase and, where the broker took part, its decisions as it logged them."""

    phase: Phase
    decisions: Sequence[dict[str, Any]]


def key_of(caller: Caller) -> str:
    """Each tenant has a key of its own; all draw on one account."""
    return "sk-demo-" + hashlib.sha256(caller.tenant.encode()).hexdigest()[:12]


@contextlib.asynccontextmanager
async def running_up(folder: Path, *, decisions: Path, log: Path) -> AsyncIterator[dict[str, Any]]:
    """`sluicegate up -f folder` as a process of its own on free ports; yields its line of readiness."""
    command = [sys.executable, "-m", "sluicegate.cli.main", "up", "-f", str(folder), "--decisions", str(decisions)]
    command += ["--sidecar-port", "0", "--sidecar-admin-port", "0", "--broker-port", "0", "--admin-port", "0"]
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log_file
        )
        assert process.stdout is not None
        try:
            try:
                line = await asyncio.wait_for(process.stdout.readline(), READY_WITHIN)
                ready: dict[str, Any] = json.loads(line)
            except (TimeoutError, ValueError) as error:
                raise RuntimeError(f"`sluicegate up` did not become ready; its log is {log}") from error
            yield ready
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), STOPS_WITHIN)
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def run_scheduled(
    title: str, calls: Sequence[Planned], config: EmulatorConfig, folder: Path, *, seconds: float, progress: Progress
) -> Ran:
    """The load through a sidecar, scheduled by a broker that reads the scene's documents."""
    decisions = _fresh(folder)
    async with await serve(config) as emulator:
        scene.write_documents(folder / "config", emulator.url)
        async with running_up(folder / "config", decisions=decisions, log=folder / "up.log") as ready:
            started = emulator.now()
            wall = time.time()
            await _play(calls, Clients(ready["openai"], ready["anthropic"], key_of), progress)
        records = list(_read(decisions))
        first_waits: dict[tuple[str, str], float] = {}
        for record in records:
            for tier, waiting in record["waiting"].items():
                key = (record["pool"], tier)
                if waiting and key not in first_waits:
                    first_waits[key] = datetime.fromisoformat(record["time"]).timestamp() - wall
        return Ran(
            _phase(
                title,
                emulator,
                started,
                seconds,
                progress,
                first_waits=first_waits,
                headroom=scene.HEADROOM_PERCENT / 100,
            ),
            records,
        )


async def run_straight(
    title: str, calls: Sequence[Planned], config: EmulatorConfig, *, seconds: float, progress: Progress
) -> Ran:
    """The load straight at the provider; what a 429 leads to is up to the SDKs."""
    async with await serve(config) as emulator:
        started = emulator.now()
        await _play(calls, Clients(emulator.openai_url, emulator.anthropic_url, key_of), progress)
        return Ran(_phase(title, emulator, started, seconds, progress, first_waits={}, headroom=0.0), ())


async def _play(calls: Sequence[Planned], clients: Clients, progress: Progress) -> None:
    try:
        await play(calls, clients, give_up_after=GIVE_UP_AFTER, progress=progress)
    finally:
        await clients.close()


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    decisions = folder / "decisions.jsonl"
    decisions.unlink(missing_ok=True)
    return decisions


def _amount(record: CallRecord, resource: str) -> float:
    match resource:
        case "tokens":
            return record.charge
        case "input_tokens":
            return record.input_tokens
        case "output_tokens":
            return record.output_tokens
        case _:
            return 1.0


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _phase(
    title: str,
    emulator: Emulator,
    started: float,
    seconds: float,
    progress: Progress,
    *,
    first_waits: Mapping[tuple[str, str], float],
    headroom: float,
) -> Phase:
    """`first_waits`: by pool and tier, seconds of the load after which a call of the tier waited."""
    truths = {}
    for pool in emulator.pools:
        pool.run(emulator.now())
        name = pool.config.name
        waits = {tier: at for (of, tier), at in first_waits.items() if of == name}
        # The whole seconds in which calls waited.
        end = math.floor(started + seconds)
        begin = min(math.ceil(started + min(waits.values(), default=0.0)), end - 1)
        index, binding = max(enumerate(pool.accounts.utilization(begin, end)), key=lambda item: item[1].ratio)
        allowed = binding.allowed - headroom * pool.config.limits.meters[index].size
        series = [second for second in pool.accounts.series(index) if second.at >= int(started)]
        rate = pool.config.limits.meters[index].rate
        records = [record for record in emulator.calls.records if record.pool == name]
        rejected = [0] * len(series)
        for record in records:
            second = int(record.at) - int(started)
            if record.outcome == "quota" and 0 <= second < len(rejected):
                rejected[second] += 1
        tier_share, largest = {}, {}
        for caller in scene.CALLERS:
            fingerprint = emulator.fingerprint(key_of(caller))
            since = started + waits.get(caller.tier, 0.0)
            own = [
                record
                for record in records
                if record.key == fingerprint and record.outcome == "ok" and since <= record.at < end
            ]
            # Of what flowed in since the tier waited, on the meter of which it took most: one call more may be waiting.
            shares = [
                [_amount(record, meter.resource) / (meter.rate * (end - since)) for record in own]
                for meter in pool.config.limits.meters
            ]
            most = max(shares, key=lambda share: sum(share) + max(share, default=0.0))
            tier_share[caller.tier], largest[caller.tier] = sum(most), max(most, default=0.0)
        truths[name] = PoolTruth(
            admitted=pool.accounts.counts.admitted,
            quota_429s=pool.accounts.counts.quota_429,
            binding=f"{binding.resource}/{binding.window:g}s",
            use=(binding.ours + binding.foreign) / allowed,
            charged_per_second=[(second.ours + second.foreign) / rate for second in series],
            rejected_per_second=rejected,
            tier_share=tier_share,
            largest=largest,
        )
    return Phase(title=title, seconds=seconds, results=tuple(progress.results), pools=truths)
