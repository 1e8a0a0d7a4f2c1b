# SPDX-License-Identifier: Apache-2.0
"""What the checks look at. What several need is read once a round."""

from __future__ import annotations

import argparse
import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from sluicegate.cli.cluster import Installation, Part, installation, items
from sluicegate.kube.client import Client
from sluicegate.v1 import introspection_service_pb2 as pb

Value = dict[str, Any]


@dataclass(slots=True)
class World:
    """A cluster to be checked at `now`. `version`: this program's."""

    client: Client
    options: argparse.Namespace
    version: str
    now: dt.datetime
    found: Installation | None = None
    pools: pb.ListPoolsResponse | None = None
    _lists: dict[str, list[Value]] = field(default_factory=dict)

    async def look(self) -> Installation | None:
        """The installation as it is now."""
        self.found = await installation(self.client, self.options.system_namespace or "")
        return self.found

    def part(self, name: str) -> Part | None:
        return self.found.parts.get(name) if self.found else None

    async def all(self, path: str) -> list[Value]:
        """The objects of a collection, read once."""
        if path not in self._lists:
            self._lists[path] = await items(self.client, path)
        return self._lists[path]
