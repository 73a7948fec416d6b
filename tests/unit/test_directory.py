"""Cached lists: who is served by which read, with every interleaving forced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import pairwise

import pytest

from gearhorn.errors import RequestError, StoreError, StoreRefused, Unavailable
from gearhorn.fanout import directory
from gearhorn.fanout.copies import Subscribers
from gearhorn.fanout.directory import Directory
from gearhorn.members.lease import Lease
from gearhorn.names import GOSSIP

LEASE_S = 10.0


class Store:
    """Reads that the test lets finish when it wants, by a clock and under a lease that it sets."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, asyncio.Future[list[bytes]]]] = []
        self.is_up = False  # whether it answers where a read failed
        self.now_s = 1000.0
        self.lease = Lease(LEASE_S)
        self.lease.grant(self.now_s)

    async def read(self, topic: str) -> Subscribers:
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self.reads.append((topic, future))
        queues = await future
        return Subscribers(topic, queues, enveloped=len(queues))

    async def is_there(self) -> bool:
        return self.is_up

    def finish(self, number: int, *queues: bytes) -> None:
        """Let a read find these queues."""
        self.reads[number][1].set_result(list(queues))


class Told:
    """A waiter that calls something with what it is told, or does nothing."""

    def __init__(
        self, call: Callable[[Subscribers | RequestError], object] = lambda _: None
    ) -> None:
        self._call = call

    def listed(self, subscribers: Subscribers) -> None:
        self._call(subscribers)

    def refused(self, error: RequestError) -> None:
        self._call(error)


class Served:
    """Waiters that write down, each with its name, what they were served."""

    def __init__(self) -> None:
        self.lists: list[tuple[str, list[bytes]]] = []

    def __call__(self, name: str) -> Told:
        return Told(lambda found: self.lists.append((name, queues_of(found))))


def run(test: Callable[[Store, Directory], Coroutine[None, None, None]], limit: int = 100) -> None:
    async def main() -> None:
        store = Store()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.fanout.directory.now_s", lambda: store.now_s)
            await test(store, Directory(store, limit=limit, lease=store.lease))

    asyncio.run(main())


def kept(lists: Directory, topic: str) -> list[bytes] | None:
    """The queues of a cached list, if it may be used."""
    found = lists.get(topic)
    return None if found is None else queues_of(found)


def queues_of(found: Subscribers | RequestError) -> list[bytes]:
    """The queues of a short list that was read."""
    assert isinstance(found, Subscribers)
    assert isinstance(found.queues, list)
    return found.queues


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_waiters_are_served_in_order_by_one_read() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        for name in ("first", "second", "third"):
            lists.when_known("t", served(name))
        await turn()
        assert lists.get("t") is None
        [(topic, read)] = store.reads
        assert topic == "t"
        read.set_result([b"t_a"])
        await turn()
        assert [name for name, _ in served.lists] == ["first", "second", "third"]
        found = lists.get("t")
        assert found is not None
        assert found.queues == [b"t_a"]

    run(test)


def test_a_read_that_began_before_the_change_is_not_kept_and_serves_only_those_before() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served: list[tuple[str, list[bytes]]] = []
        lists.when_known("t", Told(lambda found: served.append(("before", queues_of(found)))))
        await turn()
        lists.drop("t")  # the topic changes while it is being read
        lists.when_known("t", Told(lambda found: served.append(("after", queues_of(found)))))
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
        lists.when_known("t", Told())
        await turn()
        lists.drop("t")
        store.reads[0][1].set_result([b"t_old"])
        await turn()
        assert lists.get("t") is None

    run(test)


def test_settled_waits_for_the_read_under_way_only() -> None:
    async def test(store: Store, lists: Directory) -> None:
        await lists.wait_served(["t"])
        lists.when_known("t", Told())
        await turn()
        settled = asyncio.create_task(lists.wait_served(["t"]))
        await turn()
        assert not settled.done()
        store.reads[0][1].set_result([])
        await turn()
        assert settled.done()

    run(test)


def test_settled_does_not_wait_for_other_topics() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("other", Told())
        await turn()
        settled = asyncio.create_task(lists.wait_served(["t"]))
        await turn()
        assert settled.done()

    run(test)


