"""Withdrawals: jobs that are taken back from job servers, and off their queues.

Rules: runs on the event loop. A cancelled job is given to no receiver, but gearmand keeps it until
a worker asks for one of its function. So the queue is asked, where nothing but cancelled jobs waits
there; only then those who withdrew them are told, so that nothing else is sent there meanwhile.
"""

from __future__ import annotations

from asyncio import sleep
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.link import Connection
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

AT_ONCE = 1000  # jobs cancelled before their queues are asked
DUTY = 20  # reading ``status`` takes so much less of a job server's time than passes between

log = structlog.get_logger(__name__)


class Withdrawal(NamedTuple):
    """A job to take back; ``then`` is called when that is done, never if ``connection``, which
    submitted it, ends first."""

    handle: bytes
    queue: bytes
    connection: Connection | None
    then: Callable[[], None] | None


class Withdrawals:
    """Takes jobs back, for one job server after the other as they come."""

    def __init__(self, job_servers: JobServers) -> None:
        self._job_servers = job_servers
        self._waiting: defaultdict[int, list[Withdrawal]] = defaultdict(list)  # by server
        self._running: set[int] = set()  # servers that are worked on
        self._read_s: defaultdict[int, float] = defaultdict(float)  # when to read status again
        self._tasks = Tasks()

    def add(self, place: int, withdrawal: Withdrawal) -> None:
        """Take a job back soon."""
        self._waiting[place].append(withdrawal)
        if place not in self._running:
            self._running.add(place)
            self._tasks.spawn(self._work(place), "withdrawals")

    async def stop(self) -> None:
        """Take nothing back any more."""
        await self._tasks.cancel()

    async def _work(self, place: int) -> None:
        """Work off what waits for one server."""
        backoff = Backoff(0.05, 1.0)
        try:
            while waiting := self._waiting.pop(place, None):
                some, rest = waiting[:AT_ONCE], waiting[AT_ONCE:]
                connection = self._job_servers.clients[place].connection
                live = [one for one in some if one.connection is connection]
                if connection is None or not live:
                    self._waiting[place][:0] = rest
                    continue
                handles = [one.handle for one in live]
                are_valid = partial(getattr, connection, "is_open")
                try:
                    await self._job_servers.admins[place].cancel(handles, are_valid)
                except OSError as error:
                    words = str(error) or type(error).__name__
                    log.debug("deliveries are not withdrawn; trying again", error=words)
                    self._waiting[place][:0] = waiting
                    await sleep(backoff.next_s())
                    continue
                self._waiting[place][:0] = rest
                await self._take_off(place, live)
                backoff.reset()
                for one in live:
                    if one.then is not None:
                        one.then()
        finally:
            self._running.discard(place)

    async def _take_off(self, place: int, cancelled: Sequence[Withdrawal]) -> None:
        """Have a job server forget cancelled jobs; if that fails they stay until a receiver asks
        for a job."""
        if now_s() < self._read_s[place]:
            await sleep(self._read_s[place] - now_s())
        began_s = now_s()
        counts = Counter(one.queue for one in cancelled)
        try:
            waiting = await self._job_servers.admins[place].waiting(counts)
            self._read_s[place] = now_s() + DUTY * (now_s() - began_s)
            # more than were cancelled: some that a receiver is to get, and nobody can tell which
            queues = [queue for queue, count in counts.items() if 0 < waiting[queue] <= count]
            if queues:
                await self._job_servers.reap(place, queues)
        except OSError as error:
            words = str(error) or type(error).__name__
            log.debug("cancelled jobs stay on their queues", error=words)
