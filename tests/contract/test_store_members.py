"""What a store knows of its members, on real servers and without a worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from support.servers import Redis
from support.store import LEASE_MS, Bench, run, subscribe, unsubscribe

from gearhorn.errors import StartError, StoreError
from gearhorn.messages.peers import StoreState
from gearhorn.store.keys import SCHEMA
from gearhorn.store.members import Member, Renewal
from gearhorn.store.subscriptions import Change

pytest_plugins = ["support.store"]
KEPT, EXTRA = 10_000, 1000  # as in change.lua


# Members


def test_a_member_joins_renews_and_leaves(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        me = Member("me", b"1 1 10000 patterns")
        joined = await bench.join()
        assert joined == Renewal(1, [], [me], 0, [], True, joined.data)
        assert (me.known, me.lease_s) == (1, 10.0)
        renewal = await bench.renew(0, clock_ms=5000)
        assert renewal == Renewal(
            1, ["t"], [Member("me", b"2 0 10000 patterns")], 5000, [], True, joined.data
        )
        renewal_with = await bench.members.renew("me", 1, 2500, 0, is_past_safe=False)
        assert renewal_with is not None
        assert renewal_with.members == [Member("me", b"3 1 2500 patterns")]
        assert await bench.members.all() == renewal_with.members
        await bench.members.leave("me")
        await bench.members.leave("me")
        assert await bench.members.all() == []

    run(server, test)


def test_a_member_that_joins_is_not_behind_the_others(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.renew(0, clock_ms=5000)
        began_s = time.monotonic()
        await asyncio.sleep(0.3)
        clock_ms = (await bench.join("another")).clock_ms
        assert 5300 <= clock_ms <= 5001 + 1000 * (time.monotonic() - began_s)
        await bench.ask("SET", "clocked", 1)  # the server's time was set to another year
        clock_ms = (await bench.join("third")).clock_ms
        assert 5300 + LEASE_MS // 3 <= clock_ms < 7000 + LEASE_MS // 3
        await bench.ask("SET", "clocked", 10**15)
        assert (await bench.renew(0)).clock_ms == clock_ms, "it never goes back"

    run(server, test)


def test_time_stands_still_while_there_is_no_member(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.renew(0, clock_ms=5000)
        await bench.members.leave("me")
        await asyncio.sleep(0.3)
        assert (await bench.join()).clock_ms < 5200

    run(server, test)


def test_an_emptied_store_has_another_word_for_its_data(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        data = (await bench.join()).data
        assert len(data) == 16
        assert (await bench.join("another")).data == (await bench.renew(0)).data == data
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        assert (await bench.join()).data not in ("", data)

    run(server, test)


def test_who_is_not_known_cannot_renew(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.members.renew("me", 0, LEASE_MS, 0, is_past_safe=False) is None
        assert await bench.members.all() == [], "nor becomes a member by trying"
        await bench.join()
        await bench.members.leave("me")
        assert await bench.members.renew("me", 0, LEASE_MS, 99, is_past_safe=False) is None
        assert (await bench.join()).clock_ms == 0

    run(server, test)


def test_every_renewal_moves_the_record(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        records = {(await bench.join()).members[0].record}
        for _ in range(20):
            records.add((await bench.renew(0)).members[0].record)
        assert len(records) == 21

    run(server, test)


def test_a_renewal_hands_back_exactly_what_changed_since(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        chance = random.Random(7)
        names = [f"t{number}" for number in range(18)] + ["ü:{x}", 'quote"']
        changed = [chance.choice(names) for _ in range(200)]
        kinds: list[Callable[[str, str], Change]] = [subscribe, unsubscribe]
        changes = [chance.choice(kinds)(topic, f"c{chance.randrange(3)}") for topic in changed]
        assert [one.version for one in await bench.apply(*changes)] == list(range(1, 201))
        await bench.join()
        for known in range(201):
            assert await bench.changed_since(known) == set(changed[known:]), known

    run(server, test)


def test_who_knows_nothing_or_too_much_is_handed_everything(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.apply(subscribe("t", "alice"), subscribe("u", "alice"))
        assert await bench.changed_since(-1) is None
        assert await bench.changed_since(3) is None, "the store has lost its tail"
        assert await bench.changed_since(2) == set()

    run(server, test)


def test_the_change_log_keeps_the_newest_change_of_a_topic(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        for number in range(50):
            await bench.one(subscribe("t" if number % 2 else "u", "alice"))
        assert await bench.ask("ZRANGE", "changes", 0, -1) == [b"u", b"t"]
        assert await bench.changed_since(0) == {"t", "u"}
        assert await bench.changed_since(48) == {"u", "t"}
        assert await bench.changed_since(49) == {"t"}

    run(server, test)


def test_a_capped_change_log_hands_everything_to_who_is_too_far_behind(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        most = KEPT + EXTRA
        for first in range(0, most, EXTRA):
            numbers = range(first, first + EXTRA)
            await bench.apply(*(subscribe(f"t{number}", "c") for number in numbers))
        await bench.join()
        everyone = {f"t{number}" for number in range(most)}
        assert await bench.changed_since(0) == everyone, "the log is full, and whole"
        assert (await bench.one(subscribe("t0", "c"))).version == most + 1
        assert await bench.changed_since(0) == everyone
        assert (await bench.one(subscribe("last", "c"))).version == most + 2
        # the oldest are forgotten: t1 (version 2) to t1000; t0 has changed again
        assert await bench.ask("ZCARD", "changes") == KEPT + 1
        assert await bench.changed_since(EXTRA) is None
        kept = {f"t{number}" for number in range(EXTRA + 1, most)} | {"t0", "last"}
        assert await bench.changed_since(EXTRA + 1) == kept
        assert await bench.changed_since(most) == {"t0", "last"}
        assert await bench.changed_since(most + 2) == set()

    run(server, test)


def test_a_member_is_reaped_only_with_the_very_record(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        [seen] = (await bench.join("peer")).members
        [moved] = (await bench.renew(0, "peer")).members
        assert not await bench.members.reap(seen), "it renewed after all"
        assert await bench.members.all() == [moved]
        assert await bench.members.reap(moved)
        assert await bench.members.all() == []
        assert not await bench.members.reap(moved), "somebody else was quicker"
        assert await bench.members.renew("peer", 0, LEASE_MS, 0, is_past_safe=False) is None

    run(server, test)


# The server


@pytest.fixture
def configure(server: Redis) -> Iterator[Callable[[str, str], None]]:
    """Sets the memory's size and policy, until the test is over."""

    def set_(maxmemory: str, policy: str) -> None:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", maxmemory)
            client.config_set("maxmemory-policy", policy)

    yield set_
    set_("0", "noeviction")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_store_that_evicts_is_refused(
    server: Redis, configure: Callable[[str, str], None], policy: str
) -> None:
    async def test(bench: Bench) -> None:
        configure("100mb", policy)
        with pytest.raises(StartError, match=f"maxmemory-policy {policy}"):
            await bench.connection.check()
        configure("100mb", "noeviction")
        await bench.connection.check()

    run(server, test)


