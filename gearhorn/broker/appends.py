"""Appends: messages on their way into the logs of their topics.

Law: runs on the event loop. A round writes everything that has come, and rounds follow each other
on one line to the store, so messages are logged in the order in which their jobs were taken. A
store that is away is waited for; one that refuses the write is told to the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import repeat

import structlog

from gearhorn.errors import InternalError, StoreError, StoreNoWrites, StoreRefused, Unavailable
from gearhorn.gearman.worker import Job
from gearhorn.messages import Fanout, Logged
from gearhorn.messages.codec import encode
from gearhorn.messages.durable import Info
from gearhorn.store.log import Item, Log
from gearhorn.tasks import on_crash, went_well
from gearhorn.timing import Backoff

ROUNDS = 2  # under way: the store works on one while answers to the other are sent
ROUND = 500  # messages written together
ROUND_BYTES = 8 * 1024 * 1024
LONGEST_KEY = 64  # of what tells repeats; longer ones are hashed

log = structlog.get_logger(__name__)

Then = Callable[[Logged | Unavailable | None], None]


_Found = dict[str, list[Logged] | StoreError | None]
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
        self._slots = asyncio.Semaphore(ROUNDS)
        self._steady = asyncio.Event()  # nothing has to be asked again
        self._steady.set()
        self._rounds: asyncio.Queue[tuple[list[_Append], asyncio.Task[_Found]]] = asyncio.Queue()
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

    async def write(self) -> None:
        """Write what comes, without end; more than one round may be under way."""
        while True:
            await self._came.wait()
            await self._slots.acquire()
            try:
                await self._steady.wait()
            except BaseException:
                self._slots.release()
                raise
            batch = self._take()
            if not self._waiting:
                self._came.clear()
            if batch:
                await self._rounds.put((batch, asyncio.create_task(self._write(batch))))
            else:
                self._slots.release()

    async def tell(self) -> None:
        """Take the answers and tell them, in order and without end."""
        while True:
            batch, task = await self._rounds.get()
            try:
                with on_crash(partial(_break, batch)):
                    left = await self._finish(batch, task)
                    if left:
                        await self._recover(left)
            finally:
                self._slots.release()
                self._pass(len(batch))
            went_well()

    def _pass(self, count: int) -> None:
        """So many messages are worked off."""
        self._passed += count
        while self._barriers and self._barriers[0][0] <= self._passed:
            self._barriers.popleft()[1].set_result(None)

    async def _write(self, batch: list[_Append]) -> _Found:
        topics: dict[str, list[Item]] = {}
        for _, topic, item, _ in batch:
            topics.setdefault(topic, []).append(item)
        return await self._store.append(topics, self._clock_ms())

    async def _finish(self, batch: list[_Append], task: asyncio.Task[_Found]) -> list[_Append]:
        """Tell where the messages of a round stand; return those of which it is not known."""
        began = asyncio.get_running_loop().time()
        try:
            return self._tell(batch, await task, began)
        except StoreError as error:
            self._is_away(began, error)
            return batch

    async def _recover(self, batch: list[_Append]) -> None:
        """Ask again until all is told. Nothing new is begun meanwhile, and what was asked behind it
        has failed with it: so nothing overtakes it."""
        backoff = Backoff(0.05, 1.0)
        self._steady.clear()
        again = batch.copy()
        try:
            with on_crash(lambda: _break(again)):
                while again:
                    await asyncio.sleep(backoff.next_s())
                    await self._take_back(again)
                    again[:] = [one for one in again if not one[0].is_given_back]
                    self._store.mend()
                    again[:] = await self._finish(again, asyncio.create_task(self._write(again)))
        finally:
            self._store.mend()
            self._steady.set()
        if self.waiting_since is not None:
            self.waiting_since = None
            log.info("store is back; messages are logged again")

    async def _take_back(self, again: list[_Append]) -> None:
        """Add to ``again`` what was written behind it, and failed with it."""
        while not self._rounds.empty():
            more, task = self._rounds.get_nowait()
            try:
                with on_crash(partial(_break, more)):
                    again += await self._finish(more, task)
            finally:
                self._slots.release()
                self._passed += len(more)

    def _tell(self, batch: list[_Append], found: _Found, began: float) -> list[_Append]:
        """Tell those that have an answer; return the others."""
        places = {
            topic: repeat(one) if one is None or isinstance(one, StoreError) else iter(one)
            for topic, one in found.items()
        }
        again = []
        for append in batch:
            _, topic, _, then = append
            place = next(places[topic])
            if isinstance(place, StoreRefused | StoreNoWrites):
                then(Unavailable(f"the store: {place}"))
            elif isinstance(place, StoreError):
                self._is_away(began, place)
                again.append(append)
            else:
                then(place)
        return again

    def _take(self) -> list[_Append]:
        batch: list[_Append] = []
        size = 0
        while self._waiting and len(batch) < ROUND and size < ROUND_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][2][2])
        return batch

    def _is_away(self, since: float, error: StoreError) -> None:
        if self.waiting_since is None:
            self.waiting_since = since
            log.error("store is not there; messages wait to be logged", error=str(error))


def _break(batch: list[_Append]) -> None:
    """A fault of gearhorn's: finish the jobs of a round that are not finished."""
    for job, *_ in batch:
        job.fail(str(InternalError()))


def _key(message: Fanout) -> str:
    """Return what tells a repeated message (PROTOCOL §6, dedup)."""
    if message.unique is None:
        return ""
    if message.unique == "-":
        return sha256(message.payload).hexdigest()
    if len(message.unique) > LONGEST_KEY:
        return sha256(message.unique.encode()).hexdigest()
    return message.unique
