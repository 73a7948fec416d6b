"""Withdrawals: jobs that are taken back from job servers, and off their queues.

Theory of operation. gearmand gives a cancelled job to no receiver, but keeps it on its queue until
a worker asks for a job of that function (docs/gearmand.rst, "Status and admin commands"). Where
receivers are away for days, cancelled deliveries would pile up there. So a worker of gearhorn's
asks the queue for a job itself, which takes the cancelled ones off.

That worker must not get a job that is alive: it belongs to a receiver. So a queue is asked only
where nothing but cancelled jobs waits, which ``status`` tells. And those that withdrew the jobs are
told only after that, so that nothing new is sent to the queue between the reading and the asking.

Why in batches: cancelling is a text command for each job, and reading ``status`` costs the job
server time for every function that it knows. So up to ``AT_ONCE`` jobs are cancelled for one
reading, and readings keep to one ``DUTY``-th of the time. Each job server is worked on alone: one
that is frozen does not hold up the others.

Rules: runs on the event loop. Handles are good for the connection that submitted them only: a job
server that was restarted may give the same handle to another job. Cancelling that fails is tried
again; jobs of a connection that has ended are forgotten.
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
    """A job to take back."""

    handle: bytes
    queue: bytes
    connection: Connection | None  # that submitted it
    then: Callable[[], None] | None  # called when it is cancelled; never if that ends first


class Withdrawals:
    """Takes jobs back, with a task for each job server that has some to cancel."""

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
        # Those that withdrew jobs are told last, when the queues are empty: see above. What comes
        # meanwhile is behind the rest, so that the loop takes it up in its order.
        backoff = Backoff(0.05, 1.0)
        try:
            while waiting := self._waiting.pop(place, None):
                batch, rest = waiting[:AT_ONCE], waiting[AT_ONCE:]
                connection = self._job_servers.clients[place].connection
                live = [withdrawal for withdrawal in batch if withdrawal.connection is connection]
                if connection is None or not live:
                    self._waiting[place][:0] = rest
                    continue
                if not await self._cancel(place, connection, live):
                    self._waiting[place][:0] = waiting
                    await sleep(backoff.next_s())
                    continue
                self._waiting[place][:0] = rest
                await self._take_off(place, live)
                backoff.reset()
                for withdrawal in live:
                    if withdrawal.then is not None:
                        withdrawal.then()
        finally:
            self._running.discard(place)

    async def _cancel(self, place: int, connection: Connection, live: Sequence[Withdrawal]) -> bool:
        """Cancel jobs while the connection is open that submitted them; return whether the job
        server was reached."""
        handles = [withdrawal.handle for withdrawal in live]
        are_valid = partial(getattr, connection, "is_open")
        try:
            await self._job_servers.admins[place].cancel(handles, are_valid)
        except OSError as error:
            text = str(error) or type(error).__name__
            log.debug("deliveries are not withdrawn; trying again", error=text)
            return False
        return True

    async def _take_off(self, place: int, cancelled: Sequence[Withdrawal]) -> None:
        """Have a job server forget cancelled jobs; if that fails they stay until a receiver asks
        for a job."""
        if now_s() < self._read_s[place]:
            await sleep(self._read_s[place] - now_s())
        began_s = now_s()
        counts = Counter(withdrawal.queue for withdrawal in cancelled)
        try:
            waiting = await self._job_servers.admins[place].waiting(counts)
            self._read_s[place] = now_s() + DUTY * (now_s() - began_s)
            # where more wait than were cancelled, some are for a receiver
            queues = [queue for queue, count in counts.items() if 0 < waiting[queue] <= count]
            if queues:
                await self._job_servers.reap(place, queues)
        except OSError as error:
            text = str(error) or type(error).__name__
            log.debug("cancelled jobs stay on their queues", error=text)
