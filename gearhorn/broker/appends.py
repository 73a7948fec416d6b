"""Appends: messages on their way into the logs of their topics.

Law: runs on the event loop. One round at a time writes everything that has come, so messages of
one topic are logged in the order in which their jobs were taken. A store that is away is waited
for; one that refuses the write is told to the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256

import structlog

from gearhorn.errors import StoreError, StoreReadOnly, StoreRefused, Unavailable
from gearhorn.gearman.worker import Job
from gearhorn.messages import Fanout, Logged
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import Info
from gearhorn.store.log import Item, Log
from gearhorn.timing import Backoff

ROUND = 500  # messages written together
ROUND_BYTES = 8 * 1024 * 1024
LONGEST_KEY = 64  # of what tells repeats; longer ones are hashed

log = structlog.get_logger(__name__)

Then = Callable[[Logged | Unavailable | None], None]


_Append = tuple[Job, str, Item, Then]  # a plain tuple: one is made for every message


class Appends:
    """Writes to the logs. ``clock_ms`` reads the members' clock, ``process`` is this worker's name
    for those that wait until receivers have done with a message."""

    def __init__(self, store: Log, clock_ms: Callable[[], int], process: str) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._process = process
        self._waiting: deque[_Append] = deque()
        self._came = asyncio.Event()
        self._passed = 0  # that were worked off, since the beginning
        self._added = 0
        self._barriers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.waiting_since: float | None = None  # the store has not answered since

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be logged."""
        return self._added == self._passed

    def add(self, job: Job, message: Fanout, then: Then) -> None:
        """Log a message; ``then`` is told where it stands, None if the topic has no log any more,
        or why it is not logged."""
        waiter = "" if message.background else self._process
        info = Info(time.time(), message.unique, tuple(message.exclude), waiter)
        item = _key(message), encode(info), message.payload
        self._waiting.append((job, message.topic, item, then))
        self._added += 1
        self._came.set()

    async def barrier(self) -> None:
        """Return once everything that was handed over before now is worked off."""
        if self._added > self._passed:
            passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._barriers.append((self._added, passed))
            await passed

    async def run(self) -> None:
        """Work off rounds, for ever."""
        while True:
            await self._came.wait()
            batch = self._take()
            if not self._waiting:
                self._came.clear()
            count = len(batch)
            try:
                await self._log(batch)
            except Exception:  # a bug: the jobs fail, and their senders know it
                log.exception("messages cannot be logged")
                for job, *_ in batch:
                    job.fail("internal error")
            self._passed += count
            while self._barriers and self._barriers[0][0] <= self._passed:
                self._barriers.popleft()[1].set_result(None)

    def _take(self) -> list[_Append]:
        batch: list[_Append] = []
        size = 0
        while self._waiting and len(batch) < ROUND and size < ROUND_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][2][2])
        return batch

    async def _log(self, batch: list[_Append]) -> None:
        backoff = Backoff(0.05, 1.0)
        loop = asyncio.get_running_loop()
        while batch:
            began = loop.time()
            topics: dict[str, list[_Append]] = {}
            for one in batch:
                if not one[0].is_given_back:
                    topics.setdefault(one[1], []).append(one)
            batch = []
            try:
                found = await self._store.append(
                    {topic: [one[2] for one in some] for topic, some in topics.items()},
                    self._clock_ms(),
                )
            except StoreError as error:
                found = dict.fromkeys(topics, error)
                self._is_away(began, error)
            for topic, some in topics.items():
                places = found[topic]
                if isinstance(places, StoreRefused | StoreReadOnly):
                    refusal = Unavailable(f"the store: {places}")
                    for *_, then in some:
                        then(refusal)
                elif isinstance(places, StoreError):
                    self._is_away(began, places)
                    batch += some
                elif places is None:
                    for *_, then in some:
                        then(None)
                else:
                    for one, place in zip(some, places, strict=True):
                        one[3](place)
            if batch:
                await asyncio.sleep(backoff.next_s())
            elif self.waiting_since is not None:
                self.waiting_since = None
                log.info("store is back; messages are logged again")

    def _is_away(self, since: float, error: StoreError) -> None:
        if self.waiting_since is None:
            self.waiting_since = since
            log.error("store is not there; messages wait to be logged", error=str(error))


def _key(message: Fanout) -> str:
    """Return what tells a repeated message (PROTOCOL §6, dedup)."""
    if message.unique is None:
        return ""
    if message.unique == "-":
        return sha256(message.payload).hexdigest()
    if len(message.unique) > LONGEST_KEY:
        return sha256(message.unique.encode()).hexdigest()
    return message.unique
