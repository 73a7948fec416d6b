"""Lanes of which messages were put back are closed, whatever was heard of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import on_loop

from gearhorn.durable import redrives as module
from gearhorn.durable.redrives import Redrives
from gearhorn.errors import StoreError
from gearhorn.store.parked import REDRIVEN


class Store:
    """The last redrive of each subscription to topic t."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = numbers
        self.asked: list[int] = []  # after which number
        self.is_away = False

    async def redriven(self, after: int) -> list[tuple[str, str, int]]:
        self.asked.append(after)
        if self.is_away:
            self.is_away = False
            raise StoreError("away")
        found = [("t", name, number) for name, number in self.numbers.items() if number > after]
        return sorted(found, key=lambda redrive: redrive[2])[:REDRIVEN]


class Deliverer:
    """Holds lanes of topic t."""

    def __init__(self, **seen: int) -> None:
        self.lanes = {name: SimpleNamespace(seen_redrive=number) for name, number in seen.items()}
        self.closed: list[str] = []
        self.came = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self.lanes)

    def find(self, topic: str) -> dict[str, Any]:
        return self.lanes

    def close(self, lane: Any) -> None:
        self.closed += [name for name, held in self.lanes.items() if held is lane]
        self.came.set()


def watching(store: Store, deliverer: Deliverer) -> Redrives:
    parts: Any = store, deliverer
    return Redrives(*parts)


@on_loop
async def test_a_lane_is_closed_that_has_not_read_its_last_redrive() -> None:
    deliverer = Deliverer(alice=3, bob=4)
    await watching(Store(alice=5, bob=4, elsewhere=6), deliverer).poll()
    assert deliverer.closed == ["alice"]


@on_loop
async def test_only_what_came_after_the_last_poll_is_asked_for() -> None:
    store, deliverer = Store(alice=5), Deliverer(alice=0)
    redrives = watching(store, deliverer)
    await redrives.poll()
    await redrives.poll()
    assert store.asked == [0, 5]
    assert deliverer.closed == ["alice"]


@on_loop
async def test_many_redrives_are_read_page_by_page() -> None:
    names = {f"c{number}": number for number in range(1, REDRIVEN + 3)}
    store, deliverer = Store(**names), Deliverer(**dict.fromkeys(names, 0))
    await watching(store, deliverer).poll()
    assert deliverer.closed == list(names)
    assert store.asked == [0, REDRIVEN]


@on_loop
async def test_what_a_lane_has_not_read_is_polled_again_when_it_is_taken() -> None:
    store, deliverer = Store(alice=5), Deliverer()
    redrives = watching(store, deliverer)
    await redrives.poll()
    deliverer.lanes = Deliverer(alice=2).lanes
    redrives.opened(2)
    await redrives.poll()
    assert (store.asked, deliverer.closed) == ([0, 2], ["alice"])


def test_an_event_or_the_time_makes_a_poll_and_a_failed_one_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)

    @on_loop
    async def test() -> None:
        store, deliverer = Store(alice=5), Deliverer(alice=0)
        store.is_away = True
        redrives = watching(store, deliverer)
        redrives.hear()
        loop = asyncio.create_task(redrives.run())
        await asyncio.wait_for(deliverer.came.wait(), 10)
        loop.cancel()
        assert store.asked[:2] == [0, 0]

    test()
