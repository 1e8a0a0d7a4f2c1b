# SPDX-License-Identifier: Apache-2.0
"""Reads usage, ends and errors out of a response while its bytes pass through, and hides what the app did not ask for.

A reader is fed with `receive_data(bytes)` as chunks arrive and with `receive_end()` once; both return a `Read`: the
bytes to hand on now and what was learned. However the provider's bytes are cut into chunks, the bytes handed on in
all and the facts learned are the same. Every reader holds a bounded amount.
"""

from __future__ import annotations

from sluicegate.sidecar.core.providers.api import Wire
from sluicegate.sidecar.core.usage.bodies import ArrayReader, JsonReader, OpaqueReader
from sluicegate.sidecar.core.usage.counts import usage_of
from sluicegate.sidecar.core.usage.events import EventReader
from sluicegate.sidecar.core.usage.reading import MAX_HELD, Read

Reader = EventReader | ArrayReader | JsonReader | OpaqueReader
STREAMS = (EventReader, ArrayReader)
"""The readers of streams, whose head may be an error."""


def reader_for(wire: Wire, content_type: str, *, hide_usage: bool = False, stream: bool = False) -> Reader:
    """The reader for a response of this content type. `stream`: the call asked for a stream."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return EventReader(wire, hide_usage=hide_usage)
    if kind.endswith("json") or kind == "application/octet-stream":
        return ArrayReader() if stream and wire is Wire.GENERATE else JsonReader(wire)
    return OpaqueReader()


__all__ = [
    "MAX_HELD",
    "STREAMS",
    "ArrayReader",
    "EventReader",
    "JsonReader",
    "OpaqueReader",
    "Read",
    "Reader",
    "reader_for",
    "usage_of",
]
