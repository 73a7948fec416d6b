"""Cached lists: who is served by which read, with every interleaving forced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from gearhorn.broker import directory as directory_module
from gearhorn.broker.copies import Subscribers
from gearhorn.broker.directory import Directory
from gearhorn.errors import StoreError


class Store:
    """Reads that the test lets finish when it wants."""

    def __init__(self) -> None:
        self.reads: list[tuple[list[str], asyncio.Future[list[bytes]]]] = []

    async def read(self, topics: list[str]) -> list[Subscribers]:
        began = asyncio.get_running_loop().time()
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self.reads.append((topics, future))
        queues = await future
        return [Subscribers(topic, queues, len(queues), (), began) for topic in topics]


def run(test: Callable[[Store, Directory], Coroutine[None, None, None]], most: int = 100) -> None:
    async def main() -> None:
        store = Store()
        await test(store, Directory(store.read, most))

    asyncio.run(main())


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_waiters_are_served_in_order_by_one_read() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served: list[int] = []
        for number in range(3):
            lists.when_known("t", lambda _, number=number: served.append(number))
        await turn()
        assert lists.get("t") is None
        [(topics, read)] = store.reads
        assert topics == ["t"]
        read.set_result([b"t_a"])
        await turn()
        assert served == [0, 1, 2]
        found = lists.get("t")
        assert found is not None
        assert found.queues == [b"t_a"]

    run(test)


def test_topics_asked_for_together_are_read_together() -> None:
    async def test(store: Store, lists: Directory) -> None:
        for topic in "abc":
            lists.when_known(topic, lambda _: None)
        await turn()
        assert [topics for topics, _ in store.reads] == [["a", "b", "c"]]

    run(test)


def test_a_read_that_began_before_the_change_is_not_kept_and_serves_only_those_before() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served: list[tuple[str, list[bytes]]] = []
        lists.when_known("t", lambda one: served.append(("before", one.queues)))
        await turn()
        lists.drop("t")  # the topic changes while it is being read
        lists.when_known("t", lambda one: served.append(("after", one.queues)))
        store.reads[0][1].set_result([b"t_old"])
        await turn()
        assert served == [("before", [b"t_old"])]
        assert lists.get("t") is None
        store.reads[1][1].set_result([b"t_new"])
        await turn()
        assert served == [("before", [b"t_old"]), ("after", [b"t_new"])]
        found = lists.get("t")
        assert found is not None
        assert found.queues == [b"t_new"]

    run(test)


def test_a_read_dropped_with_nobody_after_is_not_kept() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("t", lambda _: None)
        await turn()
        lists.drop("t")
        store.reads[0][1].set_result([b"t_old"])
        await turn()
        assert lists.get("t") is None

    run(test)


def test_settled_waits_for_the_read_under_way_only() -> None:
    async def test(store: Store, lists: Directory) -> None:
        await lists.settled("t")
        lists.when_known("t", lambda _: None)
        await turn()
        settled = asyncio.create_task(lists.settled("t"))
        await turn()
        assert not settled.done()
        store.reads[0][1].set_result([])
        await turn()
        assert settled.done()

    run(test)


def test_a_store_that_fails_is_asked_again_and_the_order_holds() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served: list[int] = []
        lists.when_known("t", lambda _: served.append(1))
        await turn()
        store.reads[0][1].set_exception(StoreError("away"))
        await turn()
        assert lists.waiting_since is not None
        lists.when_known("t", lambda _: served.append(2))
        while len(store.reads) < 2:
            await asyncio.sleep(0.01)
        store.reads[1][1].set_result([])
        await turn()
        assert served == [1, 2]
        assert lists.waiting_since is None

    run(test)


def test_a_list_is_not_used_beyond_its_age() -> None:
    async def test(store: Store, lists: Directory) -> None:
        now = asyncio.get_running_loop().time()
        lists._keep(Subscribers("old", [], 0, (), now - directory_module.MAX_AGE_S - 0.1))
        lists._keep(Subscribers("new", [], 0, (), now))
        assert lists.get("old") is None
        assert lists.get("new") is not None

    run(test)


def test_what_is_cached_is_bounded_and_the_used_stays() -> None:
    async def test(store: Store, lists: Directory) -> None:
        now = asyncio.get_running_loop().time()
        for number in range(1000):
            lists._keep(Subscribers(f"t{number}", [b"q"], 1, (), now))
            assert lists.get("t0") is not None, f"the used list went at {number}"
        assert len(lists._young) + len(lists._old) <= 100

    run(test)


def test_empty_lists_are_cached_too() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("nobody", lambda _: None)
        await turn()
        store.reads[0][1].set_result([])
        await turn()
        assert lists.get("nobody") is not None

    run(test)


def test_drop_where_forgets_what_matches_and_what_is_being_read() -> None:
    async def test(store: Store, lists: Directory) -> None:
        now = asyncio.get_running_loop().time()
        lists._keep(Subscribers("limited", [b"q"], 1, ((0, 5),), now))
        lists._keep(Subscribers("plain", [b"q"], 1, (), now))
        lists.when_known("reading", lambda _: None)
        await turn()
        lists.drop_where(lambda one: bool(one.limits))
        store.reads[0][1].set_result([])
        await turn()
        assert lists.get("limited") is None
        assert lists.get("plain") is not None
        assert lists.get("reading") is None

    run(test)
