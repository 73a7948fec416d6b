"""When background fan-outs reply, and with what, as job servers come, go, refuse and accept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from support.fanouts import Bench, Job, long_list, message

from gearhorn.fanout.background import STEP, Background, FastFanout
from gearhorn.fanout.outbox import STEPS
from gearhorn.fanout.running import Plan


def on_bench(test: Callable[[Bench], None], *clients: str, **options: object) -> None:
    async def main() -> None:
        test(Bench(*clients, **options))  # type: ignore[arg-type]

    asyncio.run(main())


def direct(bench: Bench) -> Job:
    job = Job()
    share = bench.subscribers.only_share(bench.cluster)  # type: ignore[arg-type]
    assert share is not None
    copies = FastFanout(bench.outbox, job, message(), bench.subscribers, share=share)  # type: ignore[arg-type]
    bench.cluster.clients[share.place].submit(copies)
    return job


def background(bench: Bench, **options: Any) -> Job:
    job = Job()
    sent = message(background=True, **options)
    plan = Plan(job, sent, bench.subscribers)  # type: ignore[arg-type]
    Background(bench.outbox, plan).send(None)
    return job


def test_a_direct_fanout_replies_once_all_is_accepted() -> None:
    def test(bench: Bench) -> None:
        job = direct(bench)
        bench.servers[0].accept(2)
        assert job.answers == []
        bench.servers[0].accept(1)
        assert job.answers == [("complete", b"3")]

    on_bench(test, "a", "b", "c")


def test_a_refused_copy_of_a_direct_fanout_is_dropped_and_counted() -> None:
    def test(bench: Bench) -> None:
        job = direct(bench)
        bench.servers[0].accept(1)
        bench.servers[0].refuse()
        assert job.answers == [("complete", b"1")]
        assert bench.drops.indexes == [1]

    on_bench(test, "a", "b")


def test_what_a_lost_server_took_of_a_direct_fanout_that_waits_for_room_is_sent_again() -> None:
    def test(bench: Bench) -> None:
        job = direct(bench)
        bench.servers[0].accept(1)
        bench.servers[0].refuse()
        assert (job.answers, len(bench.room.held)) == ([], 1)
        bench.cluster.lose(0)
        fanout, index = bench.room.held[0]
        fanout.send_held(index)
        bench.servers[1].accept(1)  # that one; and now the other once more
        assert job.answers == []
        bench.servers[1].accept(1)
        assert job.answers == []
        bench.servers[1].accept(1)
        assert job.answers == [("complete", b"2")]
        assert bench.drops.indexes == []

    on_bench(test, "plain", "old", servers=2, drop_old=[1])


def test_what_a_lost_server_took_is_sent_again_though_nothing_was_sent_since() -> None:
    def test(bench: Bench) -> None:
        job = direct(bench)
        bench.servers[0].accept(1)
        bench.servers[0].refuse()
        bench.cluster.lose(0)
        fanout, index = bench.room.held[0]
        fanout.drop_held(index)
        assert job.answers == [], "a reply means that a living server holds every copy"
        bench.servers[1].accept(2)
        assert job.answers == [("complete", b"2")]

    on_bench(test, "plain", "old", servers=2, drop_old=[1])


def test_copies_that_no_server_can_take_are_awaited_before_the_reply() -> None:
    def test(bench: Bench) -> None:
        job = background(bench, receipt=True)
        bench.servers[0].accept(1)
        bench.cluster.lose(1)
        bench.cluster.lose(0)
        assert job.answers == []
        bench.cluster.find(0)
        bench.servers[0].accept(1)
        assert job.answers == []
        bench.servers[0].accept(1)
        ((kind, data),) = job.answers
        assert (kind, json.loads(data)["copies"]) == ("complete", 2)

    on_bench(test, "a", "b", servers=2, routes={"a": 0, "b": 1})


def test_a_copy_that_one_server_refused_and_another_accepted_is_no_drop() -> None:
    def test(bench: Bench) -> None:
        job = background(bench)
        bench.servers[0].refuse()
        bench.cluster.lose(0)
        bench.servers[1].accept(1)
        assert job.answers == []
        bench.servers[1].accept(1)
        assert job.answers == [("complete", b"2")]
        assert bench.drops.indexes == []

    on_bench(test, "a", "b", servers=2, routes={"a": 0, "b": 1})


def test_a_copy_that_each_server_refused_is_one_drop() -> None:
    def test(bench: Bench) -> None:
        job = background(bench)
        bench.servers[0].refuse()
        bench.cluster.lose(0)
        bench.servers[1].accept(1)
        bench.servers[1].refuse()
        assert job.answers == [("complete", b"1")]
        assert bench.drops.indexes == [0]

    on_bench(test, "a", "b", servers=2, routes={"a": 0, "b": 1})


@pytest.mark.parametrize("receipt", [False, True])
def test_many_drops_are_counted_in_small_steps(receipt: bool) -> None:
    clients = [f"c{number:05}" for number in range(20_000)]

    async def main() -> None:
        bench, job = Bench(), Job()
        found = long_list("t", clients)
        sent = message(background=True, receipt=receipt)
        fanout = Background(bench.outbox, Plan(job, sent, found))  # type: ignore[arg-type]
        fanout.refuse(range(len(clients)))
        fanout.maybe_reply()
        counts = [0]
        while not job.answers:
            counts.append(len(bench.drops.indexes))
            assert job.answers == []
            await asyncio.sleep(0)
        assert counts[-1] == len(clients)
        assert max(after - before for before, after in pairwise(counts)) <= STEPS * STEP
        ((kind, data),) = job.answers
        if receipt:
            answer = json.loads(data)
            assert (kind, answer["copies"], answer["dropped"]) == ("complete", 0, clients)
        else:
            assert (kind, data) == ("complete", b"0")

    asyncio.run(main())


@pytest.mark.parametrize("receipt", [False, True])
@pytest.mark.parametrize("goes", [0, 1], ids=["the full one", "the other one"])
def test_what_a_server_took_that_goes_while_many_drops_are_counted_is_sent_again(
    goes: int, receipt: bool
) -> None:
    full = [f"a{number:05}" for number in range(STEPS * STEP + 1)]

    async def main() -> None:
        bench = Bench(*full, "b", servers=2, routes=dict.fromkeys(full, 0) | {"b": 1})
        job = background(bench, receipt=receipt)
        bench.servers[1].accept(1)
        for _ in full:
            bench.servers[0].refuse()
        while not bench.drops.indexes:
            await asyncio.sleep(0)
        assert len(bench.drops.indexes) < len(full)
        bench.cluster.lose(goes)
        while not job.answers and bench.servers[1 - goes].client.is_idle:
            await asyncio.sleep(0.001)
        assert job.answers == []
        for _ in range(1 if goes else len(full)):
            bench.servers[1 - goes].accept(1)
        while not job.answers:
            await asyncio.sleep(0.001)
        ((kind, data),) = job.answers
        assert kind == "complete"
        copies = json.loads(data)["copies"] if receipt else int(data)
        assert copies == (1 if goes else len(full) + 1)
        assert bench.drops.indexes == list(range(len(full))), "each once"

    asyncio.run(main())
