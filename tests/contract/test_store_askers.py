"""What the store keeps of those that ask for something to be done once, and for how long; no key
has an expiry, so that a store may be told to take keys that have one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from support.logs import LogBench, durable, item, run
from support.servers import Redis
from support.store import subscribe

from gearhorn.errors import StoreNoWrites
from gearhorn.store.asked import IDLE_MS, Asked, Askers
from gearhorn.store.log import Log

pytest_plugins = ["support.store"]

DAY_MS = 86_400_000


async def kept(bench: LogBench) -> int:
    """The number of askers of which the store keeps something; their register has as many."""
    [names] = await bench.connection.pipeline([("KEYS", "*asked:*")])
    assert set(await bench.ask("ZRANGE", "askers", 0, -1)) == set(names)
    return len(names)


async def append(log: Log, payload: str) -> None:
    await log.append(log.number({"t": [item(payload)]}), 0)


def test_who_has_asked_nothing_for_a_day_is_forgotten(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        dead, living = Log(bench.connection), bench.log
        await append(dead, "last")
        await append(living, "a")
        askers = Askers(bench.connection)
        await askers.prune(1000)
        await askers.prune(DAY_MS)
        await append(living, "b")
        await askers.prune(DAY_MS + IDLE_MS)
        assert await kept(bench) == 2, "a day is not over"
        await askers.prune(DAY_MS + 2 * IDLE_MS)
        await askers.prune(DAY_MS + 2 * IDLE_MS)
        assert await kept(bench) == 1
        assert await bench.ask("ZCARD", "askers") == 1
        await dead.close()
        await living.close()
        assert await kept(bench) == 0

    run(server, test)


def test_who_asks_at_the_last_moment_is_spared(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await append(bench.log, "a")
        askers = Askers(bench.connection)
        await askers.prune(1)
        await askers.prune(DAY_MS + 1)  # names it
        appends = bench.log.number({"t": [item("b")]})
        first = await bench.log.append(appends, 0)
        await askers.prune(DAY_MS + 1)
        assert await kept(bench) == 1
        assert await bench.log.fates(appends) == first

    run(server, test)


def test_a_clock_that_stood_still_takes_nobody_for_idle(server: Redis) -> None:
    """A worker's own clock stands still while its machine is paused."""

    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.ask("SET", "clock", 2 * DAY_MS)
        appends = bench.log.number({"t": [item("a")]})
        first = await bench.log.append(appends, 0)
        await Askers(bench.connection).prune(1000)
        others = Askers(bench.connection)
        await others.prune(2 * DAY_MS)
        await others.prune(2 * DAY_MS)
        assert await kept(bench) == 1
        assert await bench.log.fates(appends) == first

    run(server, test)


def test_many_are_forgotten_in_portions_of_a_hundred(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice"))
        for _ in range(250):
            asked = Asked(bench.connection)
            command = bench.connection.script("count", asked.keys, 1)
            await bench.connection.pipeline([command])
        askers = Askers(bench.connection)
        await askers.prune(1)
        await askers.prune(DAY_MS + 1)
        left = []
        for _ in range(3):
            await askers.prune(DAY_MS + 1)
            left.append(await kept(bench))
        assert left == [150, 50, 0]

    run(server, test)


def test_a_register_of_another_type_costs_nobody_anything(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.ask("SET", "askers", "of another kind")
        appends = bench.log.number({"t": [item("a")]})
        first = await bench.log.append(appends, 0)
        assert await bench.log.append(appends, 0) == first
        assert await bench.bounds("t") == (1, 1)

    run(server, test)


@pytest.fixture
def operator(server: Redis) -> Iterator[redis.Redis]:
    """The operator's client; the memory has no bound once the test is over."""
    with redis.Redis.from_url(server.url) as client:
        yield client
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    "policy", ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
)
def test_where_keys_with_an_expiry_are_taken_all_of_ours_stay(
    server: Redis, operator: redis.Redis, policy: str
) -> None:
    async def test(bench: LogBench) -> None:
        operator.config_set("maxmemory-policy", policy)
        operator.config_set("maxmemory", "100mb")
        await bench.connection.check()
        await use_everything(bench)
        ours = await bench.everything()
        [found] = await bench.connection.pipeline([("KEYS", "{test}:*")])
        expiries = await bench.connection.pipeline([("PTTL", name) for name in found])
        assert {one for one, ms in zip(found, expiries, strict=True) if ms != -1} == set()
        for number in range(100):
            operator.set(f"other:{number}", "x" * 1000, ex=3600)
        operator.config_set("maxmemory", "1")
        applied = await bench.one(subscribe("t", "late"))
        assert isinstance(applied.error, StoreNoWrites), "there is nothing to take"
        assert operator.keys("other:*") == []
        assert await bench.everything() == ours

    run(server, test)


async def use_everything(bench: LogBench) -> None:
    """Have every kind of key written."""
    await bench.join("me")
    made = [subscribe("t", "alice", b'{"ttl":60}'), durable("t", "bob")]
    await bench.apply(*(one._replace(request=one.client_id) for one in made))
    await bench.append_items("t", item("a", "key"), item("b"))
    await bench.subscriptions.count_drops(bench.subscriptions.number_drops(), {("t", "alice"): 1})
    assert await bench.lanes.take_parked("t", "bob", "redrive", None) == 0
    await Askers(bench.connection).prune(1)
