"""The outbox: where the fan-outs of a member hand over their copies.

Rules: runs on the event loop. It knows which copies no server can take now, the Gearman unique ids
of the moment, and how many callers wait. A fan-out is carried through to the end even if the
session of its own job is gone: a copy too many is allowed, a copy too few is not
(docs/protocol.rst, "What is promised"). Copies for a server that goes down before the reply are
sent through the others, those it had accepted included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar

import structlog

from gearhorn.durable.ack_waiters import AckWaiters
from gearhorn.errors import InternalError
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.copies import Block, Subscribers, unique_id
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.overflow import Overflow
from gearhorn.fanout.packed import Packed
from gearhorn.fanout.places import Places
from gearhorn.fanout.portions import Portions
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.results import Result, Room
from gearhorn.gearman.submission import Submission
from gearhorn.gearman.worker import Job
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.logs import Logged
from gearhorn.requests import answering, attempt
from gearhorn.tasks import Tasks

STEPS = 8  # slices of a list that are named in one turn of the loop: 4 ms
WITHDRAW_S = 1.0  # how long a reply waits for a job server to withdraw copies

_Found = TypeVar("_Found")

log = structlog.get_logger(__name__)


class Outbox:
    """What the fan-outs of a member share. ``tag`` is 8 bytes of ASCII, the member's own."""

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
    ) -> None:
        self.job_servers = job_servers
        self.backlog = backlog
        self.drops = drops
        self.overflow = overflow
        self.waiting = waiting
        self.places = places
        self.portions = Portions(job_servers)
        self._tag = tag
        self._generation = 0
        self._stranded: list[tuple[RunningFanout, Sequence[int] | None]] = []
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
        """Return the Gearman unique id of a message's copies.

        A foreground prefix (20 bytes at most) lasts until copies were withdrawn or a server went:
        gearmand goes on swallowing jobs with the id of an abandoned one."""
        if message.unique is None:
            return b""
        prefix = b"%s%x:" % (self._tag, self._generation % 16**11) if foreground else None
        return unique_id(message.unique, message.payload, prefix)

    def strand(self, copying: RunningFanout, indexes: Sequence[int] | None) -> None:
        """Keep copies until a server is up; they are handed to ``send_stranded`` then."""
        self._stranded.append((copying, indexes))

    def unstrand(self, copying: RunningFanout) -> None:
        """Keep the copies of a fan-out no more."""
        self._stranded = [one for one in self._stranded if one[0] is not copying]

    def _server_changed(self) -> None:
        self._generation += 1
        if self._stranded and self.job_servers.is_up:
            stranded, self._stranded = self._stranded, []
            for copying, indexes in stranded:
                attempt(copying.job, partial(copying.send_stranded, indexes))

    def maybe_withdraw(self, part: ServerBatch, handles: list[bytes]) -> asyncio.Task[None] | None:
        """Begin to take back copies that no receiver has taken, if there are any."""
        if not handles:
            return None
        self._generation += 1
        return self._tasks.spawn(self._cancel(part, handles), "withdraw")

    def withdraw(
        self,
        job: Job,
        parts: Sequence[ServerBatch],
        begin: Callable[[ServerBatch], asyncio.Task[None] | None],
        then: Callable[[], None],
    ) -> None:
        """Begin to withdraw every part, one in each turn of the loop; call ``then`` once all that
        has ended, or has had ``WITHDRAW_S``."""

        async def work() -> None:
            with answering(job):
                tasks = []
                for part in parts:
                    if (task := begin(part)) is not None:
                        tasks.append(task)
                    await asyncio.sleep(0)
                if tasks:
                    await asyncio.wait(tasks, timeout=WITHDRAW_S)
                then()

        self._tasks.spawn(work(), "withdrawals")

    def compose(
        self,
        job: Job,
        steps: Generator[None, None, _Found],
        make: Callable[[_Found], bytes],
        then: Callable[[bytes], None],
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """Call ``then`` with what ``make`` makes of what ``steps`` returns, and ``over`` at the
        end, however it comes. The loop turns between the steps, and beside ``make``, which a thread
        of its own calls."""

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

        self._tasks.spawn(work(), "reply")

    async def _cancel(self, part: ServerBatch, handles: list[bytes]) -> None:
        try:
            await self.job_servers.admins[part.place].cancel(handles, lambda: part.is_held)
        except OSError as error:
            server = str(self.job_servers.clients[part.place].server)
            words = str(error) or type(error).__name__
            log.debug("copies are not withdrawn", server=server, error=words)


class ServerBatch(Submission):
    """The copies of one fan-out that went to one server."""

    __slots__ = ("_is_counted", "connection", "indexes", "place")

    def __init__(self, copying: RunningFanout, block: Block, foreground: bool) -> None:
        super().__init__(
            copying, block.heads, block.tail, foreground, copying.results, copying.reasons
        )
        self.place = block.place
        self._is_counted = False
        self.indexes = block.indexes
        self.connection = copying.outbox.job_servers.clients[block.place].connection

    def take_refused(self) -> list[int]:
        """Return the copies that the server refused, as indexes into the list; once."""
        if self._is_counted:
            return []
        self._is_counted = True
        return [self.index(at) for at, _ in self.refused or ()]

    def index(self, at: int) -> int:
        """Return which queue of the list copy ``at`` is for."""
        return at if self.indexes is None else self.indexes[at]

    @property
    def is_held(self) -> bool:
        """Whether the server that accepted these copies still is connected."""
        return self.connection is not None and self.connection.is_open


class RunningFanout:
    """What background and foreground fan-outs share: sending, and sending again.

    ``total`` are the copies; ``receivers`` are client_ids that the log keeps the message for."""

    __slots__ = (
        "_tails", "_unique", "dropped", "job", "logged", "message", "open", "outbox", "parts",
        "receivers", "subscribers", "total",
    )  # fmt: skip
    foreground = False
    results: Room | None = None  # for what receivers return
    reasons: Room | None = None  # for why they failed

    def __init__(
        self,
        outbox: Outbox,
        job: Job,
        message: Fanout,
        subscribers: Subscribers,
        *,
        total: int,
        logged: Logged | None = None,
        receivers: Sequence[str] = (),
    ) -> None:
        self.outbox = outbox
        self.job = job
        self.message = message
        self.subscribers = subscribers
        self.total = total
        self.logged = logged
        self.receivers = receivers
        self.open = 0  # parts on their way, and what is kept until it can be sent
        self.parts: list[ServerBatch] = []
        self.dropped: list[int] = []
        self._unique = b""  # the Gearman unique id of the last copies
        self._tails: dict[bool, bytes] = {}  # what they ended with, while copies are on their way

    def send(self, indexes: Sequence[int] | None) -> None:
        """Send the copies for some queues of the list; None is all."""
        outbox, subscribers = self.outbox, self.subscribers
        if subscribers.is_long or subscribers.topic in outbox.portions.topics:
            self.open += 1  # until ``sent``
            outbox.portions.add(subscribers.topic, self, self._ascending(indexes))
        elif outbox.job_servers.is_up:
            self.send_portion(indexes)
        else:
            self._strand(indexes)

    def _ascending(self, indexes: Sequence[int] | None) -> Sequence[int]:
        if indexes is None:
            return range(len(self.subscribers.queues))
        return sorted(indexes) if isinstance(indexes, list) else indexes

    def send_portion(self, indexes: Sequence[int] | None) -> None:
        """Send the copies for some queues of the list; None is all. A server must be up."""
        if self.is_watched:
            indexes = self._held_back(indexes)
        self._send(indexes)

    def sent(self) -> None:
        """The last portion of what was sent in portions is handed over."""
        raise NotImplementedError

    def _held_back(self, indexes: Sequence[int] | None) -> Sequence[int] | None:
        """Leave copies for full queues to those that make room there; return the others."""
        held = self.outbox.overflow.keep(self, indexes)
        if not held:
            return indexes
        self.open += len(held)
        whole = range(len(self.subscribers.queues)) if indexes is None else indexes
        return [index for index in whole if index not in held]

    def send_held(self, index: int) -> None:
        """There is room now for a copy that was held back."""
        self.open -= 1
        if self.outbox.job_servers.is_up:
            self._send([index])
        else:
            self._strand([index])

    def _strand(self, indexes: Sequence[int] | None) -> None:
        self.open += 1
        self.outbox.strand(self, indexes)

    def send_stranded(self, indexes: Sequence[int] | None) -> None:
        """A server is up for copies that were kept until one would be."""
        self.open -= 1
        self.send(indexes)

    def _send(self, indexes: Sequence[int] | None) -> None:
        outbox, message = self.outbox, self.message
        unique = outbox.unique_id(message, self.foreground)
        if unique != self._unique:
            self._unique, self._tails = unique, {}
        blocks = self.subscribers.blocks(
            outbox.job_servers,
            message,
            self.foreground,
            unique,
            time.time(),
            indexes,
            self._tails,
        )
        self.open += len(blocks)
        for block in blocks:
            part = ServerBatch(self, block, self.foreground)
            self.parts.append(part)
            outbox.job_servers.submit(block.place, part)

    def drop(self, part: ServerBatch) -> int:
        """Take note of the copies of a part that the server refused; return how many are lost."""
        self.taken(part, part.indexes)
        return self.refuse(part.take_refused())

    def refuse(self, refused: Sequence[int]) -> int:
        """Take note of copies that a server refused, given by their place in the list; return how
        many are lost. The others wait for room."""
        lost = 0
        for index in refused:
            if self.outbox.overflow.is_for(self.subscribers, index):
                self.hold(index)
                self.outbox.overflow.refused(self, index)
            else:
                self.lose(index)
                lost += 1
        return lost

    @property
    def is_watched(self) -> bool:
        """Whether somebody makes room on a queue of the list, and must know of its copies."""
        return self.outbox.overflow.concerns(self.subscribers.topic)

    def taken(self, part: Submission, indexes: Sequence[int] | None) -> None:
        """Tell those that make room which copies of a part were accepted."""
        if self.is_watched:
            sent = range(len(self.subscribers.queues)) if indexes is None else indexes
            refused = {sent[at] for at, _ in part.refused or ()}
            self.outbox.overflow.accepted(self.subscribers, sent[: part.answered], refused)

    def hold(self, index: int) -> None:
        """A copy waits for room, until ``send_held`` or ``drop_held``."""
        self.open += 1

    def lose(self, index: int) -> None:
        """Take note that a copy is dropped."""
        self.dropped.append(index)

    def drop_held(self, index: int) -> None:
        """No room could be made for a copy that was held back."""
        raise NotImplementedError

    def clients(self, indexes: Sequence[int]) -> list[str]:
        """Return the client_ids of queues."""
        queues = self.subscribers.queues
        if isinstance(queues, Packed):  # which is read in order
            return [name.decode() for name in queues.clients(sorted(indexes))]
        return [self.subscribers.client_id(index) for index in indexes]

    def broke(self, submission: Submission) -> None:
        """A fault in gearhorn: what waits for this fan-out is told so."""
        self.job.fail(str(InternalError()))

    def accepted(self, submission: Submission) -> None:
        raise NotImplementedError

    def lost(self, submission: Submission) -> None:
        raise NotImplementedError

    def finished(self, submission: Submission, index: int, result: Result) -> None:
        raise NotImplementedError
