"""Backlog limits: how many copies may wait on a queue before more are dropped.

Law: runs on the event loop. The limit is gearmand's own ``maxqueue``, per server and forgotten
when it restarts. Setting one costs gearmand a walk through all its functions (15 ms at 100,000,
measured), so only limits of up to ``EAGER_LIMIT`` are set before the first copy; any other is set
on queues that a look at ``status`` finds a quarter full.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from gearhorn.broker.copies import Subscribers
from gearhorn.broker.directory import Directory
from gearhorn.errors import StoreError
from gearhorn.gearman.cluster import Cluster
from gearhorn.names import splits_of
from gearhorn.store.subscriptions import Subscriptions
from gearhorn.tasks import Tasks
from gearhorn.timing import now_s

EAGER_LIMIT = 10_000
LOOK_INTERVAL_S = 10.0  # times the number of members; a look stalls 100,000 functions for 40 ms
RECENT_S = 10.0  # PROTOCOL §7, describe_fanout
FLUSH_INTERVAL_S = 1.0  # of drop counters to the store

log = structlog.get_logger(__name__)


class Backlog:
    """Keeps queues below their limits; ``default`` is the limit of subscriptions without one,
    ``members`` tells how many workers share the looking, ``end`` ends subscriptions."""

    def __init__(
        self,
        cluster: Cluster,
        subscriptions: Subscriptions,
        default: int,
        members: Callable[[], int],
        end: Callable[[Sequence[tuple[str, str]]], None],
    ) -> None:
        self._cluster = cluster
        self._subscriptions = subscriptions
        self._default = default
        self._members = members
        self._end = end
        # topic -> queue -> what this member has set in this session, since the topic changed
        self._limited: dict[str, dict[bytes, int]] = {}
        self._session = -1
        self._drops: Counter[tuple[str, str]] = Counter()
        self._passed: Counter[tuple[str, str]] = Counter()  # of logs
        self._tasks = Tasks()
        self._recent: tuple[dict[bytes, int], float | None] | None = None
        self._recent_s = 0.0
        self._asking = asyncio.Lock()  # one reads for all who describe at once
        self._looking: asyncio.Task[None] | None = None

    async def prepare(self, lists: Sequence[Subscribers]) -> None:
        """Set the eager limits of lists before their first copy. A server that cannot be asked
        is no reason to hold copies back: its limits are set when it is back."""
        for subscribers in lists:
            subscribers.unlooked = self._allowance(subscribers)
        due = {}
        for subscribers in lists:
            if self.is_eager(subscribers):
                limits = self._limits(subscribers)
                eager = {queue: most for queue, most in limits.items() if most <= EAGER_LIMIT}
                due[subscribers.topic] = eager
        if due:
            await self._limit(due)

    def is_eager(self, subscribers: Subscribers) -> bool:
        """Whether limits have to be set before a list's first copy of a session."""
        return self._default <= EAGER_LIMIT or any(m <= EAGER_LIMIT for _, m in subscribers.limits)

    def _limits(self, subscribers: Subscribers) -> dict[bytes, int]:
        limits = dict.fromkeys(subscribers.queues, self._default)
        for index, most in subscribers.limits:
            limits[subscribers.queues[index]] = most
        return limits

    def changed(self, topic: str) -> None:
        """A topic changed: its limits are set anew when its list is read."""
        self._limited.pop(topic, None)

    def forget(self) -> None:
        """Any topic may have changed."""
        self._limited.clear()

    async def lift(self, queues: Sequence[bytes]) -> None:
        """Take limits away: the subscriptions that asked for them ended, or ask for others."""
        if self._cluster.is_up:
            await self._set_all(dict.fromkeys(queues, 0))

    def look_soon(self, subscribers: Subscribers, directory: Directory) -> None:
        """A list has carried as many fan-outs as it may before somebody looks at its backlog."""
        subscribers.unlooked = self._allowance(subscribers)
        if self._looking is None or self._looking.done():
            self._looking = self._tasks.spawn(self.look(directory), "backlog look")

    def _allowance(self, subscribers: Subscribers) -> int:
        """Return how many fan-outs fill a quarter of the list's lowest limit that is not set at
        once, this member's share of them."""
        limits = [self._default, *(most for _, most in subscribers.limits)]
        later = [most for most in limits if most > EAGER_LIMIT]
        return min(later, default=2**31) // (4 * self._members()) + 1

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
        for place in range(len(self._cluster.admins)):
            backlog = await self._read(place)
            if backlog is not None:
                at = time.time()
                total.update(backlog)
        self._recent, self._recent_s = (total, at), now_s()

    async def _read(self, place: int) -> dict[bytes, int] | None:
        """Read one server's backlog; None where it cannot be asked."""
        client = self._cluster.clients[place]
        if not client.is_up:
            return None
        try:
            return await self._cluster.admins[place].backlog()
        except OSError as error:
            log.warning("backlog is unknown", server=str(client.server), error=_words(error))
            return None

    async def look(self, directory: Directory) -> None:
        """Read every server's backlog and limit the queues that are a quarter full."""
        for place in range(len(self._cluster.admins)):
            backlog = await self._read(place)
            if backlog is None:
                continue
            due: dict[str, dict[bytes, int]] = {}
            known: dict[str, dict[bytes, int]] = {}  # the limits of the lists met so far
            for queue, waiting in backlog.items():
                if waiting * 4 < EAGER_LIMIT:  # lower limits are set already
                    continue
                for topic in self._topics_of(queue):
                    subscribers = directory.peek(topic)
                    if topic not in known and subscribers is not None:
                        known[topic] = self._limits(subscribers)
                    most = known.get(topic, {}).get(queue)
                    if most is not None and waiting * 4 >= most:
                        due.setdefault(topic, {})[queue] = most
            if due:
                await self._limit(due)

    def _topics_of(self, queue: bytes) -> list[str]:
        """Return the topics that a queue may belong to."""
        try:
            return [topic for topic, _ in splits_of(queue)]
        except UnicodeDecodeError:
            return []

    async def _limit(self, due: dict[str, dict[bytes, int]]) -> None:
        """Set the limits of topics' queues that are not set yet."""
        if self._session != self._cluster.sessions:
            self._session = self._cluster.sessions
            self._limited.clear()
        fresh: dict[bytes, int] = {}
        known = {topic: self._limited.setdefault(topic, {}) for topic in due}
        for topic, limits in due.items():
            fresh |= {q: most for q, most in limits.items() if known[topic].get(q) != most}
        if fresh and self._cluster.is_up and await self._set_all(fresh):
            for topic, limits in due.items():
                known[topic].update(limits)  # nobody's any more if the topic changed meanwhile

    async def _set_all(self, limits: dict[bytes, int]) -> bool:
        """Set limits on the servers that carry the queues; return whether all could be told."""
        by_place: dict[int, dict[bytes, int]] = {}
        for queue, most in limits.items():
            by_place.setdefault(self._cluster.route(queue), {})[queue] = most
        told = await asyncio.gather(*(self._set(*part) for part in by_place.items()))
        return all(told)

    async def _set(self, place: int, limits: dict[bytes, int]) -> bool:
        try:
            await self._cluster.admins[place].limit(list(limits.items()))
        except OSError as error:
            server = str(self._cluster.clients[place].server)
            log.warning("backlog limits are not set", server=server, error=_words(error))
            return False
        return True

    def passed_by(self, topic: str, client_id: str, count: int) -> None:
        """Count messages that a log dropped before a durable subscription got them."""
        log.warning(
            "messages missed: dropped by the log", topic=topic, client=client_id, count=count
        )
        self._passed[topic, client_id] += count

    def dropped(self, subscribers: Subscribers, index: int) -> None:
        """Count a copy that its queue had no room for."""
        pair = subscribers.topic, subscribers.client_id(index)
        self._drops[pair] += 1
        if subscribers.overflow.get(index) == "unsubscribe":
            self._end([pair])

    async def run(self, directory: Directory) -> None:
        """Write drop counters and look at backlogs, without end."""
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()
            if loop.time() - looked_at > LOOK_INTERVAL_S * self._members():
                looked_at = loop.time()
                await self.look(directory)

    async def flush(self) -> None:
        """Write the drop counters to the store; what it cannot take now is kept for later."""
        drops, self._drops = self._drops, Counter()
        passed, self._passed = self._passed, Counter()
        if not drops and not passed:
            return
        try:
            await self._subscriptions.count_drops(drops + passed)
        except BaseException as error:
            self._drops.update(drops)
            self._passed.update(passed)
            if isinstance(error, StoreError):
                return
            raise
        for (topic, client_id), count in drops.most_common(10):
            log.warning("copies dropped: queue full", topic=topic, client=client_id, count=count)


def _words(error: OSError) -> str:
    return str(error) or type(error).__name__
