"""Endings: how lanes cease to be this member's, and what lets go of them then.

Three things end a lane: it is released (the store has been told, and nothing of it is under way),
it is *fenced* (the store says that another member, or another TERM, has it), or everything that is
known here is doubtful and every lane is taken anew. What holds something of a lane is the same each
time, so it is told in one place and in one order.

Why the order. ``Outcomes`` comes first, because it withdraws the lane's jobs and needs the window
for that. ``HeldLanes`` comes last: until then the lane is found by those that are told.

Rules: runs on the event loop. Rounds and outcomes find out that a lane has ended, and hold parts of
lanes themselves. So they are given this object when they are built, and are attached to it
afterwards.
"""

from __future__ import annotations

from typing import Protocol

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.states import LaneEvent


class LaneHolder(Protocol):
    """Keeps something for each lane while that is this member's."""

    def end(self, lane: Lane) -> None:
        """Let go of a lane that is not this member's any more."""


class Endings:
    """Ends lanes.

    Arguments:
        held: the lanes that there are.
        log_cache: has the messages of their topics in memory.
        changed_lanes: is told where the store has to be asked who delivers.
    """

    def __init__(
        self, *, held: HeldLanes, log_cache: LogCache, changed_lanes: ChangedLanes
    ) -> None:
        self._held = held
        self._log_cache = log_cache
        self._changed_lanes = changed_lanes
        self._holders: tuple[LaneHolder, ...] = ()

    def attach(self, *holders: LaneHolder) -> None:
        """Have these told of each lane that ends, in this order."""
        self._holders = holders

    def fence(self, lane: Lane) -> None:
        """A lane is another member's, or of another TERM: withdraw what waits, and forget it.
        Without effect where the lane has ended."""
        if lane.apply(LaneEvent.FENCE):
            self.end(lane)

    def release(self, lane: Lane) -> None:
        """The store knows that a lane is given up: forget it. Its topic is compared, because the
        word that it is free may have come before the answer of the store. Without effect where
        the lane does not close, or has ended."""
        if lane.apply(LaneEvent.IDLE):
            self.end(lane)
            self._changed_lanes.add(lane.topic)

    def end(self, lane: Lane) -> None:
        """Hold nothing of a lane that is closed, nor of its topic after the last lane of it."""
        for holder in self._holders:
            holder.end(lane)
        if self._held.remove(lane):
            self._log_cache.leave(lane.topic)

    def fence_all(self) -> None:
        """No lane is this member's any more. What was read of logs goes too: whatever is taken
        next may be of another epoch."""
        for lane in self._held.all():
            self.fence(lane)
        self._log_cache.clear()

    def start_over(self) -> None:
        """Something is wrong with what is known here: forget every lane, and ask the store which
        are to be taken."""
        self.fence_all()
        self._changed_lanes.add_all()
