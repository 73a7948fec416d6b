"""Parked messages in a store: bounded, read in pages, taken once; and what a pull subscription gets
(docs/protocol.rst, "parked_fanout", "Retention")."""

from __future__ import annotations

from typing import Any

import pytest
from support.logs import NOTHING, LogBench, durable, parked, retain, run
from support.servers import Redis
from support.store import Bench, unsubscribe

from gearhorn.errors import BadRequest, StoreUnanswered
from gearhorn.messages.logs import encode_parked
from gearhorn.store import parked as parked_module
from gearhorn.store.connection import Command
from gearhorn.store.rounds import Round, RoundReply

pytest_plugins = ["support.store"]


async def began(bench: LogBench, count: int) -> int:
    """Log messages for alice, of whom this member has the lane; its TERM."""
    await bench.join()
    await bench.begin("t", "alice", "all")
    await bench.append("t", *map(str, range(1, count + 1)))
    acquired = await bench.acquire("t", "alice")
    assert acquired is not None
    return acquired.term


async def drops(bench: Bench) -> int:
    """What is counted for alice."""
    key = bench.connection.key("drops", "t")
    [count] = await bench.connection.pipeline([("HGET", key, "alice")])
    return int(count or 0)


async def kept_bytes(bench: LogBench) -> int:
    """What the store has counted of alice's messages; it must be what there is."""
    key = bench.connection.key("parked", "t\0alice")
    [values, count] = await bench.connection.pipeline([("HVALS", key), ("HGET", key, "bytes")])
    total = sum(map(len, values)) - len(count or b"")
    assert int(count or 0) == total
    return total


def test_as_many_messages_are_parked_as_the_log_may_have(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 8)
        await bench.one(retain("t", max_messages=3))
        assert await bench.park("t", "alice", term, 6, 7, 8)
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([6, 7, 8], 0)
        await bench.append("t", "9")
        assert await bench.park("t", "alice", term, 9)
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([7, 8, 9], 1)
        await kept_bytes(bench)
        assert await bench.park("t", "alice", term, 9), "again"
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([7, 8, 9], 1)
        await bench.one(retain("t", max_messages=1))
        assert await bench.park("t", "alice", term, 9)
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([9], 3)
        await kept_bytes(bench)

    run(server, test)


def test_as_many_bytes_are_parked_as_the_log_may_have_but_one_message(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 8)
        one = len(encode_parked(parked(1)))
        await bench.one(retain("t", max_bytes=3 * one))
        assert await bench.park("t", "alice", term, 1, 2, 3, 4)
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([2, 3, 4], 1)
        assert await kept_bytes(bench) == 3 * one
        await bench.one(retain("t", max_bytes=1))
        assert await bench.park("t", "alice", term, 8), "the newest, which stays in the log"
        assert (await bench.listed("t", "alice"), await drops(bench)) == ([8], 4)
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 1
        assert not {key for key in await bench.keys() if key.startswith("parked")}
        await bench.one(unsubscribe("t", "alice"))
        assert await drops(bench) == 0

    run(server, test)


def test_bytes_are_counted_through_redrives(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 4)
        assert await bench.park("t", "alice", term, 1, 2, 3)
        before = await kept_bytes(bench)
        assert await bench.lanes.take_parked("t", "alice", "redrive", 2) == 2
        assert await kept_bytes(bench) == before, "those that were put back are kept too"
        assert await bench.park("t", "alice", term, 1, attempts=40)
        assert await kept_bytes(bench) == before
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 2
        assert await kept_bytes(bench) > 0, "of the one that is put back"

    run(server, test)


def test_a_parking_that_is_written_again_takes_nothing_back(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 4)

        async def park(*sequences: int, attempts: int = 20) -> Round:
            some = [bench.parking("t", "alice", term, one, attempts) for one in sequences]
            work = NOTHING._replace(parkings=some)
            assert await bench.lanes.round("me", work) == RoundReply(set(), {}, set(), [])
            return work

        async def again(work: Round, *put_back: int) -> None:
            assert await bench.lanes.round("me", work) == RoundReply(set(), {}, set(), [])
            assert await bench.listed("t", "alice") == []
            key = bench.connection.key("redrive", "t\0alice")
            [found] = await bench.connection.pipeline([("ZRANGE", key, 0, -1)])
            assert [int(one) for one in found] == list(put_back)
            await kept_bytes(bench)

        work = await park(1, 2)
        assert await bench.lanes.take_parked("t", "alice", "redrive", None) == 2
        await again(work, 1, 2)
        assert await bench.settle("t", "alice", term, 2)
        work = await park(1, attempts=40)
        assert await bench.listed("t", "alice") == [1]
        assert await bench.lanes.take_parked("t", "alice", "redrive", None) == 1
        await again(work, 1, 2)
        work = await park(1, attempts=60)
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 1
        await again(work, 2)
        work = await park(3, 4)
        assert await bench.lanes.take_parked("t", "alice", "purge", None) == 2
        await again(work, 2)

    run(server, test)


