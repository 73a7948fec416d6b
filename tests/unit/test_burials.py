"""Burials: what is emptied and dropped of members that have gone, where and how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine

import pytest
from support.membership import Loop

from gearhorn.gearman.server import Server
from gearhorn.members.burials import AGAIN_S, LIMIT, TRIES, Burials


class Client:
    """Stands for a link to a job server."""

    def __init__(self, name: str) -> None:
        self.server = Server(name)
        self.is_up = True


class Bench:
    """Two job servers, and what becomes of the queues there."""

    def __init__(self) -> None:
        self.clients = [Client("one"), Client("two")]
        self.burials = Burials(self.clients, None)  # type: ignore[arg-type]
        self.tried: Counter[tuple[str, bytes]] = Counter()
        self.done = True
        self.error: OSError | None = None
        self.running: asyncio.Task[None] | None = None

    async def bury(self, server: Server, tls: None, queue: bytes) -> bool:
        self.tried[server.host, queue] += 1
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return self.done


def run(test: Callable[[Bench], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        bench = Bench()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.members.burials.bury", bench.bury)
            bench.running = asyncio.create_task(bench.burials.run())
            await test(bench)
            bench.running.cancel()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


QUEUES = [(host, queue) for host in ("one", "two") for queue in (b"__gossip_x", b"__matchmaking_x")]


def test_both_queues_are_buried_once_at_every_server() -> None:
    async def test(bench: Bench) -> None:
        bench.burials.add("x")
        bench.burials.add("x")
        await asyncio.sleep(100)
        assert bench.tried == Counter(QUEUES)

    run(test)


def test_a_server_that_is_down_is_dealt_with_when_it_is_back() -> None:
    async def test(bench: Bench) -> None:
        bench.clients[1].is_up = False
        bench.burials.add("x")
        await asyncio.sleep(AGAIN_S * TRIES * 2)
        assert bench.tried == Counter(QUEUES[:2])
        bench.clients[1].is_up = True
        await asyncio.sleep(AGAIN_S * 2)
        assert bench.tried == Counter(QUEUES)

    run(test)


@pytest.mark.parametrize("error", [None, ConnectionRefusedError("no")])
def test_what_cannot_be_buried_is_tried_so_often(error: OSError | None) -> None:
    async def test(bench: Bench) -> None:
        bench.done, bench.error = False, error
        bench.burials.add("x")
        await asyncio.sleep(AGAIN_S * TRIES * 3)
        assert set(bench.tried.values()) == {TRIES}
        assert bench.burials.due == []

    run(test)


def test_at_the_end_what_can_be_buried_is_and_no_server_is_waited_for() -> None:
    async def test(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        assert bench.running is not None
        bench.running.cancel()  # as the worker stops
        bench.clients[0].is_up = bench.clients[1].is_up = False
        bench.burials.add("x")
        began = loop.time()
        await bench.burials.finish(3.0)
        assert loop.time() == began
        bench.clients[0].is_up = True
        await bench.burials.finish(3.0)
        assert bench.tried == Counter(QUEUES[:2])
        bench.clients[1].is_up, bench.done = True, False
        began = loop.time()
        await bench.burials.finish(3.0)
        assert loop.time() - began < 4.0

    run(test)


def test_what_is_remembered_is_bounded() -> None:
    async def test(bench: Bench) -> None:
        bench.clients[0].is_up = bench.clients[1].is_up = False
        for number in range(LIMIT):
            bench.burials.add(f"m{number}")
        bench.clients[0].is_up = bench.clients[1].is_up = True
        assert len(bench.burials.due) == LIMIT
        assert bench.burials.due[-1].queue == f"__gossip_m{LIMIT - 1}".encode()

    run(test)
