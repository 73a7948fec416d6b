"""Appends: messages on their way into the logs of their topics.

Theory of operation. A message of a durable topic is fanned out only after it is in the log, so
every publish waits here for the store. Writing each by itself would bound a topic by the round
trip, so a *round* writes everything that has come, and ``ROUNDS`` of them may be under way. Rounds
follow each other on one connection: messages are logged in the order in which their jobs were
taken, also those of different rounds.

The invariant: each message is logged exactly once, and none overtakes another of its topic. It is
hard to keep where an answer is late or lost, since the round may have been carried out, or may
still be. Writing it again would log it twice; giving it up would lose a message that was accepted.
So what the answer would have said is found out, in this order:

1. No new round is begun (``_steady``), and rounds behind the first unanswered one are taken up too:
   the store refuses an append whose predecessor it has not seen, so they failed as well.
2. The store is asked what became of each (``Log.fates``). The same script gives up what was not
   carried out: should that request still be on its way, it never will be carried out. Until this
   question is answered, nothing else is tried.
3. Messages that were carried out are told where they stand. The others are written again, the
   oldest first, under new numbers.

What was tried and failed. Writing again without asking: an append whose answer was late was logged
twice. So each append has a number, and the store keeps what became of the last ones.

A slow store may answer each round just too late, and would never be seen to be there. So the
time-out doubles with each round that is not answered (``_patience``).

Rules: runs on the event loop. A store that is away is waited for; a write that it refuses is told
to the caller. Whatever crashes, the job of each message is finished. See docs/protocol.rst,
"Durable topics".
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from itertools import repeat
from typing import Any, Protocol, TypeVar

import structlog

from gearhorn.errors import InternalError, StoreError, StoreNoWrites, StoreRefused, Unavailable
from gearhorn.gearman.worker import Job
from gearhorn.messages.codec import encode
from gearhorn.messages.fanout import Fanout
from gearhorn.messages.logs import Info, Logged
from gearhorn.requests import attempt
from gearhorn.store.log import Append, Appended, Item, Log, Undone
from gearhorn.tasks import on_crash, went_well
from gearhorn.timing import Backoff, MembersClock

ROUNDS = 2  # under way: the store works on one while answers to the other are sent
ROUND = 500  # messages written together
ROUND_BYTES = 8 * 1024 * 1024  # of payloads; one message more may exceed it
LONGEST_KEY = 64  # characters of what tells repeats; longer ones are hashed
MAX_PATIENCE = 16.0  # times the usual time-out, where the store goes on answering late

log = structlog.get_logger(__name__)

P_contra = TypeVar("P_contra", contravariant=True)
P = TypeVar("P")


class Origin(Protocol[P_contra]):
    """Hands messages over, and goes on with each once it is known where it stands."""

    def logged(self, plan: P_contra, place: Logged | Unavailable | None) -> None:
        """Go on with a message. This is called once for each, in the order of the calls of ``add``.

        Arguments:
            plan: what was handed over with the message.
            place: where it stands in the log; None if its topic has no log any more, or why it is
                not logged.
        """


_Found = dict[str, Appended]  # by topic, what became of an append
# Its job, topic, item, origin and plan. A plain tuple, since one is made for every message; an
# object that joins the last two would cost as much again
_Append = tuple[Job, str, Item, Origin[Any], Any]


class _Round:
    """Messages that are written together, and the requests for them by topic.

    Arguments:
        batch: in the order in which they were handed over.
        appends: as they were numbered, to ask for their fates.
        task: ends with the store's answer.
    """

    __slots__ = ("appends", "batch", "began_s", "task")

    def __init__(
        self, batch: list[_Append], appends: dict[str, Append], task: asyncio.Task[_Found]
    ) -> None:
        self.batch = batch
        self.appends = appends
        self.task = task
        self.began_s = asyncio.get_running_loop().time()

    def keep(self, batch: list[_Append]) -> None:
        """Keep these messages; of the others it is known what became of them. The fates of topics
        without one are not asked for."""
        if not batch:  # as nearly always
            self.batch, self.appends = [], {}
            return
        topics = {topic for _, topic, *_ in batch}
        self.batch = batch
        self.appends = {name: append for name, append in self.appends.items() if name in topics}


class Appends:
    """Writes to the logs.

    Arguments:
        store: the logs.
        clock: says when messages are logged, for what is kept by age.
        process: this worker's name, for members that tell it of receivers it waits for.

    Attributes:
        topics: those of which messages wait to be logged: which is the last one of each, by its
            number, in ascending order. Others only look whether a topic is there.
        waiting_since: when the first round began that the store has not answered, by the event
            loop's clock; None where it answers.
    """

    def __init__(self, store: Log, clock: MembersClock, process: str) -> None:
        self._store = store
        self._clock = clock
        self._process = process
        self._waiting: deque[_Append] = deque()
        self._came = asyncio.Event()
        self._slots = asyncio.Semaphore(ROUNDS)
        self._steady = asyncio.Event()  # of no round it is unknown what became of it
        self._steady.set()
        self._rounds: asyncio.Queue[_Round] = asyncio.Queue()
        self._patience = 1.0  # times the usual time-out
        self._added = 0  # messages since the beginning
        self._passed = 0  # of these, those that were worked off
        self._barriers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.topics: dict[str, int] = {}
        self._followers: dict[int, list[tuple[Job, Origin[Any], Any]]] = {}  # by its number
        self.waiting_since: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no message waits to be logged."""
        return self._added == self._passed

    def add(self, job: Job, message: Fanout, origin: Origin[P], plan: P) -> None:
        """Log a message.

        Arguments:
            job: is failed if gearhorn breaks; what was given back is not written a second time.
            message: to be logged under the present time.
            origin: goes on with the message.
            plan: what ``origin`` wants to have with the answer.
        """
        waiter = "" if message.background else self._process
        info = Info(
            time.time(),
            message.unique,
            tuple(message.exclude),
            waiter,
            message.headers,
            message.expires_ms,
            message.expires_at,
        )
        item = _key(message), encode(info), message.payload
        topic = message.topic
        self._waiting.append((job, topic, item, origin, plan))
        self._added += 1
        self.topics.pop(topic, None)
        self.topics[topic] = self._added
        self._came.set()

    def follow(self, topic: str, job: Job, origin: Origin[P], plan: P) -> None:
        """Tell ``origin`` that a message is not logged, once those of its topic are worked off that
        wait now, of which there are some: what it sends must not overtake them. ``job`` is failed
        if it raises."""
        self._followers.setdefault(self.topics[topic], []).append((job, origin, plan))

    async def barrier(self) -> None:
        """Return once everything that was handed over before now is worked off."""
        if self._added > self._passed:
            passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._barriers.append((self._added, passed))
            await passed

    async def write(self) -> None:
        """Write what comes, without end; more than one round may be under way."""
        # A slot is taken before the messages: all that comes while none is free goes with the next
        # round.
        while True:
            await self._came.wait()
            await self._slots.acquire()
            try:
                await self._steady.wait()
            except BaseException:
                self._slots.release()
                raise
            batch = _portion(self._waiting)
            if not self._waiting:
                self._came.clear()
            if batch:
                await self._rounds.put(self._write(batch))
            else:
                self._slots.release()

    async def tell(self) -> None:
        """Take the answers and tell them, in order and without end.

        A round that is not answered holds up those behind it, whose messages may be later ones of
        its topics.
        """
        while True:
            round_ = await self._rounds.get()
            count = len(round_.batch)
            try:
                with on_crash(lambda: _break(round_.batch)):  # noqa: B023 (called at once)
                    if not await self._finish(round_):
                        await self._recover(round_)
            finally:
                self._pass(count)
            went_well()

    def _pass(self, count: int) -> None:
        """Messages of one round are worked off: its slot is free, and what waited for them goes on.
        Followers come before barriers, since a barrier promises that nothing is on its way."""
        self._slots.release()
        self._passed += count
        topics = self.topics
        while topics and topics[topic := next(iter(topics))] <= self._passed:
            del topics[topic]
        for number in [number for number in self._followers if number <= self._passed]:
            for job, origin, plan in self._followers.pop(number):
                attempt(job, partial(origin.logged, plan, None))
        while self._barriers and self._barriers[0][0] <= self._passed:
            self._barriers.popleft()[1].set_result(None)

    def _write(self, batch: list[_Append]) -> _Round:
        """Begin to write messages; the store carries rounds out in the order of these calls."""
        topics: dict[str, list[Item]] = {}
        for _, topic, item, *_ in batch:
            topics.setdefault(topic, []).append(item)
        appends = self._store.number(topics)
        write = self._store.append(appends, self._clock.clock_ms, self._patience)
        return _Round(batch, appends, asyncio.create_task(write))

    async def _finish(self, round_: _Round) -> bool:
        """Tell where the messages of a round stand; return whether that is known of all of them:
        otherwise the round is left with those of which it is not."""
        try:
            round_.keep(self._tell(round_.batch, await round_.task, round_.began_s))
        except StoreError as error:
            self._is_away(round_.began_s, error)
        return not round_.batch

    async def _recover(self, first: _Round) -> None:
        """Find out what became of rounds, and write again what was not logged, until all is told.
        Nothing new is begun meanwhile."""
        self._steady.clear()
        unknown, undone, behind = [first], deque[_Append](), list[int]()

        def fail() -> None:
            for round_ in unknown:
                _break(round_.batch)
            _break(undone)

        try:
            with on_crash(fail):
                await self._resolve(unknown, undone, behind)
        finally:
            self._store.mend()
            for count in behind:
                self._pass(count)
            self._patience = 1.0
            self._steady.set()
        if self.waiting_since is not None:
            self.waiting_since = None
            log.info("store is back; messages are logged again")

    async def _resolve(
        self, unknown: list[_Round], undone: deque[_Append], behind: list[int]
    ) -> None:
        """Do what the head of this module says, in its order.

        Arguments:
            unknown: rounds of which it is not known what became of them.
            undone: messages behind these that are to be written again.
            behind: is extended by the numbers of messages of the rounds that are taken up here.
        """
        backoff = Backoff(0.05, 1.0)
        while unknown or undone:
            await asyncio.sleep(backoff.next_s())
            await self._take_up(unknown, behind)
            self._store.mend()
            found = await self._fates(unknown)
            if found is None:
                continue
            again = [
                append
                for round_, fates in zip(unknown, found, strict=True)
                for append in self._tell(round_.batch, fates, round_.began_s)
            ]
            unknown.clear()
            undone.extendleft(reversed(again))  # they are older than what is there
            await self._write_again(unknown, undone)

    async def _take_up(self, unknown: list[_Round], behind: list[int]) -> None:
        """Take up the rounds that were begun behind the first one: they have failed too."""
        while not self._rounds.empty():
            round_ = self._rounds.get_nowait()
            unknown.append(round_)
            behind.append(len(round_.batch))
            await self._finish(round_)

    async def _write_again(self, unknown: list[_Round], undone: deque[_Append]) -> None:
        """Write messages one round after the other, until one is not answered. What its job server
        has given to another member meanwhile is left out: that member logs it."""
        while undone and not unknown:
            batch = [append for append in _portion(undone) if not append[0].is_given_back]
            if batch and not await self._finish(round_ := self._write(batch)):
                unknown.append(round_)
                self._patience = min(2 * self._patience, MAX_PATIENCE)

    async def _fates(self, unknown: Iterable[_Round]) -> list[_Found] | None:
        """Return what became of rounds; None where that is not known yet. All of it or nothing: to
        tell a later message before an older one is known would change their order."""
        known = []
        for round_ in unknown:
            try:
                found = await self._store.fates(round_.appends) if round_.batch else {}
            except StoreError as error:
                self._is_away(round_.began_s, error)
                return None
            for appended in found.values():
                if isinstance(appended, StoreError) and not isinstance(appended, Undone):
                    self._is_away(round_.began_s, appended)
                    return None
            known.append(found)
        return known

    def _tell(self, batch: list[_Append], found: _Found, began_s: float) -> list[_Append]:
        """Tell the messages that have an answer; return the others. What the store refuses for
        good is an answer too."""
        places = {
            topic: iter(appended) if isinstance(appended, list) else repeat(appended)
            for topic, appended in found.items()
        }
        again = []
        for append in batch:
            _, topic, _, origin, plan = append
            place = next(places[topic])
            if isinstance(place, StoreRefused | StoreNoWrites):
                origin.logged(plan, Unavailable(f"the store: {place}"))
            elif isinstance(place, StoreError):
                if not isinstance(place, Undone):
                    self._is_away(began_s, place)
                again.append(append)
            else:
                origin.logged(plan, place)
        return again

    def _is_away(self, since: float, error: StoreError) -> None:
        """The store did not answer a round that began at ``since``. This is logged once, until it
        answers again; ``StoreOutage`` reads ``waiting_since``."""
        if self.waiting_since is None:
            self.waiting_since = since
            log.error("store unreachable; messages wait to be logged", error=str(error))


def _break(batch: Iterable[_Append]) -> None:
    """Finish the jobs of a round that are not finished: gearhorn has a fault. Whether their
    messages are logged is not known; a publisher that publishes again should give a ``unique``."""
    for job, *_ in batch:
        job.fail(str(InternalError()))


def _portion(waiting: deque[_Append]) -> list[_Append]:
    """Take what one round writes away from the front of what waits: so many messages, and so many
    bytes, but one at least. The oldest go first, of whatever topic."""
    batch: list[_Append] = []
    size = 0
    while waiting and len(batch) < ROUND and size < ROUND_BYTES:
        batch.append(waiting.popleft())
        _, info, payload = batch[-1][2]
        size += len(info) + len(payload)
    return batch


def _key(message: Fanout) -> str:
    """Return what tells a repeated message, "" where it cannot be told (docs/protocol.rst, "Unique
    ids")."""
    if message.unique is None:
        return ""
    if message.unique == "-":
        return sha256(message.payload).hexdigest()
    if len(message.unique) > LONGEST_KEY:
        return sha256(message.unique.encode()).hexdigest()
    return message.unique
