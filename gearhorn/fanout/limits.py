"""Backlog limits: how many copies may wait on a queue before more are dropped.

Theory of operation. The limit of a queue is gearmand's ``maxqueue``. It is per server, forgotten
when the server restarts, cannot be asked for, and the last one to set it decides: another member,
another release, a person. Setting it costs gearmand a walk through all its functions (15 ms at
100,000). So for each server a member remembers what it has set since the server came up
(``Setter.known``), and forgets it for a queue whose subscription changed, and for no other.

* A limit of up to ``EAGER_LIMIT`` is set before the list's first copy. The list waits for
  ``WAIT_S``, and not at all for a server that does not answer; the rest is set in the background.
* Any other limit is set when a poll of the backlog finds the queue a quarter full (``backlog``).
* A copy that is refused while its queue's limit is not known waits until the limit is set right,
  and is sent again (``doubts``, ``confirm``). So no former limit drops a copy, whatever set it.
* A limit that is known and refuses copies is set again now and then, in the background.

A list that is being read may be overtaken by a change. ``reading`` notes which queues changed since
the read began: the limits of a former list are not set for those.

Rules: runs on the event loop. What is remembered is bounded, in queues; the topics that were read
least recently are forgotten first, and become unknown.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.limit_setter import WAIT_S, Setter
from gearhorn.gearman.job_servers import JobServers
from gearhorn.gearman.link import Connection
from gearhorn.members.lease import Lease
from gearhorn.tasks import Tasks

EAGER_LIMIT = 10_000  # a burst could fill such a queue before a poll finds it
CHUNK = 2_000  # queues that are compared before the event loop has its turn: 4 ms


class Reading:
    """What changed since a list began to be read: the limits of a former list must not be set for
    it. See ``Limits.reading``."""

    def __init__(self) -> None:
        self._changed: dict[str, set[bytes | None]] = {}
        self._is_any = False

    def note(self, topic: str | None, queue: bytes | None) -> None:
        """A subscription changed; None: any of the topic's, any topic's."""
        if topic is None:
            self._is_any = True
        else:
            self._changed.setdefault(topic, set()).add(queue)

    def changed(self, topic: str) -> set[bytes | None]:
        """Return the queues of a topic that changed; None among them means any."""
        return self._changed.get(topic, set()) | ({None} if self._is_any else set())


class CachedLists(Protocol):
    """The lists that fan-outs use, which may be former ones."""

    def refresh(self, topic: str) -> None:
        """Have a topic's list read, and its limits compared, again."""

    def is_current(self, subscribers: Subscribers) -> bool:
        """Return whether a list is not known to be a former one."""


