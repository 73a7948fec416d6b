"""Fetches that wait for messages: who is woken, how many at once, and how many there may be."""

from __future__ import annotations

import asyncio

import pytest
from support.proxy import on_loop

from gearhorn.durable import sleepers as module
from gearhorn.durable.sleepers import AT_ONCE, Sleeper, Sleepers
from gearhorn.errors import Busy


class Fetch:
    """One that waits for a message, and then asks a store which answers when the test says so."""

    def __init__(self, sleepers: Sleepers, topic: str = "t") -> None:
        self.asks = 0
        self.answer = asyncio.Event()
        self.task = asyncio.create_task(self._run(Sleeper(sleepers, topic)))

    async def _run(self, sleeper: Sleeper) -> None:
        with sleeper:
            sleeper.expect()
            await sleeper.sleep(60.0)
            sleeper.expect()
            self.asks += 1
            await self.answer.wait()


async def settle() -> None:
    """Let every task go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def end(*fetches: Fetch) -> None:
    """Cancel fetches."""
    for one in fetches:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in fetches), return_exceptions=True)


@on_loop
async def test_a_message_wakes_so_many_at_once_and_in_the_end_all() -> None:
    sleepers = Sleepers()
    fetches = [Fetch(sleepers) for _ in range(3 * AT_ONCE + 5)]
    await settle()
    sleepers.call("t")
    await settle()
    assert [one.asks for one in fetches] == [1] * AT_ONCE + [0] * (2 * AT_ONCE + 5)
    for one in fetches[:10]:
        one.answer.set()
    await settle()
    assert sum(one.asks for one in fetches) == AT_ONCE + 10
    await end(*fetches[10 : AT_ONCE + 10])  # however it ends, another one has its turn
    await settle()
    assert sum(one.asks for one in fetches) == 2 * AT_ONCE + 10
    for one in fetches:
        one.answer.set()
    await asyncio.wait_for(
        asyncio.gather(*(one.task for one in fetches), return_exceptions=True), 10
    )
    assert [one.asks for one in fetches] == [1] * len(fetches)


@on_loop
async def test_who_ends_before_it_is_woken_takes_no_turn() -> None:
    sleepers = Sleepers()
    fetches = [Fetch(sleepers) for _ in range(2 * AT_ONCE)]
    await settle()
    sleepers.call("t")
    await end(*fetches[AT_ONCE:])
    await end(*fetches[:AT_ONCE])
    again = [Fetch(sleepers) for _ in range(AT_ONCE)]
    await settle()
    sleepers.call("t")
    await settle()
    assert [one.asks for one in again] == [1] * AT_ONCE
    await end(*again)


@on_loop
async def test_a_message_that_comes_while_the_store_is_asked_ends_the_sleep_at_once() -> None:
    sleepers = Sleepers()
    with Sleeper(sleepers, "t") as one:
        one.expect()
        sleepers.call("t")
        one.answered()
        await asyncio.wait_for(one.sleep(60.0), 10)
    fetches = [Fetch(sleepers) for _ in range(AT_ONCE)]
    await settle()
    sleepers.call_all()
    await settle()
    assert [one.asks for one in fetches] == [1] * AT_ONCE, "no turn is lost"
    await end(*fetches)


@on_loop
async def test_other_topics_sleep_on() -> None:
    sleepers = Sleepers()
    one, other = Fetch(sleepers), Fetch(sleepers, "u")
    await settle()
    sleepers.call("t")
    await settle()
    assert (one.asks, other.asks) == (1, 0)
    await end(one, other)


@on_loop
async def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    sleepers = Sleepers()
    fetches = [Fetch(sleepers) for _ in range(3)]
    await settle()
    with pytest.raises(Busy, match="2 fetches wait"):
        await fetches[2].task
    await end(fetches[0])
    another = Fetch(sleepers)
    await settle()
    sleepers.call("t")
    await settle()
    assert (fetches[1].asks, another.asks) == (1, 1)
    await end(*fetches, another)
