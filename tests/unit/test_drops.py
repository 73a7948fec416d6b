"""How drops are counted: in pieces, once, and until the end of the subscription."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from support.limits import run, subscribers

from gearhorn.errors import StoreUnanswered
from gearhorn.fanout import drops as drops_module
from gearhorn.fanout.drops import PIECE, Drops


class Store:
    """Stands for the store: adds each piece once, and may lose its replies."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()
        self.given = 0
        self.numbers: list[int] = []
        self.sizes: list[int] = []
        self.versions: list[dict[tuple[str, str], int]] = []
        self.lost = 0  # so many replies are lost from now on

    def number_drops(self) -> int:
        self.given += 1
        return self.given

    async def count_drops(
        self,
        number: int,
        drops: Mapping[tuple[str, str], int],
        versions: Mapping[tuple[str, str], int],
    ) -> None:
        self.sizes.append(len(drops))
        self.versions.append(dict(versions))
        if not self.numbers or number > self.numbers[-1]:
            self.numbers.append(number)
            self.counted.update(drops)
        await asyncio.sleep(0)
        if self.lost:
            self.lost -= 1
            raise StoreUnanswered("no answer")


def made() -> tuple[Drops, Store, list[tuple[str, str, int]]]:
    """Drops, their store, and whom they ended."""
    store = Store()
    ended: list[tuple[str, str, int]] = []
    changes = SimpleNamespace(overflow=lambda *pair: ended.append(pair))
    return Drops(store, changes), store, ended  # type: ignore[arg-type]


def test_every_kind_of_loss_is_counted() -> None:
    async def test() -> None:
        drops, store, ended = made()
        found = subscribers("t", "a", "b")
        found.overflow = {1: "unsubscribe"}
        found.version = 7
        for index in (0, 0, 1, 1, 1):
            drops.dropped(found, index)
        drops.passed_by("t", "a", 5)
        assert ended == [("t", "b", 7)], "once for a list, not for each copy"
        await drops.flush()
        assert store.counted == {("t", "a"): 7, ("t", "b"): 3}
        found.version = 8
        drops.dropped(found, 1)
        assert ended == [("t", "b", 7), ("t", "b", 8)]

    run(test)


def test_a_piece_without_a_reply_is_sent_again_as_it_was() -> None:
    async def test() -> None:
        drops, store, _ = made()
        found = subscribers("t", "a")
        drops.dropped(found, 0)
        store.lost = 2
        for _ in range(3):
            await drops.flush()
            drops.dropped(found, 0)
        await drops.flush()
        assert store.counted == {("t", "a"): 4}
        assert store.numbers == [1, 2, 3]

    run(test)


def test_many_counters_go_in_pieces_and_what_comes_meanwhile_waits() -> None:
    async def test() -> None:
        drops, store, _ = made()
        found = subscribers("t", *(f"c{number}" for number in range(3 * PIECE + 1)))
        for index in range(len(found.queues)):
            drops.dropped(found, index)
        flushing = asyncio.create_task(drops.flush())
        while not flushing.done():
            drops.dropped(found, 0)
            await asyncio.sleep(0)
        assert len(store.sizes) <= 5
        assert max(store.sizes) == PIECE
        await drops.flush()
        assert set(store.counted) == {("t", f"c{number}") for number in range(3 * PIECE + 1)}

    run(test)


def test_what_waits_for_the_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops_module, "LIMIT", 10)

    async def test() -> None:
        drops, store, _ = made()
        found = subscribers("t", *(f"c{number}" for number in range(30)))
        for _ in range(2):
            for index in range(30):
                drops.dropped(found, index)
        assert len(drops._counts) == len(drops._copies) == 10
        await drops.flush()
        assert store.counted.total() == 20

    run(test)


def test_the_end_of_a_subscription_waits_for_its_own_counters_only() -> None:
    async def test() -> None:
        drops, store, _ = made()
        drops.dropped(subscribers("t", "a"), 0)
        await drops.wait_written(["u"])
        assert not store.numbers
        await drops.wait_written(["u", "t"])
        assert store.counted == {("t", "a"): 1}
        drops.dropped(subscribers("t", "a"), 0)
        await drops.wait_written(None)
        assert store.counted == {("t", "a"): 2}

    run(test)


def test_a_counter_bears_the_version_of_the_oldest_list_that_it_is_of() -> None:
    async def test() -> None:
        drops, store, _ = made()
        for version in (7, 9):
            found = subscribers("t", "a", "b")
            found.version = version
            drops.dropped(found, 0)
        drops.passed_by("t", "b", 1)
        await drops.flush()
        drops.dropped(found, 0)
        await drops.flush()
        assert store.versions == [{("t", "a"): 7}, {("t", "a"): 9}]

    run(test)
