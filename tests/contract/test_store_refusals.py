"""Every state in which a store refuses something, on both kinds of store: what is raised, that the
text is the store's own, and what goes on meanwhile. The table is gearhorn/store/refusals.py."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from support.cluster import eventually
from support.refusals import assert_is, goes_on, run, write
from support.servers import Redis, Valkey, free_port
from support.store import LEASE_MS, Bench, subscribe, unsubscribe

from gearhorn.errors import (
    StoreError,
    StoreNoWrites,
    StoreReadOnly,
    StoreRefused,
    StoreUnanswered,
)
from gearhorn.store.connection import Connection

KINDS = [Redis, Valkey]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Redis]:
    """The kind of store."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server(kind: type[Redis]) -> Iterator[Redis]:
    """A server that the test may break."""
    allowed = ("--enable-debug-command", "yes", "--enable-protected-configs", "yes")
    with kind(*allowed) as one:
        yield one


@pytest.fixture
def operator(server: Redis) -> Iterator[redis.Redis]:
    """The operator's client."""
    with redis.Redis.from_url(server.url, client_name="operator") as client:
        yield client


@pytest.fixture
def tell(operator: redis.Redis) -> Callable[..., Any]:
    """Runs a command of the operator's."""
    return operator.execute_command


async def read(bench: Bench) -> StoreError:
    """The error that a read of a list meets."""
    with pytest.raises(StoreError) as caught:
        await bench.clients("t")
    return caught.value


def test_a_full_memory_refuses_what_grows_and_lets_the_rest_go_on(
    server: Redis, tell: Callable[..., Any]
) -> None:
    async def test(bench: Bench) -> None:
        tell("CONFIG", "SET", "maxmemory", "1")
        assert_is(await write(bench), StoreNoWrites, "OOM command not allowed")
        assert await bench.clients("t") == {b"a"}
        await bench.renew(0)
        await bench.join("another")
        assert (await bench.one(unsubscribe("t", "a"))).existed
        assert await bench.clients("t") == set()
        await bench.members.leave("another")
        await bench.connection.check()
        tell("CONFIG", "SET", "maxmemory", "0")
        await goes_on(bench)

    run(server, test)


@pytest.mark.parametrize("how", ["NOREPLICAS", "MISCONF"])
def test_a_store_that_takes_no_writes_is_read_all_the_same(
    server: Redis, operator: redis.Redis, tell: Callable[..., Any], how: str
) -> None:
    def fail_saving() -> None:
        assert server.directory is not None
        (server.directory / "bad.rdb" / "x").mkdir(parents=True)
        tell("CONFIG", "SET", "dbfilename", "bad.rdb")
        tell("CONFIG", "SET", "save", "3600 1")
        tell("BGSAVE")
        eventually(lambda: operator.info("persistence")["rdb_last_bgsave_status"] == "err")

    async def test(bench: Bench) -> None:
        if how == "NOREPLICAS":
            tell("CONFIG", "SET", "min-replicas-to-write", "1")
        else:
            fail_saving()
        assert_is(await write(bench), StoreNoWrites, how)
        assert await bench.clients("t") == {b"a"}
        tell("CONFIG", "SET", "min-replicas-to-write", "0")
        tell("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        await goes_on(bench)

    run(server, test)


@pytest.mark.parametrize("stale", ["yes", "no"])
def test_a_replica_is_neither_written_nor_read_and_the_primary_is_looked_for(
    server: Redis, operator: redis.Redis, tell: Callable[..., Any], stale: str
) -> None:
    code = "READONLY" if stale == "yes" else "MASTERDOWN"

    async def test(bench: Bench) -> None:
        await asyncio.gather(*(bench.clients("t") for _ in range(3)))
        tell("CONFIG", "SET", "replica-serve-stale-data", stale)
        tell("REPLICAOF", "127.0.0.1", str(free_port()))
        before = clients_of(operator)
        assert type(await read(bench)) is StoreReadOnly
        assert_is(await write(bench), StoreReadOnly, code)
        with pytest.raises(StoreReadOnly):
            await bench.members.join("me", LEASE_MS, 0)
        assert not before & clients_of(operator), "connections of before are used on"
        tell("REPLICAOF", "NO", "ONE")
        await goes_on(bench)

    run(server, test)


def clients_of(operator: redis.Redis) -> set[str]:
    """The ids of the connections that are not the operator's."""
    return {one["id"] for one in operator.client_list() if one["name"] != "operator"}


def test_somebodys_endless_script_is_waited_for(server: Redis, tell: Callable[..., Any]) -> None:
    def endless() -> None:
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis.from_url(server.url, socket_timeout=30) as client,
        ):
            client.eval("while true do end", 0)

    async def test(bench: Bench) -> None:
        tell("CONFIG", "SET", "lua-time-limit", "50")
        thread = threading.Thread(target=endless)
        thread.start()
        try:
            while True:
                with contextlib.suppress(StoreUnanswered, StoreNoWrites):
                    await bench.clients("t")
                    await asyncio.sleep(0.01)
                    continue
                break
        except StoreError as error:
            assert_is(error, StoreError, "BUSY")
        assert_is(await write(bench), StoreError, "BUSY")
        tell("SCRIPT", "KILL")
        thread.join()
        await goes_on(bench)

    run(server, test)


