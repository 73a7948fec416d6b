"""Jobs are taken back, and off their queues where nothing else waits there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.delivering import Admin, Cluster
from support.proxy import on_loop

from gearhorn.durable import withdrawals as module
from gearhorn.durable.withdrawals import Withdrawal, Withdrawals


class Bench:
    """Withdrawals at one job server."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.admin: Admin = self.cluster.admins[0]
        cluster: Any = self.cluster
        self.withdrawals = Withdrawals(cluster)
        self.told: list[str] = []

    def add(self, name: str, queue: bytes = b"q", connection: Any = None) -> None:
        """Take back a job with this handle."""
        connection = connection or self.cluster.clients[0].connection
        self.withdrawals.add(
            0, Withdrawal(name.encode(), queue, connection, lambda: self.told.append(name))
        )

    async def rest(self, count: int) -> None:
        """Wait until so many were told."""
        async with asyncio.timeout(10):
            while len(self.told) < count:
                await asyncio.sleep(0.001)


@on_loop
async def test_cancelled_jobs_are_taken_off_a_queue_where_nothing_else_waits() -> None:
    bench = Bench()
    bench.admin.queued = {b"q": 2, b"shared": 2}
    bench.add("a")
    bench.add("b")
    bench.add("c", b"shared")
    bench.add("d", b"empty")
    await bench.rest(4)
    assert bench.admin.cancelled == [b"a", b"b", b"c", b"d"]
    assert bench.cluster.reaped == [b"q"], "another job waits in the second, none in the third"


@on_loop
async def test_those_that_withdrew_are_told_only_when_the_queue_is_empty() -> None:
    bench = Bench()
    bench.admin.queued = {b"q": 1}
    reap = bench.cluster.reap

    async def told_before(place: int, queues: Iterable[bytes]) -> None:
        assert bench.told == []
        await reap(place, queues)

    bench.cluster.reap = told_before  # type: ignore[method-assign]
    bench.add("a")
    await bench.rest(1)
    assert bench.cluster.reaped == [b"q"]


@on_loop
async def test_jobs_of_a_connection_that_has_ended_are_forgotten() -> None:
    bench = Bench()
    bench.add("former", connection=object())
    bench.add("present")
    await bench.rest(1)
    assert bench.admin.cancelled == [b"present"]
    assert bench.told == ["present"]


@on_loop
async def test_cancelling_that_fails_is_tried_again() -> None:
    bench = Bench()
    cancel = bench.admin.cancel
    tries = []

    async def twice(handles: Iterable[bytes], are_valid: Callable[[], bool]) -> None:
        tries.append(are_valid())
        if len(tries) == 1:
            raise OSError("away")
        await cancel(handles, are_valid)

    bench.admin.cancel = twice  # type: ignore[method-assign]
    bench.add("a")
    await bench.rest(1)
    assert (tries, bench.admin.cancelled) == ([True, True], [b"a"])


@on_loop
async def test_a_queue_that_cannot_be_emptied_keeps_the_cancelled_jobs() -> None:
    bench = Bench()

    async def away(queues: Any) -> Any:
        raise OSError("away")

    bench.admin.waiting = away  # type: ignore[method-assign]
    bench.add("a")
    await bench.rest(1)
    assert (bench.admin.cancelled, bench.cluster.reaped) == ([b"a"], [])


def test_many_are_cancelled_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)

    @on_loop
    async def test() -> None:
        bench = Bench()
        names = [str(number) for number in range(5)]
        for name in names:
            bench.add(name)
        await bench.rest(5)
        assert bench.told == names

    test()


@on_loop
async def test_nothing_is_taken_back_after_the_stop() -> None:
    bench = Bench()
    bench.add("a")
    await bench.withdrawals.stop()
    assert bench.told == []
