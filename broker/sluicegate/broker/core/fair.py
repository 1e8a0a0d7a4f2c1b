# SPDX-License-Identifier: Apache-2.0
"""Weighted fairness across the tenants of one tier, by dominant share.

Theory of operation. This is start-time fair queueing over dominant shares (Goyal et al. 1997; Ghodsi et al.,
DRFQ, 2012). A call's cost is its dominant share: the maximum over the pool's continuous meters of charge
divided by limit per second, so that it is seconds of the whole pool. Each tenant has a tag, the virtual time at
which its next call starts:

    on entering the backlog   tag = max(virtual time, tag)
    on a grant                virtual time = max(virtual time, tag);  tag = tag + cost / weight
    when the charge changes   tag = tag + (new cost - old cost) / weight

The tenant with the least tag goes next. The tag outlives the backlog, so that leaving and coming back gains
nothing; once virtual time has passed it, it says nothing any more and the tenant is forgotten. While a tier has
no backlog virtual time runs with real time: the pool could have served that much.

`FairQueue` is a heap of (key, order, flow). A flow's tag mostly grows, which needs no work: an entry whose key is
behind its flow's tag is moved down when it comes to the top. A tag that shrinks gets a second entry, and the
first is dropped when it comes to the top. All operations are O(log n) amortised.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace, nsmallest

from sluicegate.broker.core.flow import Flow


class FairQueue:
    """Backlogged tenants by tag. `slot` says which of a flow's keys is this queue's."""

    __slots__ = ("_heap", "_order", "_size", "_slot", "virtual")

    def __init__(self, slot: int) -> None:
        self._slot = slot
        self._heap: list[tuple[float, int, Flow]] = []
        self._order = 0
        self._size = 0
        self.virtual = 0.0

    def __len__(self) -> int:
        return self._size

    def add(self, flow: Flow) -> None:
        """Enter a flow that is not in it: not behind virtual time."""
        flow.tag = max(flow.tag, self.virtual)
        self._size += 1
        self._push(flow)

    def discard(self, flow: Flow) -> None:
        """Take the flow out, if it is in it."""
        if flow.keys[self._slot] is not None:
            flow.keys[self._slot] = None
            self._size -= 1
            if not self._size:
                self._heap.clear()

    def shrunk(self, flow: Flow) -> None:
        """The flow's tag became less (a correction)."""
        key = flow.keys[self._slot]
        if key is not None and flow.tag < key:
            self._push(flow)

    def peek(self) -> Flow | None:
        """The flow with the least tag."""
        heap, slot = self._heap, self._slot
        while heap:
            key, _, flow = heap[0]
            if flow.keys[slot] != key:
                heappop(heap)
            elif flow.tag > key:
                flow.keys[slot] = flow.tag
                self._order += 1
                heapreplace(heap, (flow.tag, self._order, flow))
            else:
                return flow
        return None

    def first(self, count: int) -> list[Flow]:
        """Up to `count` flows of least tag, in order; looks at no more than `count` entries beyond the first."""
        self.peek()
        near = nsmallest(count, self._heap[: 4 * count])
        return list(dict.fromkeys(flow for key, _, flow in near if flow.keys[self._slot] == key))

    def flows(self) -> list[Flow]:
        """All its flows in order; for views."""
        live = [(flow.tag, order, flow) for key, order, flow in self._heap if flow.keys[self._slot] == key]
        return list(dict.fromkeys(flow for _, _, flow in sorted(live, key=lambda entry: entry[:2])))

    def _push(self, flow: Flow) -> None:
        flow.keys[self._slot] = flow.tag
        self._order += 1
        heappush(self._heap, (flow.tag, self._order, flow))
        if len(self._heap) > 2 * self._size + 16:
            self._heap = [entry for entry in self._heap if entry[2].keys[self._slot] == entry[0]]
            heapify(self._heap)