def test_settled_of_none_waits_for_every_read_under_way() -> None:
    async def test(store: Store, lists: Directory) -> None:
        await lists.wait_served(None)
        for topic in "ab":
            lists.when_known(topic, Told())
            await turn()
        settled = asyncio.create_task(lists.wait_served(None))
        for number in (1, 0):
            await turn()
            assert not settled.done()
            store.finish(number)
        await turn()
        assert settled.done()

    run(test)


def test_settled_does_not_wait_for_the_read_that_serves_those_after_a_change() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("t", Told())
        await turn()
        lists.drop("t")
        lists.when_known("t", Told())
        settled = asyncio.create_task(lists.wait_served(["t"]))
        await turn()
        store.finish(0)
        await turn()
        assert len(store.reads) == 2
        assert settled.done()

    run(test)


def test_who_comes_under_a_lapsed_lease_is_served_by_a_later_read_than_the_one_under_way() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists.when_known("t", served("in time"))
        await turn()
        store.now_s = store.lease.until_s + 0.001
        lists.when_known("t", served("late"))
        lists.when_known("t", served("later"))
        store.finish(0, b"t_old")
        await turn()
        assert served.lists == [("in time", [b"t_old"])]
        store.lease.grant(store.now_s)
        assert kept(lists, "t") is None, "nobody may have told of a change since the read began"
        store.finish(1, b"t_new")
        await turn()
        assert served.lists[1:] == [("late", [b"t_new"]), ("later", [b"t_new"])]
        assert kept(lists, "t") == [b"t_new"]

    run(test)


def test_under_a_lapsed_lease_a_read_that_has_not_begun_serves_all_who_wait() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        store.now_s = store.lease.until_s + 0.001
        lists.when_known("t", served("first"))
        lists.when_known("t", served("second"))
        await turn()
        store.finish(0, b"t_a")
        await turn()
        assert len(store.reads) == 1
        assert served.lists == [("first", [b"t_a"]), ("second", [b"t_a"])]

    run(test)


def test_forget_cuts_every_read_under_way_and_keeps_nothing() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists._keep(Subscribers("cached", [b"cached_a"], enveloped=1))
        for topic in "abc":
            lists.when_known(topic, served(f"before {topic}"))
            await turn()  # a read each
        lists.forget()
        lists.when_known("b", served("after b"))
        for number, topic in enumerate("abc"):
            store.finish(number, f"{topic}_old".encode())
        await turn()
        assert served.lists == [(f"before {topic}", [f"{topic}_old".encode()]) for topic in "abc"]
        assert [kept(lists, topic) for topic in ("cached", *"abc")] == [None] * 4
        assert [topic for topic, _ in store.reads[3:]] == ["b"]
        store.finish(3, b"b_new")
        await turn()
        assert served.lists[3:] == [("after b", [b"b_new"])]
        assert kept(lists, "b") == [b"b_new"]

    run(test)


def test_forget_does_not_cut_a_read_that_has_not_begun() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("t", Told())
        lists.forget()
        await turn()
        store.finish(0, b"t_a")
        await turn()
        assert kept(lists, "t") == [b"t_a"]

    run(test)


def test_a_second_drop_during_one_read_cuts_nobody_else_off() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists.when_known("t", served("before"))
        await turn()
        lists.drop("t")
        lists.when_known("t", served("between"))
        lists.drop("t")
        lists.when_known("t", served("after"))
        store.finish(0, b"t_0")
        await turn()
        store.finish(1, b"t_2")  # it began after both changes
        await turn()
        assert served.lists == [("before", [b"t_0"]), ("between", [b"t_2"]), ("after", [b"t_2"])]
        assert kept(lists, "t") == [b"t_2"]

    run(test)


def test_a_read_tried_again_after_the_change_serves_everybody_and_is_kept() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists.when_known("t", served("before"))
        await turn()
        lists.drop("t")
        lists.when_known("t", served("after"))
        store.reads[0][1].set_exception(StoreError("away"))
        while len(store.reads) < 2:
            await asyncio.sleep(0.01)
        store.finish(1, b"t_new")
        await turn()
        assert served.lists == [("before", [b"t_new"]), ("after", [b"t_new"])]
        assert kept(lists, "t") == [b"t_new"]

    run(test)