class Limits:
    """What queues may hold.

    Arguments:
        job_servers: whose queues it sets limits for.
        default: the limit of subscriptions that have none of their own, in copies.
        limit: how much is remembered, in queues.
        lease: under which alone anything is set.
    """

    def __init__(self, job_servers: JobServers, *, default: int, limit: int, lease: Lease) -> None:
        self._job_servers = job_servers
        self._default = default
        self._limit = limit
        self._lease = lease
        self._lists: CachedLists | None = None
        self._setters = [
            Setter(admin, str(client.server), self, lease=lease)
            for admin, client in zip(job_servers.admins, job_servers.clients, strict=True)
        ]
        self._connections: list[Connection | None] = [None] * len(self._setters)
        self._readings: list[Reading] = []
        self._topics: OrderedDict[str, int] = OrderedDict()  # what is remembered of each, in queues
        self._weight = 0  # of all of them
        self._tasks = Tasks()
        job_servers.on_change(self._server_changed)

    def attach(self, lists: CachedLists) -> None:
        """Say where the lists are cached whose limits are set here.

        Lists are read with their limits, so neither can be built first with the other. To be called
        once, before anything is read.
        """
        self._lists = lists

    def read_again(self, topic: str) -> None:
        """A limit was overtaken by a change: have its topic's list read again."""
        if self._lists is not None:
            self._lists.refresh(topic)

    def start(self) -> None:
        """Begin to set limits."""
        for setter in self._setters:
            self._tasks.keep(f"limits of {setter.server}", setter.run)

    async def stop(self) -> None:
        """Set no more limits."""
        await self._tasks.cancel()

    @property
    def are_ours(self) -> bool:
        """Whether queues are as the lists say: not without a lease, as others may have ended a
        subscription, and made another one of the same queue."""
        return self._lease.is_usable

    @property
    def remembered(self) -> int:
        """How much is remembered, in queues."""
        return self._weight

    def is_eager(self, subscribers: Subscribers) -> bool:
        """Whether limits have to be set before a list's first copy of a session."""
        return self.lowest(subscribers) <= EAGER_LIMIT

    def lowest(self, subscribers: Subscribers, above: int = 0) -> int:
        """Return the lowest limit over ``above`` of a list's queues; 2**31 where there is none."""
        own = subscribers.lowest_limit(above)
        return min(self._default, own) if self._default > above else own

    def wanted(self, subscribers: Subscribers, index: int) -> int:
        """Return the limit that one queue of a list ought to have."""
        return subscribers.limit(index) or self._default

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Note what changes while lists are read and prepared, for ``prepare``."""
        reading = Reading()
        self._readings.append(reading)
        try:
            yield reading
        finally:
            self._readings.remove(reading)

    def changed(self, topic: str, queue: bytes | None = None) -> None:
        """A subscription changed, and its limit may be another now.

        Arguments:
            topic: the subscription's.
            queue: its queue; None: any of the topic's.

        What was set there may be wrong, even if the options end as they began: another member may
        have set the limit in between. So it counts as unknown until it is set again.
        """
        for reading in self._readings:
            reading.note(topic, queue)
        for setter in self._setters:
            setter.changed(topic, queue)

    def forget(self) -> None:
        """Any subscription may have changed."""
        for reading in self._readings:
            reading.note(None, None)
        for setter in self._setters:
            setter.forget()
        self._topics.clear()
        self._weight = 0

    def _server_changed(self) -> None:
        """A job server came or went: of one with another connection nothing is known. It may have
        been restarted, and then it has no limits."""
        for place, client in enumerate(self._job_servers.clients):
            if client.connection is not self._connections[place]:
                self._connections[place] = client.connection
                self._setters[place].forget()

    async def prepare(self, lists: Sequence[Subscribers], reading: Reading) -> None:
        """Set the limits that lists need before their first copy; return when they are set, or
        after ``WAIT_S``.

        Arguments:
            lists: as they were just read.
            reading: what has changed since that began.

        What is not set by then is set later, and does not hold the next list up.
        """
        waiting: list[tuple[Setter, str, asyncio.Future[None]]] = []
        for subscribers in lists:
            topic = subscribers.topic
            for setter in await self._compare(subscribers, reading):
                waiting.append((setter, topic, setter.when_set(topic)))
        futures = [future for _, _, future in waiting]
        if futures:
            await asyncio.wait(futures, timeout=WAIT_S)
            for setter, topic, future in waiting:
                if not future.done():
                    setter.defer(topic)
        for subscribers in lists:
            self._remember(subscribers.topic)

    async def _compare(self, subscribers: Subscribers, reading: Reading) -> list[Setter]:
        """Have set what is to be set of a list; return the servers to be waited for.

        The list is compared chunk by chunk, and the loop turns in between. So what changed, and
        what is known, is asked again for each chunk, and the comparison ends when a job server
        comes or goes: the routes that it went by are no longer right, and the list is read again.
        A server is told of all limits of a chunk together, since each call wakes its task.
        """
        topic = subscribers.topic
        is_known = any(setter.known(topic) for setter in self._setters)
        if not self._job_servers.is_up or not (is_known or self.is_eager(subscribers)):
            return []
        is_whole = is_known or self._default <= EAGER_LIMIT
        size = len(subscribers.queues if is_whole else subscribers.limits)
        sessions, job_servers = self._job_servers.sessions, self._job_servers
        busy: set[Setter] = set()
        for start in range(0, size, CHUNK):
            if start:
                await asyncio.sleep(0)
                if sessions != job_servers.sessions:
                    return []  # the list is read again
            missing: dict[int, dict[bytes, int]] = {}
            changed = reading.changed(topic)
            known = [setter.known(topic) for setter in self._setters]
            for queue, limit in self._piece(subscribers, is_whole, start).items():
                place = job_servers.route(queue)
                before = known[place].get(queue)
                if before == limit or queue in changed or (before is None and limit > EAGER_LIMIT):
                    continue
                if not self._setters[place].is_due(topic, queue, limit):
                    missing.setdefault(place, {})[queue] = limit
            for place, limits in missing.items():
                self._setters[place].want(topic, limits)
                busy.add(self._setters[place])
        if None in reading.changed(topic):
            self.read_again(topic)
        return [setter for setter in busy if not setter.is_mute]

    def _piece(self, subscribers: Subscribers, is_whole: bool, start: int) -> dict[bytes, int]:
        """Return the limits of some queues of a list: of all, or of those with one of their own."""
        queues = subscribers.queues
        if not is_whole:
            own = subscribers.limits[start : start + CHUNK]
            return {queues[index]: limit for index, limit in own}
        wanted = dict.fromkeys(queues[start : start + CHUNK], self._default)
        for index, limit in subscribers.limits_between(start, start + CHUNK):
            wanted[queues[index]] = limit
        return wanted

    def _remember(self, topic: str) -> None:
        """Weigh what is remembered of a topic anew; forget others if it is too much in all."""
        weight = sum(setter.size(topic) for setter in self._setters)
        self._weight += weight - self._topics.pop(topic, 0)
        if weight:
            self._topics[topic] = weight
        while self._weight > self._limit and len(self._topics) > 1:
            gone, weight = self._topics.popitem(last=False)
            self._weight -= weight
            for setter in self._setters:
                setter.evict(gone)

    async def found(self, place: int, subscribers: Subscribers, waiting: dict[bytes, int]) -> None:
        """A poll found copies waiting on queues of a list: set the limits that ought to be in
        force there and are not.

        Arguments:
            place: the job server, among ``JobServers.clients``.
            subscribers: the list.
            waiting: how many jobs there are, by queue.

        A queue that another server carries now is left alone: its jobs are of a former session. One
        with more jobs than its limit, though that is known to be set, counts as one that refuses.
        """
        topic, setter = subscribers.topic, self._setters[place]
        missing: dict[bytes, int] = {}
        for start in range(0, len(subscribers.queues), CHUNK):
            if start:
                await asyncio.sleep(0)
            for index, queue in enumerate(subscribers.queues[start : start + CHUNK], start):
                count = waiting.get(queue)
                if count is None or self._job_servers.route(queue) != place:
                    continue
                limit = self.wanted(subscribers, index)
                if 4 * count >= limit and not setter.is_set(topic, queue, limit):
                    missing[queue] = limit
                elif count > limit:
                    setter.refused(topic, queue, limit)
        setter.want(topic, missing)
        self._remember(topic)

    def doubts(self, subscribers: Subscribers, index: int) -> bool:
        """Whether a copy was refused by a limit that need not be the one that was asked for.

        Where that cannot be found out (the server does not answer, or the list is a former one, so
        that it is not known what to set), the refusal is believed. One by a known limit is believed
        too, and has the limit set again now and then.
        """
        if not self._job_servers.is_up:
            return False
        subscribers, index = subscribers.part_of(index)
        queue, limit = subscribers.queues[index], self.wanted(subscribers, index)
        setter = self._setters[self._job_servers.route(queue)]
        if setter.is_mute or not self._is_current(subscribers):
            return False
        if not setter.is_set(subscribers.topic, queue, limit):
            return True
        setter.refused(subscribers.topic, queue, limit)
        return False

    def _is_current(self, subscribers: Subscribers) -> bool:
        return self._lists is None or self._lists.is_current(subscribers)

    async def confirm(self, subscribers: Subscribers, index: int) -> bool:
        """Set the limit of a queue that is in doubt; return whether it is set now.

        Waits ``WAIT_S`` at most. The copies of that queue wait meanwhile, and no others.
        """
        if not self._job_servers.is_up:
            return False
        subscribers, index = subscribers.part_of(index)
        topic, queue = subscribers.topic, subscribers.queues[index]
        limit = self.wanted(subscribers, index)
        setter = self._setters[self._job_servers.route(queue)]
        setter.want(topic, {queue: limit})
        await asyncio.wait([setter.when_set(topic)], timeout=WAIT_S)
        self._remember(topic)
        return setter.is_set(topic, queue, limit)
