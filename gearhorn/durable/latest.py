"""Latest: has lanes that want the newest message only look through the log, and passes by the rest.

Rules: runs on the event loop. What a lane passes by is done for those who wait for it: a newer
message has taken its place. Nothing is done here for any other lane. See ``latest_lanes``, and
docs/protocol.rst, "The latest only".
"""

from __future__ import annotations

from gearhorn.durable.latest_lanes import GIVES_WAY, LatestLane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.shipping import Shipping
from gearhorn.durable.states import Event

SKIPPED = 500  # deliveries that left something behind, in one go: a few milliseconds


class Latest:
    """Goes on with the deliveries whose place a newer message has taken.

    Arguments:
        log_cache: knows where logs end.
        pending: is told what the store, and processes that wait, have to know.
        shipping: hears no more of jobs that are over.
    """

    def __init__(self, log_cache: LogCache, pending: PendingWrites, shipping: Shipping) -> None:
        self._log_cache = log_cache
        self._pending = pending
        self._shipping = shipping

    def take_up(self, lane: LatestLane) -> None:
        """A round takes a lane up, before it takes messages: what was outdated meanwhile leaves, so
        that there is room."""
        lane.aim(self._log_cache.end_of(lane.topic))
        self._pass_by(lane)

    def looked(self, lane: LatestLane) -> bool:
        """A lane has taken what was in memory; return whether it may go on at once: there is more
        to pass by than may be dealt with in one go, or room has come of it."""
        was_full = lane.is_full
        is_left = self._pass_by(lane)
        if self._log_cache.is_at_end(lane.topic, lane.next):
            lane.reach_end()
        return is_left or (was_full and lane.room > 0)

    def _pass_by(self, lane: LatestLane) -> bool:
        """Have outdated deliveries leave that nothing is under way for; return whether there are
        more than may be dealt with in one go."""
        if not lane.outdated:
            return False
        over = [d for d in lane.outdated if d.state in GIVES_WAY]
        for delivery in over[:SKIPPED]:
            delivery.apply(Event.SKIP)
            self._pending.finish(delivery, is_parked=False)
            lane.give_way(delivery)
            delivery.end()
            self._shipping.forget(delivery)
        return len(over) > SKIPPED
