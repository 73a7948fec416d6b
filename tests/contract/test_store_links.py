"""Connections to the store that go silent without a word, on both kinds of store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.proxy import Proxy, on_loop
from support.servers import Redis
from support.store import Heard

from gearhorn.errors import StoreError, StoreUnanswered
from gearhorn.store import events, pool
from gearhorn.store import pipelined as line
from gearhorn.store.connection import Connection
from gearhorn.store.events import Events
from gearhorn.store.pipelined import PipelinedConnection

pytest_plugins = ["support.store"]
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life in times for which a test can wait."""
    for module, name, time_s in (
        *((line, "KEEP_S", 0.1), (line, "PING_S", 0.5)),
        *((pool, "KEEP_S", 0.1), (pool, "PING_S", 0.5)),
        *((events, "SILENT_S", 0.1), (events, "LOST_S", 0.5)),
    ):
        monkeypatch.setattr(module, name, time_s)


def connect(proxy: Proxy) -> Connection:
    return Connection(f"redis://127.0.0.1:{proxy.port}/0", "test")


async def until(check: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not check():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_strict", [False, True])
@on_loop
async def test_a_line_that_fell_silent_while_idle_is_made_anew_before_it_is_needed(
    server: Redis, is_strict: bool
) -> None:
    async with Proxy(server.address) as proxy:
        connection = connect(proxy)
        one = PipelinedConnection(connection, is_strict)
        assert await one.ask([("PING",)], 5) == [b"PONG"]
        sent = len(proxy.sent)
        await until(lambda: len(proxy.sent) > sent)  # a sign of life is asked for
        proxy.is_silent = True
        await asyncio.sleep(1.0)
        proxy.is_silent = False
        before = proxy.connections
        replies = await one.ask([("PING",), ("ECHO", "x")], PATIENCE_S)
        assert replies == [b"PONG", b"x"], "nothing was lost, so a strict line goes on as well"
        assert proxy.connections == before + 1
        await one.close()
        await connection.close()


@on_loop
async def test_what_is_unanswered_on_a_line_that_breaks_has_an_unknown_fate(
    server: Redis,
) -> None:
    async with Proxy(server.address) as proxy:
        connection = connect(proxy)
        strict = PipelinedConnection(connection, is_strict=True)
        await strict.ask([("PING",)], 5)
        proxy.is_silent = True
        asking = [asyncio.create_task(strict.ask([("ECHO", n)], PATIENCE_S)) for n in range(3)]
        await asyncio.sleep(0.05)
        proxy.cut()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in found] == [StoreUnanswered] * 3
        proxy.is_silent = False
        with pytest.raises(StoreError) as caught:
            await strict.ask([("PING",)], PATIENCE_S)
        assert type(caught.value) is StoreError, "it was not even sent"
        strict.mend()
        assert await strict.ask([("PING",)], PATIENCE_S) == [b"PONG"]
        await strict.close()
        await connection.close()


@on_loop
async def test_who_listens_on_a_connection_that_fell_silent_notices_and_listens_anew(
    server: Redis,
) -> None:
    async with Proxy(server.address) as proxy:
        connection = connect(proxy)
        heard = Heard()
        channel = connection.channel("news")
        listening = asyncio.create_task(Events(connection, {channel: heard}).run())
        await until(lambda: heard.gaps == 1)
        proxy.is_silent = True
        await asyncio.sleep(1.0)
        proxy.is_silent = False
        await until(lambda: heard.gaps >= 2)
        await connection.pipeline([("PUBLISH", channel, "hello")], PATIENCE_S)
        await until(lambda: heard.texts == [b"hello"])
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await connection.close()


@on_loop
async def test_a_reply_that_is_lost_in_the_pool_is_an_unknown_fate_and_nothing_is_sent_again(
    server: Redis,
) -> None:
    async with Proxy(server.address) as proxy:
        connection = connect(proxy)
        key = connection.key("count")
        assert await connection.pipeline([("INCR", key)]) == [1]
        proxy.is_silent = True
        asking = asyncio.create_task(connection.pipeline([("INCR", key)], PATIENCE_S))
        await asyncio.sleep(0.05)
        proxy.cut()
        assert isinstance(
            (await asyncio.gather(asking, return_exceptions=True))[0], StoreUnanswered
        )
        proxy.is_silent = False
        assert await connection.pipeline([("GET", key)], PATIENCE_S) == [b"1"]
        assert proxy.sent.count(b"INCR") == 2, "as often as it was asked"
        await connection.close()


async def servers_of(connection: Connection, count: int) -> set[str]:
    """The run ids of the servers that so many questions at a time reach."""
    asked = [("INFO", "server")]
    replies = await asyncio.gather(*(connection.pipeline(asked, PATIENCE_S) for _ in range(count)))
    lines = [line for [reply] in replies for line in reply.decode().split("\r\n")]
    return {line.partition(":")[2] for line in lines if line.startswith("run_id:")}


@on_loop
async def test_no_connection_leads_to_a_former_server_once_one_leads_to_another(
    server: Redis,
) -> None:
    with Redis() as other:
        async with Proxy(server.address) as proxy:
            connection = connect(proxy)
            apart = PipelinedConnection(connection)
            assert await apart.ask([("PING",)], PATIENCE_S) == [b"PONG"]
            [former] = await servers_of(connection, 4)
            proxy.move(other.address)
            await connection.pipeline([("PING",)], PATIENCE_S, reserved=True)
            present = connection.run_id
            assert present != former
            assert await servers_of(connection, 4) == {present}
            [info] = await apart.ask([("INFO", "server")], PATIENCE_S)
            assert present in info.decode()
            await apart.close()
            await connection.close()
