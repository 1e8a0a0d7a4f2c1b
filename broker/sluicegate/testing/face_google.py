# SPDX-License-Identifier: Apache-2.0
"""Google: Gemini's API and the same models on Vertex AI. All that is said of limits stands in the bodies of errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.testing import text, tokens, wire_google
from sluicegate.testing.calls import Answer, BadRequestError, Call, Json, Stream, encode, whole
from sluicegate.testing.face import Face, Place, bearer
from sluicegate.testing.limits import Demand, Rejected
from sluicegate.testing.wire_google import GenerateStream, VertexStream, error
from sluicegate.testing.wires import Wire

if TYPE_CHECKING:
    from sluicegate.testing.config import PoolConfig

_VERBS = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "embedContent": "embed",
    "batchEmbedContents": "batch-embed",
    "countTokens": "count",
}
_DIMENSIONS = 3072
_IMAGE_TOKENS = 258
_DAY = 3600.0


class GeminiFace(Face):
    """generativelanguage.googleapis.com."""

    wire: ClassVar[Wire] = "gemini"
    path: ClassVar[re.Pattern[str]] = re.compile(r"/v\w+/models/([^/:]+):(\w+)")
    refusals = wire_google.REFUSALS

    def place(self, path: str, query: Mapping[str, str]) -> Place | None:
        found = self.path.fullmatch(path)
        api = None if found is None else _VERBS.get(found[2])
        if found is None or api is None:
            return None
        stream = found[2] == "streamGenerateContent"
        array = stream and query.get("alt") != "sse"
        return Place(api, found[1], counts=api == "count", stream=stream, array=array)

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        return headers.get("x-goog-api-key") or query.get("key") or bearer(headers)

    def parse(self, place: Place, body: Json, model: str, config: PoolConfig) -> Call:
        copies, dimensions = 1, 0
        settings = body.get("generationConfig")
        if place.api in ("embed", "batch-embed"):
            requests = body.get("requests") if place.api == "batch-embed" else [body]
            if not isinstance(requests, list) or not requests or not all(isinstance(item, dict) for item in requests):
                raise BadRequestError(wire_google.invalid("* BatchEmbedContentsRequest.requests: must not be empty"))
            used = sum(_used([item.get("content")]) for item in requests)
            copies = len(requests)
            dimensions = min(whole(requests[0], "outputDimensionality") or _DIMENSIONS, 4096)
        else:
            contents = body.get("contents")
            if not isinstance(contents, list) or not contents:
                raise BadRequestError(
                    wire_google.invalid("* GenerateContentRequest.contents: contents is not specified")
                )
            used = _used([*contents, body.get("systemInstruction")])
        return Call(
            place.api,
            model,
            stream=place.stream,
            demand=Demand(tokens=used, input_tokens=used),
            charge=used,
            prompt_tokens=used,
            bound=whole(settings, "maxOutputTokens") if isinstance(settings, dict) else None,
            copies=copies,
            dimensions=dimensions,
            generates=place.api == "generate",
            array=place.array,
        )

    def whole(self, call: Call, number: int, created: int, content: str, output: int, *, cut: bool) -> bytes:
        if call.generates:
            return encode(self._body(call, number, content, output, cut=cut))
        vectors = [{"values": text.embedding(number + index, call.dimensions)} for index in range(call.copies)]
        usage = {"usageMetadata": {"promptTokenCount": call.prompt_tokens}}
        if call.endpoint == "embed":
            return encode({"embedding": vectors[0], **usage})
        return encode({"embeddings": vectors, **usage})

    def _body(self, call: Call, number: int, content: str, output: int, *, cut: bool) -> dict[str, Any]:
        finish = "MAX_TOKENS" if cut else "STOP"
        return wire_google.piece(call, number, content, finish, wire_google.usage(call, output))

    def count(self, call: Call) -> bytes:
        details = [{"modality": "TEXT", "tokenCount": call.prompt_tokens}]
        return encode({"totalTokens": call.prompt_tokens, "promptTokensDetails": details})

    def frames(self, call: Call, number: int, created: int) -> Stream:
        return GenerateStream(call, number)

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {"x-gemini-service-tier": "standard"}

    def dress(self, answer: Answer, place: Place | None) -> Answer:
        if place is None or not place.array:
            return answer
        return Answer(answer.status, b"[" + answer.body + b"\n]", answer.outcome, answer.headers)

    def bad_json(self) -> Answer:
        return wire_google.invalid("Invalid JSON payload received. Expected an object.")

    def unknown_model(self, model: object) -> Answer:
        message = (
            f"models/{str(model)[:100]} is not found for API version v1beta, or is not supported for generateContent. "
            "Call ListModels to see the list of available models and their supported methods."
        )
        return error(404, "invalid", "NOT_FOUND", message)

    def not_found(self, method: str, path: str) -> Answer:
        return error(404, "invalid", "NOT_FOUND", "The requested URL was not found on this server.")

    def auth(self) -> Answer:
        message = "API key not valid. Please pass a valid API key."
        info = {"service": "generativelanguage.googleapis.com"}
        details = [
            {"@type": wire_google.ERROR_INFO, "reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": info}
        ]
        return error(400, "auth", "INVALID_ARGUMENT", message, details)

    def billing(self) -> Answer:
        message = (
            "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
            "project and billing."
        )
        return error(429, "billing", "RESOURCE_EXHAUSTED", message)

    def overloaded(self) -> Answer:
        return error(503, "overloaded", "UNAVAILABLE", wire_google.BUSY)

    def server_error(self) -> Answer:
        message = "An internal error has occurred. Please retry or report in https://developers.generativeai.google/"
        return error(500, "server_error", "INTERNAL", message)

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        """The 429 of a rejected call. `retryDelay` is the message's wait without its fraction; for a day's quota it is
        less than a minute all the same, and one too large for the window is told to wait for the next."""
        meter = rejected.meter
        daily = meter.window > _DAY
        wait = meter.reset if math.isinf(rejected.wait) else rejected.wait
        if daily:
            wait %= 60
        period = "Day" if daily else "Minute"
        if meter.resource == "requests":
            metric, quota = "free_tier_requests", f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier"
        else:
            metric, quota = "free_tier_input_token_count", f"GenerateContentInputTokensPerModelPer{period}-FreeTier"
        outcome = "too_large" if rejected.kind == "too_large" else "quota"
        return wire_google.exhausted(outcome, metric, quota, call.model, round(meter.limit), wait)


class VertexFace(GeminiFace):
    """aiplatform.googleapis.com: the same bodies below projects or publishers, shared capacity, counts in a stream only
    at its end."""

    wire: ClassVar[Wire] = "vertex"
    path = re.compile(r"/v\w+/(?:projects/[^/]+/locations/[^/]+/)?publishers/google/models/([^/:]+):(\w+)")

    def frames(self, call: Call, number: int, created: int) -> Stream:
        return VertexStream(call, number)

    def _body(self, call: Call, number: int, content: str, output: int, *, cut: bool) -> dict[str, Any]:
        body = super()._body(call, number, content, output, cut=cut)
        body["usageMetadata"]["trafficType"] = "ON_DEMAND"
        return body

    def head(self, number: int, seconds: float) -> dict[str, str]:
        return {}

    def unknown_model(self, model: object) -> Answer:
        message = f"Publisher Model `publishers/google/models/{str(model)[:100]}` was not found."
        return error(404, "invalid", "NOT_FOUND", message)

    def auth(self) -> Answer:
        message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
        return error(401, "auth", "UNAUTHENTICATED", message)

    def overloaded(self) -> Answer:
        return error(429, "overloaded", "RESOURCE_EXHAUSTED", wire_google.SHARED)

    def quota(self, rejected: Rejected, call: Call, config: PoolConfig) -> Answer:
        name = "requests" if rejected.meter.resource == "requests" else "input_tokens"
        metric = f"generate_content_{name}_per_minute_per_project_per_base_model"
        message = (
            f"Quota exceeded for aiplatform.googleapis.com/{metric} with base model: {call.model}. Please submit a "
            "quota increase request. https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai."
        )
        outcome = "too_large" if rejected.kind == "too_large" else "quota"
        return error(429, outcome, "RESOURCE_EXHAUSTED", message)


def _used(contents: list[object]) -> int:
    """Tokens of contents (each an object with parts, or a text), and 1 for each content."""
    used = 0
    for content in contents:
        if isinstance(content, str):
            used += 1 + tokens.google_tokens(content)
        elif isinstance(content, Mapping):
            parts = content.get("parts")
            items = parts if isinstance(parts, list) else [parts]
            used += 1
            for part in items:
                if isinstance(part, Mapping):
                    told = part.get("text")
                    used += tokens.google_tokens(told) if isinstance(told, str) else _IMAGE_TOKENS
    return used
