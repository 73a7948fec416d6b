"""Changes: subscribe and unsubscribe jobs, written in rounds and told to the members.

Law: runs on the event loop. A round takes every request that has come, writes all in one round
trip, tells each peer once, and then answers. The next round's writing does not wait for this
round's telling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from gearhorn.broker.matchmaking import Matchmaker
from gearhorn.broker.membership import Membership
from gearhorn.errors import QueueTaken, RequestError, StoreError, TooLarge, Unavailable
from gearhorn.gearman.worker import Job
from gearhorn.messages import (
    Changed,
    Subscribed,
    decode_subscribe,
    decode_unsubscribe,
    encode,
    encode_given_options,
    encode_unsubscribed,
)
from gearhorn.names import check_subscription
from gearhorn.store.subscriptions import Applied, Change, Subscriptions
from gearhorn.tasks import Tasks

ROUND = 500  # changes written together
DRAINS = 16  # at once

log = structlog.get_logger(__name__)


class _Request(NamedTuple):
    job: Job
    change: Change
    drain: bool


class Changes:
    """The subscriptions' only writer in this member.

    ``drop`` forgets a topic's list; ``served`` are the functions of gearhorn itself; ``settle``
    returns once no fan-out that holds a former list of these topics is unsent; ``lift`` takes
    backlog limits away; ``drain`` empties a queue and counts.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        drop: Callable[[str], None],
        matchmaker: Matchmaker,
        membership: Membership,
        served: frozenset[bytes],
        settle: Callable[[Sequence[str]], Awaitable[None]],
        lift: Callable[[Sequence[bytes]], Awaitable[None]],
        drain: Callable[[bytes], Awaitable[int]],
    ) -> None:
        self._subscriptions = subscriptions
        self._drop = drop
        self._matchmaker = matchmaker
        self._membership = membership
        self._served = served
        self._settle = settle
        self._lift = lift
        self._drains = asyncio.Semaphore(DRAINS)  # bounds the connections that drains open
        self._drain = drain
        self._waiting: list[_Request] = []
        self._draining: dict[bytes, list[_Request]] = {}  # requests that wait for a drain
        self._came = asyncio.Event()
        self._tasks = Tasks()

    def subscribe(self, job: Job) -> None:
        """Take one subscribe job."""
        try:
            if job.oversized:
                raise TooLarge("the request is too long")
            request = decode_subscribe(job.arguments)
            queue = check_subscription(request.topic, request.client_id, self._served)
            options = encode_given_options(request)
            change = Change("subscribe", request.topic, request.client_id, queue, options)
            self._take(_Request(job, change, False))
        except RequestError as error:
            job.fail(str(error))

    def unsubscribe(self, job: Job) -> None:
        """Take one unsubscribe job."""
        try:
            if job.oversized:
                raise TooLarge("the request is too long")
            request = decode_unsubscribe(job.arguments)
            queue = check_subscription(request.topic, request.client_id, self._served)
            change = Change("unsubscribe", request.topic, request.client_id, queue)
            self._take(_Request(job, change, request.drain))
        except RequestError as error:
            job.fail(str(error))

    def _take(self, request: _Request) -> None:
        queue = request.change.queue
        if queue in self._draining:
            self._draining[queue].append(request)
            return
        if request.drain:
            self._draining[queue] = []
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
                applied, members = await self._subscriptions.apply([one.change for one in batch])
            except StoreError as error:
                self._refuse(batch, error)
                continue
            self._tasks.spawn(self._finish(batch, applied, members), "changes")

    def _refuse(self, batch: list[_Request], error: StoreError) -> None:
        """Answer at once, those too that came while the store was being asked: they would wait
        as long again. Lists stay: nothing was promised of a change that was refused."""
        log.warning("changes refused: store is not there", count=len(batch), error=str(error))
        batch = batch + self._waiting
        self._waiting = []
        self._came.clear()
        for request in batch:
            request.job.fail(str(Unavailable(f"the store: {error}")))
            self._release(request)

    async def _finish(
        self, batch: list[_Request], applied: list[Applied], members: frozenset[str]
    ) -> None:
        done = []
        for request, outcome in zip(batch, applied, strict=True):
            refusal = self._refusal(request.change, outcome)
            if refusal is None:
                done.append((request, outcome))
            else:
                request.job.fail(str(refusal))
                self._release(request)
        if not done:
            return
        lifted = [one.change.queue for one, outcome in done if outcome.was_limited]
        if lifted:  # before anybody reads the new limits and sets them
            await self._lift(lifted)
        changed = []
        for request, outcome in done:
            self._drop(request.change.topic)
            is_removal = request.change.kind == "unsubscribe"
            changed.append(Changed(request.change.topic, outcome.version, is_removal))
        removed = [change.topic for change in changed if change.removed]
        peers = self._membership.saw(members)
        await asyncio.gather(self._matchmaker.tell(changed, peers), self._settle(removed))
        for request, outcome in done:
            if request.drain and outcome.existed:
                self._tasks.spawn(self._drain_and_answer(request, outcome), "drain")
            else:
                self._answer(request, outcome, None)
                self._release(request)

    def _refusal(self, change: Change, outcome: Applied) -> RequestError | None:
        if outcome.error is not None:
            return Unavailable(f"the store: {outcome.error}")
        if outcome.owner is not None:
            topic, client_id = outcome.owner
            queue = change.queue.decode()
            return QueueTaken(f"{queue} belongs to topic {topic}, client {client_id}")
        return None

    async def _drain_and_answer(self, request: _Request, outcome: Applied) -> None:
        async with self._drains:
            count = await self._drain(request.change.queue)
        self._answer(request, outcome, count)
        self._release(request)

    def _answer(self, request: _Request, outcome: Applied, drained: int | None) -> None:
        change = request.change
        if change.kind == "subscribe":
            log.debug("subscribed", topic=change.topic, client=change.client_id)
            request.job.complete(encode(Subscribed(change.queue.decode(), outcome.version)))
        else:
            log.debug("unsubscribed", topic=change.topic, client=change.client_id, drained=drained)
            request.job.complete(encode_unsubscribed(outcome.version, drained))

    def _release(self, request: _Request) -> None:
        """Let those go on that waited for this request's drain."""
        if request.drain:
            for held in self._draining.pop(request.change.queue, []):
                self._take(held)
