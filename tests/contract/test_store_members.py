"""What the store's scripts do, on real servers and without a worker (PROTOCOL §2, §4, §7)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis
from support.servers import Redis, Valkey

from gearhorn.errors import StartError, StoreError, StoreRefused
from gearhorn.names import queue_of
from gearhorn.store.connection import SCHEMA, Connection
from gearhorn.store.members import Member, Members, Renewal
from gearhorn.store.subscriptions import Applied, Change, Subscriptions

LEASE_MS = 10_000
KEPT, EXTRA = 10_000, 1000  # as in change.lua
HELD_OFF = Applied(0, False)


@pytest.fixture(scope="module", params=[Redis, Valkey])
def shared(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A server that the tests of this module share."""
    with request.param() as server:
        yield server


@pytest.fixture
def server(shared: Redis) -> Redis:
    """The shared server, empty."""
    with redis.Redis.from_url(shared.url) as client:
        client.flushall()
    return shared


@pytest.fixture(params=[Redis, Valkey])
def durable(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A server that one test may restart; it keeps what it acknowledged."""
    with request.param(appendonly=True, appendfsync="always") as server:
        yield server


class Bench:
    """One member's view of a store."""

    def __init__(self, server: Redis, namespace: str = "test") -> None:
        self.connection = Connection(server.url, namespace)
        self.members = Members(self.connection)
        self.subscriptions = Subscriptions(self.connection)

    async def apply(self, *changes: Change, clock_ms: int = 0) -> list[Applied]:
        """Write changes; what became of each."""
        return (await self.subscriptions.apply(changes, clock_ms))[0]

    async def one(self, change: Change, clock_ms: int = 0) -> Applied:
        """Write one change."""
        [applied] = await self.apply(change, clock_ms=clock_ms)
        return applied

    async def join(self, member: str = "me", clock_ms: int = 0) -> Renewal:
        return await self.members.join(member, LEASE_MS, clock_ms)

    async def renew(
        self, known: int, member: str = "me", clock_ms: int = 0, is_settled: bool = False
    ) -> Renewal:
        """Renew the lease of a member that the store knows."""
        renewal = await self.members.renew(member, known, LEASE_MS, clock_ms, is_settled)
        assert renewal is not None
        return renewal

    async def changed_since(self, known: int) -> set[str] | None:
        """The topics that a renewal hands back, each once; None: everything."""
        topics = (await self.renew(known)).topics
        if topics is None:
            return None
        assert len(set(topics)) == len(topics)
        return set(topics)

    async def ask(self, command: str, *parts: Any) -> Any:
        """The reply to ``COMMAND KEY ...``; the key is one of the namespace."""
        key, *more = parts
        [reply] = await self.connection.pipeline([(command, self.connection.key(key), *more)])
        return reply

    async def clients(self, topic: str) -> set[bytes]:
        """The client_ids subscribed to a topic."""
        [(clients, _)] = await self.subscriptions.read([topic])
        return set(clients)

    async def ends_at(self, topic: str, client_id: str) -> float | None:
        """When a subscription ends by itself, in ms of the members' clock."""
        at: float | None = await self.ask("ZSCORE", "expiries", f"{topic}\0{client_id}")
        return at


def subscribe(topic: str, client_id: str, options: bytes = b"{}") -> Change:
    return Change("subscribe", topic, client_id, queue_of(topic, client_id), options)


def unsubscribe(topic: str, client_id: str, drainer: str = "") -> Change:
    queue = queue_of(topic, client_id)
    return Change("unsubscribe", topic, client_id, queue, drainer=drainer)


def expire(topic: str, client_id: str) -> Change:
    return Change("expire", topic, client_id, queue_of(topic, client_id))


def run(
    server: Redis,
    test: Callable[[Bench], Coroutine[None, None, None]],
    namespace: str = "test",
) -> None:
    """Run a test on a connection of its own."""

    async def main() -> None:
        bench = Bench(server, namespace)
        try:
            await test(bench)
        finally:
            await bench.connection.close()

    asyncio.run(main())


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
        assert sorted(members) == [Member("alice", b"1 1 10000"), Member("bob", b"1 1 10000")]

    run(server, test)


def test_options_that_are_given_replace_and_the_others_stay(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        async def options() -> tuple[int | None, bool]:
            [(_, found)] = await bench.subscriptions.read(["t"])
            return found[b"alice"].max_backlog, found[b"alice"].envelope

        limited = b'{"max_backlog":2147483647,"envelope":true}'
        assert await bench.one(subscribe("t", "alice", limited)) == Applied(1, False, False)
        assert await options() == (2**31 - 1, True)
        assert await bench.one(subscribe("t", "alice")) == Applied(2, True, False)
        assert await options() == (2**31 - 1, True)
        given = b'{"envelope":false}'
        assert await bench.one(subscribe("t", "alice", given)) == Applied(3, True, True)
        assert await options() == (2**31 - 1, False)
        assert await bench.one(unsubscribe("t", "alice")) == Applied(4, True, True)
        assert await bench.one(subscribe("t", "alice")) == Applied(5, False, False)
        [(_, found)] = await bench.subscriptions.read(["t"])
        assert found == {}, "nothing is left of a subscription that ended"

    run(server, test)


def test_a_subscription_that_ended_leaves_no_drops(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.apply(subscribe("t", "alice"), subscribe("t", "bob"))
        await bench.subscriptions.count_drops({("t", "alice"): 3, ("t", "bob"): 4})
        await bench.subscriptions.count_drops({("t", "alice"): 2})
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
        refused = await bench.one(subscribe("a", "b_c", b'{"ttl":5,"envelope":true}'))
        assert refused.owner == ("a_b", "c")
        assert await bench.subscriptions.read(["a"]) == [([], {})]
        assert await bench.ends_at("a", "b_c") is None
        assert await bench.ask("ZRANGE", "topics", 0, -1) == [b"a_b"]
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


# Queues that are being drained


def test_a_subscription_waits_while_a_living_member_drains_its_queue(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        await bench.one(subscribe("a_b", "c"))
        assert await bench.one(unsubscribe("a_b", "c", drainer="drainer")) == Applied(2, True)
        for pair in (("a_b", "c"), ("a", "b_c")):
            assert await bench.one(subscribe(*pair)) == HELD_OFF
        assert await bench.one(subscribe("a_b", "d")) == Applied(3, False), "another queue"
        # what else is asked meanwhile does not let it through
        assert await bench.one(unsubscribe("a_b", "c", drainer="gone")) == Applied(4, False)
        assert await bench.one(unsubscribe("a_b", "c")) == Applied(5, False)
        assert await bench.one(subscribe("a_b", "c")) == HELD_OFF
        assert await bench.clients("a_b") == {b"d"}
        await bench.subscriptions.drained(b"a_b_c", "somebody else")
        assert await bench.one(subscribe("a_b", "c")) == HELD_OFF
        await bench.subscriptions.drained(b"a_b_c", "drainer")
        assert await bench.one(subscribe("a_b", "c")) == Applied(6, False)

    run(server, test)


@pytest.mark.parametrize("how", ["left", "reaped", "never there"])
def test_a_drainer_that_is_gone_holds_nobody_off(server: Redis, how: str) -> None:
    async def test(bench: Bench) -> None:
        if how != "never there":
            await bench.join("drainer")
        await bench.one(subscribe("t", "alice"))
        await bench.one(unsubscribe("t", "alice", drainer="drainer"))
        if how == "left":
            await bench.members.leave("drainer")
        elif how == "reaped":
            [drainer] = await bench.members.all()
            assert await bench.members.reap(drainer)
        assert await bench.one(subscribe("t", "alice")) == Applied(3, False)
        assert await bench.ask("HGETALL", "draining") == {}

    run(server, test)


def test_an_unsubscribe_that_removed_nothing_or_drains_nothing_holds_nobody_off(
    server: Redis,
) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        await bench.one(unsubscribe("t", "alice", drainer="drainer"))
        assert await bench.one(subscribe("t", "alice")) == Applied(2, False)
        await bench.one(unsubscribe("t", "alice"))
        assert await bench.one(subscribe("t", "alice")) == Applied(4, False)

    run(server, test)


# Members


def test_a_member_joins_renews_and_leaves(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        me = Member("me", b"1 1 10000")
        assert await bench.join() == Renewal(1, [], [me], 0, [], True)
        assert (me.known, me.lease_s) == (1, 10.0)
        renewal = await bench.renew(0, clock_ms=5)
        assert renewal == Renewal(1, ["t"], [Member("me", b"2 0 10000")], 5, [], True)
        renewal_with = await bench.members.renew("me", 1, 2500, 0, False)
        assert renewal_with is not None
        assert renewal_with.members == [Member("me", b"3 1 2500")]
        assert await bench.members.all() == renewal_with.members
        await bench.members.leave("me")
        await bench.members.leave("me")
        assert await bench.members.all() == []

    run(server, test)


def test_who_is_not_known_cannot_renew(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.members.renew("me", 0, LEASE_MS, 0, False) is None
        assert await bench.members.all() == [], "nor becomes a member by trying"
        await bench.join()
        await bench.members.leave("me")
        assert await bench.members.renew("me", 0, LEASE_MS, 99, False) is None
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
        changes = [
            chance.choice([subscribe, unsubscribe])(topic, f"c{chance.randrange(3)}")
            for topic in changed
        ]
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
        assert await bench.members.renew("peer", 0, LEASE_MS, 0, False) is None

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


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl"])
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


@pytest.mark.parametrize("schema", ["1", "3", "", "two"])
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
        assert await bench.members.renew("me", 0, LEASE_MS, 0, False) is None
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
            assert (await bench.renew(1, "alice", is_settled=True)).is_same_run
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
        assert not (await bench.renew(0, is_settled=True)).is_same_run

    run(durable, test)


def test_a_new_store_is_the_same_run_for_whoever_asks_first(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.join()).is_same_run

    run(server, test)
