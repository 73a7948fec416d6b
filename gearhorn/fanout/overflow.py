"""Overflow: copies that were refused and may still get room on their queue.

Theory of operation. A copy that found its queue full waits here in two cases. Its limit may not be
the one that was asked for: then the limit is set right, and the copy is sent again. Or the
subscription would rather lose its oldest copies: then so many of these are discarded first. While a
queue has copies here, every copy that this member has for it waits here as well, in order, so that
none overtakes another. gearmand counts running jobs too, so where nothing waits on a full queue
there is nothing old to drop, and the new copy is.

Rules: runs on the event loop. What is held is bounded by the fan-outs in hand. A queue's copies are
held until its task, one for each queue, has sent or dropped them; if that task fails, they are
dropped. ``wait_sent`` is what a drain waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import structlog

from gearhorn.fanout.copies import Subscribers, mark
from gearhorn.fanout.drops import Drops
from gearhorn.fanout.limits import Limits
from gearhorn.gearman.job_servers import JobServers
from gearhorn.patterns import among
from gearhorn.tasks import Tasks

BATCH = 64  # copies that are made room for at a time
POLL_S = 0.01  # between two checks of whether copies of former lists are still held
GIVE_UP_S = 10.0  # a server that is up and makes no room for so long costs the copies
FEW = 16  # full queues of a topic that are sought one by one in a list

log = structlog.get_logger(__name__)


class Held(Protocol):
    """A fan-out that waits for room for some of its copies."""

    subscribers: Subscribers

    def send_held(self, index: int) -> None:
        """There is room: send the copy for a queue of the list."""

    def drop_held(self, index: int) -> None:
        """There is no room to be made: the copy is dropped."""


class _Full:
    """One full queue and the copies for it: those that were ``refused`` of those on their way (a
    younger one that is accepted outdates them), and those ``waiting`` that were not tried since."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Held, int]] = deque()
        self.refused: deque[tuple[Held, int]] = deque()
        self.is_full = True  # as far as is known: nothing is discarded otherwise
        self.trims_begun = self.trims_ended = 0

    def mark_full(self, is_full: bool) -> None:
        """The queue is known to be full, or not known to be."""
        self.is_full = is_full

    def begin_trim(self) -> int:
        """A trim's turn has come; return how many jobs to discard: none, if copies were given up
        since. What waits on the queue then may be a later subscription's."""
        count = min(len(self.waiting), BATCH) if self.is_full else 0
        self.trims_begun += bool(count)
        return count

    def end_trim(self) -> None:
        """It is over."""
        self.trims_ended = self.trims_begun

    def gather(self) -> None:
        """What was refused is older than what waits."""
        self.waiting.extendleft(reversed(self.refused))
        self.refused.clear()

    def take_former(self, born: int) -> list[tuple[Held, int]]:
        """Take out the copies that lists up to ``born`` want, and return them; the order of the
        others stays. From now on nothing is discarded for them."""
        self.is_full = False
        former = []
        for copies in (self.refused, self.waiting):
            taken = [copy for copy in copies if copy[0].subscribers.born <= born]
            former += taken
            if taken:
                rest = [copy for copy in copies if copy[0].subscribers.born > born]
                copies.clear()
                copies.extend(rest)
        return former

    def holds_former(self, born: int) -> bool:
        """Whether a list up to ``born`` wants one of the copies."""
        return any(held.subscribers.born <= born for held, _ in (*self.refused, *self.waiting))


