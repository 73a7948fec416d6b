"""The pool of connections to the store, without a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store import pool as module
from gearhorn.store.pool import Pool

PATIENCE_S = 20.0


class FakeWire:
    """A connection whose other end the test plays."""

    def __init__(self) -> None:
        self.unanswered = 0
        self.is_open = True
        self.is_fit = True
        self.is_silent = False
        self.pings = 0

    def send(self, commands: list[tuple[str]]) -> None:
        self.unanswered += len(commands)
        self.pings += commands == [("PING",)]

    async def read(self) -> bytes:
        if self.is_silent:
            await asyncio.Event().wait()
        if not self.is_open:
            raise StoreUnanswered("it has ended")
        self.unanswered -= 1
        return b"PONG"

    def close(self) -> None:
        self.is_open = self.is_fit = False


class Bed:
    """A pool, and the connections that it has made."""

    def __init__(self, most: int) -> None:
        self.made: list[FakeWire] = []
        self.left = 1_000_000  # that the server takes
        self.pool = Pool(self._make, most)  # type: ignore[arg-type]

    async def _make(self) -> FakeWire:
        await asyncio.sleep(0)
        if self.open >= self.left:
            raise StoreError("ERR max number of clients reached")
        self.made.append(FakeWire())
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(wire.is_open for wire in self.made)

    async def hold(self, until: asyncio.Event) -> FakeWire:
        """Use a connection until then; return it."""
        async with self.pool.use() as wire:
            await until.wait()
            return wire  # type: ignore[return-value]


def on_bed(most: int) -> Callable[[Callable[[Bed], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test with a pool of so many connections."""

    def decorate(test: Callable[[Bed], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                bed = Bed(most)
                async with asyncio.timeout(PATIENCE_S):
                    await test(bed)
                await bed.pool.close()
                assert bed.open == 0, "connections are left"

            asyncio.run(main())

        run.__name__ = test.__name__
        return run

    return decorate


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times in which a test can wait."""
    monkeypatch.setattr(module, "KEEP_S", 0.02)
    monkeypatch.setattr(module, "PING_S", 0.2)


async def settle(*tasks: asyncio.Task[Any]) -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


@on_bed(3)
async def test_one_who_comes_alone_uses_one_connection_again_and_again(bed: Bed) -> None:
    for _ in range(10):
        async with bed.pool.use():
            assert bed.pool.size == 1
    assert len(bed.made) == 1


@on_bed(3)
async def test_there_are_never_more_than_allowed_and_the_rest_come_in_turn(bed: Bed) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        async with bed.pool.use():
            order.append(number)
            assert bed.open <= 3
            await asyncio.sleep(0.001)

    await asyncio.gather(*(one(number) for number in range(50)))
    assert sorted(order[:3]) == [0, 1, 2]
    assert order[3:] == list(range(3, 50))
    assert len(bed.made) == 3


@on_bed(1)
async def test_a_connection_with_anything_unanswered_is_not_used_again(bed: Bed) -> None:
    async with bed.pool.use() as wire:
        wire.send([("GET", "x")])
    assert bed.open == 0
    async with bed.pool.use() as wire:
        assert wire is bed.made[1]  # type: ignore[comparison-overlap]


@on_bed(1)
async def test_one_who_is_cancelled_in_the_queue_or_while_connecting_takes_no_place(
    bed: Bed,
) -> None:
    end = asyncio.Event()
    holder = asyncio.create_task(bed.hold(end))
    await settle(holder)
    queued = [asyncio.create_task(bed.hold(end)) for _ in range(3)]
    await settle(*queued)
    queued[0].cancel()
    end.set()
    await holder
    assert [
        type(one).__name__ for one in await asyncio.gather(*queued, return_exceptions=True)
    ] == [
        "CancelledError",
        "FakeWire",
        "FakeWire",
    ]
    bed.pool.reset()
    connecting = asyncio.create_task(bed.hold(end))
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    async with bed.pool.use():
        assert bed.open <= 2  # what a cancelled connect has made is closed with the pool


@on_bed(3)
async def test_with_no_client_left_at_the_server_the_connections_that_are_open_do(
    bed: Bed,
) -> None:
    bed.left = 1
    end = asyncio.Event()
    holder = asyncio.create_task(bed.hold(end))
    await settle(holder)
    hoping = [asyncio.create_task(bed.hold(end)) for _ in range(5)]
    await settle(*hoping)
    hoping[0].cancel()
    end.set()
    found = await asyncio.gather(holder, *hoping, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    assert {wire for wire in found if isinstance(wire, FakeWire)} == {bed.made[0]}
    assert len(bed.made) == 1


@on_bed(3)
async def test_without_any_connection_it_is_said_why_there_is_none(bed: Bed) -> None:
    bed.left = 0
    with pytest.raises(StoreError, match="max number of clients"):
        async with bed.pool.use():
            pass


@on_bed(3)
async def test_after_a_reset_no_connection_of_before_is_used_and_work_is_finished(
    bed: Bed,
) -> None:
    end = asyncio.Event()
    working = asyncio.create_task(bed.hold(end))
    await settle(working)
    async with bed.pool.use():
        pass
    bed.pool.reset()
    assert bed.open == 1, "what is in use is left alone"
    async with bed.pool.use() as wire:
        assert wire is bed.made[2]  # type: ignore[comparison-overlap]
    end.set()
    assert not (await working).is_open


@on_bed(2)
async def test_an_idle_connection_is_asked_for_a_sign_of_life_and_closed_without_one(
    bed: Bed,
) -> None:
    async with bed.pool.use():
        pass
    [wire] = bed.made
    while wire.pings < 3:
        await asyncio.sleep(0.01)
    assert wire.is_open
    wire.is_silent = True
    while wire.is_open:
        await asyncio.sleep(0.01)
    async with bed.pool.use() as other:
        assert other is bed.made[1]


@on_bed(2)
async def test_a_connection_that_ended_while_it_was_idle_is_not_used(bed: Bed) -> None:
    async with bed.pool.use():
        pass
    bed.made[0].is_fit = False
    async with bed.pool.use() as wire:
        assert wire is bed.made[1]  # type: ignore[comparison-overlap]
    assert not bed.made[0].is_open


def test_spare_connections_are_closed_but_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_S", 0.1)

    @on_bed(5)
    async def test(bed: Bed) -> None:
        end = asyncio.Event()
        holders = [asyncio.create_task(bed.hold(end)) for _ in range(5)]
        await settle(*holders)
        end.set()
        await asyncio.gather(*holders)
        assert bed.pool.size == 5
        while bed.pool.size > 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert bed.pool.size == 1

    test()
