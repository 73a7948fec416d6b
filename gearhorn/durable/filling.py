"""Filling: lanes take messages that are in memory, as many as they have room for.

Rules: runs on the event loop, in one go. Nothing is taken that no job server would take: it would
be read in vain, and held. What lanes take in one turn is bounded; those that got less than they
have room for are worked off again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.latest import Latest
from gearhorn.durable.latest_lanes import LatestLane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.outcomes import Outcomes
from gearhorn.gearman.job_servers import JobServers
from gearhorn.timing import MembersClock, now_s

TAKEN = 1500  # messages that lanes take from memory in one turn: a few milliseconds of the loop


class MissedCounter(Protocol):
    """Counts what durable subscriptions missed."""

    def passed_by(self, topic: str, client_id: str, count: int) -> None:
        """Count messages that a log dropped before a durable subscription got them."""


class Filling:
    """Has lanes take messages.

    Arguments:
        job_servers: where deliveries go.
        clock: the members', by which messages expire and rest.
        held: is told of lanes that could not take all.
        log_cache: messages in memory.
        outcomes: knows how full the job servers are, and has deliveries rest.
        latest: goes on with what lanes pass by that want the newest only.
        drops: counts messages that a log had dropped before they could be delivered.
    """

    def __init__(
        self,
        *,
        job_servers: JobServers,
        clock: MembersClock,
        held: HeldLanes,
        log_cache: LogCache,
        outcomes: Outcomes,
        latest: Latest,
        drops: MissedCounter,
    ) -> None:
        self._job_servers = job_servers
        self._clock = clock
        self._held = held
        self._log_cache = log_cache
        self._outcomes = outcomes
        self._latest = latest
        self._drops = drops
        self._left = 0  # messages that lanes may still take in this turn of the loop

    @property
    def may_take(self) -> bool:
        """Whether job servers take what is read now."""
        return self._job_servers.is_up and not self._outcomes.shipping.is_full

    def fill(self, lanes: Iterable[Lane]) -> dict[Lane, int]:
        """Take what is in memory of what lanes have room for; return those for which there may be
        more in the store, each with its room. With no job server up nothing is taken: every lane is
        worked off when one is."""
        hungry: dict[Lane, int] = {}
        may_take, is_up = self.may_take, self._job_servers.is_up
        at_s, clock_ms = now_s(), self._clock.clock_ms
        self._left = TAKEN
        looking: list[LatestLane] = []
        for lane in lanes:
            if lane.is_latest and isinstance(lane, LatestLane):
                self._latest.take_up(lane)
                looking.append(lane)
            room = lane.room
            if room:
                if may_take:
                    room = self._take_from_memory(lane, room, at_s, clock_ms)
                    if room:
                        hungry[lane] = room
                elif is_up:
                    self._outcomes.hold_up(lane)
            if lane.gap:
                self._drops.passed_by(lane.topic, lane.client_id, lane.close_gap())
        for lane in looking:
            if self._latest.looked(lane):
                self._held.touch(lane)
        return hungry

    def _take_from_memory(self, lane: Lane, room: int, at_s: float, clock_ms: int) -> int:
        """Have a lane take what follows; return its room where the store may have more."""
        while room and self._left > 0:
            count = room if room <= self._left else self._left
            entries = self._log_cache.run(lane.topic, lane.next, count)
            if not entries:
                return 0 if self._log_cache.is_at_end(lane.topic, lane.next) else room
            self._left -= len(entries)
            for delivery in lane.take(entries, at_s, clock_ms):
                self._outcomes.retries.rest_until(delivery)
            if lane.expired.is_possible:
                self._outcomes.expiry.passed(lane)
            if lane.active >= lane.options.in_flight and not lane.is_latest:
                return 0  # as nearly always
            room = lane.room  # one without room for what follows has some where that was not for it
        if room:
            self._held.touch(lane)  # it goes on in another round
        return 0
