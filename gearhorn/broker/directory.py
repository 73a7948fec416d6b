"""The directory: cached subscriber lists, and jobs that wait for one to be read.

Law: runs on the event loop, which is its only writer. A cached list is used only under a lease
that is valid after the job arrived; a read that was under way when its topic was dropped serves
only those who asked before, and is not kept (PROTOCOL §7). Waiters of one topic are served in the
order they came, so that the order per queue holds across lists that had to be read first (§4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from gearhorn.broker.copies import Subscribers
from gearhorn.broker.lease import Lease
from gearhorn.errors import InternalError, RequestError, StoreError, StoreRefused, Unavailable
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

TOPIC_WEIGHT = 4  # what a cached topic weighs besides its subscriptions, in subscriptions

Waiter = Callable[[Subscribers | RequestError], None]
Read = Callable[[list[str]], Awaitable[list[Subscribers]]]

log = structlog.get_logger(__name__)


class _Pending:
    """A topic that is being read, and who waits for it."""

    __slots__ = ("cut", "reading", "served", "waiters")

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.reading = False
        self.cut: int | None = None  # waiters that came before the topic changed
        self.served = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """The read serves nobody who comes from now on."""
        if self.reading and self.cut is None:
            self.cut = len(self.waiters)


class Directory:
    """Lists by topic, good under ``lease``. ``most`` bounds what is cached, in subscriptions; the
    least recently used go first. ``read`` fetches lists; on ``StoreError`` it is tried again until
    it succeeds, on ``StoreRefused`` the waiters are told."""

    def __init__(self, read: Read, most: int, lease: Lease) -> None:
        self._read = read
        self._lease = lease
        self._most = most
        # Two generations: a hit moves a list to the young one; when that has half the bound,
        # the old one is forgotten whole. Least recently used, at the cost of a plain dict.
        self._young: dict[str, Subscribers] = {}
        self._old: dict[str, Subscribers] = {}
        self._young_weight = self._old_weight = 0
        self._pending: dict[str, _Pending] = {}
        self._unread: list[str] = []
        self._rounds = Tasks()
        self._loop = asyncio.get_running_loop()
        self.waiting_since: float | None = None  # the store has not answered since

    def get(self, topic: str) -> Subscribers | None:
        """Return the cached list if it may be used now, for a job that is here. Nobody waits for
        it then: it is kept once its waiters are served."""
        if now_s() > self._lease.usable_until_s:
            return None
        found = self._young.get(topic)
        if found is None:
            found = self._old.pop(topic, None)
            if found is not None:
                self._old_weight -= self._weight(found)
                self._keep(found)
        return found

    @property
    def size(self) -> tuple[int, int]:
        """How many lists are cached, and how many subscriptions they have."""
        count = len(self._young) + len(self._old)
        return count, self._young_weight + self._old_weight - TOPIC_WEIGHT * count

    def peek(self, topic: str) -> Subscribers | None:
        """Return the cached list, whatever its age."""
        return self._young.get(topic) or self._old.get(topic)

    def when_known(self, topic: str, waiter: Waiter) -> None:
        """Call ``waiter`` with the list once it is read, after those who came before."""
        pending = self._pending.get(topic)
        if pending is None:
            pending = self._pending[topic] = _Pending()
            self._ask(topic)
        elif now_s() > self._lease.usable_until_s:
            pending.end()  # nobody may have told us of a change since that read began
        pending.waiters.append(waiter)

    def drop(self, topic: str) -> None:
        """Forget a list: the topic changed."""
        found = self._young.pop(topic, None)
        if found is not None:
            self._young_weight -= self._weight(found)
        found = self._old.pop(topic, None)
        if found is not None:
            self._old_weight -= self._weight(found)
        pending = self._pending.get(topic)
        if pending is not None:
            pending.end()

    def forget(self) -> None:
        """Forget every list, and let no read that is under way serve those who ask from now on."""
        self._young, self._old = {}, {}
        self._young_weight = self._old_weight = 0
        for pending in self._pending.values():
            pending.end()

    def drop_where(self, matches: Callable[[Subscribers], bool]) -> None:
        """Forget every list that matches, and any that is being read."""
        lists: Iterable[Subscribers] = [*self._young.values(), *self._old.values()]
        for topic in [*(one.topic for one in lists if matches(one)), *self._pending]:
            self.drop(topic)

    async def settled(self, topics: Sequence[str] | None) -> None:
        """Return once nobody waits for a read of these topics (None: of any) that began before
        now."""
        for topic in list(self._pending) if topics is None else topics:
            pending = self._pending.get(topic)
            if pending is not None:
                await asyncio.shield(pending.served)

    def _weight(self, subscribers: Subscribers) -> int:
        return len(subscribers.queues) + len(subscribers.durable) + TOPIC_WEIGHT

    def _keep(self, subscribers: Subscribers) -> None:
        self._young[subscribers.topic] = subscribers
        self._young_weight += self._weight(subscribers)
        if self._young_weight > self._most // 2:
            self._old, self._old_weight = self._young, self._young_weight
            self._young, self._young_weight = {}, 0

    def _ask(self, topic: str) -> None:
        if not self._unread:
            self._loop.call_soon(self._begin)  # topics asked for together are read together
        self._unread.append(topic)

    def _begin(self) -> None:
        topics, self._unread = self._unread, []
        self._rounds.spawn(self._round(topics), "directory read")

    async def _round(self, topics: list[str]) -> None:
        backoff = Backoff(0.05, 1.0)
        while True:
            began = self._loop.time()
            for topic in topics:
                pending = self._pending[topic]
                pending.reading, pending.cut = True, None
            try:
                lists = await self._read(topics)
            except StoreRefused as error:
                self._refused(topics, Unavailable(f"the store: {error}"), error)
                return
            except StoreError as error:
                if self.waiting_since is None:
                    self.waiting_since = began
                    log.error("store is not there; fan-outs wait for it", error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception as error:  # a fault of gearhorn's, which not every topic may have
                self._refused(topics, InternalError(), error)
                return
            if self.waiting_since is not None:
                self.waiting_since = None
                log.info("store is back; fan-outs go on")
            break
        for subscribers in lists:
            self._serve(subscribers.topic, subscribers)

    def _refused(self, topics: list[str], refusal: RequestError, why: Exception) -> None:
        """These cannot be read together: find the topic that is meant and refuse that one."""
        if len(topics) > 1:
            for topic in topics:
                self._rounds.spawn(self._round([topic]), "directory read")
        else:
            fault = why if isinstance(refusal, InternalError) else None
            log.error("list cannot be read", topic=topics[0], error=str(why), exc_info=fault)
            self._serve(topics[0], refusal)

    def _serve(self, topic: str, found: Subscribers | RequestError) -> None:
        pending = self._pending[topic]
        cut = len(pending.waiters) if pending.cut is None else pending.cut
        now, later = pending.waiters[:cut], pending.waiters[cut:]
        if later:
            again = self._pending[topic] = _Pending()
            again.waiters = later
            self._ask(topic)
        else:
            del self._pending[topic]
            if pending.cut is None and isinstance(found, Subscribers):
                self._keep(found)
        for waiter in now:
            waiter(found)
        pending.served.set_result(None)
