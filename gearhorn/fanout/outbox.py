"""The outbox: where the fan-outs of a member hand over their copies.

What a fan-out itself does is in ``running``, which calls this. Here are the copies that no server
can take now, the Gearman unique ids of the moment, and the long work at a fan-out's end.

Theory of operation. Foreground copies with a ``unique`` carry an id that begins with the member's
tag and a *generation*. gearmand merges a job with one of the same id that waits or runs, and goes
on doing so with a job whose submitter has left: the new copy would never be answered. So the
generation goes up whenever copies may have been abandoned, which is when some were withdrawn or a
server came or went. Copies of one message that are sent before and after do not merge then, which
is allowed; a copy that is swallowed is not.

Rules: runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import structlog

from gearhorn.durable.ack_waiters import AckWaiters
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import Subscribers, unique_id
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.overflow import Overflow
from gearhorn.fanout.places import Places
from gearhorn.fanout.portions import Portions
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import Fanout
from gearhorn.patterns import among
from gearhorn.requests import answering, attempt
from gearhorn.tasks import Tasks
from gearhorn.timing import MembersClock

STEPS = 8  # slices of a list that are named in one turn of the loop: 4 ms
WITHDRAW_S = 1.0  # how long a reply waits for a job server to withdraw copies

_Found = TypeVar("_Found")

log = structlog.get_logger(__name__)


class Stranded(Protocol):
    """A fan-out with copies that no server can take now."""

    job: Job

    def send_stranded(self, indexes: Sequence[int] | None) -> None:
        """A server is up: send the copies for some queues of the list (None: all)."""


class Batch(Protocol):
    """Copies of one fan-out at one server."""

    @property
    def place(self) -> int:
        """Which server it is, among ``JobServers.clients``."""

    @property
    def is_held(self) -> bool:
        """Whether the server that accepted the copies still is connected."""


class Withdrawing(Protocol):
    """A fan-out that is over, with copies that receivers need not work on any more."""

    job: Job

    def withdrawals(self) -> Iterator[asyncio.Task[None] | None]:
        """Begin to withdraw the copies at one server with each step; yield None where none is to
        be withdrawn."""

    def withdrawn(self) -> None:
        """Every withdrawal has ended, or has had ``WITHDRAW_S``."""


class Outbox:
    """What the fan-outs of a member share.

    Arguments:
        job_servers: which carry the copies.
        backlog: is told of lists that have carried as many fan-outs as they may.
        drops: counts dropped copies.
        overflow: keeps copies for full queues.
        waiting: knows the fan-outs that wait for durable receivers.
        places: what foreground fan-outs may hold.
        tag: 8 bytes of ASCII, the member's own, which its foreground unique ids begin with.
        clock: tells when messages expire.
    """

    def __init__(
        self,
        job_servers: JobServers,
        *,
        backlog: Backlog,
        drops: Drops,
        overflow: Overflow,
        waiting: AckWaiters,
        places: Places,
        tag: bytes,
        clock: MembersClock,
    ) -> None:
        self.job_servers = job_servers
        self.clock = clock
        self.backlog = backlog
        self.drops = drops
        self.overflow = overflow
        self.waiting = waiting
        self.places = places
        self.portions = Portions(job_servers)
        self._tag = tag
        self._generation = 0
        self._stranded: list[tuple[Stranded, Sequence[int] | None]] = []
        self._counting: dict[asyncio.Task[None], Subscribers] = {}  # drops of a fan-out to them
        self._tasks = Tasks()
        job_servers.on_change(self._server_changed)

    @property
    def is_idle(self) -> bool:
        """Whether no copy is held back, no caller waits, and no receiver has yet to finish."""
        places, portions = self.places, self.portions
        kept = self._stranded or places.waiting or places.lingering or portions.topics
        return not kept and self.overflow.is_idle

    @property
    def has_unsent(self) -> bool:
        """Whether copies wait for a server, for room, or for their turn."""
        return bool(self._stranded or self.portions.topics) or not self.overflow.is_idle

    def unique_id(self, message: Fanout, foreground: bool) -> bytes:
        """Return the Gearman unique id of a message's copies; empty where it has none.

        The prefix of a foreground one (20 bytes at most) bears the present generation: gearmand
        goes on swallowing jobs with the id of an abandoned one. See "Unique ids" in
        docs/protocol.rst.
        """
        if message.unique is None:
            return b""
        prefix = b"%s%x:" % (self._tag, self._generation % 16**11) if foreground else None
        return unique_id(message.unique, message.payload, prefix)

    def has_expired(self, message: Fanout) -> bool:
        """Whether a message's time is over: no copy of it is begun any more."""
        return message.expires_ms > 0 and message.is_expired(self.clock.clock_ms)

    def strand(self, fanout: Stranded, indexes: Sequence[int] | None) -> None:
        """Keep copies until a server is up; they are handed to ``send_stranded`` then."""
        self._stranded.append((fanout, indexes))

    def unstrand(self, fanout: Stranded) -> None:
        """Keep the copies of a fan-out no more."""
        self._stranded = [kept for kept in self._stranded if kept[0] is not fanout]

    def _server_changed(self) -> None:
        """A job server came or went: begin a generation, and send what waited for a server. One
        stranded fan-out that fails keeps no other from being sent."""
        self._generation += 1
        if self._stranded and self.job_servers.is_up:
            stranded, self._stranded = self._stranded, []
            for fanout, indexes in stranded:
                attempt(fanout.job, partial(fanout.send_stranded, indexes))

    def maybe_withdraw(self, batch: Batch, handles: list[bytes]) -> asyncio.Task[None] | None:
        """Begin to take back copies that no receiver has taken; None where there are none.

        The task ends without an error, also where the server does not answer; then the copies stay
        until a receiver takes them.
        """
        if not handles:
            return None
        self._generation += 1
        return self._tasks.spawn(self._cancel(batch, handles), "withdraw")

    def withdraw(self, fanout: Withdrawing) -> None:
        """Withdraw the copies of a fan-out; tell it once that has ended, or has had ``WITHDRAW_S``.

        Each turn of the loop begins with one batch more: a long fan-out has thousands.
        """
        self._tasks.spawn(self._withdraw(fanout), "withdrawals")

    async def _withdraw(self, fanout: Withdrawing) -> None:
        with answering(fanout.job):
            tasks = []
            for task in fanout.withdrawals():
                if task is not None:
                    tasks.append(task)
                await asyncio.sleep(0)
            if tasks:
                await asyncio.wait(tasks, timeout=WITHDRAW_S)
            fanout.withdrawn()

    def compose(
        self,
        job: Job,
        steps: Generator[None, None, _Found],
        *,
        make: Callable[[_Found], bytes],
        then: Callable[[bytes], None],
        over: Callable[[], None] = lambda: None,
    ) -> asyncio.Task[None]:
        """Make a long reply without holding the loop.

        Arguments:
            job: is failed with ``internal error`` if any of the following raises.
            steps: names copies, a slice with each step; the loop turns after each ``STEPS``.
            make: makes the reply of what the steps return. A thread of its own calls it, so it must
                touch nothing that still changes.
            then: is called with the reply, on the loop.
            over: is called at the end, however it comes.
        """

        async def work() -> None:
            with answering(job):
                try:
                    while True:
                        for _ in range(STEPS):
                            next(steps)
                        await asyncio.sleep(0)
                except StopIteration as end:
                    then(await asyncio.to_thread(make, end.value))
                finally:
                    over()

        return self._tasks.spawn(work(), "reply")

    def count_drops(
        self,
        job: Job,
        subscribers: Subscribers,
        *,
        steps: Generator[None, None, _Found],
        make: Callable[[_Found], bytes],
        then: Callable[[bytes], None],
    ) -> None:
        """Like ``compose``; the steps count dropped copies of a fan-out to these subscribers."""
        task = self.compose(job, steps, make=make, then=then)
        self._counting[task] = subscribers
        task.add_done_callback(self._counting.pop)

    async def wait_counted(self, topics: Sequence[str] | None, born: int) -> bool:
        """Return once the drops are counted of fan-outs to lists of these topics (None: of any)
        that were made up to ``born``, and whether there were any: they may have copies on their way
        again, as a server went."""
        concerned = set(among(topics, {found.topic for found in self._counting.values()}))
        tasks = [
            task
            for task, found in self._counting.items()
            if found.born <= born and found.topic in concerned
        ]
        if tasks:
            await asyncio.wait(tasks)
        return bool(tasks)

    async def _cancel(self, batch: Batch, handles: list[bytes]) -> None:
        """Cancel jobs by their handles, as long as the connection that submitted them is open: a
        server that was restarted gives the same handles to other jobs."""
        try:
            await self.job_servers.admins[batch.place].cancel(handles, lambda: batch.is_held)
        except OSError as error:
            server = str(self.job_servers.clients[batch.place].server)
            text = str(error) or type(error).__name__
            log.debug("copies are not withdrawn", server=server, error=text)
