# SPDX-License-Identifier: Apache-2.0
"""Azure OpenAI: OpenAI's bodies below deployments, keys in `api-key`, and headers and errors in words of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sluicegate.testing import wire_openai
from sluicegate.testing.calls import Answer, Call, Stream, encode
from sluicegate.testing.face import Face, Place
from sluicegate.testing.face_openai import APIS, OpenAIFace
from sluicegate.testing.faults import Fault
from sluicegate.testing.limits import Rejected
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)(/chat/completions|/embeddings)")
_OPERATIONS = {"chat": "ChatCompletions_Create", "embeddings": "Embeddings_Create", "responses": "Responses_Create"}
_FILTERS = encode({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []})


def error(status: int, outcome: str, code: str, message: str) -> Answer:
    """An error in Azure's shape."""
    return Answer(status, encode({"error": {"code": code, "message": message}}), outcome)


class AzureChatStream(wire_openai.ChatStream):
    """A chat completion whose first chunk has no choices: it says what the content filter thought of the prompt."""

    def opening(self) -> bytes:
        return b"data: %b\n\n" % _FILTERS + super().opening()

    def overload(self) -> bytes:
        return b"data: %b\n\n" % _busy().body


def _busy() -> Answer:
    message = (
        "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
        "maximum usage size allowed during peak load. Please retry after 20 seconds. For improved latency reliability, "
        "consider switching to Provisioned Throughput."
    )
    return error(429, "overloaded", "429", message)


_REFUSALS = {
    **wire_openai.REFUSALS,
    Fault.FORBIDDEN: error(403, "auth", "403", "Public access is disabled. Please configure private endpoint."),
    Fault.CONTENT_POLICY: error(
        400,
        "invalid",
        "content_filter",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please "
        "modify your prompt and retry.",
    ),
}


class AzureFace(OpenAIFace):
    """`/openai/deployments/<deployment>/...?api-version=` and `/openai/v1/...`; an overload is a 429, too."""

    refusals = _REFUSALS
    wire: ClassVar[Wire] = "azure"
    base = "/openai/v1"

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        if path.startswith(self.base + "/"):
            return super().place(path, query)
        if "api-version" not in query:
            return None
        if path == "/openai/responses":
            return Place("responses")
        found = _DEPLOYMENT.fullmatch(path)
        return None if found is None else Place(APIS[found[2]], found[1])

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return headers.get("api-key") or Face.credential(self, headers, query)

    def frames(self, call: Call, number: int, created: int) -> Stream:
        if call.endpoint == "chat":
            return AzureChatStream(call, number, created)
        return super().frames(call, number, created)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {"apim-request-id": f"00000000-0000-0000-0000-{number:012d}", "x-ms-region": "Nowhere"}

    def shows_limits(self, place: Place, status: int, *, stream: bool, config: PoolConfig) -> bool:
        return status in (200, 429)

    def unknown_model(self, model: object) -> Answer:
        message = (
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
            "minutes, please wait a moment and try again."
        )
        return error(404, "invalid", "DeploymentNotFound", message)

    def not_found(self, method: str, path: str) -> Answer:
        return error(404, "invalid", "404", "Resource not found")

    def auth(self) -> Answer:
        message = (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for "
            "an active subscription and use a correct regional API endpoint for your resource."
        )
        return error(401, "auth", "401", message)

    def billing(self) -> Answer:
        return error(429, "billing", "insufficient_quota", "You exceeded your current quota, please check your plan.")

    def overloaded(self) -> Answer:
        return _busy()

    def server_error(self) -> Answer:
        return error(500, "server_error", "500", "The server had an error while processing your request. Sorry!")

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        """The 429 of a rejected call. One that never fits is told the same: Azure has no other words for it."""
        requests = rejected.meter.resource == "requests"
        wait = rejected.meter.reset if math.isinf(rejected.wait) else rejected.wait
        seconds = max(1, math.ceil(wait))
        message = (
            f"Requests to the {_OPERATIONS[call.endpoint]} Operation under Azure OpenAI API version 2024-10-21 have "
            f"exceeded {'call' if requests else 'token'} rate limit of your current OpenAI S0 pricing tier. Please "
            f"retry after {seconds} seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to "
            "further increase the default rate limit."
        )
        answer = error(429, "too_large" if rejected.kind == "too_large" else "quota", "429", message)
        answer.headers["x-ratelimit-type"] = "Requests" if requests else "Tokens"
        if config.retry_after:
            answer.headers["retry-after"] = str(seconds)
            answer.headers["retry-after-ms"] = str(seconds * 1000)
        return answer
