"""The durable side of a member: puts together what logs, delivers and reads.

Rules: knows every part of it and does nothing itself; ``worker`` starts and stops it as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.durable.ack_waiters import AckWaiters
from gearhorn.durable.appends import Appends
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.fetching import Reading
from gearhorn.durable.job_watch import JobWatcher
from gearhorn.durable.listener import Listener
from gearhorn.durable.ownership import Ownership
from gearhorn.durable.pruning import prune
from gearhorn.durable.quiet import Quiet
from gearhorn.durable.redrives import Redrives
from gearhorn.errors import StoreError
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.messages.events import (
    MembersChanged,
)
from gearhorn.store.asked import Askers
from gearhorn.store.connection import Connection
from gearhorn.store.events import ChannelListener, Events
from gearhorn.store.lanes import Lanes
from gearhorn.store.log import Log
from gearhorn.tasks import Tasks

log = structlog.get_logger(__name__)


class MissedCounter(Protocol):
    """Who counts what durable subscriptions missed."""

    def passed_by(self, topic: str, client_id: str, count: int) -> None:
        """Count messages that a log dropped before a durable subscription got them."""


class DurableTopics:
    """Durable topics, as far as this member has to do with them.

    Arguments:
        store: where logs and lanes are.
        membership: who else may deliver.
        job_servers: which deliveries go through.
        process: this worker's name for whoever waits.
        parked_function: the function that lists and puts back parked messages.
        drops: counts messages that a log had dropped before a subscription got them.
    """

    def __init__(
        self,
        *,
        store: Connection,
        membership: Membership,
        job_servers: JobServers,
        process: str,
        parked_function: bytes,
        drops: MissedCounter,
    ) -> None:
        self.log = Log(store)
        self.lanes = Lanes(store)
        self._askers = Askers(store)
        self._membership = membership
        self.appends = Appends(self.log, lambda: membership.clock_ms, process)
        self.waiting = AckWaiters(self.lanes)
        self.reading = Reading(self.log, self.lanes, parked_function)
        self.deliverer = Deliverer(
            self.lanes, job_servers, membership, self.changed, drops.passed_by
        )
        self._looks = JobWatcher(self.deliverer, job_servers)
        self._redrives = Redrives(self.lanes, self.deliverer)
        self._quiet = Quiet(self.deliverer, job_servers)
        self._ownership = Ownership(
            self.lanes, membership, self.deliverer, self._redrives, lambda: store.run_id
        )
        self._tasks = Tasks()
        listener = Listener(
            deliverer=self.deliverer,
            reading=self.reading,
            ownership=self._ownership,
            redrives=self._redrives,
            membership=membership,
            tasks=self._tasks,
        )
        listeners: dict[str, ChannelListener] = {
            store.channel("events"): listener,
            store.channel("done", process): self.waiting,
        }
        self._events = Events(store, listeners)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be logged and no lane is held."""
        return self.appends.is_idle and not self.deliverer.count

    def start(self) -> None:
        """Begin to deliver, prune and listen."""
        self._membership.on_members(self._ownership.refresh)
        vital = {
            "events": self._events.run,
            "appends": self.appends.write,
            "appended": self.appends.tell,
            "ownership": self._ownership.run,
            "delivery": self.deliverer.run,
            "looks": self._looks.run,
            "quiet": self._quiet.run,
            "redrives": self._redrives.run,
        }
        for name, loop in vital.items():
            self._tasks.keep(name, loop, is_vital=True)
        self._tasks.keep("deaths", self._looks.watch_deaths)
        self._tasks.keep("waiting", self.waiting.run)
        self._tasks.keep("pruning", self._prune)

    async def _prune(self) -> None:
        await prune(self.log, self._askers, lambda: self._membership.clock_ms)

    async def leave(self) -> None:
        """Give every lane up as soon as no receiver has a job of it; ``is_idle`` tells when."""
        await self._ownership.leave()

    async def stop(self) -> None:
        """Do nothing more."""
        await self._tasks.cancel()
        await self.deliverer.stop()
        await asyncio.gather(self.log.close(), self.lanes.close())

    def changed(self, topic: str, client_id: str | None = None) -> None:
        """A topic's lanes may have changed, or one client's alone; "" is every topic."""
        self._ownership.changed(topic, client_id)

    async def wait_logged(self, topics: Sequence[str] | None) -> None:
        """Return once no message is on its way to the log for a fan-out that was taken before
        now, and lanes of these topics (None: of any) that have ended deliver nothing more."""
        await asyncio.gather(self.appends.barrier(), self._ownership.wait_ended(topics))

    def abandon(self) -> None:
        """The lease is lost: nothing is ours."""
        self.deliverer.abandon()
        self._ownership.refresh()

    def members_changed(self) -> None:
        """Somebody came or went: let the others look."""
        self._tasks.spawn(self._tell_members(), "members")

    async def _tell_members(self) -> None:
        try:
            await self.lanes.tell(MembersChanged())
        except StoreError as error:
            log.debug("the others are not told of members", error=str(error))
