"""Setting limits at one job server: what is known to be set there, and what is still to be set.

Theory of operation. A limit that is to be set stands in one of two tables, by topic: *urgent*, if a
list waits for it before its first copy, or *later*. A piece of them is *flying* while the server
has not answered, and *known* after that. Only what is known counts as set.

What is flying may change its meaning before it lands. The subscription may change, or the server
restart: then it has been *overtaken*, what was set need not be what is wanted, and the topic's list
is read and compared again. Or the topic is evicted, to make room: then it is *unwanted*, and not
remembered. A piece that fails goes back to later, behind any newer limit for the same queue.

A member that was frozen wakes with limits to set that others have replaced since. So the lease is
asked right before a limit leaves, also where the connection failed and another one goes on.

A server that answers nothing for ``WAIT_S`` is *mute*: lists stop waiting for it at once, and go on
doing so until it answers again. To wait for it each time would delay every list that is read.

Rules: runs on the event loop; one task for each server sets limits, in pieces of ``PIECE``, since
gearmand walks through all its functions for each of them. Topics take turns. What a list waits for
goes first; the rest leaves the server as much time as it takes from it. A piece that could not be
set is tried again, and until then counts as not set.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from gearhorn.gearman.admin import Admin
from gearhorn.members.lease import Lease
from gearhorn.timing import Backoff

PIECE = 8  # limits in one go: 0.1 s of a gearmand of 100,000 functions
WAIT_S = 2.0  # a server that answers nothing for so long is waited for no more
RECHECK_S = 10.0  # until a known limit that refuses copies is set again; doubled each time
RECHECK_LIMIT_S = 300.0  # what that is doubled up to
LAPSED_S = 0.05  # between two looks whether the lease holds again

Limits = dict[bytes, int]  # queue -> limit

log = structlog.get_logger(__name__)


class Outdated(Protocol):
    """Has lists read again."""

    def read_again(self, topic: str) -> None:
        """A limit was overtaken by a change: have its topic's list read again."""


