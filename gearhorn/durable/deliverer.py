"""Delivery: the lanes of this member, from where they are taken to where they are given up.

Rules: runs on the event loop. Puts together what runs lanes: ``HeldLanes`` (which there are),
``Rounds`` (what they write, read and send), ``Outcomes`` (what becomes of their jobs).
"""

from __future__ import annotations

from collections.abc import Callable

from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.rounds import Rounds
from gearhorn.durable.states import LaneEvent
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.store.lanes import Acquired, Lanes


class Deliverer:
    """Delivers for the lanes that this member holds. ``lost`` is told of a topic whose lanes have
    to be looked at again, ``dropped`` counts messages that a log had dropped before they could be
    delivered."""

    def __init__(
        self,
        store: Lanes,
        job_servers: JobServers,
        membership: Membership,
        lost: Callable[[str], None],
        dropped: Callable[[str, str, int], None],
    ) -> None:
        self._feed = LogCache()
        self.held = HeldLanes()
        notes = PendingWrites()
        self._lost = lost
        self.outcomes = Outcomes(
            job_servers=job_servers,
            held=self.held,
            notes=notes,
            clock_ms=lambda: membership.clock_ms,
            start_over=self._start_over,
        )
        self._rounds = Rounds(
            store=store,
            job_servers=job_servers,
            membership=membership,
            held=self.held,
            feed=self._feed,
            notes=notes,
            outcomes=self.outcomes,
            lost=lost,
            dropped=dropped,
            fence=self.fence,
            end=self._end,
            start_over=self._start_over,
        )
        job_servers.on_change(self._server_changed)

    async def run(self) -> None:
        """Work the lanes off, without end."""
        await self._rounds.run()

    @property
    def count(self) -> int:
        """Lanes held."""
        return self.held.count

    @property
    def topics(self) -> list[str]:
        """The topics of the lanes that are held."""
        return self.held.topics

    def lanes(self) -> list[Lane]:
        """Return every lane that is held."""
        return self.held.all()

    def find(self, topic: str) -> dict[str, Lane]:
        """Return a topic's lanes by client_id."""
        return self.held.find(topic)

    def open(self, lane: Lane, acquired: Acquired) -> None:
        """Begin to deliver for a lane that was just acquired; while it is settling, once it is
        told to be quiet."""
        lane.inherit(acquired)
        former = self.find(lane.topic).get(lane.client_id)
        if former is not None:
            self.fence(former)
        self._feed.follow(lane.topic)
        self.held.add(lane)
        if acquired.former == "-":
            self.quiet(lane)
        else:
            self.held.mark(lane)

    def quiet(self, lane: Lane) -> None:
        """No receiver has a job of the lane's former owner."""
        if lane.apply(LaneEvent.RELEASED):
            self.held.touch(lane)

    def close(self, lane: Lane) -> None:
        """Send nothing more for a lane, and release it when nothing is under way."""
        self.held.close(lane)

    def fence(self, lane: Lane) -> None:
        """A lane is not ours any more: withdraw what waits, and forget it."""
        if lane.apply(LaneEvent.FENCE):
            self._end(lane)

    def begin_run(self, run_id: str) -> None:
        """Lanes are taken in this run of the store's server from now on; nothing is sent for them
        in another one."""
        self._rounds.begin_run(run_id)

    def abandon(self) -> None:
        """Fence every lane."""
        for lane in self.lanes():
            self.fence(lane)
        self._feed.clear()

    def _start_over(self) -> None:
        """Something is wrong with what is known here: ask the store again what is to be
        delivered."""
        self.abandon()
        self._lost("")

    def _end(self, lane: Lane) -> None:
        self.outcomes.end(lane)
        self._rounds.forget(lane)
        if self.held.remove(lane):
            self._feed.leave(lane.topic)

    async def stop(self) -> None:
        """Do nothing more."""
        await self.outcomes.withdrawals.stop()
        await self._rounds.stop()

    # What wakes lanes

    def appended(self, topic: str, last: int) -> None:
        """Messages were logged up to this sequence."""
        if not self._feed.hear(topic, last):
            return
        for lane in self.find(topic).values():
            if not lane.is_dirty and lane.active < lane.options.in_flight:
                self.held.touch(lane)

    def missed(self) -> None:
        """Anything may have been logged."""
        self._feed.doubt()
        self._server_changed()

    def _server_changed(self) -> None:
        for lane in self.lanes():
            self.held.touch(lane)
