"""What a change does in a store, on real servers and without a worker."""

from __future__ import annotations

import pytest
from support.servers import Redis
from support.store import Bench, expire, run, subscribe, unsubscribe

from gearhorn.errors import StoreRefused
from gearhorn.names import queue_of
from gearhorn.store.members import Member
from gearhorn.store.subscriptions import Applied, Change, Listed

pytest_plugins = ["support.store"]
FULL = b'{"overflow":"unsubscribe"}'


def overflow(topic: str, client_id: str, seen: int) -> Change:
    return Change("overflow", topic, client_id, queue_of(topic, client_id), seen=seen)


# Changes


def test_the_version_counts_every_change(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.one(subscribe("t", "alice")) == Applied(1, False)
        assert await bench.one(subscribe("u", "alice")) == Applied(2, False)
        assert await bench.one(unsubscribe("t", "alice")) == Applied(3, True)
        assert await bench.one(unsubscribe("t", "alice")) == Applied(4, False)
        assert await bench.clients("t") == set()
        assert await bench.clients("u") == {b"alice"}

    run(server, test)


def test_changes_written_together_are_applied_in_order(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        pair = ("t", "alice")
        changes = [subscribe(*pair), unsubscribe(*pair), subscribe(*pair), subscribe("t", "bob")]
        applied = await bench.apply(*changes)
        assert [one.version for one in applied] == [1, 2, 3, 4]
        assert [one.existed for one in applied] == [False, True, False, False]
        assert await bench.clients("t") == {b"alice", b"bob"}

    run(server, test)


def test_a_repeated_subscribe_bumps_the_version_and_is_handed_back(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        await bench.one(subscribe("u", "alice"))
        await bench.join()
        assert await bench.changed_since(2) == set()
        assert await bench.one(subscribe("t", "alice")) == Applied(3, True)
        assert await bench.changed_since(2) == {"t"}, "a peer may still be untold of the first"

    run(server, test)


def test_a_change_hands_back_the_members_as_of_just_after(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.subscriptions.apply([subscribe("t", "a")], 0))[1] == []
        await bench.join("alice")
        await bench.join("bob")
        _, members = await bench.subscriptions.apply([subscribe("t", "a")], 0)
        record = b"1 1 10000 patterns"
        assert sorted(members) == [Member("alice", record), Member("bob", record)]

    run(server, test)


def test_options_that_are_given_replace_and_the_others_stay(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        async def options() -> tuple[int | None, bool]:
            listed = await bench.list_of("t")
            found = listed.options[b"alice"]
            return found.max_backlog, found.envelope

        limited = b'{"max_backlog":2147483647,"envelope":true}'
        assert await bench.one(subscribe("t", "alice", limited)) == Applied(1, False)
        assert await options() == (2**31 - 1, True)
        assert await bench.one(subscribe("t", "alice")) == Applied(2, True)
        assert await options() == (2**31 - 1, True)
        given = b'{"envelope":false}'
        assert await bench.one(subscribe("t", "alice", given)) == Applied(3, True)
        assert await options() == (2**31 - 1, False)
        assert await bench.one(unsubscribe("t", "alice")) == Applied(4, True)
        assert await bench.one(subscribe("t", "alice")) == Applied(5, False)
        listed = await bench.list_of("t")
        assert listed.options == {}, "nothing is left of a subscription that ended"

    run(server, test)


def test_a_subscription_that_ended_leaves_no_drops(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(subscribe("t", "alice"), subscribe("t", "bob"))
        await bench.subscriptions.count_drops(1, {("t", "alice"): 3, ("t", "bob"): 4})
        await bench.subscriptions.count_drops(2, {("t", "alice"): 2})
        assert await bench.ask("HGETALL", "drops:t") == {b"alice": b"5", b"bob": b"4"}
        await bench.one(unsubscribe("t", "alice"))
        assert await bench.ask("HGETALL", "drops:t") == {b"bob": b"4"}

    run(server, test)


def test_topics_with_subscriptions_are_indexed_and_others_are_not(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        async def topics() -> list[bytes]:
            found: list[bytes] = await bench.ask("ZRANGE", "topics", 0, -1)
            return found

        await bench.apply(subscribe("b", "x"), subscribe("a", "x"), subscribe("b", "y"))
        assert await topics() == [b"a", b"b"]
        await bench.one(unsubscribe("b", "x"))
        await bench.one(unsubscribe("b", "x"))
        await bench.one(unsubscribe("never", "x"))
        assert await topics() == [b"a", b"b"]
        await bench.one(unsubscribe("b", "y"))
        assert await topics() == [b"a"]
        await bench.one(subscribe("b", "x"))
        assert await topics() == [b"a", b"b"]

    run(server, test)


def test_a_change_that_the_store_refuses_is_refused_alone(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.ask("SET", "clients:broken", "no set")
        changes = [subscribe("a", "x"), subscribe("broken", "x"), subscribe("b", "x")]
        first, broken, last = await bench.apply(*changes)
        assert isinstance(broken.error, StoreRefused)
        assert broken.version == 0
        assert (first.version, last.version) == (1, 2)
        assert await bench.clients("b") == {b"x"}

    run(server, test)


def test_namespaces_know_nothing_of_each_other(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        other = Bench(server, "other")
        await bench.join()
        await bench.one(subscribe("a_b", "c"))
        assert await other.one(subscribe("a", "b_c")) == Applied(1, False)
        assert await other.members.all() == []
        await other.connection.close()

    run(server, test)


# Ambiguous queue names


def test_who_subscribed_first_owns_the_queue_name(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        pairs = [("a", "b_c_d"), ("a_b", "c_d"), ("a_b_c", "d")]
        version = 0
        for owner in pairs:
            version += 1
            assert await bench.one(subscribe(*owner)) == Applied(version, False)
            for pair in pairs:
                if pair != owner:
                    refused = await bench.one(subscribe(*pair, b'{"ttl":5,"envelope":true}'))
                    assert refused == Applied(0, False, owner=owner)
            version += 1
            assert await bench.one(subscribe(*owner)) == Applied(version, True)
            version += 1
            assert await bench.one(unsubscribe(*owner)) == Applied(version, True)

    run(server, test)


def test_a_subscribe_that_was_refused_leaves_nothing(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.one(subscribe("a_b", "c"))
        refused = await bench.one(subscribe("a", "b_c", b'{"ttl":5,"envelope":true,"durable":{}}'))
        assert refused.owner == ("a_b", "c")
        assert await bench.subscriptions.read(["a"]) == [Listed([], {}, has_log=False, version=1)]
        assert await bench.ends_at("a", "b_c") is None
        assert await bench.ask("ZRANGE", "topics", 0, -1) == [b"a_b"]
        assert await bench.ask("ZRANGE", "durable", 0, -1) == []
        assert await bench.ask("EXISTS", "lanes:a") == 0
        assert await bench.changed_since(0) == {"a_b"}
        assert (await bench.renew(1)).version == 1

    run(server, test)


def test_an_unsubscribe_of_another_pair_does_not_free_the_queue_name(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("a_b", "c"))
        await bench.join("drainer")
        assert await bench.one(unsubscribe("a", "b_c", drainer="drainer")) == Applied(2, False)
        assert (await bench.one(subscribe("a", "b_c"))).owner == ("a_b", "c")
        assert await bench.one(subscribe("a_b", "c")) == Applied(3, True), "nobody drains it"

    run(server, test)


def test_of_rivals_written_together_the_first_owns_the_queue_name(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        first, second = await bench.apply(subscribe("a", "b_c"), subscribe("a_b", "c"))
        assert first == Applied(1, False)
        assert second == Applied(0, False, owner=("a", "b_c"))

    run(server, test)


# Subscriptions that end by themselves

TTL = b'{"ttl":5}'


def test_a_ttl_counts_by_the_members_clock(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL), clock_ms=1000)
        assert await bench.ends_at("t", "alice") == 6000
        await bench.join(clock_ms=50_000)
        await bench.one(subscribe("t", "bob", TTL), clock_ms=1000)
        assert await bench.ends_at("t", "bob") == 55_000, "the store has heard of a later time"
        await bench.one(subscribe("t", "carol", b'{"ttl":0.25}'), clock_ms=60_000)
        assert await bench.ends_at("t", "carol") == 60_250, "the caller knows of a later time"
        await bench.one(subscribe("t", "dave"), clock_ms=60_000)
        assert await bench.ends_at("t", "dave") is None

    run(server, test)


def test_a_subscribe_without_ttl_keeps_and_renews_it(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL), clock_ms=1000)
        await bench.one(subscribe("t", "alice"), clock_ms=3000)
        assert await bench.ends_at("t", "alice") == 8000
        await bench.one(subscribe("t", "alice", b'{"envelope":true}'), clock_ms=4000)
        assert await bench.ends_at("t", "alice") == 9000
        await bench.one(subscribe("t", "alice", b'{"ttl":100}'), clock_ms=5000)
        assert await bench.ends_at("t", "alice") == 105_000
        await bench.one(subscribe("t", "alice"), clock_ms=6000)
        assert await bench.ends_at("t", "alice") == 106_000

    run(server, test)


def test_an_expiry_before_its_time_changes_nothing(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL), clock_ms=1000)
        await bench.join()
        assert await bench.one(expire("t", "alice"), clock_ms=5999) == Applied(0, False)
        assert await bench.clients("t") == {b"alice"}
        assert await bench.ends_at("t", "alice") == 6000
        renewal = await bench.renew(1)
        assert (renewal.version, renewal.topics) == (1, [])
        assert await bench.one(expire("t", "alice"), clock_ms=6000) == Applied(2, True)
        assert await bench.clients("t") == set()
        assert await bench.ends_at("t", "alice") is None
        assert await bench.ask("ZRANGE", "topics", 0, -1) == []
        assert await bench.changed_since(1) == {"t"}

    run(server, test)


def test_of_many_members_that_end_a_subscription_one_does(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL), clock_ms=1000)
        applied = await bench.apply(*[expire("t", "alice")] * 3, clock_ms=9000)
        assert applied == [Applied(2, True), Applied(0, False), Applied(0, False)]

    run(server, test)


def test_a_subscription_renewed_after_its_time_was_over_goes_on(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL), clock_ms=1000)
        renewal = await bench.join(clock_ms=7000)
        assert renewal.expired == [("t", "alice")]
        await bench.one(subscribe("t", "alice"), clock_ms=7000)
        assert await bench.one(expire("t", "alice"), clock_ms=7000) == Applied(0, False)
        assert await bench.clients("t") == {b"alice"}

    run(server, test)


@pytest.mark.parametrize("clock_ms", [0, 2**53])
def test_what_has_no_ttl_never_expires(server: Redis, clock_ms: int) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        for client_id in ("alice", "nobody"):
            assert await bench.one(expire("t", client_id), clock_ms) == Applied(0, False)
        assert await bench.clients("t") == {b"alice"}

    run(server, test)


def test_an_unsubscribe_clears_the_ttl(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", TTL))
        await bench.one(unsubscribe("t", "alice"))
        assert await bench.ends_at("t", "alice") is None
        await bench.one(subscribe("t", "alice"))
        assert await bench.ends_at("t", "alice") is None, "a new subscription inherits nothing"
        assert (await bench.join(clock_ms=9000)).expired == []

    run(server, test)


def test_what_is_due_is_handed_to_whoever_renews_a_hundred_at_a_time(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        names = [f"c{number:03}" for number in range(150)]
        await bench.apply(*(subscribe("t ü:{x}", name, TTL) for name in names))
        await bench.join()
        assert (await bench.renew(0, clock_ms=4999)).expired == []
        due = (await bench.renew(0, clock_ms=5000)).expired
        assert due == [("t ü:{x}", name) for name in names[:100]]
        applied = await bench.apply(*(expire(*pair) for pair in due), clock_ms=5000)
        assert all(one.existed for one in applied)
        assert (await bench.renew(0)).expired == [("t ü:{x}", name) for name in names[100:]]

    run(server, test)


def test_the_members_clock_never_goes_back(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.join("alice", clock_ms=70)).clock_ms == 70
        assert (await bench.join("bob", clock_ms=2**53)).clock_ms == 2**53
        assert (await bench.renew(0, "alice", clock_ms=80)).clock_ms == 2**53
        await bench.members.leave("bob")
        await bench.members.leave("alice")
        assert (await bench.join("carol", clock_ms=0)).clock_ms == 2**53

    run(server, test)


# Queues that are full


def test_an_overflow_spares_what_was_subscribed_after_the_list_was_read(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", FULL))
        listed = await bench.list_of("t")
        assert isinstance(listed, Listed)
        assert listed.version == 1
        await bench.one(subscribe("t", "alice"))  # again, while the end is on its way
        await bench.one(subscribe("t", "bob"))
        assert await bench.one(overflow("t", "alice", 1)) == Applied(0, False)
        assert await bench.clients("t") == {b"alice", b"bob"}
        assert await bench.one(overflow("t", "alice", 3)) == Applied(4, True)
        assert await bench.one(overflow("t", "alice", 9)) == Applied(0, False)
        await bench.one(subscribe("t", "alice", b'{"overflow":"drop_old"}'))
        assert await bench.one(overflow("t", "alice", 9)) == Applied(0, False)
        assert await bench.one(overflow("t", "bob", 9)) == Applied(0, False)
        assert await bench.clients("t") == {b"alice", b"bob"}

    run(server, test)


def test_a_ttl_of_null_takes_the_ttl_away(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice", b'{"ttl":5,"envelope":true}'), clock_ms=1000)
        await bench.one(subscribe("t", "alice", b'{"ttl":null}'), clock_ms=2000)
        assert await bench.ends_at("t", "alice") is None
        listed = await bench.list_of("t")
        assert (listed.options[b"alice"].ttl, listed.options[b"alice"].envelope) == (None, True)
        assert await bench.one(expire("t", "alice"), clock_ms=9000) == Applied(0, False)
        await bench.one(subscribe("t", "bob", b'{"ttl":null}'))
        assert await bench.ask("HEXISTS", "options:t", "bob") == 0

    run(server, test)