class Overflow:
    """What waits for room.

    Arguments:
        job_servers: where room is made, by discarding the oldest jobs of a queue.
        limits: knows whether a limit that refused a copy is the right one, and whether queues are
            as the lists say.
        drops: counts the jobs that are discarded.

    ``topics`` has the queues for which copies wait, by topic; others only look whether a topic is
    there.
    """

    def __init__(self, job_servers: JobServers, limits: Limits, drops: Drops) -> None:
        self._job_servers = job_servers
        self._limits = limits
        self._drops = drops
        self.topics: dict[str, dict[bytes, _Full]] = {}
        self._tasks = Tasks()

    @property
    def is_idle(self) -> bool:
        """Whether no queue is known to be full."""
        return not self.topics

    def is_for(self, subscribers: Subscribers, index: int) -> bool:
        """Whether a copy that was refused may get room, and ought to be kept here."""
        return subscribers.overflow_of(index) == "drop_old" or self._limits.doubts(
            subscribers, index
        )

    def refused(self, held: Held, index: int) -> None:
        """Keep a copy that its queue had no room for.

        The first one for a queue starts the task that makes room there, or drops what cannot get
        any. From now on the topic is in ``topics``: its fan-outs ask ``keep`` before they
        send, and tell ``accepted`` after.
        """
        topic, queue = held.subscribers.topic, held.subscribers.queues[index]
        queues = self.topics.setdefault(topic, {})
        full = queues.get(queue)
        if full is None:
            full = queues[queue] = _Full()
            self._tasks.spawn(self._serve(topic, queue, full), "overflow")
        full.refused.append((held, index))

    def accepted(self, subscribers: Subscribers, sent: Sequence[int], refused: set[int]) -> None:
        """Copies for the queues ``sent`` of a list were answered, and all taken but ``refused``:
        older ones of theirs that were refused would come too late."""
        for index, full in self._among(subscribers, sent):
            if full.refused and index not in refused:
                older = list(full.refused)
                full.refused.clear()
                for held, at in older:
                    held.drop_held(at)

    def keep(self, held: Held, indexes: Sequence[int] | None) -> set[int]:
        """Keep those copies for some queues of a list (None: all) for which others wait already;
        return which."""
        kept = self._among(held.subscribers, indexes)
        for index, full in kept:
            full.waiting.append((held, index))
        return {index for index, _ in kept}

    def _among(
        self, subscribers: Subscribers, indexes: Sequence[int] | None
    ) -> list[tuple[int, _Full]]:
        """Return the full ones among some queues of a list (None: all), with their indexes.

        A list may be full whole, and its copies are sent one by one then: so never more than a few
        of the full queues are gone through for the sake of some others.
        """
        queues = self.topics.get(subscribers.topic, {})
        wanted: Sequence[int] = range(len(subscribers.queues)) if indexes is None else indexes
        if len(wanted) <= len(queues) or len(queues) > FEW:
            names = subscribers.queues
            found = ((index, queues.get(names[index])) for index in wanted)
            return [(index, full) for index, full in found if full is not None]
        places = [(subscribers.index_of(queue), full) for queue, full in queues.items()]
        chosen = wanted if isinstance(wanted, range) else set(wanted)
        return [(at, full) for at, full in places if at is not None and at in chosen]

    async def wait_sent(self, topics: Sequence[str] | None) -> None:
        """Return once no copy is held here that a list of these topics (None: of any) wants that
        was made before now. After ``GIVE_UP_S`` with a server up, the copies are dropped."""
        born = mark()
        loop = asyncio.get_running_loop()
        left_s, then_s, was_held = GIVE_UP_S, loop.time(), False
        while True:
            if any(self._former(topics, born)):
                was_held = True
                await asyncio.sleep(POLL_S)
                if self._job_servers.is_up:
                    left_s -= loop.time() - then_s
                then_s = loop.time()
                if left_s <= 0:
                    await self._give_up(list(self._former(topics, born)), born)
            elif was_held:
                was_held = False  # what was sent last may be refused yet
            else:
                return
            await self._job_servers.barrier()

    def _former(self, topics: Sequence[str] | None, born: int) -> Iterator[tuple[bytes, _Full]]:
        """Find what lists up to ``born`` want, lazily: a caller that asks only whether there is any
        goes no further than the first."""
        for topic in among(topics, self.topics):
            for queue, full in self.topics[topic].items():
                if full.holds_former(born):
                    yield queue, full

    async def _give_up(self, queues: list[tuple[bytes, _Full]], born: int) -> None:
        """Drop the copies that lists up to ``born`` want: a drain has waited for long enough.
        Return once nothing is being discarded for them, which takes a few seconds at most."""
        for queue, full in queues:
            copies = full.take_former(born)
            log.warning("no room was made in time", queue=queue.decode(), copies=len(copies))
            for held, index in copies:
                held.drop_held(index)
        for _, full in queues:
            begun = full.trims_begun
            while full.trims_ended < begun:
                await asyncio.sleep(POLL_S)

    async def _serve(self, topic: str, queue: bytes, full: _Full) -> None:
        """Send or drop what is held for a queue until nothing is."""
        try:
            await self._make_room(queue, full)
        finally:
            del self.topics[topic][queue]
            if not self.topics[topic]:
                del self.topics[topic]
            full.gather()
            for held, index in full.waiting:  # it failed
                held.drop_held(index)

    async def _make_room(self, queue: bytes, full: _Full) -> None:
        """Send what waits for a queue, oldest first, until nothing does.

        Each turn begins with a barrier: only when the job servers have answered all that was sent
        is it known what was refused, and what was refused is older than what waits. A doubtful
        limit is set right before anything is discarded for it. Jobs are discarded only where a copy
        was refused since the limit is known to be right.
        """
        waiting = full.waiting
        while True:
            await self._job_servers.barrier()  # what was sent is answered
            if full.refused:
                full.mark_full(True)
            full.gather()
            if not waiting:
                return
            held, index = waiting[0]
            drops_old = held.subscribers.overflow_of(index) == "drop_old"
            if self._limits.doubts(held.subscribers, index):
                if await self._limits.confirm(held.subscribers, index):
                    full.mark_full(False)  # as far as we know
                elif not drops_old:
                    self._drop(waiting, BATCH)
                    continue
            if drops_old and full.is_full:
                await self._trim_and_send(queue, full)
            else:
                self._send(waiting, BATCH)  # those that are refused now are dropped

    async def _trim_and_send(self, queue: bytes, full: _Full) -> None:
        """Discard as many old jobs as copies wait, and send those. Where nothing could be
        discarded, one copy is tried: it is dropped if it is refused, since all jobs are running."""
        first = list(islice(full.waiting, BATCH))
        try:
            gone = await self._job_servers.trim(queue, partial(self._due, full))
        finally:
            full.end_trim()
        for held, index in first[:gone]:
            self._drops.dropped(held.subscribers, index)
        if not full.is_full:
            return  # given up meanwhile
        self._send(full.waiting, max(gone, 1))
        await self._job_servers.barrier()
        if not gone and full.refused:  # all of them are running
            held, index = full.refused.popleft()
            held.drop_held(index)

    def _due(self, full: _Full) -> int:
        """Return how many jobs to discard now. A member that was frozen finds its lease lapsed, and
        discards nothing: what waits there may be a later subscription's."""
        return full.begin_trim() if self._limits.are_ours else 0

    def _drop(self, waiting: deque[tuple[Held, int]], count: int) -> None:
        for held, index in [waiting.popleft() for _ in range(min(len(waiting), count))]:
            held.drop_held(index)

    def _send(self, waiting: deque[tuple[Held, int]], count: int) -> None:
        for held, index in [waiting.popleft() for _ in range(min(len(waiting), count))]:
            held.send_held(index)
