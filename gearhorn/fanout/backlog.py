"""Backlogs: how many jobs wait on the queues, as the job servers' ``status`` tells.

Theory of operation. gearmand forgets the limits of its queues when it restarts, and walks through
all its functions for each limit that is set. So most limits are not set before a queue needs one:
when it is a quarter full. To find such queues, the backlogs are polled with the text command
``status``, and what is found goes to ``Limits.found``.

A poll stalls a gearmand of 100,000 functions for 40 ms. So it is done seldom, in turn with the
other members: each polls every ``POLL_INTERVAL_S`` times the number of members, which makes one
poll in ``POLL_INTERVAL_S``. A burst may fill a queue in between. So each list carries an
*allowance* of fan-outs, which is used up when this member alone, or all of them at its pace, may
have filled a quarter of its lowest limit; then a poll is begun at once.

Rules: runs on the event loop; one poll at a time. A server that cannot be asked is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import structlog

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Directory
from gearhorn.fanout.limits import EAGER_LIMIT, Limits
from gearhorn.gearman.job_servers import JobServers
from gearhorn.members.membership import Membership
from gearhorn.names import splits_of
from gearhorn.tasks import Tasks
from gearhorn.timing import now_s

POLL_INTERVAL_S = 10.0  # times the number of members
RECENT_S = 10.0  # what ``describe_fanout`` tells is at most so old
CHUNK = 2_000  # queues that are worked on before the event loop has its turn: 4 ms

log = structlog.get_logger(__name__)


class Backlog:
    """Polls backlogs, a share of it: the other members do the rest.

    Arguments:
        job_servers: which are asked.
        limits: sets limits of the queues that are found filling up.
        membership: for how many members share the polls.
    """

    def __init__(self, job_servers: JobServers, limits: Limits, membership: Membership) -> None:
        self._job_servers = job_servers
        self._limits = limits
        self._membership = membership
        self._tasks = Tasks()
        self._recent: tuple[dict[bytes, int], float | None] | None = None
        self._recent_s = 0.0
        self._asking = asyncio.Lock()  # one reading serves all that are wanted at once
        self._polling: asyncio.Task[None] | None = None

    def poll_soon(self, subscribers: Subscribers, directory: Directory) -> None:
        """A list has carried as many fan-outs as it may before its backlog is read: begin a poll,
        unless there is one.

        The list gets its next allowance at once. A poll takes a moment, in which each further
        fan-out would ask for another one.
        """
        subscribers.allow(self.allowance(subscribers))
        if self._polling is None or self._polling.done():
            self._polling = self._tasks.spawn(self.poll(directory), "backlog poll")

    def allowance(self, subscribers: Subscribers) -> int:
        """Return how many fan-outs of this member may go to a list before its backlog is read.

        That is when every member publishes as often and no receiver takes anything: then they fill
        a quarter of the lowest of the list's limits that are not set before its first copy.
        """
        return self._limits.lowest(subscribers, EAGER_LIMIT) // (4 * self._membership.count) + 1

    async def recent(self) -> tuple[dict[bytes, int], float | None]:
        """Return the jobs that wait or run per queue, at most ``RECENT_S`` old, and when that was
        (Unix time); None where no server could be asked."""
        if self._recent is None or now_s() - self._recent_s > RECENT_S:
            async with self._asking:
                if self._recent is None or now_s() - self._recent_s > RECENT_S:
                    await self._read_all()
        return self._recent or ({}, None)

    async def _read_all(self) -> None:
        """Read every server's backlog, for ``recent``."""
        total: Counter[bytes] = Counter()
        at: float | None = None
        for place in range(len(self._job_servers.admins)):
            backlog = await self._read(place)
            if backlog is not None:
                at = time.time()
                for number, (queue, waiting) in enumerate(backlog.items(), 1):
                    total[queue] += waiting
                    if not number % CHUNK:
                        await asyncio.sleep(0)
        self._recent, self._recent_s = (total, at), now_s()

    async def _read(self, place: int) -> dict[bytes, int] | None:
        """Read one server's backlog; None where it cannot be asked."""
        client = self._job_servers.clients[place]
        if not client.is_up:
            return None
        try:
            return await self._job_servers.admins[place].backlog()
        except OSError as error:
            text = str(error) or type(error).__name__
            log.warning("backlog is unknown", server=str(client.server), error=text)
            return None

    async def poll(self, directory: Directory) -> None:
        """Read every server's backlog, and have the limits set of queues that need it."""
        for place in range(len(self._job_servers.admins)):
            backlog = await self._read(place)
            for topic, waiting in (await self._sort(directory, backlog or {})).items():
                subscribers = directory.peek(topic)
                if subscribers is not None:
                    await self._limits.found(place, subscribers.own, waiting)

    async def _sort(
        self, directory: Directory, backlog: dict[bytes, int]
    ) -> dict[str, dict[bytes, int]]:
        """Return the queues that are to be looked into, by topic, with the jobs that wait there.

        Those are queues that hold more than their topic's lowest limit, which is not in force then,
        or a quarter of it where it was not set before the first copy. Only topics whose list is
        cached count: for the others there are no copies to be limited. A queue's name may stand for
        several pairs of topic and client_id, and each of the topics gets it.
        """
        found: dict[str, dict[bytes, int]] = {}
        minimum = 2 if self._limits.remembered else EAGER_LIMIT // 4
        for number, (queue, waiting) in enumerate(backlog.items(), 1):
            if not number % CHUNK:
                await asyncio.sleep(0)
            if waiting < minimum:
                continue  # nearly all of 100,000, so this comes before any name is split
            for topic in _lists_of(queue):
                subscribers = directory.peek(topic)
                if subscribers is None:
                    continue
                lowest = self._limits.lowest(subscribers.own)
                if waiting > lowest or (4 * waiting >= lowest and 4 * waiting >= EAGER_LIMIT):
                    found.setdefault(topic, {})[queue] = waiting
        return found

    async def run(self, directory: Directory) -> None:
        """Poll backlogs now and then; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        polled_at = loop.time()
        while True:
            await asyncio.sleep(1.0)
            if loop.time() - polled_at > POLL_INTERVAL_S * self._membership.count:
                polled_at = loop.time()
                await self.poll(directory)


def _lists_of(queue: bytes) -> list[str]:
    """Return the names of the lists that a queue may belong to."""
    try:
        return [name for name, _ in splits_of(queue)]
    except UnicodeDecodeError:
        return []
