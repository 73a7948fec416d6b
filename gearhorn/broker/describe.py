"""Describing: what this member knows of the members, and what the store holds, page by page.

Law: runs on the event loop. Nothing here scans all topics; a page reads the topics that are on it.
"""

from __future__ import annotations

from gearhorn.broker.backlog import Backlog
from gearhorn.broker.gossip import Talk
from gearhorn.errors import RequestError, StoreError, Unavailable, Unknown
from gearhorn.gearman.worker import Job
from gearhorn.messages import (
    Describe,
    Described,
    DescribedSubscription,
    DescribedTopic,
    decode_describe,
    encode,
)
from gearhorn.names import check_name, queue_of
from gearhorn.store.subscriptions import Stored, Subscriptions
from gearhorn.tasks import Tasks


class Descriptions:
    """Answers ``describe_fanout``. ``max_backlog`` is what holds for subscriptions without one."""

    def __init__(
        self, talk: Talk, subscriptions: Subscriptions, backlog: Backlog, max_backlog: int
    ) -> None:
        self._talk = talk
        self._subscriptions = subscriptions
        self._backlog = backlog
        self._max_backlog = max_backlog
        self._tasks = Tasks()

    def handle(self, job: Job) -> None:
        """Take one job."""
        self._tasks.spawn(self._answer(job), "description")

    async def _answer(self, job: Job) -> None:
        try:
            request = decode_describe(job.arguments)
            job.complete(encode(await self._describe(request)))
        except StoreError as error:
            job.fail(str(Unavailable(f"the store: {error}")))
        except RequestError as error:
            job.fail(str(error))

    async def _describe(self, request: Describe) -> Described:
        topic = request.topic if isinstance(request.topic, str) else None
        if topic is not None:
            check_name("topic", topic)
        after = None
        if isinstance(request.cursor, str):
            after_topic, _, after_client = request.cursor.partition(" ")
            after = (after_topic, after_client)
        pages = await self._subscriptions.page(topic, after, request.limit)
        if topic is not None and not pages and after is None:
            raise Unknown(f"topic {topic} has no subscription")
        waiting, at = await self._backlog.recent() if pages else ({}, None)
        topics = {
            name: DescribedTopic(
                {one.client_id: self._subscription(name, one, waiting, at) for one in page}
            )
            for name, page in pages
        }
        is_full = sum(len(page) for _, page in pages) == request.limit
        cursor = f"{pages[-1][0]} {pages[-1][1][-1].client_id}" if is_full else None
        return Described(self._talk.known(), topics, cursor)

    def _subscription(
        self, topic: str, one: Stored, waiting: dict[bytes, int], at: float | None
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
        )