class Setter:
    """The limits at one server: which are known, and which are to be set.

    Arguments:
        admin: the server's text commands.
        server: its name, for the log.
        outdated: is told of a topic whose subscription changed while a limit of its was being set.
        lease: without it nothing is set.
    """

    def __init__(self, admin: Admin, server: str, outdated: Outdated, *, lease: Lease) -> None:
        self._lease = lease
        self._admin = admin
        self.server = server
        self._outdated = outdated
        self._known: dict[str, Limits] = {}
        self._urgent: OrderedDict[str, Limits] = OrderedDict()
        self._later: OrderedDict[str, Limits] = OrderedDict()
        self._rechecks: dict[str, dict[bytes, tuple[float, float]]] = {}  # due at, interval
        self._waiters: dict[str, asyncio.Future[None]] = {}  # until nothing of a topic is urgent
        self._flying: tuple[str, Limits] = "", {}  # what is being set
        self._overtaken = False  # some of that has changed meanwhile
        self._unwanted = False  # what is being set need not be remembered
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.is_mute = False  # it does not answer, or refuses connections

    def known(self, topic: str) -> Mapping[bytes, int]:
        """Return what is known to be set of a topic's queues, as limits in copies by queue."""
        return self._known.get(topic, {})

    def size(self, topic: str) -> int:
        """Return how much is remembered of a topic, in queues."""
        tables: tuple[Mapping[str, Mapping[bytes, object]], ...]
        tables = self._known, self._urgent, self._later, self._rechecks
        return sum(len(table.get(topic, ())) for table in tables)

    def is_set(self, topic: str, queue: bytes, limit: int) -> bool:
        """Whether a limit is known to be in force, and no other is about to be set."""
        is_known = self.known(topic).get(queue) == limit
        return is_known and not any(queue in limits for limits in self._pending(topic))

    def is_due(self, topic: str, queue: bytes, limit: int) -> bool:
        """Whether a limit is to be set, or is being set."""
        for limits in (*self._pending(topic), self._later.get(topic, {})):
            if queue in limits:
                return limits[queue] == limit  # the newest
        return False

    def _pending(self, topic: str) -> list[Limits]:
        """Return what of a topic is urgent, and what is on its way, where there is any."""
        flying_topic, flying = self._flying
        pending = self._urgent.get(topic), flying if flying_topic == topic else None
        return [limits for limits in pending if limits]

    def want(self, topic: str, limits: Limits, *, is_urgent: bool = True) -> None:
        """Have limits set.

        Arguments:
            topic: whose queues they are of.
            limits: in copies, by queue. They replace what was to be set for the same queues.
            is_urgent: whether a list or a copy waits for them. At a server that does not answer
                none is urgent.
        """
        if not limits:
            return
        if not is_urgent or self.is_mute:
            self._later.setdefault(topic, {}).update(limits)
        else:
            later = self._later.get(topic)
            if later:
                for queue in limits:
                    later.pop(queue, None)
                if not later:
                    del self._later[topic]
            self._urgent.setdefault(topic, {}).update(limits)
        self._came.set()

    def when_set(self, topic: str) -> asyncio.Future[None]:
        """Return a future that is done once no limit of a topic is urgent any more: it is set, or
        the server does not answer."""
        waiter = self._waiters.get(topic)
        if waiter is None:
            waiter = self._loop.create_future()
            if self._pending(topic) and not self.is_mute:
                self._waiters[topic] = waiter
            else:
                waiter.set_result(None)
        return waiter

    def defer(self, topic: str) -> None:
        """Wait no more for the limits of a topic; they are set later."""
        urgent = self._urgent.pop(topic, None)
        if urgent:
            later = self._later.get(topic)
            self._later[topic] = urgent | later if later else urgent
        self._told(topic)

    def refused(self, topic: str, queue: bytes, limit: int) -> None:
        """A known limit refuses copies, or its queue holds more than it should.

        Another member or a person may have set another limit. So it is set again now and then,
        first after ``RECHECK_S`` and ever more seldom after that: nearly always the limit is right
        and its receiver too slow, and then each time costs gearmand a walk for nothing.
        """
        checks = self._rechecks.setdefault(topic, {})
        now_s = self._loop.time()
        due_s, interval_s = checks.get(queue, (now_s + RECHECK_S, RECHECK_S))
        if now_s >= due_s:
            interval_s = min(2 * interval_s, RECHECK_LIMIT_S)
            due_s = now_s + interval_s
            self.want(topic, {queue: limit}, is_urgent=False)
        checks[queue] = due_s, interval_s

    def changed(self, topic: str, queue: bytes | None) -> None:
        """A subscription changed; None: any of the topic's. What is set there is not known."""
        flying_topic, flying = self._flying
        if flying_topic == topic and (queue is None or queue in flying):
            self._overtaken = True
        tables: list[dict[str, Any]] = [self._known, self._urgent, self._later, self._rechecks]
        for table in tables:
            limits = table.get(topic, {})
            if queue is not None:
                limits.pop(queue, None)
            if queue is None or not limits:
                table.pop(topic, None)  # topics come and go: nothing of them may stay
        if not self._pending(topic):
            self._told(topic)

    def evict(self, topic: str) -> None:
        """Remember nothing of a topic, to make room for others. Lists that wait for its limits go
        on without them; the limits count as unknown."""
        self._unwanted |= self._flying[0] == topic
        for table in (self._known, self._urgent, self._later, self._rechecks):
            table.pop(topic, None)
        self._told(topic)

    def forget(self) -> None:
        """The server came or went, or any subscription may have changed: nothing is known."""
        self._overtaken = True
        self._known.clear()
        self._urgent.clear()
        self._later.clear()
        self._rechecks.clear()
        self.is_mute = False
        for topic in list(self._waiters):
            self._told(topic)

    def _told(self, topic: str) -> None:
        """Have those go on that wait until nothing of a topic is urgent."""
        waiter = self._waiters.pop(topic, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _mute(self) -> None:
        """The server does not answer: let no list wait for it, neither those that do now nor those
        that are read later."""
        self.is_mute = True
        for topic in list(self._urgent):
            self.defer(topic)
        for topic in list(self._waiters):
            self._told(topic)

    async def run(self) -> None:
        """Set limits; runs until it is cancelled.

        After a piece that no list waits for, the server is left alone for as long as the piece
        took: gearmand does nothing else while it walks through its functions.
        """
        backoff = Backoff(0.1, 5.0)
        while True:
            await self._came.wait()
            due = self._urgent or self._later
            if not due:
                self._came.clear()
                continue
            if not self._lease.is_usable:  # it is forgotten soon, or goes on
                await asyncio.sleep(LAPSED_S)
                continue
            began_s, is_urgent = self._loop.time(), due is self._urgent
            if await self._set(*self._take(due)):
                backoff.reset()
                if not is_urgent:
                    await asyncio.sleep(self._loop.time() - began_s)
            else:
                await asyncio.sleep(backoff.next_s())

    def _take(self, due: OrderedDict[str, Limits]) -> tuple[str, Limits]:
        """Take a piece of the topic whose turn it is: the first, which goes behind the others
        where more of it is left."""
        topic, limits = next(iter(due.items()))
        piece = dict(limits.popitem() for _ in range(min(PIECE, len(limits))))
        if limits:
            due.move_to_end(topic)
        else:
            del due[topic]
        return topic, piece

    async def _set(self, topic: str, piece: Limits) -> bool:
        """Set a piece; return whether that succeeded.

        A server that has not answered after ``WAIT_S`` is mute from then on, while the piece goes
        on waiting for its answer, or for the error that ends it.
        """
        self._flying, self._overtaken, self._unwanted = (topic, piece), False, False
        patience = self._loop.call_later(WAIT_S, self._mute)
        is_set, was_mute = False, self.is_mute
        try:
            is_set = await self._admin.limit(list(piece.items()), self._may_set)
        except OSError as error:
            if not was_mute:
                text = str(error) or type(error).__name__
                log.warning("backlog limits are not set", server=self.server, error=text)
            self._mute()
        finally:
            patience.cancel()
            self._flying = "", {}
            self._landed(topic, piece, is_set)
        return is_set

    def _may_set(self) -> bool:
        return self._lease.is_usable

    def _landed(self, topic: str, piece: Limits, is_set: bool) -> None:
        """Take note of what became of a piece. A limit that was overtaken is not known even if it
        was set: it is the wrong one then."""
        if is_set:
            self.is_mute = False
        if self._unwanted:
            pass
        elif self._overtaken:
            self._outdated.read_again(topic)
        elif is_set:
            self._known.setdefault(topic, {}).update(piece)
        else:
            urgent = self._urgent.get(topic, {})
            again = {queue: limit for queue, limit in piece.items() if queue not in urgent}
            if again:
                self._later[topic] = again | self._later.get(topic, {})
            self._came.set()
        if not self._pending(topic):
            self._told(topic)
