"""What becomes of copies that found their queue full, without any server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.limits import run, subscribers

from gearhorn.fanout import overflow as overflow_module
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.overflow import Overflow


class Queue:
    """Stands for a job server with one queue, and for its limit: ``limit`` is in force, ``wanted``
    was asked for; ``running`` of its jobs are being worked on."""

    def __init__(self, limit: int, wanted: int | None = None, running: int = 0) -> None:
        self.limit = limit
        self.wanted = wanted or limit
        self.running = running
        self.jobs: list[int] = []
        self.is_settable = True
        self.is_up = True
        self.trims = 0
        self.error: Exception | None = None
        self.are_ours = True

    async def barrier(self) -> None:
        await asyncio.sleep(0)

    def doubts(self, subscribers: Subscribers, index: int) -> bool:
        return self.limit != self.wanted

    async def confirm(self, subscribers: Subscribers, index: int) -> bool:
        await asyncio.sleep(0)
        if self.is_settable:
            self.limit = self.wanted
        return self.is_settable

    async def trim(self, queue: bytes, due: Callable[[], int]) -> int:
        self.trims += 1
        await asyncio.sleep(0)
        most = due()
        if self.error is not None:
            raise self.error
        gone = min(most, len(self.jobs) - self.running)
        del self.jobs[self.running : self.running + gone]
        return gone


class Copy:
    """A fan-out of one copy, number ``number``."""

    def __init__(self, bench: Bench, found: Subscribers, number: int) -> None:
        self.bench = bench
        self.subscribers = found
        self.number = number

    def send(self, index: int = 0) -> None:
        """Send the copy as a fan-out does."""
        overflow = self.bench.overflow
        if "t" in overflow.topics and overflow.keep(self, None):
            return
        self.send_held(index)

    def send_held(self, index: int) -> None:
        queue, overflow = self.bench.queue, self.bench.overflow
        if len(queue.jobs) < queue.limit:
            queue.jobs.append(self.number)
            overflow.accepted(self.subscribers, range(1), set())
        elif overflow.is_for(self.subscribers, index):
            overflow.refused(self, index)
        else:
            self.bench.lost.append(self.number)

    def drop_held(self, index: int) -> None:
        self.bench.lost.append(self.number)


class Bench:
    """An overflow and one queue; ``lost`` are the copies that were dropped, ``counted`` how many
    were discarded for younger ones."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.lost: list[int] = []
        self.counted = 0
        self.overflow = Overflow(queue, queue, self)  # type: ignore[arg-type]

    def dropped(self, found: Subscribers, index: int) -> None:
        self.counted += 1

    def publish(self, found: Subscribers, numbers: range) -> None:
        for number in numbers:
            Copy(self, found, number).send()

    async def idle(self) -> None:
        """Wait until nothing is held."""
        while not self.overflow.is_idle:
            await asyncio.sleep(0)


def listed(how: str = "drop_new") -> Subscribers:
    """A list of one subscription."""
    found = subscribers("t", "a")
    found.overflow = {} if how == "drop_new" else {0: how}
    return found


@pytest.mark.parametrize("how", ["drop_new", "drop_old", "unsubscribe"])
def test_a_limit_that_is_in_doubt_is_set_right_and_drops_nothing(how: str) -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=5, wanted=1_000))
        bench.publish(listed(how), range(300))
        await bench.idle()
        assert bench.queue.jobs == list(range(300))
        assert (bench.lost, bench.counted) == ([], 0)

    run(test)


def test_new_copies_are_dropped_where_the_limit_was_right_after_all() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=5, wanted=7))
        bench.publish(listed(), range(300))
        await bench.idle()
        assert bench.queue.jobs == list(range(7))
        assert bench.lost == list(range(7, 300))

    run(test)


@pytest.mark.parametrize(("how", "kept"), [("drop_new", range(5)), ("drop_old", range(295, 300))])
def test_a_limit_that_cannot_be_set_is_taken_for_right(how: str, kept: range) -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=5, wanted=1_000))
        bench.queue.is_settable = False
        bench.publish(listed(how), range(300))
        await bench.idle()
        assert bench.queue.jobs == list(kept)
        assert len(bench.lost) + bench.counted == 295

    run(test)


def test_the_oldest_are_discarded_and_the_order_stays() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=200))
        for turn in range(10):
            bench.publish(listed("drop_old"), range(100 * turn, 100 * turn + 100))
            await asyncio.sleep(0)
        await bench.idle()
        assert bench.queue.jobs == list(range(800, 1_000))
        assert (bench.lost, bench.counted) == ([], 800)
        assert bench.queue.trims <= 800 / overflow_module.BATCH + 10

    run(test)


def test_without_a_lease_nothing_is_discarded() -> None:
    """What waits there may be a later subscription's."""

    async def test() -> None:
        bench = Bench(Queue(limit=2))
        bench.publish(listed("drop_old"), range(2))
        bench.queue.are_ours = False
        bench.publish(listed("drop_old"), range(2, 5))
        await bench.idle()
        assert bench.queue.jobs == [0, 1]
        assert (bench.lost, bench.counted) == ([2, 3, 4], 0)

    run(test)