def test_a_store_that_reads_its_data_is_waited_for(server: Redis, tell: Callable[..., Any]) -> None:
    def reload() -> None:
        with redis.Redis.from_url(server.url, socket_timeout=60) as client:
            client.execute_command("DEBUG", "RELOAD")

    async def test(bench: Bench) -> None:
        for number in range(100):
            tell("SET", f"filler{number}", "x" * 2000)
        tell("CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
        tell("CONFIG", "SET", "key-load-delay", "20000")
        thread = threading.Thread(target=reload)
        thread.start()
        refusals: list[StoreError] = []
        deadline = time.monotonic() + 30
        while thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(StoreUnanswered):
                try:
                    await bench.clients("t")
                except StoreError as error:
                    refusals.append(error)
            await asyncio.sleep(0.05)
        thread.join()
        assert refusals, "it was never loading"
        for refusal in refusals:
            assert_is(refusal, StoreError, "LOADING")
        await goes_on(bench)

    run(server, test)


def test_a_password_that_is_missing_or_wrong_is_waited_out(
    server: Redis, tell: Callable[..., Any]
) -> None:
    address = server.address

    async def test(bench: Bench) -> None:
        tell("CONFIG", "SET", "requirepass", "secret")
        stranger = Connection(f"redis://{address}/0", "test")
        with pytest.raises(StoreError) as caught:
            await stranger.check()
        assert_is(caught.value, StoreError, "NOAUTH")
        wrong = Connection(f"redis://:wrong@{address}/0", "test")
        with pytest.raises(StoreError) as caught:
            await wrong.check()
        assert_is(caught.value, StoreError, "WRONGPASS")
        right = Connection(f"redis://:secret@{address}/0", "test")
        await right.check()
        for connection in (stranger, wrong, right):
            await connection.close()

    run(server, test)


def test_a_permission_that_is_missing_is_waited_out_and_named(
    server: Redis, tell: Callable[..., Any]
) -> None:
    def permit(*rules: str) -> None:
        tell("ACL", "SETUSER", "gearhorn", "reset", "on", ">secret", *rules)

    permit("~{test}:*", "&*", "+@all")

    async def test(bench: Bench) -> None:
        assert await bench.clients("t") == {b"a"}
        permit("~{test}:*", "&*", "+@all", "-@read")
        assert_is(await read(bench), StoreError, "NOPERM")
        permit("~other:*", "&*", "+@all")
        assert_is(await read(bench), StoreError, "NOPERM")
        permit("~{test}:*", "resetchannels", "+@all")
        with pytest.raises(StoreError) as caught:
            await bench.connection.pipeline([("PUBLISH", bench.connection.channel("events"), "x")])
        assert_is(caught.value, StoreError, "NOPERM")
        permit("~{test}:*", "&*", "+@all")
        assert await bench.clients("t") == {b"a"}

    run(server, test, f"redis://gearhorn:secret@{server.address}/0")


def test_a_key_of_another_type_costs_its_topic_only(
    server: Redis, tell: Callable[..., Any]
) -> None:
    async def test(bench: Bench) -> None:
        await bench.connection.pipeline([("SET", bench.connection.key("clients", "bad"), "x")])
        found, _ = await bench.subscriptions.read(["bad", "t"])
        assert isinstance(found, StoreError)
        assert_is(found, StoreRefused, "WRONGTYPE")
        bad, good = await bench.apply(subscribe("bad", "b"), subscribe("good", "b"))
        assert bad.error is not None
        assert_is(bad.error, StoreRefused, "WRONGTYPE")
        assert good.version
        assert await bench.clients("good") == {b"b"}

    run(server, test)


@pytest.mark.parametrize(
    ("key", "words"),
    [("changes", "WRONGTYPE"), ("version", "ERR value is not an integer"), ("options:t", "ERR")],
)
def test_what_gearhorn_does_not_write_is_refused_and_reads_go_on(
    server: Redis, key: str, words: str
) -> None:
    async def test(bench: Bench) -> None:
        await bench.ask("DEL", key)
        if key == "options:t":
            await bench.ask("HSET", key, "a", "no JSON")
        else:
            await bench.ask("SET", key, "no number")
        applied = await bench.one(subscribe("t", "a"))
        assert applied.error is not None
        assert_is(applied.error, StoreRefused, words)
        assert ("user_script" in str(applied.error)) or key != "options:t"
        assert await bench.ask("ZRANGE", "clients:t", 0, -1) == [b"a"]

    run(server, test)


def test_a_number_that_is_none_is_refused_outside_of_scripts_too(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.ask("SET", "term", "no number")
        with pytest.raises(StoreRefused, match=r"^ERR value is not an integer"):
            await bench.ask("INCR", "term")

    run(server, test)


def test_a_frozen_store_leaves_the_fate_unknown_and_a_new_connection_does_not_come(
    server: Redis,
) -> None:
    async def test(bench: Bench) -> None:
        server.freeze()
        try:
            error = await write(bench)
            assert_is(error, StoreUnanswered, "no answer in 1.5 s")
            error = await write(bench)
            assert_is(error, StoreError, "no conn")
        finally:
            server.thaw()
        await goes_on(bench)

    run(server, test)


def test_a_store_that_dies_in_the_middle_leaves_the_fate_unknown(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        server.freeze()
        writing = asyncio.create_task(write(bench))
        await asyncio.sleep(0.2)
        server.kill()
        assert type(await writing) is StoreUnanswered
        assert_is(await write(bench), StoreError, "")

    run(server, test)


def test_with_no_client_left_at_the_server_what_is_open_is_shared(
    server: Redis, operator: redis.Redis
) -> None:
    async def test(bench: Bench) -> None:
        operator.config_set("maxclients", len(operator.client_list()))
        lists = await asyncio.gather(*(bench.clients("t") for _ in range(50)))
        assert lists == [{b"a"}] * 50
        stranger = Connection(server.url, "test")
        with pytest.raises(StoreError) as caught:
            await stranger.check()
        assert type(caught.value) is StoreError
        assert re.search("max number of clients|maxclients", str(caught.value))
        operator.config_set("maxclients", 1000)
        await stranger.check()
        await stranger.close()

    run(server, test)


def test_the_connections_are_bounded_and_what_needs_one_queues(
    server: Redis, operator: redis.Redis
) -> None:
    async def test(bench: Bench) -> None:
        few = Connection(server.url, "test", 8)
        before = len(clients_of(operator))
        replies = await asyncio.gather(*(few.read([("PING",)]) for _ in range(200)))
        assert replies == [[b"PONG"]] * 200
        assert len(clients_of(operator)) - before <= 3
        server.freeze()
        asking = [asyncio.create_task(few.pipeline([("PING",)])) for _ in range(6)]
        await asyncio.sleep(0.1)
        with pytest.raises(StoreError, match=r"no connection in 0\.2 s"):
            await few.pipeline([("PING",)], 0.2)
        server.thaw()
        assert await few.pipeline([("PING",)], reserved=True) == [b"PONG"]
        await asyncio.gather(*asking, return_exceptions=True)
        await few.close()

    run(server, test)


def test_after_a_flush_of_the_scripts_the_rest_of_the_batch_is_run_again_in_order(
    server: Redis, tell: Callable[..., Any]
) -> None:
    async def test(bench: Bench) -> None:
        tell("SCRIPT", "FLUSH")
        connection = bench.connection
        script = connection.script("unmark", [connection.key("hash")], "field", "old")
        replies = await connection.each(
            [
                ("INCR", connection.key("before")),
                ("HSET", connection.key("hash"), "field", "old"),
                script,
                ("HLEN", connection.key("hash")),
            ]
        )
        assert replies == [1, 1, 1, 0], "the reading behind the script sees what it did"

    run(server, test)


def test_channels_know_their_database(server: Redis) -> None:
    base = f"redis://{server.address}"
    names = {Connection(f"{base}/{number}", "test").channel("events") for number in range(3)}
    assert names == {"{test}:events@0", "{test}:events@1", "{test}:events@2"}


def test_a_url_that_asks_for_the_older_protocol_is_answered_in_the_newer(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        key = bench.connection.key("zset")
        scores = ("ZRANGE", key, 0, -1, "WITHSCORES")
        [_, found] = await bench.connection.pipeline([("ZADD", key, 1.5, "a"), scores])
        assert found == [[b"a", 1.5]]

    run(server, test, f"redis://{server.address}/0?protocol=2")


def test_every_address_of_a_name_is_tried(
    server: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: str, port: int, **how: Any) -> Any:
            found = await resolve("127.0.0.1", port, **how)
            if host != "store.example":
                return found
            # 192.0.2.0/24 is for documents: nothing answers there
            return [(*found[0][:4], (f"192.0.2.{n}", port)) for n in (1, 2, 3)] + found

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        connection = Connection(f"redis://store.example:{server.port}/0", "test")
        assert await connection.pipeline([("PING",)]) == [b"PONG"]
        await connection.close()

    asyncio.run(test())
