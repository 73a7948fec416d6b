"""How lists are read: beginnings together, long ones page by page, and sorted by their options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from support.limits import run

from gearhorn.errors import StoreError
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.lists import LONG_READS, TOGETHER, Lists
from gearhorn.fanout.packed import LONG, Packed
from gearhorn.messages.subscriptions import DurableOptions, SubscriptionOptions
from gearhorn.store.subscriptions import Listed

PAGE = 2_000


class Store:
    """Has lists in pages, and writes down what is read together."""

    def __init__(self, **pages: list[Listed]) -> None:
        self.pages = pages
        self.read_together: list[list[str]] = []
        self.errors: dict[str, Exception] = {}
        self.rests = 0  # long lists that are being read
        self.rests_at_once = 0

    async def is_there(self) -> bool:
        return True

    async def read(self, topics: list[str]) -> Sequence[Listed | Exception]:
        self.read_together.append(topics)
        await asyncio.sleep(0)
        if "all" in self.errors:
            raise self.errors["all"]
        return [self.errors.get(topic) or self.pages.get(topic, [EMPTY])[0] for topic in topics]

    async def rest(self, topic: str, after: bytes) -> AsyncIterator[Listed]:
        assert after == self.pages[topic][0].clients[-1]
        self.rests += 1
        self.rests_at_once = max(self.rests_at_once, self.rests)
        for page in self.pages[topic][1:]:
            await asyncio.sleep(0)
            yield page
        self.rests -= 1


class Limits:
    """Writes down which lists were prepared."""

    def __init__(self) -> None:
        self.prepared: list[str] = []

    @contextmanager
    def reading(self) -> Any:
        yield self

    async def prepare(self, lists: Sequence[Subscribers], reading: Any) -> None:
        assert reading is self
        self.prepared += [found.topic for found in lists]


class Backlog:
    def allowance(self, subscribers: Subscribers) -> int:
        return 1


EMPTY = Listed([], {}, False)


def reader(store: Store, limits: Limits | None = None) -> Lists:
    used: Any = limits or Limits()
    backlog: Any = Backlog()
    subscriptions: Any = store
    return Lists(subscriptions, used, backlog)


def options(**keys: Any) -> SubscriptionOptions:
    return SubscriptionOptions(**keys)


def test_subscriptions_are_sorted_by_their_options() -> None:
    async def test() -> None:
        own = {
            b"b": options(envelope=True, max_backlog=7, overflow="drop_old"),
            b"c": options(max_backlog=5),
            b"d": options(durable=DurableOptions()),
        }
        store = Store(t=[Listed([b"a", b"b", b"c", b"d"], own, True, version=3)])
        limits = Limits()
        found = await reader(store, limits).read("t")
        assert list(found.queues) == [b"t_a", b"t_c", b"t_b"]
        assert found.enveloped == 2
        assert list(found.limits) == [(1, 5), (2, 7)]
        assert dict(found.overflow) == {2: "drop_old"}
        assert list(found.durable) == ["d"]
        assert (found.has_log, found.version, found.is_long) == (True, 3, False)
        assert found.lowest_limit() == 5
        assert limits.prepared == ["t"]
        assert not found.carries(), "it has an allowance"

    run(test)


def test_beginnings_that_are_asked_for_together_are_read_together() -> None:
    async def test() -> None:
        store = Store()
        lists = reader(store)
        topics = [f"t{number}" for number in range(TOGETHER + 2)]
        await asyncio.gather(*map(lists.read, topics))
        assert store.read_together == [topics[:TOGETHER], topics[TOGETHER:]]

    run(test)


def test_an_error_is_that_of_its_topic() -> None:
    async def test() -> None:
        store = Store(good=[Listed([b"a"], {}, False)])
        store.errors["bad"] = StoreError("no")
        good, bad = await asyncio.gather(
            *map(reader(store).read, ("good", "bad")), return_exceptions=True
        )
        assert isinstance(good, Subscribers)
        assert isinstance(bad, StoreError)

    run(test)


@pytest.mark.parametrize("error", [StoreError("gone"), RuntimeError("a fault")])
def test_a_round_trip_that_fails_is_told_to_all_who_asked(error: Exception) -> None:
    async def test() -> None:
        store = Store()
        store.errors["all"] = error
        found = await asyncio.gather(*map(reader(store).read, ("a", "b")), return_exceptions=True)
        assert found == [error, error]

    run(test)


def test_who_has_gone_costs_the_others_nothing() -> None:
    async def test() -> None:
        lists = reader(Store())
        gone, stays = (asyncio.ensure_future(lists.read(topic)) for topic in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).topic == "stays"

    run(test)


def long_pages(count: int, **keys: Any) -> list[Listed]:
    """A list in pages; the last one says that the topic has a log."""
    clients = [b"c%07d" % number for number in range(count)]
    own = {client: options(**keys) for client in clients[-1:]} if keys else {}
    pages = [clients[at : at + PAGE] for at in range(0, count, PAGE)]
    last = len(pages) - 1
    return [Listed(page, own, at == last, more=at < last) for at, page in enumerate(pages)]


def test_a_long_list_is_packed_and_reads_like_a_short_one() -> None:
    async def test() -> None:
        found = await reader(Store(t=long_pages(LONG + 5, max_backlog=9))).read("t")
        assert isinstance(found.queues, Packed)
        assert (found.is_long, found.has_log, len(found.queues)) == (True, True, LONG + 5)
        assert found.queues[LONG] == b"t_c%07d" % LONG
        assert (found.limit(LONG + 4), found.limit(0)) == (9, 0)

    run(test)


def test_few_long_lists_are_read_at_a_time() -> None:
    async def test() -> None:
        topics = {f"t{number}": long_pages(3 * PAGE) for number in range(LONG_READS + 2)}
        store = Store(**topics)
        await asyncio.gather(*map(reader(store).read, topics))
        assert store.rests_at_once == LONG_READS

    run(test)