def test_where_all_are_running_the_new_copy_is_dropped() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=2, running=2))
        bench.publish(listed("drop_old"), range(5))
        await bench.idle()
        assert bench.queue.jobs == [0, 1]
        assert bench.lost == [2, 3, 4]

    run(test)


def test_a_failure_while_room_is_made_costs_the_copies_and_no_more() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=2))
        bench.queue.error = RuntimeError("a bug")
        bench.publish(listed("drop_old"), range(5))
        await bench.idle()
        assert bench.lost == [2, 3, 4]
        bench.queue.error = None
        bench.publish(listed("drop_old"), range(5, 7))
        await bench.idle()
        assert bench.queue.jobs == [5, 6]

    run(test)


def test_a_drain_waits_for_the_copies_of_former_lists_only() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=5))
        bench.publish(listed("drop_old"), range(500))
        settled = asyncio.create_task(bench.overflow.wait_sent(["t"]))
        await asyncio.sleep(0)
        now = listed("drop_old")
        number = 500
        while not settled.done():  # one comes always
            bench.publish(now, range(number, number + 1))
            number += 1
            await asyncio.sleep(0)
        assert bench.lost == []
        assert min(bench.queue.jobs) > 495
        await asyncio.wait_for(bench.overflow.wait_sent(["another"]), 10)

    run(test)


def test_a_drain_does_not_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow_module, "GIVE_UP_S", 0.1)

    async def test() -> None:
        bench = Bench(Queue(limit=5))
        trimmed, left = asyncio.Event(), list[int]()

        async def trim(queue: bytes, due: Callable[[], int]) -> int:
            await trimmed.wait()
            left.append(due())
            return 0

        bench.queue.trim = trim  # type: ignore[method-assign]
        bench.publish(listed("drop_old"), range(10))
        bench.queue.is_up = False
        waiting = asyncio.create_task(bench.overflow.wait_sent(None))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "without a server there is nothing to drain either"
        bench.queue.is_up = True
        await asyncio.wait_for(waiting, 10)
        assert bench.lost == [5, 6, 7, 8, 9]
        trimmed.set()
        await bench.idle()
        assert bench.queue.jobs == [0, 1, 2, 3, 4]
        assert left == [0], "what waits there now may be a later subscription's"

    run(test)


def test_a_drain_waits_for_what_is_being_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow_module, "GIVE_UP_S", 0.1)

    async def test() -> None:
        bench = Bench(Queue(limit=5))
        begun, discarded = asyncio.Event(), asyncio.Event()

        async def trim(queue: bytes, due: Callable[[], int]) -> int:
            assert due() == 5
            begun.set()
            await discarded.wait()
            del bench.queue.jobs[:5]
            return 5

        bench.queue.trim = trim  # type: ignore[method-assign]
        bench.publish(listed("drop_old"), range(10))
        await begun.wait()
        waiting = asyncio.create_task(bench.overflow.wait_sent(None))
        await asyncio.sleep(0.3)
        assert bench.lost == [5, 6, 7, 8, 9]
        assert not waiting.done()
        discarded.set()
        await asyncio.wait_for(waiting, 10)
        assert bench.counted == 5

    run(test)


class Asked(Subscribers):
    """A list that counts how often a queue of its is sought."""

    asked = 0

    def index_of(self, queue: bytes) -> int | None:
        self.asked += 1
        return super().index_of(queue)


def test_what_is_done_for_a_full_queue_does_not_grow_with_the_others_that_are_full() -> None:
    async def test() -> None:
        count = 500
        bench = Bench(Queue(limit=1))
        bench.queue.jobs.append(-1)
        queues = [b"t_c%d" % number for number in range(count)]
        overflow = dict.fromkeys(range(count), "drop_old")
        found = Asked("t", queues, enveloped=count, overflow=overflow)
        for index in range(count):
            bench.overflow.refused(Copy(bench, found, index), index)
        for index in range(count):
            bench.overflow.accepted(found, [index], set())
        assert bench.lost == list(range(count)), "a younger copy has outdated each"
        later = Copy(bench, found, count)
        for index in range(count):
            assert bench.overflow.keep(later, [index]) == {index}
        assert found.asked <= count
        await bench.idle()

    run(test)


def test_the_few_queues_that_are_full_are_found_in_a_list() -> None:
    async def test() -> None:
        bench = Bench(Queue(limit=1))
        bench.queue.jobs.append(-1)
        found = subscribers("t", *(f"c{number}" for number in range(50)))
        other = subscribers("t", *(f"c{number}" for number in range(20, 50)))
        for one in (found, other):
            one.overflow = dict.fromkeys(range(50), "drop_old")
        for index in (3, 30):
            bench.overflow.refused(Copy(bench, found, index), index)
        copy = Copy(bench, other, 100)
        assert bench.overflow.keep(copy, None) == {10}
        assert bench.overflow.keep(copy, [9, 11]) == set()
        bench.overflow.accepted(other, list(range(30)), {10})
        assert bench.lost == []
        bench.overflow.accepted(other, range(30), set())
        assert bench.lost == [30]
        bench.queue.limit = 10
        await bench.idle()

    run(test)