def test_parked_messages_are_read_in_pages_of_bytes_and_numbers(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 6)
        assert await bench.park("t", "alice", term, 1, 2, 3, 4, 5)
        one = len(encode_parked(parked(1)))

        async def pages(limit: int) -> list[list[int]]:
            found: list[list[int]] = []
            is_end = False
            while not is_end:
                after = found[-1][-1] if found else 0
                page = await bench.lanes.list_parked("t", "alice", after, limit)
                assert page is not None
                some, is_end = page
                found.append([sequence for sequence, _ in some])
            return found

        assert await pages(100) == [[1, 2, 3, 4, 5]]
        assert await pages(2) == [[1, 2], [3, 4], [5]]
        monkeypatch.setattr(parked_module, "LISTED_BYTES", 2 * one)
        assert await pages(100) == [[1, 2], [3, 4], [5]]
        monkeypatch.setattr(parked_module, "LISTED_BYTES", 1)
        assert await pages(100) == [[1], [2], [3], [4], [5]]
        assert await bench.lanes.list_parked("t", "alice", 5, 100) == ([], True)
        assert await bench.lanes.list_parked("t", "bob", 0, 100) is None

    run(server, test)


@pytest.mark.parametrize("how", ["redrive", "purge"])
def test_messages_are_taken_once_piece_by_piece_though_answers_are_lost(
    server: Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(parked_module, "MOVED", 2)

    async def test(bench: LogBench) -> None:
        term = await began(bench, 9)
        assert await bench.park("t", "alice", term, *range(1, 8))
        whole = bench.connection.pipeline
        lost: list[int] = []

        async def losing(commands: list[Command], *rest: Any) -> list[object]:
            replies = await whole(commands, *rest)
            if commands[0][0] == "EVALSHA" and len(lost) < 2:
                lost.append(1)
                raise StoreUnanswered("no answer")
            return replies

        monkeypatch.setattr(bench.connection, "pipeline", losing)
        assert await bench.lanes.take_parked("t", "alice", how, 5) == 5
        monkeypatch.setattr(bench.connection, "pipeline", whole)
        assert len(lost) == 2
        assert await bench.listed("t", "alice") == [6, 7]
        assert await bench.lanes.take_parked("t", "alice", how, None) == 2
        assert await bench.lanes.take_parked("t", "alice", how, None) == 0

    run(server, test)


@pytest.mark.parametrize("how", ["redrive", "purge"])
@pytest.mark.parametrize("limit", [None, 6])
def test_what_is_parked_again_meanwhile_is_not_taken_twice(
    server: Redis, monkeypatch: pytest.MonkeyPatch, how: str, limit: int | None
) -> None:
    """Receivers that fail at once have it parked between two pieces."""
    monkeypatch.setattr(parked_module, "MOVED", 2)

    async def test(bench: LogBench) -> None:
        term = await began(bench, 9)
        assert await bench.park("t", "alice", term, *range(1, 8))
        whole, pieces = bench.connection.pipeline, 0

        async def parking(commands: list[Command], *rest: Any) -> list[object]:
            nonlocal pieces
            replies = await whole(commands, *rest)
            if commands[0][0] == "EVALSHA":
                pieces += 1
                assert pieces < 9, "it does not end"
                await bench.park("t", "alice", term, 1, 2, 3, attempts=20 + pieces)
            return replies

        monkeypatch.setattr(bench.connection, "pipeline", parking)
        taken = await bench.lanes.take_parked("t", "alice", how, limit)
        monkeypatch.setattr(bench.connection, "pipeline", whole)
        assert taken == (7 if limit is None else 6)
        assert pieces == (4 if limit is None else 3)
        listed = await bench.listed("t", "alice")
        again = [1, 2, 3] if how == "redrive" else []
        assert listed == again + ([] if limit is None else [7])

    run(server, test)


def test_nothing_is_put_back_for_a_subscription_that_is_read_from(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = await began(bench, 4)
        assert await bench.park("t", "alice", term, 1, 2, 3)
        assert await bench.lanes.take_parked("t", "alice", "redrive", 1) == 1
        assert await bench.listed("t", "alice") == [2, 3]
        await bench.one(durable("t", "alice", pull=True))
        assert await bench.listed("t", "alice") == [1, 2, 3], "what was put back is parked again"
        with pytest.raises(BadRequest, match="pull"):
            await bench.lanes.take_parked("t", "alice", "redrive", None)
        assert await bench.listed("t", "alice") == [1, 2, 3]
        assert await bench.lanes.take_parked("t", "alice", "purge", 1) == 1
        await bench.one(durable("t", "alice", pull=False))
        assert await bench.lanes.take_parked("t", "alice", "redrive", None) == 2

    run(server, test)


def test_what_a_pull_subscription_has_missed_is_counted_once(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all", pull=True)
        await bench.one(retain("t", max_messages=2))
        await bench.append("t", *"12345")
        assert await drops(bench) == 0, "it may still be a while until it is noticed"
        for _ in range(2):
            place = await bench.fetch("t", "alice")
            assert (place.what, place.position, await drops(bench)) == ("ok", 3, 3)
        await bench.append("t", *"678")
        assert (await bench.fetch("t", "alice", ack=7)).position == 7
        assert await drops(bench) == 6
        assert await bench.fetch("t", "alice", epoch="another")
        assert (await bench.fetch("t", "alice", ack=9)).what == "ack"
        assert await drops(bench) == 6

    run(server, test)
