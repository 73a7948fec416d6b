"""Logs are read and searched block by block: exactly, and without reading what is not asked for."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from support.logs import LogBench, item, retain, run
from support.servers import Redis

from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Info
from gearhorn.store.log import entries_of, read_command

pytest_plugins = ["support.store"]
namespaces = (f"test{number}" for number in itertools.count())
MIB = 1024 * 1024


async def calls_of(bench: LogBench, command: str) -> int:
    """How often the server has carried out a command, in scripts too."""
    [stats] = await bench.connection.pipeline([("INFO", "commandstats")])
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", stats.decode())
    return int(found[1]) if found else 0


async def part(bench: LogBench, first: int, count: int, size: int) -> tuple[list[int], bool]:
    """The sequences that one script reads, and whether the log ends there."""
    command = read_command(bench.connection, "t", first, limit=count, size=size)
    [reply] = await bench.connection.pipeline([command])
    entries, is_end = entries_of(reply)
    return [one.sequence for one in entries], is_end


def test_no_large_message_is_read_to_forget_or_to_find_others(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all", pull=True)
        await bench.one(retain("t", max_bytes=10 * MIB))
        for number in range(10):
            await bench.append("t", bytes(MIB), clock_ms=1000 * number)
        before = await calls_of(bench, "xrange")
        await bench.append("t", bytes(MIB), clock_ms=10_000)
        await bench.begin("t", "bob", {"window": 3.5}, clock_ms=10_000, pull=True)
        await bench.fetch("t", "alice", ack=8)
        await bench.fetch("t", "bob", ack=8)
        await bench.fetch("t", purge=5)
        await bench.log.prune(10**9)
        assert await calls_of(bench, "xrange") == before
        assert await bench.position("t", "bob") == 8
        assert await bench.bounds("t") == (9, 11)

    run(server, test)


def test_small_messages_are_read_many_at_once(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        for _ in range(4):
            await bench.append("t", *[""] * 500)
        before = await calls_of(bench, "xrange")
        assert await part(bench, 1, 1000, MIB) == (list(range(1, 1001)), False)
        assert await calls_of(bench, "xrange") - before <= 1000 / 64 + 2
        assert len(await bench.log.read("t", 1, 10_000)) == 2000

    run(server, test)


def test_a_large_message_behind_others_is_not_read_with_them(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append("t", "a", "b", bytes(MIB), "c")
        before = await calls_of(bench, "xrange")
        assert await part(bench, 1, 10, 1000) == ([1, 2], False)
        assert await calls_of(bench, "xrange") - before == 1
        assert await part(bench, 3, 10, 1000) == ([3], False)
        assert await part(bench, 4, 10, 1000) == ([4], True)

    run(server, test)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_read_and_kept_is_exact_whatever_the_sizes(shared: Redis, seed: int) -> None:
    pick = random.Random(seed)
    sizes = [pick.choice((0, 0, 1, 100, 3000, 40_000, 70_000)) for _ in range(300)]

    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=1000))
        clocks = []
        clock_ms, at = 0, 0
        while at < len(sizes):
            some = sizes[at : at + pick.randint(1, 70)]
            clock_ms += pick.randint(0, 3)
            clocks += [clock_ms] * len(some)
            await bench.append("t", *map(bytes, some), clock_ms=clock_ms)
            at += len(some)
        first = 1
        for _ in range(8):
            asked, count, size = (
                pick.randint(0, 310),
                pick.randint(1, 200),
                pick.randint(0, 200_000),
            )
            expected: list[int] = []
            total = 0
            is_end = True
            for number in range(max(asked, first), len(sizes) + 1):
                total += sizes[number - 1]
                if len(expected) == count or (expected and total > size):
                    is_end = False
                    break
                expected.append(number)
            found, ends = await part(bench, asked, count, size)
            assert found == expected
            assert not ends or is_end  # that it ends there may be found out with the next part
            since_ms = pick.randint(0, clock_ms + 1)
            client = f"c{pick.random()}"
            await bench.begin("t", client, {"window": 1}, clock_ms=since_ms + 1000, pull=True)
            start = sum(clock < since_ms for clock in clocks[first - 1 :]) + first
            assert await bench.position("t", client) == start - 1
            await bench.fetch("t", client, ack=len(sizes))
            first = min(first + pick.randint(0, 40), len(sizes))
            await bench.fetch("t", purge=first - 1)
            state = await bench.state("t")
            assert (state["first"], state["bytes"] - state["floor"]) == (
                first,
                sum(sizes[first - 1 :]),
            )
        most = pick.randint(1, 1_000_000)
        await bench.one(retain("t", max_bytes=most))
        while first < len(sizes) and sum(sizes[first - 1 :]) > most:
            first += 1
        assert await bench.bounds("t") == (first, len(sizes))
        assert await bench.append("t", "next") == [len(sizes) + 1]

    run(shared, test, next(namespaces))


def test_long_uniques_and_exclusions_count_like_payload(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append("t", "1234567890")
        await bench.append_items("t", ("", encode(Info(1.0, "u" * 64)), b"1234567890"))
        assert (await bench.state("t"))["bytes"] == 20, "the usual costs nothing"
        excluded = tuple(f"client-{number:04}" for number in range(1000))
        await bench.append_items("t", ("", encode(Info(1.0, None, excluded)), b""))
        assert (await bench.state("t"))["bytes"] > 11_000
        await bench.one(retain("t", max_bytes=11_000))
        assert await bench.bounds("t") == (3, 3)

    run(server, test)


def test_a_fetch_counts_exclusions(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        excluded = tuple(f"client-{number:06}" for number in range(80_000))
        one = "", encode(Info(1.0, None, excluded)), b"x"
        for _ in range(10):
            await bench.append_items("t", one)
        found = await bench.log.read("t", 1, 10)
        assert 1 < len(found) < 10
        assert sum(entry.size for entry in found) <= 8 * MIB

    run(server, test)


def test_what_is_over_a_cap_by_far_goes_piece_by_piece(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", pull=True)
        for _ in range(241):
            await bench.append("t", *[""] * 500)
        await bench.one(retain("t", max_messages=10))
        assert (await bench.state("t"))["first"] == 100_001, "a script holds the store shortly"
        await bench.log.prune(10**9)
        state = await bench.state("t")
        assert (state["first"], state["dropped"]) == (120_491, 120_490)
        await bench.fetch("t", "alice", ack=120_500)
        assert (await bench.fetch("t", purge=120_500)).first == 120_501

    run(server, test)


def test_no_more_bytes_are_forgotten_at_once_than_a_moment_takes(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=1))
        for _ in range(9):
            await bench.append("t", bytes(8 * MIB))
        firsts = []
        for _ in range(3):
            await bench.log.prune(10**6)
            firsts.append((await bench.state("t"))["first"])
        assert firsts == [5, 9, 9]
        for _ in range(9):
            await bench.append("t", bytes(8 * MIB), clock_ms=10**6)
        await bench.one(retain("t", max_bytes=1))
        assert (await bench.state("t"))["first"] == 13, "the others go when the log is pruned"
        assert await bench.log.prune(10**6)
        assert await bench.log.prune(10**6)
        state = await bench.state("t")
        assert (state["first"], state["dropped"]) == (18, 9)

    run(server, test)


def test_the_newest_message_outlives_max_age(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=1))
        await bench.append("t", "1", "2")
        await bench.log.prune(10**9)
        assert await bench.bounds("t") == (2, 2)
        await bench.begin("t", "alice", "last")
        assert await bench.position("t", "alice") == 1
        assert await bench.due_ms("t") == float("inf")
        await bench.append("t", "3", clock_ms=10**9)
        assert await bench.due_ms("t") == 10**9 + 2000

    run(server, test)


def test_a_log_that_cannot_be_pruned_costs_no_other(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        for topic in ("bad", "good"):
            await bench.one(retain(topic, max_age=1))
            await bench.append(topic, "1", "2")
        await bench.ask("DEL", "messages", topic="bad")
        await bench.ask("SET", "messages", "of another kind", topic="bad")
        assert await bench.log.prune(5000) == 5000
        assert (await bench.state("good"))["first"] == 2
        assert await bench.due_ms("bad") == 65_000, "it is not asked for in a loop"
        assert await bench.log.prune(5001) == 65_000

    run(server, test)


def test_where_a_log_ends_is_told_with_its_last_message(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append_items("t", item("a"), item("b"))
        assert await part(bench, 0, 9, 0) == ([1], False)
        assert await part(bench, 2, 9, 0) == ([2], True)
        assert await part(bench, 3, 9, 0) == ([], True)

    run(server, test)
