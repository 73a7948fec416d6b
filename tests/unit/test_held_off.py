"""Requests that wait for a drain: how many, for how long, and what the store is asked meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import pytest
from support.membership import Loop

from gearhorn.errors import RequestError, StoreError
from gearhorn.members.held_off import LIMIT, LIMIT_EACH, POLL_S, HeldOff

MOST_S = 40.0


class Request:
    """Stands for a request: writes down how it ended."""

    def __init__(self) -> None:
        self.until_s: float | None = None
        self.refused: list[str] = []

    def hold(self, until_s: float) -> float:
        self.until_s = self.until_s or until_s
        return self.until_s

    def fail(self, error: RequestError) -> None:
        self.refused.append(str(error))


class Bench:
    """What waits, and a store that says what is being drained."""

    def __init__(self) -> None:
        self.drained: set[bytes] = set()
        self.is_away = False
        self.asked: list[list[bytes]] = []
        self.again: list[Request] = []
        self.held_off: HeldOff[Request] = HeldOff(self, self, MOST_S)

    def put(self, *requests: Request) -> None:
        self.again += requests

    async def draining(self, queues: Sequence[bytes]) -> set[bytes]:
        self.asked.append(list(queues))
        if self.is_away:
            raise StoreError("away")
        return set(queues) - self.drained

    def add(self, queue: bytes, count: int = 1) -> list[Request]:
        requests = [Request() for _ in range(count)]
        for request in requests:
            self.held_off.add(queue, request)
        return requests


def run(test: Callable[[Bench], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.members.held_off.now_s", asyncio.get_running_loop().time)
            await test(Bench())

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def test_one_question_serves_every_request_of_every_queue() -> None:
    async def test(bench: Bench) -> None:
        first, second = bench.add(b"a", 50), bench.add(b"b", 50)
        await asyncio.sleep(POLL_S * 10.5)
        assert bench.asked == [[b"a", b"b"]] * 10
        bench.drained.add(b"a")
        await asyncio.sleep(POLL_S)
        assert bench.again == first
        bench.drained.add(b"b")
        await asyncio.sleep(POLL_S * 1.1)
        assert bench.again == first + second
        asked = len(bench.asked)
        await asyncio.sleep(10)
        assert len(bench.asked) == asked, "nothing waits, so nothing is asked"
        assert bench.held_off.count == 0

    run(test)


def test_a_drain_of_this_member_wakes_those_that_wait_for_it() -> None:
    async def test(bench: Bench) -> None:
        requests = bench.add(b"a", 3)
        bench.held_off.release(b"b")
        assert not bench.again
        bench.held_off.release(b"a")
        assert bench.again == requests
        await asyncio.sleep(POLL_S * 3)
        assert bench.asked == []

    run(test)


@pytest.mark.parametrize("is_away", [False, True])
def test_what_waits_for_too_long_is_refused(is_away: bool) -> None:
    async def test(bench: Bench) -> None:
        bench.is_away = is_away
        [early] = bench.add(b"a")
        await asyncio.sleep(MOST_S / 2)
        [late] = bench.add(b"a")
        await asyncio.sleep(MOST_S / 2 + 2 * POLL_S)
        assert early.refused == ["unavailable: queue a is still being drained; try again"]
        assert late.refused == []
        await asyncio.sleep(MOST_S / 2 + POLL_S)
        assert len(late.refused) == 1
        assert bench.held_off.count == 0

    run(test)


def test_what_is_held_off_again_keeps_its_time() -> None:
    async def test(bench: Bench) -> None:
        [request] = bench.add(b"a")
        for _ in range(3):
            await asyncio.sleep(MOST_S / 4)
            bench.held_off.release(b"a")
            bench.held_off.add(b"a", request)
        assert request.refused == []
        await asyncio.sleep(MOST_S / 4 + 2 * POLL_S)
        assert len(request.refused) == 1
        bench.held_off.add(b"a", request)
        assert len(request.refused) == 2, "at once"

    run(test)


def test_what_waits_is_bounded_for_each_queue_and_in_all() -> None:
    async def test(bench: Bench) -> None:
        crowd = bench.add(b"a", LIMIT_EACH + 10)
        assert [len(request.refused) for request in crowd] == [0] * LIMIT_EACH + [1] * 10
        [other] = bench.add(b"b")
        assert other.refused == []
        for number in range(LIMIT // LIMIT_EACH):
            crowd += bench.add(b"queue%d" % number, LIMIT_EACH)
        assert bench.held_off.count == LIMIT
        assert sum(not request.refused for request in crowd) == LIMIT - 1
        bench.held_off.release(b"a")
        [other] = bench.add(b"c")
        assert other.refused == []

    run(test)
