"""The directory: cached subscriber lists, and jobs that wait for one to be read.

Theory of operation. Each topic is read on its own, and tried again on its own, so a list that is
long, slow or refused costs its own topic only. When a read fails, the store is asked whether it is
there. If it is not, every list waits for it, and ``waiting_since`` tells since when. If it is, it
is this list that cannot be read: those who wait for it are refused after ``LIST_S``, for they hold
places that the jobs of other topics need.

A read takes as long as the list, and the topic may change meanwhile. Such a read serves only those
who asked before the change was heard of: they may get the list of before, of after, or a mixture.
It is not kept, and those who came later get a read that began after the change.

Rules: runs on the event loop, which is its only writer. A cached list is used only under a lease
that is valid after the job arrived. Waiters of one topic are served in the order they came, so that
the order per queue holds across lists that had to be read first. What is forgotten is freed little
by little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from gearhorn.errors import InternalError, RequestError, StoreError, StoreRefused, Unavailable
from gearhorn.fanout.copies import Subscribers
from gearhorn.members.lease import Lease
from gearhorn.names import GOSSIP, is_pattern
from gearhorn.patterns import Matcher, among
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

TOPIC_WEIGHT = 4  # what a cached topic weighs besides its subscriptions, in subscriptions
LIST_S = 30.0  # for one read of a list, and for all tries while the store answers
MARKED = 10_000  # topics dropped one by one when the job servers change: 5 ms
_FREED = 1_000  # lists that are freed in one turn of the loop
_TRIED = 2_000  # names that patterns are tried on in one turn: 0.5 ms, and 2 where all match

log = structlog.get_logger(__name__)


class Waiter(Protocol):
    """Waits for a list. One of the two methods is called, once, and it must not raise: others wait
    for the same list."""

    def listed(self, subscribers: Subscribers) -> None:
        """The list is read. It is cached by now, unless its topic changed meanwhile."""

    def refused(self, error: RequestError) -> None:
        """The list cannot be had."""


class _AnyUse:
    """Waits for a list that is read for no job: the next job that asks for it finds it."""

    def listed(self, subscribers: Subscribers) -> None:
        pass

    def refused(self, error: RequestError) -> None:
        pass


_ANY_USE = _AnyUse()


class Reader(Protocol):
    """Where lists come from."""

    async def read(self, topic: str) -> Subscribers:
        """Return a topic's list; raises ``StoreError``."""

    async def is_there(self) -> bool:
        """Return whether the store answers at all."""


class Marker(Protocol):
    """Knows which lists are good for one session of the job servers only."""

    def is_eager(self, subscribers: Subscribers) -> bool:
        """Return whether limits have to be set before a list's first copy of a session."""


class _Pending:
    """A topic that is being read, and who waits for it, in the order they came.

    ``served`` is done when the read that is under way has served whom it may.
    """

    __slots__ = ("cut", "reading", "served", "waiters")

    def __init__(self, waiters: Sequence[Waiter] = ()) -> None:
        self.waiters = list(waiters)
        self.reading = False
        self.cut: int | None = None  # waiters that came before the topic changed
        self.served = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """A read begins, which serves all who wait and all who come while it is right."""
        self.reading, self.cut = True, None

    def end(self) -> None:
        """The read that is under way does not serve those who come from now on.

        Only the first call for a read counts: those between it and the next came too late already.
        """
        if self.reading and self.cut is None:
            self.cut = len(self.waiters)

    def split(self) -> tuple[list[Waiter], list[Waiter]]:
        """Return whom the read serves, and who came too late for it."""
        cut = len(self.waiters) if self.cut is None else self.cut
        return self.waiters[:cut], self.waiters[cut:]


class _Lists:
    """Cached lists, and what they weigh: ``own`` are the subscriptions that are theirs alone."""

    __slots__ = ("by_name", "own", "weight")

    def __init__(self) -> None:
        self.by_name: dict[str, Subscribers] = {}
        self.weight = self.own = 0

    def add(self, subscribers: Subscribers) -> None:
        """Add a list; none of its name may be there."""
        self.by_name[subscribers.topic] = subscribers
        self.weight += subscribers.weight + TOPIC_WEIGHT
        self.own += subscribers.own.weight

    def pop(self, name: str) -> Subscribers | None:
        """Take out a list, if there is one of this name."""
        found = self.by_name.pop(name, None)
        if found is not None:
            self.weight -= found.weight + TOPIC_WEIGHT
            self.own -= found.own.weight
        return found


