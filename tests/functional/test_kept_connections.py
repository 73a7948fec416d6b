"""Text commands and trims on connections that were cut, forgotten or are not answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from support.proxy import Proxy, on_loop
from support.servers import Gearmand
from support.wire import Refused, Wire, admin

from gearhorn.gearman import kept as kept_module
from gearhorn.gearman.admin import SILENCE_S, Admin
from gearhorn.gearman.server import Server
from gearhorn.gearman.trimming import Trimmer

HOST = "127.0.0.1"


@pytest.fixture
def gearmand() -> Iterator[Gearmand]:
    """A job server."""
    with Gearmand() as server:
        yield server


def fill(server: Gearmand, queue: str, count: int) -> int:
    """Submit so many background jobs; return how many were accepted."""
    wire = Wire(server.address)
    before = waiting(server, queue)
    for number in range(count):
        with contextlib.suppress(Refused):
            wire.submit(queue.encode(), b"%d" % number, background=True)
    wire.echo()
    wire.close()
    return waiting(server, queue) - before


def waiting(server: Gearmand, queue: str) -> int:
    """How many jobs a queue has."""
    for line in admin(server.address, "status"):
        name, total, *_ = line.split("\t")
        if name == queue:
            return int(total)
    return 0


@on_loop
async def test_a_connection_that_was_cut_meanwhile_is_replaced(gearmand: Gearmand) -> None:
    async with Proxy(gearmand.address) as proxy:
        text = Admin(Server(HOST, proxy.port), None)
        await text.limit([(b"first", 1)], lambda: True)
        proxy.cut()
        await text.limit([(b"second", 2), (b"third", 3)], lambda: True)
        text.close()
    assert [fill(gearmand, name, 5) for name in ("first", "second", "third")] == [1, 2, 3]


@on_loop
async def test_a_server_that_was_restarted_is_told_at_the_first_try(gearmand: Gearmand) -> None:
    text = Admin(Server(HOST, gearmand.port), None)
    await text.limit([(b"first", 1)], lambda: True)
    gearmand.kill()
    gearmand.restart()
    await text.limit([(b"first", 2)], lambda: True)
    text.close()
    assert fill(gearmand, "first", 5) == 2


@on_loop
async def test_a_connection_that_was_idle_is_not_trusted(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "IDLE_S", 0.05)
    async with Proxy(gearmand.address) as proxy:
        text = Admin(Server(HOST, proxy.port), None)
        await text.limit([(b"first", 1)], lambda: True)
        await text.limit([(b"first", 1)], lambda: True)
        assert proxy.connections == 1
        await asyncio.sleep(0.3)
        await text.limit([(b"first", 1)], lambda: True)
        assert proxy.connections == 2
        text.close()


@on_loop
async def test_silence_counts_for_each_answer_and_the_wait_for_ones_turn_does_not(
    gearmand: Gearmand,
) -> None:
    async with Proxy(gearmand.address) as proxy:
        text = Admin(Server(HOST, proxy.port), None)
        many = [(b"queue-%d" % number, 1) for number in range(20_000)]
        whole = asyncio.create_task(text.limit(many, lambda: True))
        await asyncio.sleep(0)
        await asyncio.wait_for(text.limit([(b"small", 2)], lambda: True), SILENCE_S * 5)
        assert not whole.done()  # the others had their turn before all of it was done
        whole.cancel()
        await asyncio.gather(whole, return_exceptions=True)
        text.close()
    assert fill(gearmand, "small", 5) == 2


@on_loop
async def test_who_waits_is_told_when_the_server_is_down(gearmand: Gearmand) -> None:
    async with Proxy(gearmand.address) as proxy:
        server = Server(HOST, proxy.port)
        text, trimmer = Admin(server, None), Trimmer(server, None)
        await text.limit([(b"first", 1)], lambda: True)
        proxy.is_silent = True
        waiters = [
            asyncio.create_task(text.limit([(b"first", 2)], lambda: True)),
            asyncio.create_task(text.cancel([b"H:x:1"], lambda: True)),
            asyncio.create_task(trimmer.trim(b"first", lambda: 1)),
            asyncio.create_task(text.backlog()),
        ]
        while len(proxy.sent.split(b"status")) < 2:
            await asyncio.sleep(0.01)
        text.server_down()
        trimmer.server_down()
        done, _ = await asyncio.wait(waiters, timeout=SILENCE_S / 2)
        assert len(done) == len(waiters)
        for waiter in done:
            assert isinstance(waiter.exception(), OSError)


@on_loop
async def test_trims_share_one_connection_which_is_left_as_it_was(gearmand: Gearmand) -> None:
    for queue in ("one", "two"):
        fill(gearmand, queue, 70)
    async with Proxy(gearmand.address) as proxy:
        trimmer = Trimmer(Server(HOST, proxy.port), None)
        counts = await asyncio.gather(
            *(trimmer.trim(queue, lambda: 64) for queue in (b"one", b"two"))
        )
        assert counts == [64, 64]
        assert (waiting(gearmand, "one"), waiting(gearmand, "two")) == (6, 6)
        assert await trimmer.trim(b"one", lambda: 64) == 6
        assert await trimmer.trim(b"one", lambda: 64) == 0
        assert proxy.connections == 1
        assert all("gearhorn" not in line and "two" not in line for line in workers(gearmand))
        proxy.cut()
        assert await trimmer.trim(b"two", lambda: 4) == 4
        assert proxy.connections == 2
        trimmer.close()
    assert waiting(gearmand, "two") == 2


def workers(server: Gearmand) -> list[str]:
    """What `workers` says."""
    lines = admin(server.address, "workers")
    assert isinstance(lines, list)
    return lines


@on_loop
async def test_a_server_that_breaks_the_protocol_costs_one_trim() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n")
        await writer.drain()

    server = await asyncio.start_server(answer, HOST)
    trimmer = Trimmer(Server(HOST, server.sockets[0].getsockname()[1]), None)
    with pytest.raises(ConnectionError, match="protocol"):
        await trimmer.trim(b"any", lambda: 3)
    trimmer.close()
    server.close()
