"""Which backlog limits a worker sets, when, and what it holds up for them."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.limits import Bench, run, subscribers

from gearhorn.fanout import limit_setter, limits
from gearhorn.fanout.limits import EAGER_LIMIT
from gearhorn.timing import now_s


def test_low_limits_are_set_before_a_list_is_used_and_high_ones_are_not() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        await bench.read(subscribers("t", "a", low=5, edge=EAGER_LIMIT, high=EAGER_LIMIT + 1))
        assert bench.admin.force == {b"t_low": 5, b"t_edge": EAGER_LIMIT}

    run(test)


def test_a_low_default_is_everybodys_but_of_those_with_a_limit_of_their_own() -> None:
    async def test() -> None:
        bench = Bench(default=7)
        bench.limits.start()
        await bench.read(subscribers("t", "a", "b", low=5, high=20_000))
        assert bench.admin.force == {b"t_a": 7, b"t_b": 7, b"t_low": 5}

    run(test)


def test_a_change_costs_the_queue_that_changed() -> None:
    async def test() -> None:
        bench = Bench(default=1_000)
        bench.limits.start()
        clients = [f"c{number}" for number in range(5_000)]
        await bench.read(subscribers("t", *clients))
        assert len(bench.admin.told) == 5_000
        bench.admin.told.clear()
        bench.limits.changed("t", b"t_new")
        await bench.read(subscribers("t", *clients, "new"))
        bench.limits.changed("t", b"t_c17")
        await bench.read(subscribers("t", *clients, "new"))
        assert bench.admin.told == [(b"t_new", 1_000), (b"t_c17", 1_000)]

    run(test)


@pytest.mark.parametrize("limit", [3, 500, 20_000, 100_000, 2**31 - 1])
def test_a_limit_that_was_set_is_replaced_by_any_other(limit: int) -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        await bench.read(subscribers("t", a=10))
        await bench.read(subscribers("t", a=limit))  # nobody told of the change
        assert bench.admin.told == [(b"t_a", 10), (b"t_a", limit)]
        await bench.read(subscribers("t", "a"))
        assert bench.admin.force == {b"t_a": 100_000}

    run(test)


def test_a_limit_that_changed_to_and_fro_elsewhere_is_set_again() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        await bench.read(subscribers("t", a=10, b=10))
        bench.limits.changed("t", b"t_a")
        bench.limits.changed("t", b"t_a")
        await bench.read(subscribers("t", a=10, b=10))
        assert bench.admin.told[2:] == [(b"t_a", 10)]

    run(test)


def test_a_restarted_server_is_told_everything_again_and_the_others_nothing() -> None:
    async def test() -> None:
        bench = Bench(servers=2)
        bench.limits.start()
        await bench.read(subscribers("t", a=10))
        bench.servers.restart(1)
        await bench.read(subscribers("t", a=10))
        assert len(bench.admin.told) == 1
        bench.servers.restart(0)
        await bench.read(subscribers("t", a=10))
        assert bench.admin.told == [(b"t_a", 10)]
        bench.servers.place = 1  # another server carries the queue now
        await bench.read(subscribers("t", a=10))
        assert bench.servers.admins[1].force == {b"t_a": 10}

    run(test)


def test_what_could_not_be_set_is_set_later() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        bench.admin.error = ConnectionError("refused")
        began = time.monotonic()
        await bench.read(subscribers("t", a=10))
        assert time.monotonic() - began < limit_setter.WAIT_S, "a refusal is not waited out"
        assert bench.admin.told == []
        bench.admin.error = None
        while not bench.admin.told:
            await asyncio.sleep(0.01)
        assert bench.admin.told == [(b"t_a", 10)]

    run(test)


def test_a_server_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_setter, "WAIT_S", 0.2)

    async def test() -> None:
        bench = Bench(default=1_000)
        bench.limits.start()
        bench.admin.is_open.clear()
        await bench.read(subscribers("t", *(f"c{number}" for number in range(1_000))))
        began = time.monotonic()
        for number in range(20):
            await bench.read(subscribers(f"t{number}", "a"))
        assert time.monotonic() - began < 10 * 0.2
        assert bench.admin.told == []
        bench.admin.is_open.set()
        while len(bench.admin.told) < 1_020:
            await asyncio.sleep(0.01)

    run(test)


def test_nobody_waits_for_a_server_that_went_down() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        bench.admin.is_open.clear()
        reading = asyncio.create_task(bench.read(subscribers("t", a=10)))
        await bench.quiet()
        assert not reading.done()
        bench.servers.restart()
        await asyncio.wait_for(reading, limit_setter.WAIT_S / 2)
        bench.admin.is_open.set()
        await bench.quiet()
        await bench.read(subscribers("t", a=10))
        assert bench.admin.told[-1] == (b"t_a", 10), "what flew may have reached the former one"

    run(test)


def test_a_large_list_does_not_hold_up_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAIT_S", 0.1)

    async def test() -> None:
        bench = Bench(default=1_000)
        bench.limits.start()
        bench.admin.is_open.clear()
        large = asyncio.create_task(
            bench.read(subscribers("large", *(f"c{number}" for number in range(3_000))))
        )
        await bench.quiet()
        small = asyncio.create_task(bench.read(subscribers("small", a=2)))
        await bench.quiet()
        bench.admin.is_open.set()
        await small
        assert bench.admin.told.index((b"small_a", 2)) < 4 * limit_setter.PIECE, "they take turns"
        await large

    run(test)


def test_the_limits_of_an_overtaken_list_are_not_set() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        with bench.limits.reading() as reading:
            bench.limits.changed("t", b"t_a")  # since the store was asked
            await bench.limits.prepare([subscribers("t", a=10, b=20)], reading)
        assert bench.admin.told == [(b"t_b", 20)]
        assert bench.again == []

    run(test)


@pytest.mark.parametrize("is_any", [True, False])
def test_a_list_of_which_anything_may_have_changed_is_read_again(is_any: bool) -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        with bench.limits.reading() as reading:
            if is_any:
                bench.limits.forget()
            else:
                bench.limits.changed("t", None)
            await bench.limits.prepare([subscribers("t", a=10)], reading)
        assert bench.again == ["t"]

    run(test)


def test_a_limit_that_is_overtaken_while_it_is_set_is_read_again() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        bench.admin.is_open.clear()
        reading = asyncio.create_task(bench.read(subscribers("t", a=10)))
        await bench.quiet()
        bench.limits.changed("t", b"t_a")
        bench.admin.is_open.set()
        await reading
        await bench.quiet()
        assert bench.again == ["t"]
        bench.limits.changed("t", b"t_a")
        await bench.read(subscribers("t", "a"))
        assert bench.limits.doubts(subscribers("t", "a"), 0), "10 may be in force"

    run(test)


def test_nothing_is_set_without_a_lease_not_even_what_was_about_to_be() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        bench.admin.is_open.clear()
        reading = asyncio.create_task(bench.read(subscribers("t", a=5)))
        await bench.quiet()
        bench.lease.end()  # it was frozen, say
        bench.admin.is_open.set()
        await bench.quiet()
        assert (bench.admin.force, bench.limits.are_ours) == ({}, False)
        bench.lease.grant(now_s())
        await reading
        while not bench.admin.told:
            await asyncio.sleep(0.01)
        assert (bench.admin.force, bench.limits.are_ours) == ({b"t_a": 5}, True)
        await bench.limits.stop()

    run(test)


def test_a_refusal_by_a_limit_that_is_not_known_is_doubted_and_made_right() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        found = subscribers("t", "a", b=10)
        await bench.read(found)
        assert bench.limits.doubts(found, 0)
        assert not bench.limits.doubts(found, 1), "that one is set"
        assert await bench.limits.confirm(found, 0)
        assert bench.admin.force == {b"t_b": 10, b"t_a": 100_000}
        assert not bench.limits.doubts(found, 0)
        bench.limits.changed("t", b"t_a")
        assert bench.limits.doubts(found, 0)
        bench.former.append(found)
        assert not bench.limits.doubts(found, 0), "a former list's limit is not set"

    run(test)


def test_a_server_that_does_not_answer_leaves_nothing_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "WAIT_S", 0.1)
    monkeypatch.setattr(limit_setter, "WAIT_S", 0.1)

    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        bench.admin.is_open.clear()
        found = subscribers("t", "a")
        assert bench.limits.doubts(found, 0)
        assert not await bench.limits.confirm(found, 0)
        await asyncio.sleep(0.2)
        assert not bench.limits.doubts(found, 0), "copies are dropped rather than held"

    run(test)


def test_a_known_limit_that_refuses_is_set_again_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit_setter, "RECHECK_S", 0.05)

    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        found = subscribers("t", a=10)
        await bench.read(found)
        began = time.monotonic()
        while len(bench.admin.told) < 4:
            assert not bench.limits.doubts(found, 0)
            await asyncio.sleep(0.001)
        assert time.monotonic() - began > 0.05 + 0.1 + 0.2, "the interval doubles"
        assert set(bench.admin.told) == {(b"t_a", 10)}

    run(test)


def test_a_look_sets_what_is_a_quarter_full_and_what_is_not_in_force() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        found = subscribers("t", "full", "empty", low=10)
        await bench.read(found)
        await bench.limits.found(0, found, {b"t_full": 25_000, b"t_empty": 24_999, b"t_x": 9})
        await bench.quiet()
        assert bench.admin.told == [(b"t_low", 10), (b"t_full", 100_000)]
        await bench.limits.found(0, found, {b"t_full": 25_000})
        await bench.quiet()
        assert len(bench.admin.told) == 2
        bench.limits.changed("t", b"t_low")
        await bench.limits.found(0, found, {b"t_low": 11})
        await bench.quiet()
        assert bench.admin.told[2:] == [(b"t_low", 10)]

    run(test)


def test_what_is_remembered_is_bounded() -> None:
    async def test() -> None:
        bench = Bench(default=1_000, limit=1_000)
        bench.limits.start()
        for number in range(100):
            await bench.read(subscribers(f"t{number}", *(f"c{at}" for at in range(100))))
            assert bench.limits.remembered <= 1_000
        assert bench.limits.remembered > 500
        held = sum(setter.size(f"t{at}") for setter in bench.limits._setters for at in range(100))
        assert held == bench.limits.remembered
        bench.admin.told.clear()
        await bench.read(subscribers("t99", *(f"c{at}" for at in range(100))))
        assert bench.admin.told == []

    run(test)


def test_what_makes_room_for_others_is_not_asked_for_again() -> None:
    async def test() -> None:
        bench = Bench(default=1_000, limit=100)
        bench.limits.start()
        bench.admin.is_open.clear()
        first = asyncio.create_task(bench.read(subscribers("a", *map(str, range(90)))))
        await bench.quiet()  # some of it is being set
        second = asyncio.create_task(bench.read(subscribers("b", *map(str, range(90)))))
        await bench.quiet()
        bench.admin.is_open.set()
        await asyncio.gather(first, second)
        await bench.quiet()
        assert bench.again == []
        assert bench.limits.remembered <= 100
        held = sum(setter.size(topic) for setter in bench.limits._setters for topic in "ab")
        assert held == bench.limits.remembered

    run(test)


def test_comparing_a_large_list_leaves_the_loop_its_turns() -> None:
    async def test() -> None:
        bench = Bench(default=1_000)
        bench.limits.start()
        found = subscribers("t", *(f"client-{number}" for number in range(200_000)))
        await bench.read(found)
        while len(bench.admin.told) < 200_000:
            await asyncio.sleep(0.05)
        turns = 0
        reading = asyncio.create_task(bench.read(found))
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 200_000 / limits.CHUNK
        assert len(bench.admin.told) == 200_000

    run(test)


def test_topics_that_come_and_go_leave_nothing_behind() -> None:
    async def test() -> None:
        bench = Bench()
        bench.limits.start()
        for topic in ("t", "u"):
            await bench.read(subscribers(topic, a=5))
            bench.limits.changed(topic, f"{topic}_a".encode())
            await bench.read(subscribers(topic))
        [setter] = bench.limits._setters
        tables = [setter._known, setter._urgent, setter._later, setter._rechecks]
        assert not any(tables)

    run(test)
