"""Membership: what another run of the store undoes, and that no wall clock matters."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from support.membership import EVERYTHING, LEASE_S, Bench, peer, renewal, run, turn

from gearhorn.errors import StoreError
from gearhorn.members.peers import POLL_S
from gearhorn.store.members import Member
from gearhorn.timing import now_s

# Another run of the store


def test_another_run_of_the_store_forgets_everything_and_knows_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        call = await bench.store.next("renew")
        former_s = bench.lease.until_s
        bench.store.run_id = "run-2"  # the answer comes over a new connection
        call.answer.set_result(renewal(version=5, topics=["a"], is_same_run=False))
        await turn()
        assert ("drop", "a") not in bench.duties.events, "what changed in another past is of no use"
        assert ("forget",) in bench.duties.take()
        assert bench.duties.until_s[-1] == former_s
        assert bench.is_held, "the lease goes on"
        assert bench.duties.settled == [None]

    run(test)


def test_what_was_known_of_another_run_is_not_said_to_the_next() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.member.heard([7])
        bench.store.run_id = "run-2"  # somebody else's question noticed
        bench.duties.settling = bench.loop.create_future()
        answer = renewal(version=6, topics=EVERYTHING, is_same_run=False)
        assert (await bench.renewed(answer)).arguments[1] == -1
        assert (await bench.renewed(answer)).arguments[1] == -1
        bench.duties.settling.set_result(None)
        assert (await bench.renewed(answer)).arguments[1] == 6
        bench.member.heard([6])
        assert (await bench.renewed(answer)).arguments[1] == 6, "7 was heard of another past"

    run(test)


def test_what_was_settled_under_another_run_is_not_acknowledged() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        former = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        bench.store.run_id = "run-2"
        bench.duties.settling = bench.loop.create_future()
        answer = renewal(version=3, topics=EVERYTHING, is_same_run=False)
        assert (await bench.renewed(answer)).arguments[1] == -1
        former.set_result(None)
        await turn()
        assert (await bench.renewed(answer)).arguments[1] == -1

    run(test)


def settled(bench: Bench) -> asyncio.Task[None]:
    return asyncio.create_task(bench.member.when_leases_hold())


async def unsettled_s(bench: Bench, waiting: asyncio.Task[None]) -> float:
    """How long it takes until a change is settled."""
    began_s = bench.loop.at_s
    while not waiting.done():
        name = "renew" if bench.member.joined.is_set() else "join"
        call = asyncio.create_task(bench.store.next(name))
        await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result().answer.set_result(renewal(is_same_run=False))
            await turn()
        else:
            call.cancel()
    return bench.loop.at_s - began_s


def test_changes_do_not_wait_while_the_store_is_the_same() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        for _ in range(3):
            waiting = settled(bench)
            await turn()
            assert waiting.done()
            await bench.renewed()

    run(test)


def test_under_another_run_of_the_store_changes_wait_a_lease() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        bench.store.run_id = "run-2"
        waiting = settled(bench)  # it is the change itself that notices
        await turn()
        assert ("forget",) in bench.duties.take()
        assert not waiting.done()
        assert await unsettled_s(bench, waiting) == pytest.approx(LEASE_S)
        waiting = settled(bench)
        await turn()
        assert waiting.done(), "a lease later nothing is left of the former run"

    run(test)


def test_under_another_run_of_the_store_changes_wait_the_longest_lease_of_all() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer(lease_s=25.0), peer(lease_s=3.0, name="short")]))
        bench.store.run_id = "run-2"
        assert await unsettled_s(bench, settled(bench)) == pytest.approx(25.0)

    run(test)


def test_who_joins_a_store_that_began_another_run_waits_a_lease_with_its_changes() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer(lease_s=25.0)], is_same_run=False))
        assert await unsettled_s(bench, settled(bench)) == pytest.approx(25.0)

    run(test)


def test_the_store_is_told_that_its_run_is_settled_a_lease_later_and_not_before() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(is_same_run=False))
        joined_s = bench.loop.at_s
        said = False
        while not said:
            call = await bench.renewed(renewal(is_same_run=False))
            said = call.arguments[4]
            assert said == (call.asked_s - joined_s > LEASE_S)
        await bench.renewed(renewal(is_same_run=True))
        for _ in range(3):
            assert (await bench.renewed()).arguments[4] is False

    run(test)


# The wall clock


async def a_life(bench: Bench) -> None:
    """Join, wait for a peer, reap another, lose the store and the lease, and join anew."""
    still, moving = peer(), itertools.count(1)

    def members() -> list[Member]:
        return [still, peer(next(moving), name="moving")]

    await bench.join(renewal(members=members()))
    over = bench.member.when_known(peer(name="moving"), 6, bench.loop.at_s)
    answered = 0
    while not over.done():
        await asyncio.sleep(POLL_S / 2)
        for call in bench.store.calls[answered:]:
            if call.name == "all":
                call.answer.set_result([peer(name=bench.member.id), *members()])
            elif call.name == "renew":
                call.answer.set_result(renewal(members=members()))
            answered += call.name != "reap"
    (await bench.store.next("reap")).answer.set_result(True)
    former = bench.member.id
    while bench.member.id == former:
        await asyncio.sleep(POLL_S / 2)
        for call in bench.store.named("renew"):
            if not call.answer.done():
                call.answer.set_exception(StoreError("away"))
    (await bench.store.next("join")).answer.set_result(renewal())
    await turn()
    assert bench.is_held
    assert bench.duties.take()[-1] == ("forget",)


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def life(*readings: float) -> list[tuple[str, float]]:
        wall = itertools.cycle(readings)

        def clock_gettime(clock: int) -> float:
            is_wall = clock == time.CLOCK_REALTIME
            return next(wall) if is_wall else asyncio.get_running_loop().time()

        with monkeypatch.context() as patch:
            patch.setattr("random.uniform", lambda low, high: high)
            patch.setattr("time.clock_gettime", clock_gettime)
            patch.setattr("time.time", lambda: next(wall))
            patch.setattr("time.time_ns", lambda: int(next(wall) * 1e9))
            return [(call.name, call.asked_s) for call in run(a_life, now_s).calls]

    steady = life(1e9)
    assert {name for name, _ in steady} == {"join", "renew", "all", "reap", "leave", "find_anew"}
    assert life(0.0, 2e9, 1e9, 86400.0, 1e9 + 5) == steady
