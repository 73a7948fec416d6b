"""Drops: counts the copies and messages that subscriptions lost, and writes the counters.

Theory of operation. Drops come in thousands when a receiver stops, and each must not cost a round
trip; but a counter that outlived its subscription would be found in the next one of the same pair.
So drops are gathered in memory, written every second, and written at once before the end of a
subscription is answered.

Rules: runs on the event loop. A counter lives as long as its subscription: the store adds only to
those that are subscribed, and what is counted here is written before the end of a subscription is
answered (``wait_written``). A counter may come late all the same, from a member that was frozen or
that the store did not answer. It bears the version of the list that its copies were made from, and
the store does not add it if the pair has ended since. So nothing is left for the next subscription
of the same pair.
Counters are written in pieces of ``PIECE``. A piece that got no reply is sent again as it was,
under the number that it had, and the store adds it once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import structlog

from gearhorn.errors import StoreError
from gearhorn.fanout.copies import Subscribers
from gearhorn.members.change_queue import ChangeQueue
from gearhorn.names import shown_name
from gearhorn.store.subscriptions import Subscriptions

FLUSH_INTERVAL_S = 1.0
PIECE = 1_000  # counters written in one go: 3 ms of the store
LIMIT = 100_000  # counters in memory, while the store is away
LOGGED = 10  # subscriptions named in the log, at each interval

Pair = tuple[str, str]  # topic, client_id

log = structlog.get_logger(__name__)


class Drops:
    """What this member counted and the store does not have yet.

    Arguments:
        subscriptions: where the counters are in the store.
        changes: ends the subscriptions that end with their first drop.
    """

    def __init__(self, subscriptions: Subscriptions, changes: ChangeQueue) -> None:
        self._subscriptions = subscriptions
        self._changes = changes
        self._counts: dict[Pair, int] = {}
        self._versions: dict[Pair, int] = {}  # of the oldest list that a counter has copies of
        self._copies: Counter[Pair] = Counter()  # dropped since the log was told
        self._ended: set[tuple[Pair, int]] = set()  # with the version, since then too
        self._uncounted = 0  # beyond ``LIMIT``
        self._number = 0  # of the last piece
        self._piece: dict[Pair, int] = {}  # that the store has not acknowledged
        self._piece_versions: dict[Pair, int] = {}
        self._turn = asyncio.Lock()

    def dropped(self, subscribers: Subscribers, index: int) -> None:
        """Count a copy that its queue had no room for; end the subscription if it asks for that.

        Arguments:
            subscribers: the list that the copy was made from. Its version says which subscription
                of the pair is meant: a later one is spared.
            index: the queue's in the list.
        """
        subscribers, index = subscribers.part_of(index)
        pair = subscribers.topic, subscribers.client_id(index)
        self._count(pair, 1)
        if pair in self._counts:
            self._versions.setdefault(pair, subscribers.version)
        if pair in self._copies or len(self._copies) < LIMIT:
            self._copies[pair] += 1
        if subscribers.overflow_of(index) == "unsubscribe":
            self._maybe_end(pair, subscribers.version)

    def _maybe_end(self, pair: Pair, version: int) -> None:
        """Have a subscription ended; its other copies that find the queue full say nothing new."""
        if (pair, version) not in self._ended and len(self._ended) < LIMIT:
            self._ended.add((pair, version))
            self._changes.overflow(*pair, version)

    def passed_by(self, topic: str, client_id: str, count: int) -> None:
        """Count messages that a log dropped before a durable subscription got them."""
        log.warning(
            "messages missed: dropped by the log", topic=topic, client=client_id, count=count
        )
        self._count((topic, client_id), count)

    def _count(self, pair: Pair, count: int) -> None:
        """Add to a pair's counter, or to what is lost where there are ``LIMIT`` of them."""
        if pair in self._counts or len(self._counts) < LIMIT:
            self._counts[pair] = self._counts.get(pair, 0) + count
        else:
            self._uncounted += count

    async def run(self) -> None:
        """Write the counters now and then; runs until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()

    async def wait_written(self, topics: Sequence[str] | None) -> None:
        """Return once what was counted for these topics (None: for any) is written, or the store
        has not taken it."""
        known = {topic for topic, _ in (*self._counts, *self._piece)}
        if known if topics is None else not known.isdisjoint(topics):
            await self.flush()

    async def flush(self) -> None:
        """Write the counters to the store; what it cannot take now is kept for later."""
        async with self._turn:
            self._tell()
            left = len(self._counts)  # what comes meanwhile is for the next time
            while self._piece or left > 0:
                if not self._piece:
                    left -= self._take()
                try:
                    await self._subscriptions.count_drops(
                        self._number, self._piece, self._piece_versions
                    )
                except StoreError:
                    return
                self._piece = {}

    def _take(self) -> int:
        """Take the next piece; return how many counters it has."""
        self._piece = dict(islice(self._counts.items(), PIECE))
        known = self._versions
        self._piece_versions = {pair: known.pop(pair) for pair in self._piece if pair in known}
        for pair in self._piece:
            del self._counts[pair]
        self._number = self._subscriptions.number_drops()
        return len(self._piece)

    def _tell(self) -> None:
        """Log which subscriptions lost copies since the last time, those that lost more first."""
        copies, self._copies = self._copies, Counter()
        self._ended.clear()
        for (topic, client_id), count in copies.most_common(LOGGED):
            shown = shown_name(topic)
            log.warning("copies dropped: queue full", topic=shown, client=client_id, count=count)
        if self._uncounted:
            log.warning("drops are not counted: too many wait for the store", count=self._uncounted)
            self._uncounted = 0
