"""Describing: what this member knows of the members, and what the store holds, page by page.

Theory of operation. A page costs what is on it, and nothing scans all topics. One page of more than
``SMALL`` subscriptions is made at a time, and few smaller ones, so that any number of requests
leaves the store's connections and the memory to those who subscribe and publish. The longest reply
is 16 MiB: the page ends earlier where names are long, and its cursor leads on.

Rules: runs on the event loop, which has its turn after every ``STEP`` subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gearhorn.broker.gossiper import Gossiper
from gearhorn.durable.service import DurableTopics
from gearhorn.errors import Unknown
from gearhorn.fanout.backlog import Backlog
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.describe import (
    Describe,
    Described,
    DescribedDurable,
    DescribedLog,
    DescribedSubscription,
    DescribedTopic,
    decode_describe,
)
from gearhorn.messages.logs import (
    DEFAULT_MAX_AGE_S,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_MESSAGES,
    FailureHistory,
)
from gearhorn.names import check_name, queue_of
from gearhorn.requests import answer
from gearhorn.store.lanes import LaneRecord
from gearhorn.store.listing import Listing, Stored
from gearhorn.tasks import Tasks

SMALL = 100  # subscriptions of a page that needs not wait for large ones
SMALL_PAGES = 4  # that are made at a time
STEP = 500  # subscriptions


class Descriptions:
    """Answers ``describe_fanout``. ``max_backlog`` is what holds for subscriptions without one."""

    def __init__(
        self,
        *,
        gossiper: Gossiper,
        listing: Listing,
        durable: DurableTopics,
        backlog: Backlog,
        max_backlog: int,
    ) -> None:
        self._gossiper = gossiper
        self._listing = listing
        self._durable = durable
        self._backlog = backlog
        self._max_backlog = max_backlog
        self._tasks = Tasks()
        self._small = asyncio.Semaphore(SMALL_PAGES)
        self._large = asyncio.Semaphore()

    def handle(self, job: Job) -> None:
        """Take one job."""
        self._tasks.spawn(answer(job, self._reply), "description")

    async def _reply(self, job: Job) -> bytes:
        request = decode_describe(job.arguments)
        async with self._small if request.limit <= SMALL else self._large:
            return encode(await self._describe(request))

    async def _describe(self, request: Describe) -> Described:
        topic = request.topic if isinstance(request.topic, str) else None
        if topic is not None:
            check_name("topic", topic)
        after = None
        if isinstance(request.cursor, str):
            after_topic, _, after_client = request.cursor.partition(" ")
            after = (after_topic, after_client)
        pages, more = await self._listing.page(topic, after, request.limit)
        names = [name for name, _ in pages] or ([] if topic is None else [topic])
        described = await self._logs(names)
        if topic is not None and not pages and after is None and not described:
            raise Unknown(f"topic {topic} has neither subscriptions nor a log")
        topics = await self._topics(pages or [(name, []) for name in described], described)
        cursor = f"{pages[-1][0]} {pages[-1][1][-1].client_id}" if more else None
        return Described(self._gossiper.known(), topics, cursor)

    async def _logs(self, names: Sequence[str]) -> dict[str, DescribedLog]:
        """Return the logs of those topics that have one."""
        found: dict[str, DescribedLog] = {}
        for at in range(0, len(names), STEP):
            some = names[at : at + STEP]
            logs = await self._durable.log.describe(some)
            found |= {name: _log(one) for name, one in zip(some, logs, strict=True) if one}
        return found

    async def _topics(
        self, pages: list[tuple[str, list[Stored]]], logs: dict[str, DescribedLog]
    ) -> dict[str, DescribedTopic]:
        """Describe what is on a page."""
        waiting, at = await self._backlog.recent() if pages else ({}, None)
        lanes = await self._lanes(pages, logs)
        topics: dict[str, DescribedTopic] = {}
        done = 0
        for topic, page in pages:
            subscriptions = {}
            for one in page:
                lane = lanes.get((topic, one.client_id))
                described = self._subscription(topic, one, waiting, at, lane)
                subscriptions[one.client_id] = described
                done += 1
                if not done % STEP:
                    await asyncio.sleep(0)
            topics[topic] = DescribedTopic(subscriptions, logs.get(topic))
        return topics

    async def _lanes(
        self, pages: list[tuple[str, list[Stored]]], logs: dict[str, DescribedLog]
    ) -> dict[tuple[str, str], DescribedDurable]:
        """Return how the durable subscriptions of a page are."""
        store = self._durable.lanes
        found = {}
        for topic, page in pages:
            durable = [one for one in page if one.options.durable]
            if not durable or topic not in logs:
                continue
            clients = [one.client_id for one in durable]
            positions: dict[str, LaneRecord] = {}
            counts: list[tuple[int, dict[int, FailureHistory]]] = []
            for start in range(0, len(clients), STEP):
                some = clients[start : start + STEP]
                positions |= await store.records(topic, some)
                counts += await store.counts([(topic, client_id) for client_id in some])
            for one, (parked, troubles) in zip(durable, counts, strict=True):
                held, options = positions.get(one.client_id), one.options.durable
                if held is None or options is None:
                    continue
                attempts = max((trouble.attempts for trouble in troubles.values()), default=0)
                found[topic, one.client_id] = DescribedDurable(
                    held.position,
                    logs[topic].last - held.position,
                    attempts,
                    parked,
                    None if held.owner in ("-", "?", "pull") else held.owner,
                    held.term,
                    options.in_flight,
                    options.timeout,
                    options.max_attempts,
                    options.max_backoff,
                    options.batch,
                    options.pull,
                )
        return found

    def _subscription(
        self,
        topic: str,
        one: Stored,
        waiting: dict[bytes, int],
        at: float | None,
        durable: DescribedDurable | None,
    ) -> DescribedSubscription:
        queue, options = queue_of(topic, one.client_id), one.options
        return DescribedSubscription(
            queue.decode(),
            options.max_backlog or self._max_backlog,
            options.overflow,
            options.envelope,
            one.drops,
            options.ttl,
            None if at is None else waiting.get(queue, 0),
            at,
            durable,
        )


def _log(fields: dict[str, str]) -> DescribedLog:
    return DescribedLog(
        fields["epoch"],
        int(fields["first"]),
        int(fields["last"]),
        int(fields["bytes"]) - int(fields["floor"]),
        int(fields["dropped"]),
        float(fields.get("max_age", DEFAULT_MAX_AGE_S)),
        int(fields.get("max_messages", DEFAULT_MAX_MESSAGES)),
        int(fields.get("max_bytes", DEFAULT_MAX_BYTES)),
    )