def test_a_store_whose_memory_has_no_bound_evicts_nothing(
    server: Redis, configure: Callable[[str, str], None]
) -> None:
    async def test(bench: Bench) -> None:
        configure("0", "allkeys-lru")
        await bench.connection.check()

    run(server, test)


def test_how_a_store_keeps_what_it_is_given_is_what_it_says(
    server: Redis, configure: Callable[[str, str], None]
) -> None:
    async def test(bench: Bench) -> None:
        configure("0", "noeviction")
        with redis.Redis.from_url(server.url) as client:
            kept = client.config_get("appendonly")["appendonly"] == "yes"
            well = await bench.connection.state()
            assert well == StoreState(append_only=kept)
            try:
                client.config_set("min-replicas-to-write", "1")
                client.config_set("appendonly", "no" if kept else "yes")
                configure("100mb", "allkeys-lru")
                changed = StoreState("allkeys-lru", append_only=not kept, min_replicas=True)
                assert await bench.connection.state() == changed
            finally:
                client.config_set("min-replicas-to-write", "0")
                client.config_set("appendonly", "yes" if kept else "no")

    run(server, test)


@pytest.mark.parametrize("schema", ["1", "3", "6", "", "two"])
def test_a_foreign_schema_is_refused(server: Redis, schema: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.ask("SET", "schema", schema)
        with pytest.raises(StartError, match="--namespace"):
            await bench.connection.check()
        assert await bench.ask("GET", "schema") == schema.encode(), "it is left as it was"
        other = Bench(server, "other")
        await other.connection.check()
        await other.connection.close()

    run(server, test)


def test_a_new_store_is_made_ours_and_an_emptied_one_again(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.connection.check()
        assert await bench.ask("GET", "schema") == SCHEMA
        await bench.connection.check()
        [_] = await bench.connection.pipeline([("FLUSHALL",)])
        assert await bench.members.renew("me", 0, LEASE_MS, 0, is_past_safe=False) is None
        assert await bench.ask("GET", "schema") == SCHEMA, "before an older release comes"

    run(server, test)


def test_a_store_that_is_not_there_is_no_reason_not_to_start_later(durable: Redis) -> None:
    async def test(bench: Bench) -> None:
        durable.kill()
        with pytest.raises(StoreError):
            await bench.connection.check()
        durable.restart()
        await bench.connection.check()
        await bench.join()

    run(durable, test)


def test_a_restarted_server_has_another_run_id(durable: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.connection.check()
        former = bench.members.run_id
        assert (await bench.join()).is_same_run
        assert (await bench.renew(0)).is_same_run
        assert bench.members.run_id == former != ""
        durable.restart()
        await bench.members.all()  # any question notices
        assert bench.members.run_id not in ("", former)

    run(durable, test)


def test_a_restart_is_noticed_by_the_very_call_that_comes_first(durable: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former = bench.members.run_id
        durable.restart()
        assert not (await bench.renew(0)).is_same_run, "it says the new run's name, not the old"
        assert bench.members.run_id != former

    run(durable, test)


def test_after_a_restart_the_data_counts_as_another_runs_until_it_is_settled(
    durable: Redis,
) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        assert (await bench.join("alice")).is_same_run
        durable.restart()
        peer = Bench(durable)
        try:
            assert not (await peer.join("bob")).is_same_run, "a new member sees it too"
            renewal = await bench.renew(1, "alice")
            assert not renewal.is_same_run
            assert (renewal.version, len(renewal.members)) == (1, 2), "nothing was lost"
            assert not (await peer.renew(1, "bob")).is_same_run
            assert (await bench.renew(1, "alice", is_past_safe=True)).is_same_run
            assert (await peer.renew(1, "bob")).is_same_run, "who settled it did so for all"
        finally:
            await peer.connection.close()

    run(durable, test)


def test_scripts_are_loaded_again_after_a_restart(durable: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        for _ in range(2):
            durable.restart()
            applied = await bench.apply(subscribe("a", "x"), subscribe("b", "x"))
            assert [one.error for one in applied] == [None, None]
        assert [one.version for one in applied] == [3, 4]
        assert await bench.members.reap((await bench.members.all())[0])

    run(durable, test)


def test_that_the_former_run_was_settled_says_nothing_of_one_that_just_began(
    durable: Redis,
) -> None:
    async def test(bench: Bench) -> None:
        await bench.connection.check()
        await bench.join()
        durable.restart()
        assert not (await bench.renew(0, is_past_safe=True)).is_same_run

    run(durable, test)


def test_a_new_store_is_the_same_run_for_whoever_asks_first(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.join()).is_same_run

    run(server, test)
