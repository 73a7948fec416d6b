"""Held lanes: the lanes of this member, and which of them a round has to work off.

A member may hold ten thousand lanes of which ten have something to do. So no part walks through all
of them to find those: what happens to a lane puts it on a list (``touch``), from which rounds take
it. Likewise ``busy`` has the lanes that the job watcher and ``Quiet`` have to look after, so that
these cost nothing for lanes that are idle.

The invariant: a lane to which something happened is on the list, or in a round and marked dirty.
Then it is put on the list again when that round is over. So it is in one round at a time, and
nothing that happens to it is missed.

Rules: runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import LaneEvent, LaneState

_OPEN, _CLOSED = LaneState.OPEN, LaneState.CLOSED

LANES_IN_ROUND = 1000  # at most: what one round does keeps others from the loop and the store


class HeldLanes:
    """The lanes of this member; their ``Keeper``.

    ``woken`` is set when a lane is to be worked off, and is cleared by ``Rounds``. ``busy`` is in
    the order in which lanes became busy. ``count`` is how many lanes are held.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, dict[str, Lane]] = {}  # by topic and client_id
        self._dirty: list[Lane] = []
        self.woken = asyncio.Event()  # a lane is to be worked off
        self.busy: dict[Lane, None] = {}  # lanes with deliveries, or in no usual state
        self.count = 0

    def all(self) -> list[Lane]:
        """Return every lane that is held."""
        return [lane for lanes in self._lanes.values() for lane in lanes.values()]

    def find(self, topic: str) -> dict[str, Lane]:
        """Return a topic's lanes by client_id."""
        return self._lanes.get(topic, {})

    @property
    def topics(self) -> list[str]:
        """The topics of the lanes that are held."""
        return list(self._lanes)

    def add(self, lane: Lane) -> None:
        """A lane is held now; no other is in its place."""
        self._lanes.setdefault(lane.topic, {})[lane.client_id] = lane
        self.count += 1

    def remove(self, lane: Lane) -> bool:
        """A lane is not held any more; return whether it was the last one of its topic."""
        self.busy.pop(lane, None)
        lanes = self.find(lane.topic)
        if lanes.get(lane.client_id) is not lane:
            return False
        self.count -= 1
        del lanes[lane.client_id]
        if not lanes:
            del self._lanes[lane.topic]
        return not lanes

    def mark(self, lanes: Iterable[Lane]) -> None:
        """Have lanes looked after, or not: they have deliveries, or are in no usual state. A
        part that changes either calls this; a round does so for all its lanes."""
        for lane in lanes:
            if (lane.active or lane.state is not _OPEN) and lane.state is not _CLOSED:
                self.busy[lane] = None
            else:
                self.busy.pop(lane, None)

    def close(self, lane: Lane) -> None:
        """Send nothing more for a lane; it is released when nothing of it is under way. Without
        effect where it closes already, or has ended."""
        if lane.apply(LaneEvent.CLOSE):
            self.mark((lane,))

    def touch(self, lane: Lane) -> None:
        """Something happened to a lane: have it worked off soon. Any number of times costs no more
        than once; a lane in a round is put on the list when that is over."""
        if lane.stir():
            self._dirty.append(lane)
            self.woken.set()

    def take(self) -> list[Lane]:
        """Return the lanes of one round, those first to which something happened first. Each is to
        be handed back with ``put``."""
        lanes, self._dirty = self._dirty[:LANES_IN_ROUND], self._dirty[LANES_IN_ROUND:]
        if self._dirty:
            self.woken.set()
        for lane in lanes:
            lane.begin_round()
        return lanes

    def put(self, lanes: Iterable[Lane]) -> None:
        """A round is over; lanes to which something happened meanwhile are worked off again."""
        for lane in lanes:
            if lane.end_round():
                self._dirty.append(lane)
        if self._dirty:
            self.woken.set()
