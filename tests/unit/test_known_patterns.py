"""Known patterns: the set is read again when its word is another one, and by one for all."""

from __future__ import annotations

import asyncio

import pytest

from gearhorn.errors import StoreError
from gearhorn.fanout.known_patterns import STEP, KnownPatterns
from gearhorn.store.patterns import Patterns


class Store:
    """The set as the store has it; reads end when the test says so."""

    def __init__(self) -> None:
        self.found = Patterns(b"", [])
        self.reads = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: StoreError | None = None

    def set(self, word: bytes, *names: str) -> None:
        self.found = Patterns(word, [name.encode() for name in names])

    async def word(self) -> bytes:
        return self.found.word

    async def read(self) -> Patterns:
        self.reads += 1
        found = self.found
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return found


def known() -> tuple[Store, KnownPatterns]:
    store = Store()
    return store, KnownPatterns(store)  # type: ignore[arg-type]


def test_without_patterns_nothing_is_read() -> None:
    async def test() -> None:
        store, patterns = known()
        assert await patterns.matching("a", b"") == []
        assert await patterns.matching("a") == []
        assert store.reads == 0

    asyncio.run(test())


def test_the_set_is_read_once_for_each_word_and_follows_what_comes_and_goes() -> None:
    async def test() -> None:
        store, patterns = known()
        store.set(b"1", " a.*", " >")
        for _ in range(3):
            assert sorted(await patterns.matching("a.b", b"1")) == [" >", " a.*"]
        assert (store.reads, patterns.count) == (1, 2)
        store.set(b"2", " >", " a.b")
        assert sorted(await patterns.matching("a.b", b"2")) == [" >", " a.b"]
        assert store.reads == 2
        # an emptied store, another one, and none at all
        store.set(b"")
        assert await patterns.matching("a.b", b"") == []
        assert patterns.count == 0

    asyncio.run(test())


def test_who_comes_with_the_same_news_shares_a_read_and_who_comes_later_has_another() -> None:
    async def test() -> None:
        store, patterns = known()
        store.set(b"1", " a")
        store.open.clear()
        first = [asyncio.create_task(patterns.matching("a", b"1")) for _ in range(5)]
        await asyncio.sleep(0)
        store.set(b"2", " b")
        later = [asyncio.create_task(patterns.matching("b", b"2")) for _ in range(5)]
        await asyncio.sleep(0)
        store.open.set()
        assert await asyncio.gather(*first) == [[" a"]] * 5
        assert await asyncio.gather(*later) == [[" b"]] * 5
        assert store.reads == 2

    asyncio.run(test())


def test_a_set_that_is_younger_than_the_word_serves_and_is_not_read_again_at_once() -> None:
    async def test() -> None:
        store, patterns = known()
        store.set(b"3", " a")
        assert await patterns.matching("a", b"2") == [" a"], "of this moment or later"
        assert await patterns.matching("a", b"3") == [" a"]
        assert store.reads == 1

    asyncio.run(test())


def test_no_topic_is_matched_while_a_long_difference_is_worked_in() -> None:
    async def test() -> None:
        store, patterns = known()
        store.set(b"1", *(f" {number}" for number in range(3 * STEP)), " a")
        found = [asyncio.create_task(patterns.matching("a", b"1")) for _ in range(2)]
        await asyncio.sleep(0)
        found += [asyncio.create_task(patterns.matching("a", b"")) for _ in range(2)]
        assert await asyncio.gather(*found[:2]) == [[" a"]] * 2
        assert patterns.count == 3 * STEP + 1
        await asyncio.gather(*found)

    asyncio.run(test())


def test_a_read_that_fails_is_told_and_the_next_one_tries_again() -> None:
    async def test() -> None:
        store, patterns = known()
        store.set(b"1", " a")
        store.error = StoreError("gone")
        with pytest.raises(StoreError):
            await patterns.matching("a", b"1")
        store.error = None
        assert await patterns.matching("a", b"1") == [" a"]

    asyncio.run(test())


def test_one_that_is_cancelled_while_it_works_the_set_in_leaves_none_that_is_taken_for_whole() -> (
    None
):
    async def test() -> None:
        store, patterns = known()
        store.set(b"1", *(f" {number}" for number in range(3 * STEP)), " a")
        task = asyncio.create_task(patterns.matching("a", b"1"))
        while not patterns.count:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await patterns.matching("a", b"1") == [" a"]
        assert patterns.count == 3 * STEP + 1

    asyncio.run(test())
