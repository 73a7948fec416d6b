"""Messages on their way into the log: what is written together, and what each is told.

What the store itself promises is in the contract tests of appends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import on_loop
from support.requests import Job

from gearhorn.durable.appends import LONGEST_KEY, ROUND, Appends
from gearhorn.errors import StoreError, StoreRefused, StoreUnanswered, Unavailable
from gearhorn.messages.fanout import Fanout, decode_fanout
from gearhorn.messages.logs import Logged
from gearhorn.store.log import Append, Appended, Item, Undone


class Log:
    """A log in memory, whose appends meet with ``trouble``, one after the other."""

    def __init__(self, *trouble: str) -> None:
        self.trouble = list(trouble)
        self.logged: list[Item] = []
        self.rounds: list[int] = []  # messages of each
        self.patience: list[float] = []
        self.free = asyncio.Event()  # it answers
        self.free.set()
        self._line = asyncio.Lock()  # appends are carried out in the order of their calls
        self._numbers = 0
        self._done: dict[int, list[Logged] | None] = {}
        self._void: set[int] = set()
        self._is_broken = False

    def number(self, topics: Mapping[str, Sequence[Item]]) -> dict[str, Append]:
        appends = {}
        for topic, items in topics.items():
            self._numbers += 1
            appends[topic] = Append(self._numbers, 0, items)
        return appends

    def mend(self) -> None:
        self._is_broken = False

    async def append(
        self, appends: Mapping[str, Append], clock_ms: int, patience: float = 1.0
    ) -> dict[str, Appended]:
        act = self.trouble.pop(0) if self.trouble else "well"
        async with self._line:
            await self.free.wait()
        self.patience.append(patience)
        if act == "refused":
            return {topic: StoreRefused("WRONGTYPE") for topic in appends}
        if self._is_broken or act == "not sent":
            self._is_broken = True
            raise StoreUnanswered("no answer")
        self.rounds.append(sum(len(append.items) for append in appends.values()))
        for topic, append in appends.items():
            self._done[append.number] = None if topic == "none" else self._log(append.items)
        if act == "lost":
            self._is_broken = True
            raise StoreUnanswered("no answer")
        if act == "bug":
            raise ValueError("a bug")
        return {topic: self._done[append.number] for topic, append in appends.items()}

    def _log(self, items: Sequence[Item]) -> list[Logged]:
        places = []
        for item in items:
            self.logged.append(item)
            places.append(Logged(len(self.logged), "e", False))
        return places

    async def fates(self, appends: Mapping[str, Append]) -> dict[str, Appended]:
        return {
            topic: self._done.get(append.number, Undone("not carried out"))
            for topic, append in appends.items()
        }


def message(text: str, topic: str = "t", **fields: Any) -> Fanout:
    body = {"topic": topic, "payload": text, **fields}
    return decode_fanout(Job(**body).arguments, 1000)


class Bench:
    """Appends that run, and what each message was told."""

    def __init__(self, log: Log) -> None:
        parts: Any = log, SimpleNamespace(clock_ms=7), "tag"
        self.appends = Appends(*parts)
        self.told: list[tuple[str, Any]] = []
        self.jobs: list[Job] = []

    def add(self, text: str, job: Any = None, **fields: Any) -> None:
        self.jobs.append(job or Job())
        taken: Any = self.jobs[-1]
        self.appends.add(taken, message(text, **fields), self, text)

    def logged(self, text: str, place: Logged | Unavailable | None) -> None:
        self.told.append((text, place.sequence if isinstance(place, Logged) else place))

    async def rest(self) -> None:
        """Wait until everything is worked off."""
        async with asyncio.timeout(10):
            await self.appends.barrier()


@asynccontextmanager
async def running(log: Log) -> AsyncIterator[Bench]:
    bench = Bench(log)
    loops = [asyncio.create_task(loop()) for loop in (bench.appends.write, bench.appends.tell)]
    yield bench
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def payloads(log: Log) -> list[bytes]:
    return [payload for _, _, payload in log.logged]


@on_loop
async def test_what_has_come_is_written_together_up_to_a_rounds_size() -> None:
    log = Log()
    async with running(log) as bench:
        for number in range(ROUND + 2):
            bench.add(str(number))
        assert not bench.appends.is_idle
        await bench.rest()
    assert log.rounds == [ROUND, 2]
    assert bench.told == [(str(number), number + 1) for number in range(ROUND + 2)]
    assert bench.appends.is_idle


@on_loop
async def test_a_topic_without_a_log_is_told_so() -> None:
    async with running(Log()) as bench:
        bench.add("a", topic="none")
        await bench.rest()
    assert bench.told == [("a", None)]


@on_loop
async def test_a_refusal_is_told_and_the_next_message_goes_on() -> None:
    async with running(Log("refused")) as bench:
        bench.add("a")
        await bench.rest()
        bench.add("b")
        await bench.rest()
    (_, refusal), after = bench.told
    assert isinstance(refusal, Unavailable)
    assert after == ("b", 1)


@pytest.mark.parametrize("trouble", ["not sent", "lost"])
def test_without_an_answer_each_message_is_logged_once_and_in_order(trouble: str) -> None:
    @on_loop
    async def test() -> None:
        log = Log(trouble)
        log.free.clear()
        async with running(log) as bench:
            bench.add("a")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            bench.add("b")  # a round of its own, which fails with the first
            await asyncio.sleep(0)
            log.free.set()
            await bench.rest()
            assert bench.appends.waiting_since is None
        assert payloads(log) == [b"a", b"b"]
        assert bench.told == [("a", 1), ("b", 2)]

    test()


@on_loop
async def test_a_store_that_answers_too_late_is_given_more_time_each_time() -> None:
    log = Log(*["not sent"] * 4)
    async with running(log) as bench:
        bench.add("a")
        await bench.rest()
        bench.add("b")
        await bench.rest()
    assert log.patience == [1.0, 1.0, 2.0, 4.0, 8.0, 1.0]


@on_loop
async def test_while_the_store_is_away_it_is_known_since_when() -> None:
    log = Log("not sent")

    async def away(appends: Mapping[str, Append]) -> dict[str, Appended]:
        await asyncio.Event().wait()
        raise StoreError("never")

    log.fates = away  # type: ignore[method-assign]
    async with running(log) as bench:
        began_s = asyncio.get_running_loop().time()
        bench.add("a")
        await asyncio.sleep(0.1)
        since = bench.appends.waiting_since
        assert since is not None
        assert began_s <= since <= began_s + 0.1
        assert not bench.appends.is_idle


@on_loop
async def test_a_job_that_was_given_back_is_not_written_a_second_time() -> None:
    log = Log("not sent")
    back: Any = Job()
    back.is_given_back = True
    async with running(log) as bench:
        bench.add("back", job=back)
        bench.add("stays")
        await bench.rest()
    assert payloads(log) == [b"stays"]


@on_loop
async def test_a_barrier_waits_for_what_came_before_it_alone() -> None:
    log = Log()
    log.free.clear()
    async with running(log) as bench:
        await bench.rest()  # nothing is on its way
        bench.add("a")
        barrier = asyncio.create_task(bench.appends.barrier())
        await asyncio.sleep(0.01)
        assert not barrier.done()
        bench.add("b")
        log.free.set()
        await asyncio.wait_for(barrier, 10)
        assert ("a", 1) in bench.told
        await bench.rest()


@on_loop
async def test_a_crash_fails_the_jobs_of_its_round() -> None:
    log = Log("bug")
    bench = Bench(log)
    loops = [asyncio.create_task(loop()) for loop in (bench.appends.write, bench.appends.tell)]
    bench.add("a")
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(loops[1], 10)
    loops[0].cancel()
    assert "internal error" in bench.jobs[0].failed
    assert bench.appends.is_idle, "nothing waits for it any more"


@on_loop
async def test_what_tells_a_repeated_message_is_its_unique_id_or_its_payload() -> None:
    log = Log()
    long = "x" * (LONGEST_KEY + 1)
    async with running(log) as bench:
        for unique in (None, "id", "-", long):
            bench.add("text", **({} if unique is None else {"unique": unique}))
        await bench.rest()
    keys = [key for key, _, _ in log.logged]
    digests = [sha256(text.encode()).hexdigest() for text in ("text", long)]
    assert keys == ["", "id", *digests]


@on_loop
async def test_who_follows_a_topics_messages_is_called_behind_the_last_of_them() -> None:
    log = Log()
    log.free.clear()
    async with running(log) as bench:
        bench.add("a")
        assert "t" in bench.appends.topics
        job: Any = Job()
        bench.appends.follow("t", job, bench, "follower")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.add("b")  # the topic has a log again; a round of its own
        log.free.set()
        await bench.rest()
        assert bench.told == [("a", 1), ("follower", None), ("b", 2)]
        assert "t" not in bench.appends.topics


@on_loop
async def test_a_follower_whose_origin_raises_fails_its_own_job() -> None:
    class Broken:
        def logged(self, plan: Any, place: Any) -> None:
            raise ValueError("a bug")

    async with running(Log()) as bench:
        bench.add("a")
        jobs: list[Any] = [Job(), Job()]
        bench.appends.follow("t", jobs[0], Broken(), None)
        bench.appends.follow("t", jobs[1], bench, "follower")
        await bench.rest()
        assert jobs[0].failed == "internal error"
        assert bench.told == [("a", 1), ("follower", None)]