def test_a_topic_that_the_store_refuses_is_told_and_the_others_are_served() -> None:
    async def test(store: Store, lists: Directory) -> None:
        found: dict[str, Subscribers | Exception] = {}
        for topic in ("good", "bad"):
            lists.when_known(topic, Told(partial(found.__setitem__, topic)))
        await turn()
        assert [topic for topic, _ in store.reads] == ["good", "bad"]
        store.reads[1][1].set_exception(StoreRefused("wrong type"))
        await turn()
        assert isinstance(found["bad"], Unavailable)
        store.finish(0, b"good_a")
        await turn()
        assert isinstance(found["good"], Subscribers)
        assert kept(lists, "bad") is None
        await lists.wait_served(None)

    run(test)


def test_a_list_that_is_never_there_keeps_no_other_waiting() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists.when_known("slow", Told())
        lists.when_known("small", served("small"))
        await turn()
        assert [topic for topic, _ in store.reads] == ["slow", "small"]
        store.finish(1, b"small_a")
        await turn()
        assert served.lists == [("small", [b"small_a"])]

    run(test)


@pytest.mark.parametrize("is_up", [True, False])
def test_one_list_that_fails_is_not_the_store_being_away(is_up: bool) -> None:
    async def test(store: Store, lists: Directory) -> None:
        store.is_up = is_up
        lists.when_known("t", Told())
        await turn()
        store.reads[0][1].set_exception(StoreError("no answer"))
        await turn()
        assert (lists.waiting_since is None) == is_up
        while len(store.reads) < 2:
            await asyncio.sleep(0.01)
        store.finish(1)
        await turn()
        assert lists.waiting_since is None

    run(test)


def test_those_who_wait_for_a_list_that_cannot_be_read_are_refused_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gearhorn.fanout.directory.LIST_S", 0.3)

    async def test(store: Store, lists: Directory) -> None:
        store.is_up = True
        found = asyncio.get_running_loop().create_future()
        lists.when_known("t", Told(found.set_result))
        while not found.done():  # each read takes too long
            await asyncio.sleep(0.01)
        assert isinstance(found.result(), Unavailable)
        assert all(read.cancelled() for _, read in store.reads)
        assert lists.waiting_since is None
        lists.when_known("t", Served()("anew"))
        await turn()
        assert not store.reads[-1][1].done()

    run(test)


def test_while_the_store_is_away_those_who_wait_for_it_go_on_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gearhorn.fanout.directory.LIST_S", 0.1)

    async def test(store: Store, lists: Directory) -> None:
        served = Served()
        lists.when_known("t", served("patient"))
        while len(store.reads) < 5:
            await asyncio.sleep(0.01)
        store.is_up = True
        store.finish(len(store.reads) - 1, b"t_a")
        await turn()
        assert served.lists == [("patient", [b"t_a"])]

    run(test)


def test_a_store_that_fails_is_asked_again_and_the_order_holds() -> None:
    async def test(store: Store, lists: Directory) -> None:
        served: list[int] = []
        lists.when_known("t", Told(lambda _: served.append(1)))
        await turn()
        store.reads[0][1].set_exception(StoreError("away"))
        await turn()
        assert lists.waiting_since is not None
        lists.when_known("t", Told(lambda _: served.append(2)))
        while len(store.reads) < 2:
            await asyncio.sleep(0.01)
        store.reads[1][1].set_result([])
        await turn()
        assert served == [1, 2]
        assert lists.waiting_since is None

    run(test)


def test_a_list_is_used_while_the_lease_holds_and_not_once_it_lapsed() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("t", Told())
        await turn()
        store.finish(0, b"t_a")
        await turn()
        store.now_s = store.lease.until_s
        assert kept(lists, "t") == [b"t_a"]
        store.now_s += 0.001
        assert kept(lists, "t") is None
        # it is the lease that counts, not the list's age: a renewal has told what changed
        store.lease.grant(store.now_s)
        assert kept(lists, "t") == [b"t_a"]

    run(test)


