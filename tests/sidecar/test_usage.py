# SPDX-License-Identifier: Apache-2.0
"""Streams however they are cut: the same bytes to the app, the same usage to the broker."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluicegate.sidecar.core.providers import Wire
from sluicegate.sidecar.core.usage import ArrayReader, EventReader, JsonReader, OpaqueReader, reader_for, usage_of
from sluicegate.wire.values import Usage


def data(body: object, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(body, separators=(',', ':'), ensure_ascii=False)}{end}".encode()


def chat(text: str, **more: object) -> dict[str, object]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **more}


TOTAL = {"prompt_tokens": 12, "completion_tokens": 34, "prompt_tokens_details": {"cached_tokens": 5}}
TRICKY = 'x "usage":null, {"usage": {"prompt_tokens": 1}} [DONE] \n\ndata: é'

CHAT_ASKED = (
    b": comment\n\n"
    + data(chat("a", usage=None))
    + data({"id": "c", "choices": [], "prompt_filter_results": [], "usage": None}, "\r\n\r\n")
    + data(chat(TRICKY, usage=None))
    + b'data: {"usage": null ,"choices":[{"delta":{"content":"b"}}]}\n\n'
    + b'data: {"choices":[], "x":{"usage":null}, "usage":null}\n\n'
    + data({"id": "c", "choices": [], "usage": TOTAL}, "\n\r\n")
    + b"data: [DONE]\r\n\r\n"
)
CHAT_AS_IF_NOT_ASKED = (
    b": comment\n\n"
    + data(chat("a"))
    + data({"id": "c", "choices": [], "prompt_filter_results": []}, "\r\n\r\n")
    + data(chat(TRICKY))
    + b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n'
    # Two places that look alike: nothing is taken out rather than the wrong one.
    + b'data: {"choices":[], "x":{"usage":null}, "usage":null}\n\n'
    + b"data: [DONE]\r\n\r\n"
)
MESSAGES = (
    b"event: message_start\n"
    + data(
        {
            "type": "message_start",
            "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}},
        }
    )
    + b"event: ping\n"
    + data({"type": "ping"})
    + b"event: content_block_delta\n"
    + data({"type": "content_block_delta", "delta": {"text": '"message_stop"'}})
    + b"event: message_delta\n"
    + data({"type": "message_delta", "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 9}})
    + b"event: message_stop\n"
    + data({"type": "message_stop"})
)
RESPONSES = (
    b"event: response.created\n"
    + data({"type": "response.created", "response": {"usage": None, "error": None}})
    + b"event: response.completed\n"
    + data(
        {"type": "response.completed", "response": {"error": None, "usage": {"input_tokens": 7, "output_tokens": 8}}}
    )
)


def run(reader: EventReader | ArrayReader | JsonReader | OpaqueReader, pieces: list[bytes]) -> bytes:
    return b"".join(reader.receive_data(piece).data for piece in pieces) + reader.receive_end().data


def cut(whole: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted(n % (len(whole) + 1) for n in at), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(marks)]


CUTS = st.lists(st.integers(0, 10_000), max_size=40)


@given(CUTS)
@example(list(range(3000)))
def test_a_hidden_stream_is_the_same_however_it_is_cut(at: list[int]):
    reader = EventReader(Wire.CHAT, hide_usage=True)
    assert run(reader, cut(CHAT_ASKED, at)) == CHAT_AS_IF_NOT_ASKED
    assert reader.usage == Usage(12, 34, 5)
    assert reader.finished
    assert (reader.error, reader.broken) == (None, 0)


@given(CUTS)
@example(list(range(3000)))
def test_a_stream_that_hides_nothing_passes_every_chunk_on_at_once(at: list[int]):
    reader = EventReader(Wire.CHAT)
    for piece in cut(CHAT_ASKED, at):
        assert reader.receive_data(piece).data == piece
    assert reader.receive_end().data == b""
    assert reader.usage == Usage(12, 34, 5)
    assert reader.finished


@pytest.mark.parametrize(
    ("wire", "whole", "usage"), [(Wire.MESSAGES, MESSAGES, Usage(7, 9, 4)), (Wire.RESPONSES, RESPONSES, Usage(7, 8, 0))]
)
@given(at=CUTS)
def test_usage_of_the_other_wires(wire: Wire, whole: bytes, usage: Usage, at: list[int]):
    reader = EventReader(wire)
    assert run(reader, cut(whole, at)) == whole
    assert reader.usage == usage
    assert reader.finished
    assert reader.error is None


@pytest.mark.parametrize(
    ("wire", "stream"),
    [
        (Wire.CHAT, data({"error": {"message": "boom"}})),
        (Wire.CHAT, b"event: error\n" + data({"error": {"message": "boom"}})),
        (Wire.MESSAGES, b"event: error\n" + data({"type": "error", "error": {"type": "overloaded_error"}})),
        (Wire.RESPONSES, data({"type": "response.failed", "response": {"error": {"code": "server_error"}}})),
        (Wire.RESPONSES, b"event: error\n" + data({"type": "error", "code": "x", "message": "flat"})),
        (Wire.CHAT, b"event: error\ndata: not json\n\n"),
        (Wire.CHAT, data({"object": "error", "message": "boom", "type": "server_error", "code": 500})),
        (Wire.CHAT, data({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502}}]})),
    ],
)
def test_errors_inside_a_stream(wire: Wire, stream: bytes):
    for size in (1, 7, 1000):
        reader = EventReader(wire)
        assert run(reader, [stream[at : at + size] for at in range(0, len(stream), size)]) == stream
        assert reader.error is not None
        assert not reader.finished


@given(st.lists(st.binary(max_size=40), max_size=20), st.booleans())
def test_garbage_is_handed_on_whole_and_never_raises(pieces: list[bytes], hide: bool):
    reader = EventReader(Wire.CHAT, hide_usage=hide, max_held=64)
    assert run(reader, pieces) == b"".join(pieces)


@given(CUTS)
def test_an_event_too_large_to_hold_passes_unread_and_the_next_is_read(at: list[int]):
    large = data(chat("x" * 5000))
    tail = data({"id": "c", "choices": [], "usage": TOTAL})
    for hide in (False, True):
        reader = EventReader(Wire.CHAT, hide_usage=hide, max_held=512)
        pieces = [large[n : n + 100] for n in range(0, len(large), 100)] + cut(tail, at)
        assert run(reader, pieces) == (large if hide else large + tail)
        assert reader.usage == Usage(12, 34, 5)
        assert reader.broken == 1


@given(CUTS)
def test_json_bodies_small_and_beyond_the_bound(at: list[int]):
    body = json.dumps({"data": ["v" * 3000], "usage": TOTAL}).encode()
    for bound in (10_000, 1000):
        reader = JsonReader(Wire.EMBEDDINGS, max_held=bound)
        assert run(reader, cut(body, at)) == body
        assert reader.usage == Usage(12, 34, 5)


@pytest.mark.parametrize(
    "usage",
    [None, 5, [], {"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": 10**12}, {"prompt_tokens": "9"}],
)
def test_absurd_usage_is_no_usage(usage: object):
    assert usage_of(Wire.CHAT, {"usage": usage}) is None


def test_which_reader_reads_what():
    assert isinstance(reader_for(Wire.CHAT, "text/event-stream; charset=utf-8"), EventReader)
    assert isinstance(reader_for(Wire.CHAT, "Application/JSON"), JsonReader)
    assert isinstance(reader_for(Wire.CHAT, "text/html"), OpaqueReader)
    assert isinstance(reader_for(Wire.CHAT, ""), OpaqueReader)


def google(parts: str, stop: bool = False, **usage: object) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": [{"text": parts}], "role": "model"}}
    if stop:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], **({"usageMetadata": usage} if usage else {})}


TRAP = 'quote " brace } [ \\" "usageMetadata": {"promptTokenCount": 99} "finishReason" é'
GEMINI = [
    google(TRAP, promptTokenCount=10, totalTokenCount=10),
    google("more", promptTokenCount=10, candidatesTokenCount=2, thoughtsTokenCount=4, totalTokenCount=16),
    google(
        "end",
        True,
        promptTokenCount=10,
        candidatesTokenCount=5,
        thoughtsTokenCount=4,
        toolUsePromptTokenCount=3,
        cachedContentTokenCount=6,
        totalTokenCount=22,
    ),
]
VERTEX = [google(TRAP, trafficType="ON_DEMAND"), google("a", trafficType="ON_DEMAND"), GEMINI[2]]


@pytest.mark.parametrize("chunks", [GEMINI, VERTEX])
@given(at=CUTS)
@example(at=list(range(3000)))
def test_googles_events_and_its_array_are_the_same_however_they_are_cut(chunks: list[object], at: list[int]):
    events = b"".join(data(chunk, "\r\n\r\n") for chunk in chunks)
    array = b"[" + b",\r\n".join(json.dumps(chunk, indent=2).encode() for chunk in chunks) + b"\n]\n"
    for reader, whole in ((EventReader(Wire.GENERATE), events), (ArrayReader(), array)):
        for piece in cut(whole, at):
            assert reader.receive_data(piece).data == piece
        assert reader.receive_end().data == b""
        assert reader.usage == Usage(13, 9, 6)
        assert reader.finished
        assert (reader.error, reader.broken) == (None, 0)


def test_a_google_stream_that_is_cut_off_is_not_finished_and_keeps_what_it_said():
    array = b"[" + json.dumps(GEMINI[0]).encode() + b",\n" + json.dumps(GEMINI[1]).encode() + b",\n" + b'{"candi'
    events = data(GEMINI[0]) + data(GEMINI[1]) + b'data: {"candi'
    for reader, whole in ((ArrayReader(), array), (EventReader(Wire.GENERATE), events)):
        run(reader, [whole])
        assert reader.usage == Usage(10, 6, 0)
        assert not reader.finished


@given(CUTS)
def test_a_count_that_later_events_of_google_leave_out_is_kept(at: list[int]):
    first = google("a", promptTokenCount=10, cachedContentTokenCount=6, totalTokenCount=10)
    chunks = [first, google("b", candidatesTokenCount=4), google("c", trafficType="ON_DEMAND"), google("d", True)]
    reader = EventReader(Wire.GENERATE)
    run(reader, cut(b"".join(map(data, chunks)), at))
    assert reader.usage == Usage(10, 4, 6)
    assert reader.finished


@given(CUTS)
def test_an_error_in_an_array_and_an_error_instead_of_one(at: list[int]):
    error = {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}
    for whole in (json.dumps([GEMINI[0], error]).encode(), json.dumps([error]).encode(), json.dumps(error).encode()):
        reader = ArrayReader()
        assert run(reader, cut(whole, at)) == whole
        assert reader.error == error


def test_an_element_too_large_to_hold_passes_unread_and_the_next_is_read():
    array = json.dumps([google("x" * 5000), GEMINI[2]]).encode()
    for size in (1, 100, 10_000):
        reader = ArrayReader(max_held=1000)
        assert run(reader, [array[at : at + size] for at in range(0, len(array), size)]) == array
        assert reader.usage == Usage(13, 9, 6)
        assert reader.broken == 1


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_instead_of_an_array(pieces: list[bytes]):
    reader = ArrayReader(max_held=64)
    assert run(reader, pieces) == b"".join(pieces)


@pytest.mark.parametrize(
    ("wire", "body", "usage"),
    [
        (Wire.GENERATE, GEMINI[2], Usage(13, 9, 6)),
        (Wire.GENERATE, {"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 9}}, Usage(5, 4, 0)),
        (Wire.GENERATE, {"usageMetadata": {"trafficType": "ON_DEMAND"}}, None),
        (Wire.EMBED, {"embeddings": [], "usageMetadata": {"promptTokenCount": 5}}, Usage(5, 0, 0)),
        (
            Wire.EMBED,
            {"predictions": [{"embeddings": {"statistics": {"token_count": n}}} for n in (3, 4.0)]},
            Usage(7, 0, 0),
        ),
        (Wire.EMBED, {"predictions": [{"bytesBase64Encoded": "x"}]}, None),
        (Wire.CHAT, {"x_groq": {"id": "r", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}}, Usage(3, 4, 0)),
        (
            Wire.CHAT,
            {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}},
            Usage(9, 1, 8),
        ),
        (Wire.FIM, {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, Usage(3, 4, 0)),
        (
            Wire.MESSAGES,
            {
                "usage": {
                    "input_tokens": 1,
                    "cache_creation_input_tokens": 2,
                    "cache_read_input_tokens": 4,
                    "output_tokens": 8,
                }
            },
            Usage(7, 8, 4),
        ),
    ],
)
def test_usage_of_whole_bodies(wire: Wire, body: object, usage: Usage | None):
    assert usage_of(wire, body) == usage


@given(CUTS)
def test_groq_and_mistral_say_usage_in_their_last_chunk_unasked(at: list[int]):
    groq = data(chat("a", x_groq={"id": "r"})) + data(chat("", x_groq={"usage": TOTAL})) + b"data: [DONE]\n\n"
    mistral = data(chat("a")) + data(chat("", usage=TOTAL)) + b"data: [DONE]\n\n"
    deepseek = b": keep-alive\n\n" + mistral
    for whole in (groq, mistral, deepseek):
        reader = EventReader(Wire.CHAT)
        assert run(reader, cut(whole, at)) == whole
        assert reader.usage == Usage(12, 34, 5)
        assert reader.finished


def test_what_anthropic_says_again_replaces_and_what_it_leaves_out_stays():
    start = {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 4, "output_tokens": 1}
    reader = EventReader(Wire.MESSAGES)
    run(
        reader,
        [
            data({"type": "message_start", "message": {"usage": start}}),
            data({"type": "message_delta", "usage": {"input_tokens": 5, "output_tokens": 9}}),
            data({"type": "message_stop"}),
        ],
    )
    assert reader.usage == Usage(29, 9, 4)


def test_a_large_body_of_googles_is_read_from_its_end():
    body = json.dumps({"candidates": ["v" * 3000], "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 6}})
    reader = JsonReader(Wire.GENERATE, max_held=1000)
    run(reader, [body.encode()])
    assert reader.usage == Usage(4, 2, 0)


def test_a_stream_without_events_is_an_array():
    assert isinstance(reader_for(Wire.GENERATE, "application/json; charset=UTF-8", stream=True), ArrayReader)
    assert isinstance(reader_for(Wire.GENERATE, "application/json"), JsonReader)
    assert isinstance(reader_for(Wire.GENERATE, "text/event-stream", stream=True), EventReader)
