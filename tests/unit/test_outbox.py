"""What the fan-outs of a member share: stranded copies, unique ids, withdrawals, slow replies."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
from support.fanouts import Bench, Job, message
from support.limits import run

from gearhorn.fanout import outbox
from gearhorn.gearman.packets import MAX_UNIQUE_BYTES


class Fanout:
    """Writes down what it is told."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.job: Any = Job()
        self.stranded: list[Sequence[int] | None] = []
        self.tasks: list[asyncio.Task[None] | None] = []
        self.is_withdrawn = False
        self._breaks = breaks

    def send_stranded(self, indexes: Sequence[int] | None) -> None:
        if self._breaks:
            raise RuntimeError("a fault")
        self.stranded.append(indexes)

    def withdrawals(self) -> Iterator[asyncio.Task[None] | None]:
        yield from self.tasks

    def withdrawn(self) -> None:
        self.is_withdrawn = True


def test_stranded_copies_are_sent_once_a_server_is_up() -> None:
    async def test() -> None:
        bench = Bench("a")
        broken, fanout, gone = Fanout(breaks=True), Fanout(), Fanout()
        bench.cluster.lose(0)
        for kept in (broken, gone, fanout):
            bench.outbox.strand(kept, [1])
        bench.outbox.strand(fanout, None)
        bench.outbox.unstrand(gone)
        assert bench.outbox.has_unsent
        assert not bench.outbox.is_idle
        bench.cluster.find(0)
        assert (fanout.stranded, gone.stranded) == ([[1], None], [])
        assert broken.job.answers == [("fail", b"internal error")]
        assert not bench.outbox.has_unsent
        assert bench.outbox.is_idle

    run(test)


def test_a_fanout_that_waits_keeps_the_outbox_busy() -> None:
    async def test() -> None:
        bench = Bench("a")
        place = bench.places.enter(1, 1)
        assert not bench.outbox.is_idle
        assert not bench.outbox.has_unsent
        place.answer()
        assert not bench.outbox.is_idle
        place.leave()
        assert bench.outbox.is_idle

    run(test)


def test_foreground_ids_are_new_after_a_withdrawal_and_a_lost_server() -> None:
    async def test() -> None:
        bench = Bench("a", servers=2)
        sent = message(unique="u")
        background = bench.outbox.unique_id(sent, foreground=False)
        first = bench.outbox.unique_id(sent, foreground=True)
        assert (background, first) == (b"u", b"123456780:u")
        bench.cluster.lose(1)
        second = bench.outbox.unique_id(sent, foreground=True)
        batch: Any = type("Batch", (), {"place": 0, "is_held": True})()
        assert bench.outbox.maybe_withdraw(batch, []) is None
        assert bench.outbox.unique_id(sent, foreground=True) == second
        task = bench.outbox.maybe_withdraw(batch, [b"H:1"])
        assert task is not None
        await task
        third = bench.outbox.unique_id(sent, foreground=True)
        assert len({first, second, third}) == 3
        assert bench.cluster.admins[0].withdrawn == [b"H:1"]
        assert bench.outbox.unique_id(message(), foreground=True) == b""
        long = bench.outbox.unique_id(message(unique="x" * 200), foreground=True)
        assert len(long) <= MAX_UNIQUE_BYTES

    run(test)


def test_a_reply_waits_for_withdrawals_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "WITHDRAW_S", 0.05)

    async def test() -> None:
        bench, fanout = Bench("a"), Fanout()
        fanout.tasks = [None, asyncio.create_task(asyncio.sleep(30))]
        bench.outbox.withdraw(fanout)
        await asyncio.sleep(0.02)
        assert not fanout.is_withdrawn
        await asyncio.sleep(0.06)
        assert fanout.is_withdrawn

    run(test)


def steps(turns: list[int]) -> Generator[None, None, int]:
    for number in range(2 * outbox.STEPS):
        turns.append(number)
        yield
    return len(turns)


def test_a_long_reply_is_made_with_turns_in_between() -> None:
    async def test() -> None:
        bench, job = Bench("a"), Job()
        turns: list[int] = []
        made: list[bytes] = []
        given: Any = job
        bench.outbox.compose(given, steps(turns), make=lambda n: b"%d" % n, then=made.append)
        await asyncio.sleep(0)
        assert len(turns) == outbox.STEPS
        while not made:
            await asyncio.sleep(0.001)
        assert made == [b"%d" % (2 * outbox.STEPS)]

    run(test)


def test_a_fault_in_a_long_reply_finishes_the_job() -> None:
    async def test() -> None:
        bench, job = Bench("a"), Job()
        over: list[bool] = []
        given: Any = job

        def make(found: int) -> bytes:
            raise RuntimeError("a fault")

        bench.outbox.compose(
            given, steps([]), make=make, then=lambda _: None, over=lambda: over.append(True)
        )
        while not over:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        assert job.answers == [("fail", b"internal error")]

    run(test)
