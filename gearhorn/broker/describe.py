"""Describing: answers ``describe_fanout`` with members, and a page of topics and subscriptions.

Theory of operation. A page costs what is on it, and nothing scans all topics. One page of more than
``SMALL`` subscriptions is made at a time, and few smaller ones, so that any number of requests
leaves the store's connections and the memory to requests that subscribe and publish. The longest
reply is 16 MiB: the page ends earlier where names are long, and its cursor leads on.

A reply is put together from five sources, none of which waits for another: the members' states are
in memory, subscriptions come from the store page by page, logs and lanes from the store for what is
on the page, and backlogs from a poll of the job servers that all requests share for ten seconds.
They are of different moments. That does no harm: a description informs, and decides nothing.

Rules: runs on the event loop, which has its turn after every ``STEP`` subscriptions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from math import inf

from gearhorn.broker.gossiper import Gossiper
from gearhorn.broker.summaries import SummaryPages
from gearhorn.durable.service import DurableTopics
from gearhorn.errors import Unknown
from gearhorn.fanout.backlog import Backlog
from gearhorn.fanout.known_patterns import KnownPatterns
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
    log_of,
)
from gearhorn.messages.subscriptions import DurableOptions, pause_left_s
from gearhorn.names import check_name, is_pattern, list_name, queue_of, shown_name
from gearhorn.requests import answer
from gearhorn.store.lanes import LaneCounts, LaneRecord
from gearhorn.store.listing import Listing, Stored
from gearhorn.tasks import Tasks
from gearhorn.timing import MembersClock

SMALL = 100  # subscriptions of a page that needs not wait for large ones
MATCHING = 1_000  # patterns that a topic is told with
SMALL_PAGES = 4  # that are made at a time
STEP = 500  # subscriptions between two turns of the loop, or in one question to the store
NO_OWNERS = ("-", "?", "pull")  # what stands in a lane's record where no member delivers for it


class Descriptions:
    """Answers ``describe_fanout`` ("describe_fanout" in docs/protocol.rst).

    Arguments:
        gossiper: knows the members' states.
        listing: reads subscriptions from the store, page by page.
        durable: knows logs and lanes.
        backlog: knows how many copies wait in each queue.
        clock: the members', by which pauses end.
        patterns: knows which of them match a topic.
        summaries: make the answers to requests for those.
        max_backlog: the limit, in copies, of subscriptions without one of their own.
    """

    def __init__(
        self,
        *,
        gossiper: Gossiper,
        listing: Listing,
        durable: DurableTopics,
        backlog: Backlog,
        clock: MembersClock,
        patterns: KnownPatterns,
        summaries: SummaryPages,
        max_backlog: int,
    ) -> None:
        self._gossiper = gossiper
        self._listing = listing
        self._durable = durable
        self._backlog = backlog
        self._clock = clock
        self._patterns = patterns
        self._summaries = summaries
        self._max_backlog = max_backlog
        self._tasks = Tasks()
        self._small = asyncio.Semaphore(SMALL_PAGES)
        self._large = asyncio.Semaphore()

    def handle(self, job: Job) -> None:
        """Answer one job in a task of its own; never raises."""
        self._tasks.spawn(answer(job, self._reply), "description")

    async def _reply(self, job: Job) -> bytes:
        """Return the answer to a request, when it is its turn.

        Raises ``RequestError`` for what cannot be described, ``StoreError`` where the store does
        not answer; ``requests.answer`` tells the caller.
        """
        request = decode_describe(job.arguments)
        async with self._small if request.limit <= SMALL else self._large:
            if request.summary:
                return encode(await self._summaries.page(request))
            return encode(await self._describe(request))

    async def _describe(self, request: Describe) -> Described:
        """Put the answer together.

        The page comes first, since it decides which topics' logs are read. A topic that is asked
        for by name may have a log and no subscription, or nothing: that is ``unknown:`` on the
        first page, while a later page may be empty because the subscriptions ended meanwhile. The
        cursor names the pair with which the page ends.
        """
        name = None
        if isinstance(request.topic, str):
            check_name("topic", request.topic)
            name = list_name(request.topic, request.pattern)
        after = None
        if isinstance(request.cursor, str):
            after_name, _, after_client = request.cursor.rpartition(" ")
            after = (after_name, after_client)
        pages, more = await self._listing.page(name, after, request.limit)
        if name is not None and not pages:
            pages = [(name, [])]
        logs = await self._logs([topic for topic, _ in pages if not is_pattern(topic)])
        matching = await self._matching(name)
        is_known = logs or matching or any(page for _, page in pages)
        if name is not None and after is None and not is_known:
            if request.pattern:
                raise Unknown(f"pattern {request.topic} has no subscriptions")
            raise Unknown(f"topic {name} has neither subscriptions nor a log, nor a pattern")
        lists = await self._topics([(topic, page) for topic, page in pages if page], logs)
        if name is not None and name not in lists and (name in logs or matching):
            lists[name] = DescribedTopic({}, logs.get(name))
        if name in lists and matching:
            lists[name] = lists[name].matched_by(matching)
        patterns = {shown_name(one): lists.pop(one) for one in [*lists] if is_pattern(one)}
        cursor = f"{pages[-1][0]} {pages[-1][1][-1].client_id}" if more else None
        return Described(self._gossiper.known(), lists, cursor, patterns)

    async def _matching(self, name: str | None) -> list[str]:
        """Return the first patterns that match a topic, in order, if it is asked for by name."""
        if name is None or is_pattern(name):
            return []
        return sorted(map(shown_name, await self._patterns.matching(name)))[:MATCHING]

    async def _logs(self, names: Sequence[str]) -> dict[str, DescribedLog]:
        """Return the logs of those topics that have one; they are read ``STEP`` at a time."""
        found: dict[str, DescribedLog] = {}
        for at in range(0, len(names), STEP):
            part = names[at : at + STEP]
            logs = await self._durable.log.describe(part)
            found |= {
                name: log_of(fields) for name, fields in zip(part, logs, strict=True) if fields
            }
        return found

    async def _topics(
        self, pages: list[tuple[str, list[Stored]]], logs: dict[str, DescribedLog]
    ) -> dict[str, DescribedTopic]:
        """Describe what is on a page.

        Arguments:
            pages: topics with those of their subscriptions that are on it.
            logs: those of the topics that have one.
        """
        waiting, at = await self._backlog.recent() if pages else ({}, None)
        lanes = await self._lanes(pages, logs)
        topics: dict[str, DescribedTopic] = {}
        done = 0
        for topic, page in pages:
            subscriptions = {}
            for stored in page:
                lane = lanes.get((topic, stored.client_id))
                described = self._subscription(topic, stored, waiting=waiting, at=at, durable=lane)
                subscriptions[stored.client_id] = described
                done += 1
                if not done % STEP:
                    await asyncio.sleep(0)
            topics[topic] = DescribedTopic(subscriptions, logs.get(topic))
        return topics

    async def _lanes(
        self, pages: list[tuple[str, list[Stored]]], logs: dict[str, DescribedLog]
    ) -> dict[tuple[str, str], DescribedDurable]:
        """Return how the durable subscriptions of a page stand in the logs of their topics, by
        topic and client_id; none of a topic without a log."""
        found: dict[tuple[str, str], DescribedDurable] = {}
        for topic, page in pages:
            durable = [stored for stored in page if stored.options.durable]
            if topic not in logs:
                continue
            for start in range(0, len(durable), STEP):
                lanes = await self._lanes_of(topic, durable[start : start + STEP], logs[topic].last)
                found |= {(topic, client_id): lane for client_id, lane in lanes.items()}
        return found

    async def _lanes_of(
        self, topic: str, durable: list[Stored], last: int
    ) -> dict[str, DescribedDurable]:
        """Return how some durable subscriptions of one topic stand, by client_id.

        Arguments:
            topic: the topic.
            durable: the subscriptions.
            last: the sequence of the log's last message.
        """
        store = self._durable.lanes
        clients = [stored.client_id for stored in durable]
        records = await store.records(topic, clients)
        counts = await store.counts([(topic, client_id) for client_id in clients])
        return {
            stored.client_id: _lane(
                records[stored.client_id], options, last, count, clock_ms=self._clock.clock_ms
            )
            for stored, count in zip(durable, counts, strict=True)
            if stored.client_id in records and (options := stored.options.durable)
        }

    def _subscription(
        self,
        topic: str,
        stored: Stored,
        *,
        waiting: dict[bytes, int],
        at: float | None,
        durable: DescribedDurable | None,
    ) -> DescribedSubscription:
        """Describe one subscription.

        Arguments:
            topic: its topic.
            stored: what the store keeps of it.
            waiting: how many copies wait, by queue.
            at: when they were counted, in seconds since 1970; None: not yet.
            durable: how it stands in its log, if it is durable.
        """
        queue, options = queue_of(topic, stored.client_id), stored.options
        return DescribedSubscription(
            queue.decode(),
            options.max_backlog or self._max_backlog,
            options.overflow,
            options.envelope,
            stored.drops,
            options.ttl,
            None if at is None else waiting.get(queue, 0),
            at,
            durable,
        )


def _lane(
    record: LaneRecord,
    options: DurableOptions,
    last: int,
    counts: LaneCounts,
    *,
    clock_ms: int,
) -> DescribedDurable:
    """Describe one lane ("describe_fanout" in docs/protocol.rst).

    Arguments:
        record: who delivers for it, under which TERM, and up to where it is done.
        options: the subscription's.
        last: the sequence of the log's last message, from which the lag is counted.
        counts: what is counted of it.
        clock_ms: the members' clock.
    """
    left_s = pause_left_s(options.paused_ms, clock_ms)
    return DescribedDurable(
        record.position,
        last - record.position,
        max((history.attempts for history in counts.failures.values()), default=0),
        counts.parked,
        counts.expired,
        counts.skipped,
        None if record.owner in NO_OWNERS else record.owner,
        record.term,
        options.in_flight,
        options.timeout,
        options.max_attempts,
        options.max_backoff,
        options.batch,
        options.pull,
        options.latest,
        left_s > 0,
        time.time() + left_s if 0 < left_s < inf else None,
    )
