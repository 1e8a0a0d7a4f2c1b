# SPDX-License-Identifier: Apache-2.0
"""What reading a call costs the sidecar: `python tests/bench/parse.py`.

CPU of what is added to a plain pass-through: per call (criticality, estimate, headers and usage), per failed call
(headers and class) and per chunk of a stream, as ratios to parsing the same JSON, or to copying the same bytes, in
the same run. Runs are interleaved; the medians of rounds are printed.
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

from sluicegate.sidecar.core.classify import classify
from sluicegate.sidecar.core.criticality import Asked, read_criticality
from sluicegate.sidecar.core.estimate import estimate, prompt_of
from sluicegate.sidecar.core.headers import read_meters
from sluicegate.sidecar.core.providers import OPENAI
from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.sidecar.core.usage import reader_for
from sluicegate.sidecar.tokenizer import load_encoding
from sluicegate.wire.words import ErrorClass, Provider

ROUNDS = 7
CHUNKS = 500
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


def _event(body: dict[str, object], name: str = "") -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + orjson.dumps(body) + b"\n\n"


def openai_stream(chunks: int) -> list[bytes]:
    def event(delta: dict[str, str], **more: object) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        return _event({"id": "x", "object": "chat.completion.chunk", "choices": choices, **more})

    usage = {"prompt_tokens": 100, "completion_tokens": chunks, "total_tokens": 100 + chunks}
    return [*(event({"content": " word"}) for _ in range(chunks)), event({}, usage=usage), b"data: [DONE]\n\n"]


def anthropic_stream(chunks: int) -> list[bytes]:
    delta: dict[str, object] = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": " word"},
    }
    usage = {"input_tokens": 100, "output_tokens": 1}
    start: dict[str, object] = {"type": "message_start", "message": {"id": "x", "content": [], "usage": usage}}
    end: dict[str, object] = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": chunks}}
    return [
        _event(start, "message_start"),
        *([_event(delta, "content_block_delta")] * chunks),
        _event(end, "message_delta"),
        _event({"type": "message_stop"}, "message_stop"),
    ]


def google_stream(chunks: int) -> list[bytes]:
    def event(count: int, **more: object) -> bytes:
        candidates = [{"index": 0, "content": {"role": "model", "parts": [{"text": " word"}]}, **more}]
        usage = {"promptTokenCount": 100, "candidatesTokenCount": count, "totalTokenCount": 100 + count}
        return _event({"candidates": candidates, "usageMetadata": usage, "modelVersion": "gemini"})

    return [*(event(number) for number in range(chunks)), event(chunks, finishReason="STOP")]


STREAMS = {
    "OpenAI": (Wire.CHAT, openai_stream),
    "Anthropic": (Wire.MESSAGES, anthropic_stream),
    "Google": (Wire.GENERATE, google_stream),
}
FAILURES: dict[str, tuple[Provider, int, dict[str, object]]] = {
    "OpenAI": (
        Provider.OPENAI,
        429,
        {
            "error": {
                "message": "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
                "Used 29000, Requested 1500. Please try again in 1s.",
                "type": "tokens",
                "param": None,
                "code": "rate_limit_exceeded",
            }
        },
    ),
    "Anthropic": (
        Provider.ANTHROPIC,
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ),
    "Google": (
        Provider.GOOGLE_GEMINI,
        429,
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
                    },
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"},
                ],
            }
        },
    ),
}


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


def failure(provider: Provider, status: int, body: dict[str, object]) -> dict[str, tuple[Callable[[], object], int]]:
    text = orjson.dumps(body)

    def read() -> object:
        read_meters(provider, ANSWER_HEADERS)
        verdict = classify(provider, status, ANSWER_HEADERS, orjson.loads(text))
        assert verdict.error_class in {ErrorClass.QUOTA, ErrorClass.OVERLOAD}
        return verdict

    return {
        "parse the JSON body": (lambda: orjson.loads(text), 2_000),
        "the sidecar's reading and classifying": (read, 2_000),
    }


def chunks(wire: Wire, parts: list[bytes]) -> dict[str, tuple[Callable[[], object], int]]:
    bodies = [part[part.index(b"{") :] for part in parts if b"{" in part]

    def copy() -> object:
        return [bytes(memoryview(part)) for part in parts]

    def parse() -> object:
        return [orjson.loads(body) for body in bodies]

    def read(hide: bool) -> object:
        reader = reader_for(wire, "text/event-stream", hide_usage=hide)
        for part in parts:
            reader.receive_data(part)
        assert reader.usage is not None
        assert reader.usage.output_tokens == CHUNKS
        return reader

    hidden = {"the sidecar's reading, usage hidden from the app": (lambda: read(True), 50)}
    return {
        "copy the chunks": (copy, 200),
        "parse each chunk's JSON": (parse, 50),
        "the sidecar's reading": (lambda: read(False), 50),
        **(hidden if wire is Wire.CHAT else {}),
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
    for name, failed in FAILURES.items():
        show(f"per failed call, {name} {failed[1]}", interleaved(failure(*failed)))
    for name, (wire, stream) in STREAMS.items():
        show(f"per chunk, a stream of {CHUNKS} chunks, {name}", interleaved(chunks(wire, stream(CHUNKS))), CHUNKS)


if __name__ == "__main__":
    main()
