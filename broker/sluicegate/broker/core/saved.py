# SPDX-License-Identifier: Apache-2.0
"""Documents as one entry of a ConfigMap: what the operator keeps, a broker without an operator starts from.

JSON, gzipped and in base64, since a ConfigMap holds 1 MiB: room for some twenty thousand policies.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

KEY = "documents.json.gz"


def pack(documents: Sequence[Mapping[str, Any]]) -> str:
    """`documents` as a ConfigMap's `binaryData`; the same documents are the same text."""
    text = json.dumps(documents, sort_keys=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpack(config_map: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The documents that a ConfigMap keeps, None where it keeps none yet. Raises ValueError for anything else."""
    data: Mapping[str, str] = config_map.get("binaryData") or {}
    packed = data.get(KEY)
    if not packed:
        return None
    try:
        documents: object = json.loads(gzip.decompress(base64.b64decode(packed)))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{KEY} cannot be read: {error}") from None
    if not isinstance(documents, list) or not all(isinstance(entry, dict) for entry in cast(list[object], documents)):
        raise ValueError(f"{KEY} holds no list of documents")
    return cast(list[dict[str, Any]], documents)
