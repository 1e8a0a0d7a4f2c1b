# SPDX-License-Identifier: Apache-2.0
"""Google's wire: pieces of an answer, their framing as events or as one JSON array, and errors, in its own words."""

from __future__ import annotations

from typing import Any

from sluicegate.testing.calls import Answer, Call, encode
from sluicegate.testing.faults import Fault

ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
BUSY = (
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try again later."
)
SHARED = (
    "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)
_LIMITS = "https://ai.google.dev/gemini-api/docs/rate-limits"


def error(status: int, outcome: str, code: str, message: str, details: list[dict[str, Any]] | None = None) -> Answer:
    """An error in Google's shape."""
    inner: dict[str, Any] = {"code": status, "message": message, "status": code}
    if details:
        inner["details"] = details
    return Answer(status, encode({"error": inner}), outcome)


def invalid(message: str) -> Answer:
    return error(400, "invalid", "INVALID_ARGUMENT", message)


REFUSALS = {
    Fault.FORBIDDEN: error(403, "auth", "PERMISSION_DENIED", "The caller does not have permission"),
    Fault.CONTEXT_LENGTH: invalid(
        "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576)."
    ),
}


def exhausted(outcome: str, metric: str, quota: str, model: str, limit: int, wait: float) -> Answer:
    """A quota's 429. `wait` stands in the message in full, and in RetryInfo without its fraction."""
    metric = f"generativelanguage.googleapis.com/generate_content_{metric}"
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        f"error, head to: {_LIMITS}. \n* Quota exceeded for metric: {metric}, limit: {limit}, model: {model}\n"
        f"Please retry in {wait:.9f}s."
    )
    violation = {
        "quotaMetric": metric,
        "quotaId": quota,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(limit),
    }
    kind = "type.googleapis.com/google.rpc."
    details: list[dict[str, Any]] = [
        {"@type": kind + "Help", "links": [{"description": "Learn more about Gemini API quotas", "url": _LIMITS}]},
        {"@type": kind + "QuotaFailure", "violations": [violation]},
        {"@type": kind + "RetryInfo", "retryDelay": f"{int(wait)}s"},
    ]
    return error(429, outcome, "RESOURCE_EXHAUSTED", message, details)


def usage(call: Call, output: int) -> dict[str, Any]:
    """Usage as far as `output` tokens."""
    return {
        "promptTokenCount": call.prompt_tokens,
        "candidatesTokenCount": output,
        "totalTokenCount": call.prompt_tokens + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": call.prompt_tokens}],
    }


def piece(call: Call, number: int, content: str, finish: str | None, used: dict[str, Any]) -> dict[str, Any]:
    """An answer, or a piece of one that streams."""
    candidate: dict[str, Any] = {"content": {"parts": [{"text": content}], "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": used,
        "modelVersion": call.model,
        "responseId": f"emulated{number:012d}",
    }


class GenerateStream:
    """The pieces of an answer, each with usage so far: events, or the items of one JSON array."""

    def __init__(self, call: Call, number: int) -> None:
        self._call, self._number = call, number
        self._done = 0
        self._begun = False

    @property
    def mime(self) -> str:
        return "application/json; charset=UTF-8" if self._call.array else "text/event-stream"

    def opening(self) -> bytes:
        return b""

    def delta(self, text: str, tokens: int) -> bytes:
        self._done += tokens
        return self._frame(piece(self._call, self._number, text, None, self._so_far()))

    def closing(self, output_tokens: int, *, cut: bool) -> bytes:
        finish = "MAX_TOKENS" if cut else "STOP"
        last = self._frame(piece(self._call, self._number, "", finish, self._at_last(output_tokens)))
        return last + b"\n]" if self._call.array else last

    def overload(self) -> bytes:
        body = error(503, "overloaded", "UNAVAILABLE", BUSY).body
        if not self._call.array:
            return b"data: %b\r\n\r\n" % body
        return (b",\r\n" if self._begun else b"[") + body + b"\n]"

    def _so_far(self) -> dict[str, Any]:
        return usage(self._call, self._done)

    def _at_last(self, output: int) -> dict[str, Any]:
        return usage(self._call, output)

    def _frame(self, body: dict[str, Any]) -> bytes:
        data = encode(body)
        if not self._call.array:
            return b"data: %b\r\n\r\n" % data
        lead, self._begun = (b",\r\n" if self._begun else b"["), True
        return lead + data


class VertexStream(GenerateStream):
    """Only the last piece has counts."""

    def _so_far(self) -> dict[str, Any]:
        return {"trafficType": "ON_DEMAND"}

    def _at_last(self, output: int) -> dict[str, Any]:
        return {**usage(self._call, output), "trafficType": "ON_DEMAND"}
