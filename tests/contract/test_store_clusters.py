"""What the nodes of a cluster refuse, on both kinds of store. The table is
gearhorn/store/refusals.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
from support.cluster import eventually
from support.refusals import assert_is, goes_on, run, write
from support.servers import Redis, Valkey
from support.store import Bench

from gearhorn.errors import StoreError, StoreReadOnly
from gearhorn.store.connection import Connection


@pytest.fixture(params=[Redis, Valkey])
def kind(request: pytest.FixtureRequest) -> type[Redis]:
    """The kind of store."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def nodes(kind: type[Redis]) -> Iterator[tuple[Redis, Redis]]:
    """Two nodes of a Redis Cluster; the first has the namespace's slot."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with kind(*options) as owner, kind(*options) as other:
        yield owner, other


def make_cluster_of(here: redis.Redis, there: redis.Redis, other: Redis) -> int:
    """Give the first node every slot, and let both know each other; the namespace's slot."""
    here.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    here.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
    for client in (here, there):
        eventually(
            lambda client=client: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),
            30,
        )
    return int(here.execute_command("CLUSTER", "KEYSLOT", "{test}:x"))


def test_the_wrong_node_of_a_cluster_is_told_by_name_and_the_right_one_works(
    nodes: tuple[Redis, Redis],
) -> None:
    owner, other = nodes
    with redis.Redis.from_url(owner.url) as here, redis.Redis.from_url(other.url) as there:
        slot = int(here.execute_command("CLUSTER", "KEYSLOT", "{test}:x"))

        async def ask(server: Redis) -> StoreError | None:
            connection = Connection(server.url, "test")
            try:
                await connection.check()
                await connection.read([("SMEMBERS", connection.key("clients", "t"))])
            except StoreError as error:
                return error
            finally:
                await connection.close()
            return None

        def error_of(server: Redis) -> StoreError:
            found = asyncio.run(ask(server))
            assert found is not None
            return found

        assert_is(error_of(owner), StoreError, "CLUSTERDOWN")
        assert make_cluster_of(here, there, other) == slot
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (here, there)]
        assert_is(error_of(other), StoreReadOnly, f"MOVED {slot} ")
        assert asyncio.run(ask(owner)) is None
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert_is(error_of(owner), StoreReadOnly, f"ASK {slot} ")


@pytest.fixture
def lone_node(kind: type[Redis]) -> Iterator[Redis]:
    """A Redis Cluster of one node, which has every slot."""
    with kind("--cluster-enabled", "yes") as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), 30)
        yield server


def test_keys_that_are_spread_over_slots_are_waited_out_and_named(lone_node: Redis) -> None:
    async def test() -> None:
        bench = Bench(lone_node, "}spread")  # as if something altered the names
        try:
            assert_is(await write(bench), StoreError, "CROSSSLOT Keys in request")
            with pytest.raises(StoreError) as caught:
                await bench.join("me")
            assert_is(caught.value, StoreError, "CROSSSLOT Keys in request")
        finally:
            await bench.connection.close()

    asyncio.run(test())


def test_a_slot_that_is_half_moved_away_is_waited_for(nodes: tuple[Redis, Redis]) -> None:
    owner, other = nodes
    with redis.Redis.from_url(owner.url) as here, redis.Redis.from_url(other.url) as there:
        slot = make_cluster_of(here, there, other)

        async def test(bench: Bench) -> None:
            ids = [one.execute_command("CLUSTER", "MYID").decode() for one in (here, there)]
            there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            assert_is(await write(bench), StoreError, "TRYAGAIN Multiple keys request")
            assert await bench.ask("ZRANGE", "clients:t", 0, -1) == [b"a"], "nothing was written"
            here.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
            await goes_on(bench)

        run(owner, test)
