"""The durable side of a member: builds what logs, delivers and reads; starts and stops it as one.

The parts fall into four groups. *Into the log*: ``Appends``, ``Pruner``. *Out of it to receivers*:
``Ownership`` (which lanes are this member's), ``Deliverer`` with all that runs lanes, and what
watches their jobs (``JobWatcher``, ``Quiet``, ``Redrives``). *Out of it on request*: ``Fetching``,
``ParkedRequests``. *Back to publishers*: ``AckWaiters``. What the store publishes reaches them
through ``Listener``.

Where a part depends on another it is given that when it is built, so that the order in ``__init__``
is the order of needs. No part knows of this module.

Rules: does nothing itself, but for telling the other members that the members have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from gearhorn.durable.ack_waiters import AckWaiters
from gearhorn.durable.appends import Appends
from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.fetching import Fetching
from gearhorn.durable.filling import MissedCounter
from gearhorn.durable.job_watch import JobWatcher
from gearhorn.durable.listener import Listener
from gearhorn.durable.ownership import Ownership
from gearhorn.durable.parked import ParkedRequests
from gearhorn.durable.pruning import Pruner
from gearhorn.durable.quiet import Quiet
from gearhorn.durable.redrives import Redrives
from gearhorn.durable.reply import REPLIES
from gearhorn.errors import StoreError
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.messages.events import MembersChanged
from gearhorn.store.asked import Askers
from gearhorn.store.connection import Connection
from gearhorn.store.events import ChannelListener, Events
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import Log
from gearhorn.tasks import Tasks

log = structlog.get_logger(__name__)


class DurableTopics:
    """Durable topics, as far as this member has to do with them.

    Arguments:
        store: where logs and lanes are.
        membership: which other members may deliver.
        job_servers: which deliveries go through.
        process: this worker's name, for members that tell it of receivers.
        drops: counts messages that a log had dropped before a subscription got them.

    ``appends``, ``fetching``, ``parked`` and ``ack_waiters`` are for the parts that take requests;
    ``log`` and ``lanes`` for those that describe what the store holds.
    """

    def __init__(
        self,
        *,
        store: Connection,
        membership: Membership,
        job_servers: JobServers,
        process: str,
        drops: MissedCounter,
    ) -> None:
        self._membership = membership
        self._tasks = Tasks()
        self._changed_lanes = ChangedLanes()
        self.log = Log(store)
        self.lanes = Lanes(store)
        self.appends = Appends(self.log, membership, process)
        self.ack_waiters = AckWaiters(self.lanes, membership)

        reply_slots = asyncio.Semaphore(REPLIES)
        self.fetching = Fetching(self.log, reply_slots, membership)
        self.parked = ParkedRequests(self.lanes, reply_slots)

        self.deliverer = Deliverer(
            store=self.lanes,
            job_servers=job_servers,
            membership=membership,
            changed_lanes=self._changed_lanes,
            drops=drops,
        )
        self._job_watcher = JobWatcher(self.deliverer, job_servers)
        self._quiet = Quiet(self.deliverer, job_servers)
        self._redrives = Redrives(self.lanes, self.deliverer)
        self._ownership = Ownership(
            lanes=self.lanes,
            membership=membership,
            deliverer=self.deliverer,
            redrives=self._redrives,
            changed_lanes=self._changed_lanes,
            server=store,
        )
        self._events = Events(store, self._listeners(store, process))
        self._pruner = Pruner(self.log, Askers(store), membership)

    def _listeners(self, store: Connection, process: str) -> dict[str, ChannelListener]:
        """Return who hears what the store publishes, by channel."""
        listener = Listener(
            deliverer=self.deliverer,
            fetching=self.fetching,
            changed_lanes=self._changed_lanes,
            ownership=self._ownership,
            redrives=self._redrives,
            membership=self._membership,
            tasks=self._tasks,
        )
        return {
            store.channel("events"): listener,
            store.channel("done", process): self.ack_waiters,
        }

    @property
    def is_idle(self) -> bool:
        """Whether no message waits to be logged and no lane is held."""
        return self.appends.is_idle and not self.deliverer.count

    def start(self) -> None:
        """Begin to deliver, prune and listen. Without the vital parts the member must not serve.

        Their names are those under which a crash is logged and counted. Vital is what messages or
        lanes would stand still without; the others are made up for by polling, or by other members.
        """
        self._membership.on_members(self._changed_lanes.add_all)
        vital = {
            "events": self._events.run,
            "appends": self.appends.write,
            "appended": self.appends.tell,
            "ownership": self._ownership.run,
            "delivery": self.deliverer.run,
            "job watch": self._job_watcher.run,
            "quiet": self._quiet.run,
            "redrives": self._redrives.run,
        }
        for name, loop in vital.items():
            self._tasks.keep(name, loop, is_vital=True)
        self._tasks.keep("deaths", self._job_watcher.watch_deaths)
        self._tasks.keep("waiting", self.ack_waiters.run)
        self._tasks.keep("pruning", self._pruner.run)

    async def leave(self) -> None:
        """Give every lane up as soon as no receiver has a job of it; ``is_idle`` tells when that is
        done. The other members are told first, so that they take each lane as it becomes free."""
        await self._ownership.leave()

    async def stop(self) -> None:
        """End every part, and what it has open at the store: the loops first, since they begin
        rounds and withdrawals."""
        await self._tasks.cancel()
        await self.deliverer.stop()
        await asyncio.gather(self.log.close(), self.lanes.close())

    def changed(self, topic: str, client_id: str | None = None) -> None:
        """A topic's lanes may have changed, or one client's alone; "" is every topic. They are
        compared soon with what the store has (``Ownership``)."""
        self._changed_lanes.add(topic, client_id)
        if topic:
            self.fetching.appended(topic)  # it may have been paused
        else:
            self.fetching.missed()

    async def wait_logged(self, topics: Sequence[str] | None) -> None:
        """Return once no message is on its way to the log for a fan-out that was taken before
        now, and lanes of these topics (None: of any) that have ended deliver nothing more.

        A member that is told of a removed subscription waits for this before it answers
        (``Coherence.wait_sent``): nothing for that subscription may be on its way then.
        """
        await asyncio.gather(self.appends.barrier(), self._ownership.wait_ended(topics))

    def abandon(self) -> None:
        """The lease is lost: no lane is this member's any more. All of them are compared, and
        taken again under the member's next id as far as they fall to it."""
        self.deliverer.abandon()
        self._changed_lanes.add_all()

    def members_changed(self) -> None:
        """A member came or went: have the other members read who is there. Their lanes would move
        without that too, but only after their next renewals."""
        self._tasks.spawn(self._tell_members(), "members")

    async def _tell_members(self) -> None:
        """Publish that the members have changed; where that fails, renewals make up for it."""
        try:
            await self.lanes.tell(MembersChanged())
        except StoreError as error:
            log.debug("the others are not told of members", error=str(error))
