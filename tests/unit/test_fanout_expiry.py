"""What becomes of copies that have not gone out when their message expires."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.fanouts import Bench, Job, message

from gearhorn.fanout.background import STEP, Background
from gearhorn.fanout.foreground import Foreground
from gearhorn.fanout.running import Plan
from gearhorn.messages.logs import Logged

END = 1000


def on_bench(test: Callable[[Bench], Awaitable[None]], *clients: str, **options: Any) -> None:
    async def main() -> None:
        bench = Bench(*clients, **options)
        await test(bench)
        assert bench.places.held == 0
        assert bench.outbox.is_idle

    asyncio.run(main())


def send(bench: Bench, **options: Any) -> Job:
    """Fan a message out that expires, in the foreground or in the background."""
    job = Job()
    sent = message(expires_ms=END, **options)
    plan = Plan(job, sent, bench.subscribers)  # type: ignore[arg-type]
    if sent.background:
        Background(bench.outbox, plan).send(None)
    else:
        plan.enter(bench.places)
        Foreground(bench.outbox, plan).send(None)
    return job


def receipt(job: Job) -> dict[str, Any]:
    [(kind, data)] = job.answers
    assert kind == "complete"
    return dict(json.loads(data))


def failures(job: Job) -> list[list[str]]:
    [(kind, data)] = job.answers
    assert kind == "fail"
    return list(json.loads(data))


@pytest.mark.parametrize(("clock_ms", "is_sent"), [(END - 1, True), (END, False)])
def test_copies_go_out_until_the_message_expires(clock_ms: int, is_sent: bool) -> None:
    async def test(bench: Bench) -> None:
        bench.clock.clock_ms = clock_ms
        job = send(bench, background=True)
        await asyncio.sleep(0)
        assert bool(job.answers) is not is_sent
        if is_sent:
            bench.servers[0].accept(2)
        assert job.answers == [("complete", b"2" if is_sent else b"0")]

    on_bench(test, "a", "b")


def test_a_background_receipt_names_what_was_not_sent() -> None:
    async def test(bench: Bench) -> None:
        bench.clock.clock_ms = END
        job = send(bench, background=True, receipt=True)
        await asyncio.sleep(0)
        told = receipt(job)
        assert (told["copies"], told["expired"], told["dropped"]) == (0, ["a", "b"], [])

    on_bench(test, "a", "b")


def test_many_are_named_step_by_step() -> None:
    names = [f"c{number}" for number in range(5 * STEP)]

    async def test(bench: Bench) -> None:
        bench.clock.clock_ms = END
        job = send(bench, background=True, receipt=True)
        async with asyncio.timeout(10):
            while not job.answers:
                await asyncio.sleep(0.01)
        assert receipt(job)["expired"] == names

    on_bench(test, *names)


def test_copies_of_a_lost_server_are_not_sent_again_after_the_end() -> None:
    async def test(bench: Bench) -> None:
        job = send(bench, background=True, receipt=True)
        bench.servers[0].accept(1)
        bench.clock.clock_ms = END
        bench.cluster.lose(0)
        await asyncio.sleep(0)
        assert receipt(job)["expired"] == ["a", "b"]

    on_bench(test, "a", "b", servers=2)


def test_copies_that_wait_for_a_server_are_not_sent_after_the_end() -> None:
    async def test(bench: Bench) -> None:
        bench.cluster.lose(0)
        jobs = [send(bench, background=is_background) for is_background in (True, False)]
        bench.clock.clock_ms = END
        bench.cluster.find(0)
        await asyncio.sleep(0)
        assert jobs[0].answers == [("complete", b"0")]
        assert failures(jobs[1]) == [["a", "expired"], ["b", "expired"]]

    on_bench(test, "a", "b")


def test_a_copy_that_waits_for_room_is_not_sent_after_the_end() -> None:
    async def test(bench: Bench) -> None:
        job = send(bench, receipt=True)
        (handle,) = bench.servers[0].accept(1)
        bench.servers[0].refuse()
        bench.servers[0].complete(handle)
        bench.clock.clock_ms = END
        [(fanout, index)] = bench.room.held
        fanout.send_held(index)
        bench.room.held.clear()
        await asyncio.sleep(0)
        told = receipt(job)
        assert (told["copies"], told["delivered"], told["expired"]) == (1, ["a"], ["b"])

    on_bench(test, "a", "b", drop_old=[1])


@pytest.mark.parametrize(
    ("quorum", "answer"),
    [
        (None, ("fail", b'[["b","expired"],["c","expired"]]')),
        (1, ("complete", b"1")),
        (2, ("fail", b'[["b","expired"],["c","expired"]]')),
        ("30%", ("complete", b"1")),
    ],
)
def test_an_expired_copy_is_no_success(quorum: Any, answer: tuple[str, bytes]) -> None:
    async def test(bench: Bench) -> None:
        here, there = bench.servers
        job = send(bench, quorum=quorum)
        (handle,) = there.accept(1)
        bench.clock.clock_ms = END
        bench.cluster.lose(0)
        await asyncio.sleep(0)
        there.complete(handle)  # of two that have to succeed one is left: that was said before
        assert job.answers == [answer]
        assert here is bench.servers[0]

    on_bench(test, "a", "b", "c", servers=2, routes={"a": 1})


@pytest.mark.parametrize("quorum", [None, 1, 2])
def test_a_durable_receiver_may_be_told_of_as_expired(quorum: int | None) -> None:
    async def test(bench: Bench) -> None:
        jobs = [Job(), Job()]
        for job, is_receipt in zip(jobs, (True, False), strict=True):
            sent = message(expires_ms=END, receipt=is_receipt, quorum=quorum)
            plan = Plan(job, sent, bench.subscribers)  # type: ignore[arg-type]
            plan.enter(bench.places)
            plan.note_logged(Logged(7, "epoch", False))
            plan.receivers = ("x", "y")
            fanout = Foreground(bench.outbox, plan)
            fanout.done("x", "", False)
            fanout.done("y", "", True)
            fanout.done("y", "", False)  # a poll comes too late
        if quorum != 1:
            told = receipt(jobs[0])
            assert (told["copies"], told["delivered"], told["expired"]) == (2, ["x"], ["y"])
            assert failures(jobs[1]) == [["y", "expired"]]
        else:
            assert jobs[1].answers == [("complete", b"1")]

    on_bench(test)