class Directory:
    """Lists by topic, each with the jobs that wait for it.

    Arguments:
        reader: where lists come from.
        limit: how much is cached, in subscriptions, each list with ``TOPIC_WEIGHT`` more. The
            lists that were not used for the longest time go first.
        lease: until when what is cached may be used.
        marker: says which lists ``drop_marked`` concerns; None: no list.
    """

    def __init__(
        self, reader: Reader, *, limit: int, lease: Lease, marker: Marker | None = None
    ) -> None:
        self._reader = reader
        self._lease = lease
        self._limit = limit
        self._marker = marker
        # Topics that had such a list since the last time; beyond ``MARKED`` they are not counted.
        self._marked: set[str] = set()
        # Two generations: a hit moves a list to the young one; when that has half the bound,
        # the old one is forgotten whole. Least recently used, at the cost of a plain dict.
        self._young = _Lists()
        self._old = _Lists()
        self._patterns = _Lists()  # those that topics' lists have parts of
        self._pending: dict[str, _Pending] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()
        self.waiting_since: float | None = None  # the store has not answered since

    def get(self, topic: str) -> Subscribers | None:
        """Return the cached list if it may be used now, for a job that is here; else None.

        The clock is read after the job has arrived: a member that was frozen with jobs in its
        sockets finds that its lease has lapsed ("Between workers" in docs/protocol.rst).

        No earlier job waits for the list then: it is cached when its waiters are served.
        """
        if now_s() > self._lease.usable_until_s:
            return None
        found = self._young.by_name.get(topic)
        if found is None:
            found = self._old.pop(topic)
            if found is not None:
                self._keep(found)
        return found

    def get_pattern(self, name: str) -> Subscribers | None:
        """Return the cached list of a pattern if it may be used now, else None. ``get`` returns
        none of these: that it finds a list stands for the name's being a topic's."""
        if now_s() > self._lease.usable_until_s:
            return None
        return self._patterns.by_name.get(name)

    @property
    def size(self) -> tuple[int, int]:
        """How many topics' lists are cached, and how many subscriptions all lists have: those of a
        pattern count once, whatever the topics that it matches."""
        topics = len(self._young.by_name) + len(self._old.by_name)
        return topics, self._young.own + self._old.own + self._patterns.own

    def peek(self, topic: str) -> Subscribers | None:
        """Return the cached list, whether or not the lease holds. It is for limits and polls,
        which promise nothing, and does not count as a use."""
        for lists in (self._young, self._old, self._patterns):
            if topic in lists.by_name:
                return lists.by_name[topic]
        return None

    def is_current(self, subscribers: Subscribers) -> bool:
        """Whether a topic's own list is not known to be a former one: another is cached."""
        found = self.peek(subscribers.topic)
        return found is None or found.own is subscribers

    def refresh(self, topic: str) -> None:
        """Have a topic's list read again, though no job waits for it.

        That of ``__gossip`` is not: no caller may publish there, and that a list is cached stands
        for the name's being a good one. Who sends gossip reads it again anyhow.
        """
        if topic != GOSSIP:
            self.when_known(topic, _ANY_USE)

    def when_known(self, topic: str, waiter: Waiter) -> None:
        """Tell ``waiter`` once a topic's list is read, after those who came before.

        Under a lease that has lapsed no change is heard of, so a read that is under way does not
        serve a waiter that comes now: the list may have changed since it began.
        """
        pending = self._pending.get(topic)
        if pending is None:
            pending = self._pending[topic] = _Pending()
            self._tasks.spawn(self._fetch(topic), "list")
        elif now_s() > self._lease.usable_until_s:
            pending.end()
        pending.waiters.append(waiter)

    def drop(self, topic: str) -> None:
        """Forget a list: the topic, or the pattern, changed."""
        self._discard(topic)
        pending = self._pending.get(topic)
        if pending is not None:
            pending.end()

    async def drop_matching(self, names: Sequence[str]) -> None:
        """Forget the lists of the topics that patterns match, which changed; return once no fan-out
        can begin with one of them.

        Arguments:
            names: of the patterns' lists.

        The reads that are under way come first: what they find is not kept from then on, so no list
        of before the change is cached any more, and those that are now can be gone through one
        piece after the other. One that is dropped though it was read since costs a read.
        """
        for topic in among(names, self._pending):
            self._pending[topic].end()
        matcher = Matcher(names)
        topics = [*self._young.by_name, *self._old.by_name]
        for at in range(0, len(topics), _TRIED):
            for topic in matcher.among(topics[at : at + _TRIED]):
                self._discard(topic)
            await asyncio.sleep(0)

    def forget(self) -> None:
        """Forget every list, and let no read that is under way serve those who ask from now on."""
        self._clear()
        for pending in self._pending.values():
            pending.end()

    def _clear(self) -> None:
        """Let go of every list that is cached."""
        for lists in (self._young, self._old, self._patterns):
            self._free(lists.by_name)
        self._young, self._old, self._patterns = _Lists(), _Lists(), _Lists()

    def drop_marked(self) -> None:
        """Forget every list that the marker knows, and any that is being read. Where those are very
        many, all go: the time that this takes does not grow with what is cached."""
        marked, self._marked = self._marked, set()
        if len(marked) > MARKED:
            self.forget()
            return
        for topic in [*marked, *self._pending]:
            self.drop(topic)

    async def wait_served(self, topics: Sequence[str] | None) -> None:
        """Return once the reads of these topics (None: of any) that began before now have served
        those who waited for them."""
        for served in [self._pending[topic].served for topic in among(topics, self._pending)]:
            await asyncio.shield(served)

    def _discard(self, name: str) -> None:
        """Keep a list no more, if it is cached."""
        for lists in (self._young, self._old, self._patterns):
            lists.pop(name)

    def _keep(self, subscribers: Subscribers) -> None:
        """Cache a list among the young; where those have half the limit, they become the old.

        Those of patterns have half the limit, too, and stay as long as there is room: the lists of
        topics refer to them. Where there is none left, all are forgotten.
        """
        self._discard(subscribers.topic)  # one that was read again replaces the former
        if is_pattern(subscribers.topic):
            if self._patterns.weight + subscribers.weight > self._limit // 2:
                self._clear()
            self._patterns.add(subscribers)
            return
        self._young.add(subscribers)
        if self._young.weight > self._limit // 2:
            self._free(self._old.by_name)
            self._old, self._young = self._young, _Lists()

    def _maybe_mark(self, found: Subscribers) -> None:
        """Take note of a list that is good for one session of the job servers only."""
        if self._marker and len(self._marked) <= MARKED and self._marker.is_eager(found):
            self._marked.add(found.topic)

    def _free(self, lists: dict[str, Subscribers]) -> None:
        """Let go of lists that are forgotten, a few at a time."""
        if len(lists) > _FREED:
            for _ in range(_FREED):
                lists.popitem()
            self._loop.call_soon(self._free, lists)

    async def _fetch(self, topic: str) -> None:
        """Read a list until it is there, and serve those who wait for it.

        A store that refuses the read is answered at once: it will refuse the next one too. Any
        other failure raises the question whether the store is there at all, which is asked *after*
        the failure. While it is away, the clock of ``LIST_S`` does not run: the fan-outs wait for
        the store then, not for this list.
        """
        backoff = Backoff(0.05, 1.0)
        answering_since: float | None = None  # the store does, but for this list
        while True:
            pending = self._pending[topic]
            pending.begin()
            began = self._loop.time()
            try:
                async with asyncio.timeout(LIST_S):
                    found = await self._reader.read(topic)
                self._is_back()
                break
            except StoreRefused as error:
                self._refuse(topic, error)
                return
            except (StoreError, TimeoutError) as error:
                if await self._is_away(began, error):
                    answering_since = None
                elif answering_since is None:
                    answering_since = began
                if answering_since is not None and self._loop.time() - answering_since >= LIST_S:
                    self._refuse(topic, error)
                    return
            except Exception:  # a fault of gearhorn's, which not every topic may have
                log.exception("list cannot be read", topic=topic)
                self._serve(topic, InternalError())
                return
            await asyncio.sleep(backoff.next_s())
        self._serve(topic, found)

    async def _is_away(self, began: float, error: Exception) -> bool:
        """Return whether the store does not answer; it did not since ``began``, if so."""
        if await self._reader.is_there():
            self._is_back()
            return False
        if self.waiting_since is None:
            self.waiting_since = began
            log.error("store unreachable; fan-outs wait for it", error=str(error))
        return True

    def _is_back(self) -> None:
        if self.waiting_since is not None:
            self.waiting_since = None
            log.info("store is back; fan-outs go on")

    def _refuse(self, topic: str, error: Exception) -> None:
        """The store answers, but does not give this list."""
        text = str(error) or f"the list is not read within {LIST_S:g} s"
        log.error("list cannot be read", topic=topic, error=text)
        self._serve(topic, Unavailable(f"the store: {text}"))

    def _serve(self, topic: str, found: Subscribers | RequestError) -> None:
        """Serve those whom a read may serve; read again for the others.

        The list is cached before its waiters are called, and only where the topic has not changed
        meanwhile. A waiter that takes a job of the same topic at once finds it then, and goes out
        behind those before it, for they are called in one turn of the loop.
        """
        pending = self._pending[topic]
        now, later = pending.split()
        if later:
            self._pending[topic] = _Pending(later)
            self._tasks.spawn(self._fetch(topic), "list")
        else:
            del self._pending[topic]
            if pending.cut is None and isinstance(found, Subscribers):
                self._keep(found)
                self._maybe_mark(found)
        for waiter in now:
            if isinstance(found, Subscribers):
                waiter.listed(found)
            else:
                waiter.refused(found)
        pending.served.set_result(None)