def test_without_a_lease_no_list_is_used() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists._keep(Subscribers("t", [b"t_a"], enveloped=1))
        store.lease.end()
        assert kept(lists, "t") is None
        store.lease.store_is_lost()
        assert kept(lists, "t") is None
        assert lists.peek("t") is not None

    run(test)


def test_what_is_forgotten_is_freed_in_many_turns() -> None:
    async def test(store: Store, lists: Directory) -> None:
        for number in range(20_000):
            lists._keep(Subscribers(f"t{number}", [b"q"], enveloped=1))
        cached = lists._young.by_name
        lists.forget()
        assert lists.size == (0, 0)
        lengths = [len(cached)]
        while len(cached) > 1_000:
            await asyncio.sleep(0)
            lengths.append(len(cached))
        assert max(a - b for a, b in pairwise(lengths)) <= 1_000

    run(test, 1_000_000)


def test_what_is_cached_is_bounded_and_the_used_stays() -> None:
    async def test(store: Store, lists: Directory) -> None:
        for number in range(1000):
            lists._keep(Subscribers(f"t{number}", [b"q"], enveloped=1))
            assert lists.get("t0") is not None, f"the used list went at {number}"
        assert len(lists._young.by_name) + len(lists._old.by_name) <= 100

    run(test)


def test_empty_lists_are_cached_too() -> None:
    async def test(store: Store, lists: Directory) -> None:
        lists.when_known("nobody", Told())
        await turn()
        store.reads[0][1].set_result([])
        await turn()
        assert lists.get("nobody") is not None

    run(test)


class Marker:
    """Marks the lists whose topics say so, and writes down which it was asked about."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def is_eager(self, subscribers: Subscribers) -> bool:
        self.seen.append(subscribers.topic)
        return subscribers.topic.startswith("limited")


async def read(store: Store, lists: Directory, *topics: str) -> None:
    """Have lists read, and kept."""
    for topic in topics:
        lists.when_known(topic, Told())
        await turn()
        store.reads[-1][1].set_result([b"q"])
        await turn()


def test_what_is_marked_and_what_is_being_read_is_dropped() -> None:
    async def test(store: Store, _: Directory) -> None:
        lists = Directory(store, limit=100, lease=store.lease, marker=Marker())
        await read(store, lists, "limited", "plain")
        lists.when_known("reading", Told())
        await turn()
        for is_again in (False, True):
            lists.drop_marked()
            if not is_again:
                store.reads[-1][1].set_result([])
                await turn()
            assert lists.get("limited") is None
            assert lists.get("plain") is not None
            assert lists.get("reading") is None
            await read(store, lists, "limited")

    run(test)


def test_dropping_what_is_marked_looks_at_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: Store, _: Directory) -> None:
        marker = Marker()
        monkeypatch.setattr(directory, "MARKED", 2)
        lists = Directory(store, limit=1000, lease=store.lease, marker=marker)
        await read(store, lists, "plain", *(f"limited{number}" for number in range(4)))
        marker.seen.clear()
        lists.drop_marked()
        assert not marker.seen
        assert lists.size == (0, 0), "more than are dropped one by one: all go"
        await read(store, lists, "limited", "plain")
        lists.drop_marked()
        assert (lists.get("limited"), lists.size) == (None, (1, 1)), "it counts anew"

    run(test)


def test_the_list_of_a_topic_that_no_caller_may_publish_to_is_never_kept() -> None:
    """That a list is cached stands for the name's being a good one."""

    async def test(store: Store, found: Directory) -> None:
        found.refresh(GOSSIP)
        await asyncio.sleep(0)
        assert store.reads == []

    run(test)


def test_a_list_that_is_read_again_is_counted_once() -> None:
    async def test(store: Store, found: Directory) -> None:
        found.refresh("t")
        await asyncio.sleep(0)
        store.finish(0, b"t_a", b"t_b")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found.refresh("t")
        await asyncio.sleep(0)
        store.finish(1, b"t_a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert found.size == (1, 1)

    run(test)
