"""Changes: subscriptions made and ended, written in rounds and told to the members.

Law: runs on the event loop. A round takes every request that has come, writes all in one round
trip, tells each peer once, and then answers. The next round's writing does not wait for this
round's telling. A subscription whose queue is being drained is tried again until that is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import structlog

from gearhorn.broker.matchmaking import Matchmaker
from gearhorn.broker.membership import Membership
from gearhorn.errors import (
    BadRequest,
    QueueTaken,
    RequestError,
    Reserved,
    StoreError,
    TooLarge,
    Unavailable,
)
from gearhorn.gearman.worker import Job
from gearhorn.messages import (
    Changed,
    decode_subscribe,
    decode_unsubscribe,
    encode,
    encode_given_options,
    encode_subscribed,
    encode_unsubscribed,
)
from gearhorn.messages.durable import (
    GivenDurable,
    Retained,
    decode_retain,
    encode_given_retention,
    encode_start,
)
from gearhorn.names import GOSSIP, check_publish, check_subscription, queue_of
from gearhorn.store.members import Member
from gearhorn.store.subscriptions import Applied, Change, Subscriptions
from gearhorn.tasks import Tasks
from gearhorn.timing import Backoff, now_s

ROUND = 500  # changes written together
DRAINS = 16  # at once
HELD_OFF_S = 0.05  # until a subscription whose queue is being drained is tried again

log = structlog.get_logger(__name__)


class _Request(NamedTuple):
    job: Job | None  # None: this member's own
    change: Change

    def fail(self, error: RequestError) -> None:
        if self.job is not None:
            self.job.fail(str(error))


class Changes:
    """The subscriptions' only writer in this member.

    ``drop`` forgets a topic's list, its lanes' if it is told so, and the backlog limit of the
    client that changed; ``served`` are the functions
    of gearhorn itself; ``settle`` returns once no fan-out that holds a former list of these topics
    is unsent; ``drain`` empties a queue and counts.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        drop: Callable[[str, bool, str | None], None],
        matchmaker: Matchmaker,
        membership: Membership,
        served: frozenset[bytes],
        settle: Callable[[Sequence[str]], Awaitable[None]],
        drain: Callable[[bytes], Awaitable[int]],
    ) -> None:
        self._subscriptions = subscriptions
        self._drop = drop
        self._matchmaker = matchmaker
        self._membership = membership
        self._served = served
        self._settle = settle
        self._drains = asyncio.Semaphore(DRAINS)  # bounds the connections that drains open
        self._drain = drain
        self._waiting: list[_Request] = []
        self._came = asyncio.Event()
        self._tasks = Tasks()

    def subscribe(self, job: Job) -> None:
        """Take one subscribe job."""
        try:
            if job.oversized:
                raise TooLarge("the request is too long")
            request = decode_subscribe(job.arguments)
            queue = check_subscription(request.topic, request.client_id, self._served)
            if request.is_durable and request.topic == GOSSIP:
                raise Reserved(f"topic {GOSSIP} has no log")
            options = encode_given_options(request)
            given = request.durable if isinstance(request.durable, GivenDurable) else GivenDurable()
            change = Change(
                "subscribe",
                request.topic,
                request.client_id,
                queue,
                options,
                start=encode_start(given) if request.is_durable else b"",
            )
            self._take(_Request(job, change))
        except RequestError as error:
            job.fail(str(error))

    def unsubscribe(self, job: Job) -> None:
        """Take one unsubscribe job."""
        try:
            if job.oversized:
                raise TooLarge("the request is too long")
            request = decode_unsubscribe(job.arguments)
            queue = check_subscription(request.topic, request.client_id, self._served)
            drainer = self._membership.id if request.drain else ""
            change = Change("unsubscribe", request.topic, request.client_id, queue, drainer=drainer)
            self._take(_Request(job, change))
        except RequestError as error:
            job.fail(str(error))

    def retain(self, job: Job) -> None:
        """Take one retain job."""
        try:
            if job.oversized:
                raise TooLarge("the request is too long")
            request = decode_retain(job.arguments)
            check_publish(request.topic)
            settings = encode_given_retention(request)
            self._take(_Request(job, Change("retain", request.topic, "", b"", settings)))
        except RequestError as error:
            job.fail(str(error))

    def end(self, pairs: Sequence[tuple[str, str]], kind: Literal["unsubscribe", "expire"]) -> None:
        """End subscriptions, of (topic, client_id), that nobody asked to end."""
        for topic, client_id in pairs:
            queue = queue_of(topic, client_id)
            self._take(_Request(None, Change(kind, topic, client_id, queue)))

    def _take(self, request: _Request) -> None:
        self._waiting.append(request)
        self._came.set()

    async def run(self) -> None:
        """Work off rounds, for ever."""
        while True:
            await self._came.wait()
            batch, self._waiting = self._waiting[:ROUND], self._waiting[ROUND:]
            if not self._waiting:
                self._came.clear()
            try:
                asked_s = now_s()
                applied, members = await self._subscriptions.apply(
                    [one.change for one in batch], self._membership.clock_ms
                )
            except StoreError as error:
                self._refuse(batch, error)
                continue
            peers = self._membership.saw(members, asked_s)
            self._tasks.spawn(self._finish(batch, applied, peers, now_s()), "changes")

    def _refuse(self, batch: list[_Request], error: StoreError) -> None:
        """Answer at once, those too that came while the store was being asked: they would wait
        as long again. Lists stay: nothing was promised of a change that was refused."""
        log.warning("changes refused: store is not there", count=len(batch), error=str(error))
        batch = batch + self._waiting
        self._waiting = []
        self._came.clear()
        for request in batch:
            request.fail(Unavailable(f"the store: {error}"))

    async def _finish(
        self,
        batch: list[_Request],
        applied: list[Applied],
        peers: Sequence[Member],
        since_s: float,
    ) -> None:
        done = []
        for request, outcome in zip(batch, applied, strict=True):
            if refusal := self._refusal(request.change, outcome):
                request.fail(refusal)
            elif outcome.version:
                done.append((request, outcome))
            elif request.change.kind == "subscribe":
                loop = asyncio.get_running_loop()
                loop.call_later(HELD_OFF_S, self._take, request)
        if not done:
            return
        changed = []
        for request, outcome in done:
            topic, is_durable = request.change.topic, outcome.is_durable
            client = request.change.client_id
            self._drop(topic, is_durable, client)
            is_removal = request.change.kind in ("unsubscribe", "expire")
            is_removal |= outcome.parked is not None
            changed.append(Changed(topic, outcome.version, is_removal, is_durable, client))
        removed = [change.topic for change in changed if change.removed]
        versions = [change.version for change in changed]
        await asyncio.gather(
            self._matchmaker.tell(changed, peers, since_s), self._hear(removed, versions)
        )
        await self._membership.settled()
        for request, outcome in done:
            if request.change.drainer and outcome.existed:
                self._tasks.spawn(self._drain_and_answer(request, outcome), "drain")
            else:
                self._answer(request, outcome, None)

    async def _hear(self, removed: Sequence[str], versions: Sequence[int]) -> None:
        """Know the changes, as a peer does that is told of them."""
        await self._settle(removed)
        self._membership.heard(versions)

    def _refusal(self, change: Change, outcome: Applied) -> RequestError | None:
        if outcome.error is not None:
            return Unavailable(f"the store: {outcome.error}")
        if outcome.owner is not None:
            topic, client_id = outcome.owner
            queue = change.queue.decode()
            return QueueTaken(f"{queue} belongs to topic {topic}, client {client_id}")
        if outcome.last is not None:
            return BadRequest(f"durable.start.sequence: the log's last is {outcome.last}")
        return None

    async def _drain_and_answer(self, request: _Request, outcome: Applied) -> None:
        queue = request.change.queue
        async with self._drains:
            count = await self._drain(queue)
        log.info("drained", queue=queue.decode(), copies=count)
        backoff = Backoff()
        while True:
            try:
                await self._subscriptions.drained(queue, request.change.drainer)
                break
            except StoreError:
                await asyncio.sleep(backoff.next_s())
        self._answer(request, outcome, count)

    def _answer(self, request: _Request, outcome: Applied, drained: int | None) -> None:
        change, job = request.change, request.job
        if job is None:
            if outcome.existed:
                log.info("subscription ended", topic=change.topic, client=change.client_id)
        elif change.kind == "subscribe":
            log.debug("subscribed", topic=change.topic, client=change.client_id)
            job.complete(encode_subscribed(change.queue, outcome.version, outcome.parked))
        elif change.kind == "retain":
            log.debug("retained", topic=change.topic)
            job.complete(encode(Retained(outcome.version)))
        else:
            log.debug("unsubscribed", topic=change.topic, client=change.client_id, drained=drained)
            job.complete(encode_unsubscribed(outcome.version, drained, outcome.parked))
