"""Counting drops in a store, on real servers and without a worker."""

from __future__ import annotations

import time

from support.servers import Redis
from support.store import Bench, run, subscribe, unsubscribe

from gearhorn.fanout.drops import PIECE
from gearhorn.store.subscriptions import Subscriptions

pytest_plugins = ["support.store"]


def test_a_piece_is_counted_once_however_often_it_is_sent(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        count = bench.subscriptions.count_drops
        another = Subscriptions(bench.connection)  # it has numbers of its own
        await bench.apply(subscribe("t", "alice"), subscribe("u", "alice"))
        for _ in range(3):
            await count(1, {("t", "alice"): 3, ("u", "alice"): 1})
        await count(2, {("t", "alice"): 4})
        await count(1, {("t", "alice"): 3, ("u", "alice"): 1})  # it was long on its way
        await another.count_drops(1, {("u", "alice"): 5})
        assert await bench.ask("HGETALL", "drops:t") == {b"alice": b"7"}
        assert await bench.ask("HGETALL", "drops:u") == {b"alice": b"6"}

    run(server, test)


def test_who_is_not_subscribed_is_not_counted(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(subscribe("t", "alice"), subscribe("t", "bob"))
        await bench.one(unsubscribe("t", "alice"))
        await bench.subscriptions.count_drops(1, {("t", "alice"): 3, ("t", "bob"): 1})
        await bench.subscriptions.count_drops(2, {("never", "alice"): 3})
        assert await bench.ask("HGETALL", "drops:t") == {b"bob": b"1"}
        assert await bench.ask("EXISTS", "drops:never") == 0
        await bench.one(subscribe("t", "alice"))
        assert await bench.ask("HGET", "drops:t", "alice") is None

    run(server, test)


def test_what_a_former_subscription_lost_is_not_counted_for_the_next_one(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        former = await bench.one(subscribe("t", "alice"))
        ended = await bench.one(unsubscribe("t", "alice"))
        again = await bench.one(subscribe("t", "alice"))
        drops = {("t", "alice"): 1}
        for number, version in enumerate((former, ended, again), 1):
            versions = {("t", "alice"): version.version}
            await bench.subscriptions.count_drops(number, drops, versions)
        assert await bench.ask("HGET", "drops:t", "alice") == b"2"

    run(server, test)


def test_only_the_last_ends_are_remembered(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        kept, extra = 10_000, 1_000
        for at in range(0, kept + extra, 1000):
            pairs = [f"c{number}" for number in range(at, at + 1000)]
            await bench.apply(*(subscribe("t", client) for client in pairs))
            ended = await bench.apply(*(unsubscribe("t", client) for client in pairs))
        assert await bench.ask("ZCARD", "ended") == kept + extra
        assert await bench.ask("ZSCORE", "ended", "") is None
        await bench.one(subscribe("t", "last"))
        last = await bench.one(unsubscribe("t", "last"))
        assert await bench.ask("ZCARD", "ended") == kept + 2
        assert float(await bench.ask("ZSCORE", "ended", "")) == 2000
        assert float(await bench.ask("ZSCORE", "ended", "t\0last")) == last.version
        assert ended

    run(server, test)


def test_a_process_that_ends_leaves_nothing_of_what_it_counted(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        number = bench.subscriptions.number_drops()
        await bench.subscriptions.count_drops(number, {("t", "alice"): 1})
        assert await bench.ask("ZCARD", "askers") == 1
        await bench.subscriptions.close()
        [left] = await bench.connection.pipeline([("KEYS", "*asked:*")])
        assert left == []
        assert await bench.ask("EXISTS", "askers") == 0

    run(server, test)


def test_a_topic_whose_key_is_of_another_type_costs_itself_only(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(subscribe("t", "alice"), subscribe("u", "alice"))
        await bench.ask("SET", "drops:t", "of another kind")
        await bench.subscriptions.count_drops(1, {("t", "alice"): 1, ("u", "alice"): 1})
        assert await bench.ask("HGETALL", "drops:u") == {b"alice": b"1"}

    run(server, test)


def test_a_whole_piece_does_not_hold_the_store_long(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        pairs = [(f"topic-{number}", "alice") for number in range(PIECE)]
        await bench.apply(*(subscribe(*pair) for pair in pairs))
        await bench.subscriptions.count_drops(1, dict.fromkeys(pairs, 1))  # the script loads
        took = []
        for number in range(2, 12):
            began = time.monotonic()
            await bench.subscriptions.count_drops(number, dict.fromkeys(pairs, 1))
            took.append(time.monotonic() - began)
        assert await bench.ask("HGET", "drops:topic-7", "alice") == b"11"
        assert min(took) < 0.1, "with packing, sending and all"

    run(server, test)
