"""Whose queues have jobs, without job servers and a store."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError
from gearhorn.fanout import filled_queues
from gearhorn.fanout.filled_queues import FilledQueues
from gearhorn.store.summaries import StoredSummaries
from gearhorn.store.wire import Command

SUBSCRIBED = {("a_b", "c"), ("t", "alice"), ("t", "bob")}


class Bed:
    """Two job servers, and a store."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.queues: list[Any] = [
            {b"a_b_c": (5, 0), b"t_alice": (1, 2), b"t_bob": (2, 0), b"other": (9, 0)},
            {b"t_alice": (3, 0), b"t_\xff": (1, 1)},
        ]
        admins = [SimpleNamespace(filled=self._reader(place)) for place in range(2)]
        clients = [SimpleNamespace(is_up=True, server=f"s{place}") for place in range(2)]
        self.servers: Any
        self.servers = SimpleNamespace(admins=admins, clients=clients)

        def answer(command: Command) -> Any:
            if self.away:
                return StoreError("away")
            topic = command[1].removeprefix("{test}:clients:")
            return 0.0 if (topic, command[2]) in SUBSCRIBED else None

        connection: Any = ScriptedConnection(answer)
        clock: Any = SimpleNamespace(clock_ms=0)
        job_servers: Any = self.servers
        self.filled = FilledQueues(job_servers, StoredSummaries(connection, clock))

    def _reader(self, place: int) -> Any:
        async def filled() -> Any:
            self.asked += 1
            if isinstance(self.queues[place], OSError):
                raise self.queues[place]
            return self.queues[place]

        return filled


@on_loop
async def test_jobs_count_for_the_topic_that_is_subscribed() -> None:
    found = await Bed().filled.recent()
    assert found.is_known
    assert found.topics == {"a_b": (5, 1), "t": (6, 2)}
    assert list(found.order) == [(-6, "t"), (-5, "a_b")]


@on_loop
@pytest.mark.parametrize("count", [0, 1, 2000, 2001, 9000])
async def test_many_topics_are_put_in_order(count: int) -> None:
    topics = {f"t{number}": (number % 97, 0) for number in range(count)}
    order = sorted((-jobs, topic) for topic, (jobs, _) in topics.items())
    assert await filled_queues._order(topics) == order


@on_loop
async def test_a_server_that_cannot_be_asked_is_left_out() -> None:
    bed = Bed()
    bed.queues[0] = OSError("gone")
    assert (await bed.filled.recent()).topics == {"t": (3, 1)}
    bed = Bed()
    for client in bed.servers.clients:
        client.is_up = False
    assert not (await bed.filled.recent()).is_known


@on_loop
async def test_an_answer_is_given_again_and_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    bed, now_s = Bed(), 100.0
    monkeypatch.setattr(filled_queues, "now_s", lambda: now_s)
    await asyncio.gather(*(bed.filled.recent() for _ in range(5)))
    assert bed.asked == 2, "one reading for all"
    now_s += 9
    await bed.filled.recent()
    assert bed.asked == 2
    now_s += 2
    bed.queues[0] = {}
    assert len((await bed.filled.recent()).topics) == 2, "the former answer, at once"
    await asyncio.sleep(0.05)
    assert len((await bed.filled.recent()).topics) == 1
    now_s += 12
    bed.away = True
    await bed.filled.recent()
    await asyncio.sleep(0.05)
    now_s += 9
    with pytest.raises(StoreError):
        await bed.filled.recent()
