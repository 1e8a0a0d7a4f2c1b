# SPDX-License-Identifier: Apache-2.0
"""What reading a call costs the sidecar: `python tests/bench/parse.py`.

CPU per call of what is added to a plain pass-through (criticality, estimate, reading headers and usage), and per chunk
of a stream, as ratios to parsing the same JSON, or to copying the same bytes, in the same run. Runs are interleaved;
the medians of rounds are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
from multidict import CIMultiDict

from sluicegate.sidecar.core.criticality import Asked, read_criticality
from sluicegate.sidecar.core.estimate import estimate, prompt_of
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.providers import OPENAI
from sluicegate.sidecar.core.usage import reader_for
from sluicegate.sidecar.tokenizer import load_encoding
from sluicegate.wire.words import Provider

ROUNDS = 7
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it tells its friends about it. "
CHAT = OPENAI.apis["/chat/completions"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEADERS = [
    ("host", "127.0.0.1:15080"),
    ("authorization", "Bearer sk-made-up"),
    ("content-type", "application/json"),
    ("user-agent", "OpenAI/Python"),
    ("x-sluicegate-task-type", "chat"),
    ("x-sluicegate-max-wait", "2s"),
]
ANSWER_HEADERS = CIMultiDict(
    {
        "content-type": "application/json",
        **{f"x-other-{number}": "what every answer carries besides" for number in range(18)},
        **{
            f"x-ratelimit-{part}-{name}": value
            for name in ("requests", "tokens")
            for part, value in (("limit", "30000"), ("remaining", "29000"), ("reset", "2s"))
        },
    }
)


def request(characters: int) -> bytes:
    turns = [
        {"role": role, "content": SENTENCE * max(1, characters // 4 // len(SENTENCE))}
        for role in ("system", "user", "assistant", "user")
    ]
    return orjson.dumps({"model": "gpt-4o", "max_tokens": 500, "messages": turns})


def answer() -> bytes:
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    choice = {"index": 0, "message": {"role": "assistant", "content": SENTENCE * 3}, "finish_reason": "stop"}
    return orjson.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def stream(chunks: int) -> list[bytes]:
    def event(delta: dict[str, str], **more: object) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        return (
            b"data: "
            + orjson.dumps({"id": "x", "object": "chat.completion.chunk", "choices": choices, **more})
            + b"\n\n"
        )

    usage = {"prompt_tokens": 100, "completion_tokens": chunks, "total_tokens": 100 + chunks}
    return [*(event({"content": " word"}) for _ in range(chunks)), event({}, usage=usage), b"data: [DONE]\n\n"]


def cost(work: Callable[[], object], times: int) -> float:
    """Microseconds of CPU per call of `work`."""
    begun = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begun) / times * 1e6


def interleaved(works: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """The median cost of each, measured in turns."""
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, times) in works.items():
            seen[name].append(cost(work, times))
    return {name: statistics.median(costs) for name, costs in seen.items()}


def call(body: bytes, reply: bytes) -> dict[str, tuple[Callable[[], object], int]]:
    encoding = load_encoding("o200k_base")
    times = max(5, 400_000 // len(body))

    def parse() -> object:
        return orjson.loads(body), orjson.loads(reply)

    def read(count: bool) -> object:
        parsed = orjson.loads(body)
        read_criticality(HEADERS, Asked(), NOW)
        prompt = prompt_of(CHAT, parsed, Provider.OPENAI)
        counted = sum(len(encoding.encode_ordinary(text)) for text in prompt.texts) if count else None
        estimate(prompt, counted)
        read_meters(Provider.OPENAI, ANSWER_HEADERS)
        reader = reader_for(CHAT.wire, "application/json")
        reader.receive_data(reply)
        reader.receive_end()
        assert reader.usage is not None
        return reader.usage

    return {
        "parse the two JSON bodies": (parse, times),
        "the sidecar's reading, without counting tokens": (lambda: read(False), times),
        "the sidecar's reading, tokens counted": (lambda: read(True), times),
    }


def chunks(count: int) -> dict[str, tuple[Callable[[], object], int]]:
    parts = stream(count)

    def copy() -> object:
        return [bytes(memoryview(part)) for part in parts]

    def parse() -> object:
        return [orjson.loads(part[6:]) for part in parts[:-1]]

    def read(hide: bool) -> object:
        reader = reader_for(CHAT.wire, "text/event-stream", hide_usage=hide)
        for part in parts:
            reader.receive_data(part)
        assert reader.usage is not None
        return reader

    return {
        "copy the chunks": (copy, 200),
        "parse each chunk's JSON": (parse, 50),
        "the sidecar's reading": (lambda: read(False), 50),
        "the sidecar's reading, usage hidden from the app": (lambda: read(True), 50),
    }


def show(title: str, figures: dict[str, float], per: int = 1) -> None:
    print(f"\n{title}")
    first = next(iter(figures.values()))
    for name, micros in figures.items():
        print(f"  {name:<52} {micros / per:>10.2f} us {micros / first:>8.1f}x")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"Python {platform.python_version()}, orjson {orjson.__version__}; medians of {ROUNDS} interleaved rounds")
    reply = answer()
    for characters in (500, 8_000, 400_000):
        body = request(characters)
        show(f"per call, request of {len(body):,} bytes", interleaved(call(body, reply)))
    count = 500
    show(f"per chunk, a stream of {count} chunks", interleaved(chunks(count)), count)


if __name__ == "__main__":
    main()
