"""What a store does with drains, and with requests that come again, on real servers and without a
worker."""

from __future__ import annotations

import pytest
from support.servers import Redis
from support.store import Bench, run, subscribe, unsubscribe

from gearhorn.store.subscriptions import Applied, Change

pytest_plugins = ["support.store"]
HELD_OFF = Applied(0, False)
KEPT, OFTEN = 10_000, 16  # as in answers.lua


def drain(topic: str, client_id: str, request: str, drainer: str = "drainer") -> Change:
    return unsubscribe(topic, client_id, drainer)._replace(request=request)


# Queues that are being drained


def test_what_concerns_a_queue_waits_while_a_living_member_drains_it(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        await bench.one(subscribe("a_b", "c"))
        assert await bench.one(drain("a_b", "c", "1")) == Applied(2, True, is_draining=True)
        for pair in (("a_b", "c"), ("a", "b_c")):
            assert await bench.one(subscribe(*pair)) == HELD_OFF
            assert await bench.one(drain(*pair, "2")) == HELD_OFF
        assert await bench.one(subscribe("a_b", "d")) == Applied(3, False), "another queue"
        assert await bench.one(unsubscribe("a_b", "c")) == Applied(4, False), "it drains nothing"
        assert await bench.one(subscribe("a_b", "c")) == HELD_OFF
        assert await bench.clients("a_b") == {b"d"}
        for drainer, request in (("somebody else", "1"), ("drainer", "2")):
            await bench.subscriptions.drained(b"a_b_c", drainer, request)
            assert await bench.subscriptions.draining([b"a_b_c", b"a_b_d"]) == {b"a_b_c"}
        await bench.subscriptions.drained(b"a_b_c", "drainer", "1")
        assert await bench.subscriptions.draining([b"a_b_c", b"a_b_d"]) == set()
        assert await bench.one(subscribe("a_b", "c")) == Applied(5, False)

    run(server, test)


@pytest.mark.parametrize("how", ["left", "reaped"])
def test_the_marks_of_a_member_go_with_it_and_no_others(server: Redis, how: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        await bench.join("drainer2")
        for number in range(3):
            await bench.one(subscribe("t", f"c{number}"))
            await bench.one(drain("t", f"c{number}", str(number)))
        await bench.one(drain("t", "other", "9", "drainer2"))
        if how == "left":
            await bench.members.leave("drainer")
        else:
            drainer = next(one for one in await bench.members.all() if one.id == "drainer")
            assert await bench.members.reap(drainer)
        assert await bench.ask("HGETALL", "draining") == {b"t_other": b"drainer2 9"}
        assert (await bench.one(subscribe("t", "c0"))).version
        assert await bench.one(subscribe("t", "other")) == HELD_OFF

    run(server, test)


def test_who_is_no_member_leaves_no_mark(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        assert await bench.one(drain("t", "alice", "1")) == Applied(2, True, is_draining=True)
        assert await bench.ask("HGETALL", "draining") == {}
        await bench.ask("HSET", "draining", "t_alice", "gone 1")  # as former releases left it
        assert await bench.subscriptions.draining([b"t_alice"]) == set()
        assert await bench.one(subscribe("t", "alice")) == Applied(3, False)
        assert await bench.ask("HGETALL", "draining") == {}

    run(server, test)


def test_the_queue_of_a_pair_that_is_gone_is_drained_unless_another_owns_it(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        assert await bench.one(drain("a_b", "c", "1")) == Applied(1, False, is_draining=True)
        assert await bench.one(subscribe("a", "b_c")) == HELD_OFF
        await bench.subscriptions.drained(b"a_b_c", "drainer", "1")
        await bench.one(subscribe("a", "b_c"))
        assert await bench.one(drain("a_b", "c", "2")) == Applied(3, False)
        assert await bench.ask("HGETALL", "draining") == {}

    run(server, test)


# Requests


def test_a_request_that_comes_again_is_not_written_again(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        changes = [
            subscribe("t", "alice", b'{"max_backlog":5}')._replace(request="1"),
            subscribe("t", "alice", b'{"max_backlog":6}')._replace(request="2"),
            drain("t", "alice", "3"),
            Change("retain", "t", "", b"", b'{"max_age":9}', request="4"),
        ]
        applied = await bench.apply(*changes)
        assert [one.version for one in applied] == [1, 2, 3, 4]
        await bench.subscriptions.drained(b"t_alice", "drainer", "3")
        await bench.one(subscribe("t", "alice"))
        for _ in range(2):
            assert await bench.apply(*changes) == applied
        assert await bench.subscriptions.withdraw(changes, 0) == applied
        assert await bench.clients("t") == {b"alice"}
        assert await bench.ask("HGETALL", "draining") == {}, "no mark of a drain that is over"
        assert int(await bench.ask("GET", "version")) == 5

    run(server, test)


def test_what_was_refused_or_held_off_may_be_asked_again(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.join("drainer")
        await bench.one(subscribe("a_b", "c"))
        change = subscribe("a", "b_c")._replace(request="1")
        assert (await bench.one(change)).owner == ("a_b", "c")
        await bench.one(drain("a_b", "c", "2"))
        assert await bench.one(change) == HELD_OFF
        await bench.subscriptions.drained(b"a_b_c", "drainer", "2")
        assert await bench.one(change) == Applied(3, False)

    run(server, test)


def test_what_was_withdrawn_is_never_written(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        await bench.one(subscribe("t", "alice"))
        changes = [
            unsubscribe("t", "alice")._replace(request="1"),
            subscribe("t", "bob")._replace(request="2"),
            Change("retain", "t", "", b"", b'{"max_age":9}', request="3"),
        ]
        for _ in range(2):
            assert await bench.subscriptions.withdraw(changes, 0) == [None] * 3
        for change in changes:  # still on its way: it comes late, and nobody hears the reply
            await bench.connection.each([bench.subscriptions._command(change, 0)])
        assert await bench.clients("t") == {b"alice"}
        assert int(await bench.ask("GET", "version")) == 1
        assert await bench.ask("EXISTS", "log:t") == 0

    run(server, test)


def test_answers_are_remembered_for_so_long_and_so_many(server: Redis) -> None:
    async def test(bench: Bench) -> None:
        first = subscribe("t", "alice")._replace(request="first")
        applied = await bench.one(first, clock_ms=1000)
        await bench.one(subscribe("t", "bob")._replace(request="b"), clock_ms=120_999)
        assert await bench.subscriptions.withdraw([first], 120_999) == [applied]
        later = [subscribe("t", f"d{n}")._replace(request=f"d{n}") for n in range(OFTEN)]
        await bench.apply(*later, clock_ms=121_000)
        assert await bench.ask("HEXISTS", "answers", "first") == 0
        assert await bench.ask("HLEN", "answers") == OFTEN + 1, "the others are young"
        for start in range(0, KEPT + 500, 500):
            some = [subscribe("t", f"c{n}")._replace(request=str(n)) for n in range(500)]
            some = [one._replace(request=f"{start}-{one.request}") for one in some]
            await bench.apply(*some, clock_ms=121_000)
            assert await bench.ask("HLEN", "answers") <= KEPT
        assert await bench.ask("HLEN", "answers") == await bench.ask("ZCARD", "answered") <= KEPT
        assert await bench.subscriptions.withdraw(some, 121_000) != [None] * 500

    run(server, test)
