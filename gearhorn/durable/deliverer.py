"""Delivery: the lanes of this member, from where they are taken to where they are given up.

It puts together what runs lanes: ``HeldLanes`` (which there are), ``Rounds`` (what they write, read
and send), ``Outcomes`` (what becomes of their jobs), ``Endings`` (what lets go of them). Everything
outside deals with lanes through it: ``Ownership`` opens, closes and fences them, ``Quiet`` says
when receivers of a former owner have ended, the ``Listener`` that messages were logged.

Rules: runs on the event loop. It decides nothing about a lane; the lane's state does (``states``).
"""

from __future__ import annotations

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.endings import Endings
from gearhorn.durable.filling import Filling, MissedCounter
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.latest import Latest
from gearhorn.durable.latest_lanes import wants_more
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.outcomes import Outcomes
from gearhorn.durable.pending_writes import PendingWrites
from gearhorn.durable.rounds import Rounds
from gearhorn.durable.states import LaneEvent, State
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.store.lanes import Acquired, Lanes


class Deliverer:
    """Delivers for the lanes that this member holds.

    Arguments:
        store: what lanes write, and where they read.
        job_servers: where deliveries go.
        membership: says under which id lanes are held, and until when.
        changed_lanes: is told of lanes that have to be compared with what the store has.
        drops: counts messages that a log had dropped before they could be delivered.
    """

    def __init__(
        self,
        *,
        store: Lanes,
        job_servers: JobServers,
        membership: Membership,
        changed_lanes: ChangedLanes,
        drops: MissedCounter,
    ) -> None:
        # The order is that of needs. ``Outcomes`` and ``Rounds`` hold parts of lanes and also find
        # out that lanes have ended; so ``Endings`` is built before both, and told of them last.
        self._log_cache = LogCache()
        self.held = HeldLanes()
        pending = PendingWrites()
        self._endings = Endings(
            held=self.held, log_cache=self._log_cache, changed_lanes=changed_lanes
        )
        self.outcomes = Outcomes(
            job_servers=job_servers,
            held=self.held,
            pending=pending,
            clock=membership,
            endings=self._endings,
        )
        filling = Filling(
            job_servers=job_servers,
            clock=membership,
            held=self.held,
            log_cache=self._log_cache,
            outcomes=self.outcomes,
            latest=Latest(self._log_cache, pending, self.outcomes.shipping),
            drops=drops,
        )
        self._rounds = Rounds(
            store=store,
            job_servers=job_servers,
            membership=membership,
            held=self.held,
            log_cache=self._log_cache,
            pending=pending,
            outcomes=self.outcomes,
            endings=self._endings,
            changed_lanes=changed_lanes,
            filling=filling,
        )
        self._endings.attach(self.outcomes, self._rounds)
        job_servers.on_change(self._server_changed)

    async def run(self) -> None:
        """Work the lanes off, without end. What crashes in it costs a round; see ``Rounds``."""
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
        """Return every lane that is held, also those that close."""
        return self.held.all()

    def find(self, topic: str) -> dict[str, Lane]:
        """Return a topic's lanes by client_id."""
        return self.held.find(topic)

    def open(self, lane: Lane, acquired: Acquired) -> None:
        """Begin to deliver for a lane that was just taken.

        Arguments:
            lane: as the store has it, with a TERM of this member's.
            acquired: what its former owner left. Where a receiver may still have a job of that
                owner, nothing is sent until ``quiet`` is called.
        """
        # What was left is taken over first: a lane that delivers before it knows what was parked
        # would deliver that again. A lane of a former TERM in the same place ends before the new
        # one stands there, so that the topic's log is left and followed again in that order.
        lane.inherit(acquired)
        former = self.find(lane.topic).get(lane.client_id)
        if former is not None:
            self.fence(former)
        self._log_cache.follow(lane.topic, acquired.epoch)
        self.held.add(lane)
        if acquired.former == "-":
            self.quiet(lane)
        else:
            self.held.mark((lane,))

    def quiet(self, lane: Lane) -> None:
        """No receiver has a job of the lane's former owner: it may send. Without effect where it
        sends already, closes, or has ended."""
        if lane.apply(LaneEvent.RELEASED):
            self.held.touch(lane)

    def close(self, lane: Lane) -> None:
        """Send nothing more for a lane, and release it when nothing is under way. Jobs that no
        receiver has taken are withdrawn as soon as that is found out (``JobWatcher``)."""
        self.held.close(lane)

    def fence(self, lane: Lane) -> None:
        """A lane is not this member's any more: withdraw what waits, and forget it. Receivers that
        have a job finish it, and are not heard."""
        self._endings.fence(lane)

    def begin_run(self, run_id: str) -> None:
        """Lanes are taken in this run of the store's server from now on; nothing is sent for them
        in another one."""
        self._rounds.begin_run(run_id)

    def abandon(self) -> None:
        """Fence every lane: the lease is lost, or the store is another one."""
        self._endings.fence_all()

    async def stop(self) -> None:
        """Do nothing more. What job servers hold stays there, for the next owners of the lanes to
        wait for."""
        await self.outcomes.withdrawals.stop()
        await self._rounds.stop()

    # What wakes lanes

    def appended(self, topic: str, last: int, first: int = 0) -> None:
        """Messages were logged up to the sequence ``last``, and the log begins with ``first`` now.
        Lanes whose windows are full are left alone: they take what follows when something of them
        is done, as is what rested and is not in the log any more."""
        if self._log_cache.begins(topic, first):
            for lane in self.find(topic).values():
                if lane.position < first - 1 and lane.counts[State.RESTING]:
                    gone = self.outcomes.retries.give_up_before(lane, first)
                    self._log_cache.drop(topic, gone)
        if not self._log_cache.hear(topic, last):
            return
        for lane in self.find(topic).values():
            if not lane.is_dirty and (lane.active < lane.options.in_flight or wants_more(lane)):
                self.held.touch(lane)

    def missed(self) -> None:
        """Anything may have been logged: have every lane read to where its log ends."""
        self._log_cache.doubt()
        self._server_changed()

    def _server_changed(self) -> None:
        """A job server came or went, or it counts as if: every lane may have something to send."""
        for lane in self.lanes():
            self.held.touch(lane)
