"""Lists and listings in a store: pages, whatever the sizes, and what a page costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.servers import Redis
from support.store import Bench, run, subscribe, unsubscribe

from gearhorn.errors import StoreRefused
from gearhorn.messages.codec import encode
from gearhorn.messages.describe import DescribedSubscription, DescribedTopic
from gearhorn.names import queue_of
from gearhorn.store.connection import Command, Connection
from gearhorn.store.listing import Listing
from gearhorn.store.subscriptions import FIRST, PAGE, Listed

pytest_plugins = ["support.store"]


async def fill(bench: Bench, topic: str, clients: Sequence[str], options: bytes = b"") -> None:
    """Subscribe clients, past the script that would take its time."""
    if clients:
        scored = [part for client in clients for part in (0, client)]
        await bench.ask("ZADD", "clients:" + topic, *scored)
        await bench.ask("ZADD", "topics", 0, topic)
    if clients and options:
        given = [part for client in clients for part in (client, options)]
        await bench.ask("HSET", "options:" + topic, *given)


def names(count: int) -> list[str]:
    return [f"c{number:06d}" for number in range(count)]


def _size(reply: object) -> int:
    """The elements of the longest list in a reply."""
    if not isinstance(reply, list | dict):
        return 0
    return max([len(reply), *(_size(one) for one in reply)])


class Counting:
    """Counts what the store returns, in elements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.all = 0
        original = Connection.each

        async def each(
            connection: Connection, commands: Sequence[Command], *more: Any, **options: Any
        ) -> list[Any]:
            replies = await original(connection, commands, *more, **options)
            sizes = [_size(reply) for reply in replies]
            self.most, self.all = max([self.most, *sizes]), self.all + sum(sizes)
            return replies

        monkeypatch.setattr(Connection, "each", each)


async def read(bench: Bench, topic: str) -> list[Listed]:
    [part] = await bench.subscriptions.read([topic])
    assert isinstance(part, Listed)
    parts = [part]
    if part.more:
        parts += [one async for one in bench.subscriptions.rest(topic, part.clients[-1])]
    return parts


