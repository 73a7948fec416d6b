"""Patterns in a store, on real servers and without a worker."""

from __future__ import annotations

import time

import pytest
from support.servers import Redis
from support.store import LEASE_MS, Bench, expire, run, subscribe, unsubscribe

from gearhorn.errors import StartError
from gearhorn.names import list_name
from gearhorn.store.keys import SCHEMA, WITH_PATTERNS
from gearhorn.store.patterns import LIMIT, Patterns, PatternSet
from gearhorn.store.subscriptions import Applied

pytest_plugins = ["support.store"]
PATTERN = list_name("a.*", True)
SLOWNESS = 5


async def read(bench: Bench) -> Patterns:
    found = await PatternSet(bench.connection).read()
    assert found.word == await PatternSet(bench.connection).word()
    return found


def test_the_word_changes_with_the_set_and_only_then(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert await read(bench) == Patterns(b"", [])
        await bench.one(subscribe("a.*", "alice"))
        assert await read(bench) == Patterns(b"", []), "a topic is no pattern"
        await bench.one(subscribe(PATTERN, "bob"))
        first = await read(bench)
        assert first.word
        assert first.names == [PATTERN.encode()]
        await bench.one(subscribe(PATTERN, "carol"))
        await bench.one(subscribe(PATTERN, "bob"))
        await bench.one(unsubscribe(PATTERN, "bob"))
        await bench.one(unsubscribe(PATTERN, "mallory"))
        await bench.one(unsubscribe("a.*", "alice"))
        assert await read(bench) == first
        await bench.one(subscribe(" >", "alice"))
        second = await read(bench)
        assert second.word != first.word
        assert second.names == [b" >", PATTERN.encode()]
        await bench.one(unsubscribe(" >", "alice"))
        third = await read(bench)
        assert third.word not in (first.word, second.word)
        await bench.one(unsubscribe(PATTERN, "carol"))
        assert await read(bench) == Patterns(b"", [])

    run(server, test)


def test_a_list_is_read_with_the_word_of_before(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.list_of("t")).patterned == b""
        await bench.one(subscribe(PATTERN, "alice"))
        assert (await bench.list_of("t")).patterned == (await read(bench)).word
        assert (await bench.list_of("t")).clients == []
        assert (await bench.list_of(PATTERN)).clients == [b"alice"]
        assert (await bench.list_of("a.*")).clients == []

    run(server, test)


def test_patterns_expire_are_handed_to_members_and_own_their_queue_names(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        assert (await bench.one(subscribe(PATTERN, "alice", b'{"ttl":5}'))).version == 1
        assert await bench.changed_since(0) == {PATTERN}
        taken = await bench.one(subscribe("a.*", "alice"))
        assert taken == Applied(0, False, owner=(PATTERN, "alice"))
        renewal = await bench.renew(1, clock_ms=6_000)
        assert renewal.expired == [(PATTERN, "alice")]
        assert (await bench.one(expire(PATTERN, "alice"), clock_ms=6_000)).existed
        assert await read(bench) == Patterns(b"", [])

    run(server, test)


def test_there_are_no_more_patterns_than_may_be(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        for at in range(0, LIMIT, 500):
            batch = [subscribe(f" a.{at + number}.*", "alice") for number in range(500)]
            assert all(one.version for one in await bench.apply(*batch))
        assert await bench.one(subscribe(" b", "alice")) == Applied(0, False, is_full=True)
        assert (await bench.one(subscribe(" a.7.*", "bob"))).version, "no new pattern"
        assert (await bench.one(subscribe("c", "alice"))).version, "no pattern"
        await bench.one(unsubscribe(" a.8.*", "alice"))
        assert (await bench.one(subscribe(" b", "alice"))).version
        patterns = PatternSet(bench.connection)
        tries = []
        for _ in range(5):
            begun_s = time.perf_counter()
            assert len((await patterns.read()).names) == LIMIT
            tries.append(time.perf_counter() - begun_s)
        assert min(tries) < 0.02 * SLOWNESS

    run(server, test)


def test_a_member_of_a_release_without_patterns_keeps_them_out(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("new")
        await bench.ask("HSET", "members", "old", f"1 0 {LEASE_MS}")
        refused = await bench.one(subscribe(PATTERN, "alice"))
        assert refused == Applied(0, False, ignorant="old")
        assert (await bench.one(subscribe("t", "alice"))).version == 1
        assert (await bench.one(unsubscribe(PATTERN, "alice"))).version == 2
        await bench.members.leave("old")
        assert (await bench.one(subscribe(PATTERN, "alice"))).version == 3

    run(server, test)


def test_the_layout_says_that_there_are_patterns_while_there_are(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.connection.check()
        for _ in range(2):
            await bench.one(subscribe(PATTERN, "alice"))
            await bench.one(subscribe(PATTERN, "bob"))
            assert await bench.ask("GET", "schema") == SCHEMA + WITH_PATTERNS
            await bench.connection.check()
            await bench.join()
            assert await bench.ask("GET", "schema") == SCHEMA + WITH_PATTERNS
            await bench.one(unsubscribe(PATTERN, "alice"))
            assert await bench.ask("GET", "schema") == SCHEMA + WITH_PATTERNS
            await bench.one(unsubscribe(PATTERN, "bob"))
            assert await bench.ask("GET", "schema") == SCHEMA
        await bench.ask("SET", "schema", SCHEMA + b"+more")
        with pytest.raises(StartError):
            await bench.connection.check()

    run(server, test)
