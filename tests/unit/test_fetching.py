"""Fetches: what is read, what is passed over, and what ends a wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.fanouts import Clock
from support.proxy import on_loop
from support.requests import Job
from support.windows import EPOCH, entry

from gearhorn.durable import fetching
from gearhorn.durable.fetching import Fetching
from gearhorn.durable.reply import REPLIES
from gearhorn.store.log import Entry, Place


class Log:
    """A log in memory, and what it was asked."""

    def __init__(self, *entries: Entry, what: str = "ok", position: int = 0) -> None:
        self.entries = list(entries)
        self.what = what
        self.position = position
        self.asked: list[tuple[str, int | None, int | None]] = []  # client_id, ack, purge
        self.is_there = True

    def add(self, *entries: Entry) -> None:
        self.entries += entries

    async def fetch(
        self, topic: str, client_id: str, *, epoch: str, ack: int | None, purge: int | None
    ) -> Place | None:
        self.asked.append((client_id, ack, purge))
        last = self.entries[-1].sequence if self.entries else 0
        if ack is not None:
            self.position = ack
        return Place(self.what, EPOCH, 1, last, self.position) if self.is_there else None

    async def read(self, topic: str, first: int, count: int, size: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.sequence >= first][:count]


def fetches(log: Log) -> Fetching:
    parts: Any = log, asyncio.Semaphore(REPLIES), Clock()
    return Fetching(*parts)


async def started(reading: Fetching, **request: Any) -> Any:
    """A fetch that has got as far as it can by itself."""
    job: Any = Job(topic="t", **request)
    reading.handle(job)
    for _ in range(10):
        await asyncio.sleep(0)
    return job


def sequences(reply: Any) -> list[int]:
    return [message["sequence"] for message in reply["messages"]]


@on_loop
async def test_messages_behind_a_sequence_are_read_up_to_the_limit() -> None:
    log = Log(*map(entry, range(1, 8)))
    job = await started(fetches(log), after=2, limit=3)
    reply = await job.reply()
    assert sequences(reply) == [3, 4, 5]
    assert (reply["epoch"], reply["first"], reply["last"]) == (EPOCH, 1, 7)


@on_loop
async def test_a_fetch_that_may_not_wait_is_replied_to_with_nothing() -> None:
    job = await started(fetches(Log(entry(1))), after=1)
    assert (await job.reply())["messages"] == []
    assert job.waits == 0


@on_loop
async def test_a_fetch_sleeps_until_a_message_comes_and_gives_its_grab_back() -> None:
    log = Log(entry(1))
    reading = fetches(log)
    job = await started(reading, after=1, wait=5)
    assert (job.replied, job.waits) == (None, 1)
    log.add(entry(2))
    reading.appended("t")
    assert sequences(await job.reply()) == [2]


@on_loop
async def test_a_message_between_the_stores_answer_and_the_sleep_is_not_missed() -> None:
    log = Log(entry(1))
    reading = fetches(log)
    answer = log.fetch

    async def and_meanwhile(*question: Any, **rest: Any) -> Place | None:
        place = await answer(*question, **rest)
        if len(log.entries) == 1:
            log.add(entry(2))
            reading.appended("t")
        return place

    log.fetch = and_meanwhile  # type: ignore[method-assign]
    job = await started(reading, after=1, wait=5)
    assert sequences(await job.reply()) == [2]
    assert len(log.asked) == 2


@on_loop
async def test_every_fetch_asks_again_when_events_were_missed() -> None:
    log = Log(entry(1))
    reading = fetches(log)
    job = await started(reading, after=1, wait=5)
    log.add(entry(2))
    reading.missed()
    assert sequences(await job.reply()) == [2]


def test_a_sleep_ends_though_no_event_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "LONGEST_SLEEP_S", 0.01)

    @on_loop
    async def test() -> None:
        log = Log(entry(1))
        job = await started(fetches(log), after=1, wait=5)
        log.add(entry(2))
        assert sequences(await job.reply()) == [2]

    test()


@on_loop
async def test_what_a_fetch_acknowledges_and_purges_it_does_once() -> None:
    log = Log(entry(1), position=0)
    reading = fetches(log)
    job = await started(reading, client_id="me", ack=1, purge=1, wait=5)
    log.add(entry(2))
    reading.appended("t")
    await job.reply()
    assert log.asked == [("me", 1, 1), ("me", None, None)]


@on_loop
async def test_a_client_is_moved_past_messages_that_exclude_it_before_its_first() -> None:
    log = Log(entry(1, "me"), entry(2, "me"), entry(3), entry(4, "me"), entry(5))
    job = await started(fetches(log), client_id="me")
    assert sequences(await job.reply()) == [3, 5]
    assert log.position == 2, "4 is passed over when 3 is acknowledged"


@on_loop
async def test_a_reader_without_a_client_id_gets_every_message() -> None:
    job = await started(fetches(Log(entry(1, "me"), entry(2))), after=0)
    assert sequences(await job.reply()) == [1, 2]


@on_loop
async def test_another_epoch_is_replied_to_without_messages() -> None:
    job = await started(fetches(Log(entry(1), what="epoch")), after=0, epoch="f" * 16)
    reply = await job.reply()
    assert (reply["epoch"], reply["messages"]) == (EPOCH, [])


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("client", "client me has no durable subscription"),
        ("pull", "ack: expected a subscription with pull"),
        ("ack", "ack: expected at most 1, the log's last, got 9"),
        ("purge", "purge: expected at most 1, the log's last, got 7"),
    ],
)
def test_what_the_store_refuses_is_said(what: str, error: str) -> None:
    @on_loop
    async def test() -> None:
        job = await started(fetches(Log(entry(1), what=what)), client_id="me", ack=9, purge=7)
        assert error in await job.reply()

    test()


@on_loop
async def test_a_topic_without_a_log_is_unknown() -> None:
    log = Log()
    log.is_there = False
    job = await started(fetches(log), after=0)
    assert "topic t has no log" in await job.reply()


@on_loop
async def test_a_fetch_whose_caller_has_gone_reads_no_more() -> None:
    log = Log(entry(1))
    reading = fetches(log)
    job = await started(reading, after=1, wait=5)
    job.is_lost = True
    reading.appended("t")
    await job.reply()
    assert len(log.asked) == 1