@pytest.mark.parametrize("count", [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + PAGE, 3 * PAGE])
def test_a_list_comes_in_parts_each_client_once_and_in_order(
    server: Redis, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    async def test(bench: Bench) -> None:
        await fill(bench, "t", names(count))
        await bench.ask("HSET", "options:t", "c000001", b'{"envelope":true}')
        counting = Counting(monkeypatch)
        parts = await read(bench, "t")
        found = [client.decode() for part in parts for client in part.clients]
        assert found == names(count)
        options = {client: one for part in parts for client, one in part.options.items()}
        assert list(options) == [b"c000001"][: count > 1]
        assert counting.most <= PAGE
        assert not parts[-1].more

    run(server, test)


def test_what_is_subscribed_throughout_a_read_is_returned_once_whatever_changes(
    server: Redis,
) -> None:
    async def test(bench: Bench) -> None:
        clients = names(FIRST + 3 * PAGE)
        await fill(bench, "t", clients)
        [part] = await bench.subscriptions.read(["t"])
        assert isinstance(part, Listed)
        found = list(part.clients)
        gone: set[str] = set()
        rest = bench.subscriptions.rest("t", part.clients[-1])
        async for part in rest:
            found += part.clients
            # what was read, the last that was read, what comes next, and much in front of it
            last = part.clients[-1].decode()
            leaving = {clients[0], last, clients[min(len(found), len(clients) - 1)]}
            joining = [f"a{number}-{last}" for number in range(3)] + [f"{last}-"]
            changes = [unsubscribe("t", client) for client in leaving]
            await bench.apply(*changes, *(subscribe("t", client) for client in joining))
            gone |= leaving
        assert len(found) == len(set(found))
        assert {client.decode() for client in found} >= set(clients) - gone

    run(server, test)


def test_a_subscription_that_ends_during_a_read_is_seen_with_its_options_or_not_at_all(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        original = Connection.each
        ending: list[Any] = []

        async def each(connection: Connection, *given: Any, **options: Any) -> list[Any]:
            replies = await original(connection, *given, **options)
            if ending:
                await bench.apply(ending.pop())  # between two round trips
            return replies

        monkeypatch.setattr(Connection, "each", each)
        listing = Listing(bench.connection)
        for topic in ("t", None):
            for other in ("{}", '{"envelope":true}'):  # of one that stays
                durable = subscribe("t", "a", b'{"durable":{}}')._replace(start=b'"new"')
                made = await bench.apply(durable, subscribe("t", "b", other.encode()))
                assert all(one.version for one in made), made
                ending.append(unsubscribe("t", "a"))
                if topic:
                    [part] = await bench.subscriptions.read([topic])
                    assert isinstance(part, Listed)
                    seen = {client: part.options.get(client) for client in part.clients}
                else:
                    [(_, found)], _ = await listing.page("t", None, 10)
                    seen = {one.client_id.encode(): one.options for one in found}
                assert not ending
                assert b"b" in seen
                mine = seen.get(b"a")
                assert b"a" not in seen or (mine is not None and mine.durable is not None)

    run(server, test)


def test_a_topic_that_is_refused_takes_no_other_along(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.ask("SET", "clients:a", "no list")
        await bench.ask("SET", "options:b", "no hash")
        await fill(bench, "b", ["x"])
        await fill(bench, "c", ["x"], b'{"envelope":true}')
        first, second, third = await bench.subscriptions.read(["a", "b", "c"])
        assert isinstance(first, StoreRefused)
        assert isinstance(second, StoreRefused)
        assert isinstance(third, Listed)
        assert third.options[b"x"].envelope

    run(server, test)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 13, 14, 100])
def test_pages_of_small_topics_hold_each_subscription_once(server: Redis, limit: int) -> None:
    pages_of(server, {"a": 1, "b": 3, "c": 0, "d": 9, "e": 1, "f": 1}, limit)


@pytest.mark.parametrize("limit", [100, 251, 254, 2500, 10_000])
def test_pages_hold_each_subscription_once(server: Redis, limit: int) -> None:
    pages_of(server, {"a": 1, "b": 3, "c": 0, "d": 250, "e": 1, "f": 2500, "g": 7, "h": 1}, limit)


def pages_of(server: Redis, shape: dict[str, int], limit: int) -> None:
    """Page through topics of so many subscriptions each."""

    async def test(bench: Bench) -> None:
        for topic, count in shape.items():
            await fill(bench, topic, names(count), b'{"max_backlog":5}')
        await bench.ask("HSET", "drops:d", "c000003", 9)
        listing = Listing(bench.connection)
        found: list[tuple[str, str]] = []
        dropped: dict[tuple[str, str], int] = {}
        after, more = None, True
        while more:
            pages, more = await listing.page(None, after, limit)
            fresh = [(topic, one.client_id) for topic, page in pages for one in page]
            assert len(fresh) == limit or not more
            assert len(fresh) <= limit
            dropped |= {(topic, one.client_id): one.drops for topic, page in pages for one in page}
            assert all(one.options.max_backlog == 5 for _, page in pages for one in page)
            found += fresh
            after = found[-1]
        expected = [(t, client) for t, count in shape.items() for client in names(count)]
        assert found == expected
        assert {pair: count for pair, count in dropped.items() if count} == {("d", "c000003"): 9}

    run(server, test)


@pytest.mark.parametrize("topic", [None, "t"])
def test_a_page_costs_what_is_on_it(
    server: Redis, monkeypatch: pytest.MonkeyPatch, topic: str | None
) -> None:
    async def test(bench: Bench) -> None:
        await fill(bench, "t", names(20_000), b'{"max_backlog":5}')
        await fill(bench, "u", names(5000))
        counting = Counting(monkeypatch)
        listing = Listing(bench.connection)
        pages, more = await listing.page(topic, None, 3)
        assert [(name, len(page)) for name, page in pages] == [("t", 3)]
        assert more
        assert counting.all < 50
        pages, more = await listing.page(topic, ("t", "c019990"), 100)
        assert counting.all < 1000
        await listing.page(topic, None, 10_000)
        assert counting.most <= PAGE

    run(server, test)


def test_a_description_is_at_most_16_mib(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        topic = '"' * 255
        clients = [f"{number:06d}" + "\\" * 249 for number in range(10_000)]
        await fill(bench, topic, clients)
        pages, more = await Listing(bench.connection).page(None, None, 10_000)
        [(_, page)] = pages
        assert more
        assert [one.client_id for one in page] == clients[: len(page)]
        described = {
            one.client_id: DescribedSubscription(
                queue_of(topic, one.client_id).decode(), 2**31, "unsubscribe", True, 2**60, 1e300,
                2**31, 1.79e9,
            )
            for one in page
        }  # fmt: skip
        assert len(encode(DescribedTopic(described, None))) < 16 * 1024 * 1024
        assert len(page) > 3000

    run(server, test)
