"""What a new owner finds of a lane with very many parked messages, on real stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import redis
from support import logs
from support.logs import LogBench, parked_in
from support.servers import Redis
from support.slowlog import SlowCommands
from support.turns import TURN_S, Turns

from gearhorn.store import inherited
from gearhorn.store.connection import Command
from gearhorn.store.lanes import Acquired

pytest_plugins = ["support.store"]
run = partial(logs.run, is_planted=True)  # lanes and messages are written without scripts
PAIR = "t\0alice"
STORE_US = 20_000
MILLION = 1_000_000
AHEAD = 160_000
FILL = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('ZADD', KEYS[1], number, ARGV[3] == '' and number or number .. ARGV[3] .. number)
end
"""


async def fill(bench: LogBench, name: str, first: int, last: int, between: str = "") -> None:
    """As if so many messages were parked, put back or done already."""
    key = bench.connection.key(name, PAIR)
    for at in range(first, last + 1, 50_000):
        command = "EVAL", FILL, 1, key, at, min(at + 49_999, last), between
        await bench.connection.pipeline([command], 10.0)


async def begin(bench: LogBench) -> None:
    """A lane that can be taken."""
    await bench.join()
    await bench.begin("t", "alice", "all")
    await bench.append("t", "1")


async def take(bench: LogBench) -> Acquired:
    """Take the lane."""
    acquired = await bench.acquire("t", "alice")
    assert acquired is not None
    return acquired


@pytest.mark.parametrize("count", [99, 100, 101, 5000, 12_001])
def test_a_new_owner_finds_everything_however_much_there_is(server: Redis, count: int) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        await fill(bench, "redrive", 1, count)
        await fill(bench, "order", count + 1, 2 * count)
        await fill(bench, "ahead", 2 * count + 1, 3 * count, "-")
        await bench.ask("ZADD", f"ahead:{PAIR}", 2 * count + 2, f"{2 * count + 1}-{2 * count + 2}")
        found = await take(bench)
        assert found.redrives.lowest(4 * count) == list(range(1, count + 1))
        assert parked_in(found) == list(range(1, 2 * count + 1))
        ranges = [(number, number) for number in range(2 * count + 1, 3 * count + 1)]
        assert list(found.ahead) == sorted([*ranges, (2 * count + 1, 2 * count + 2)])
        assert found.ahead_top == 3 * count

    run(server, test)


@pytest.mark.parametrize("count", [9, 10, 11, 20, 25])
def test_ranges_with_one_end_may_be_more_than_a_page_has(
    server: Redis, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Such as batches of many owners, each of which began behind the one before."""
    monkeypatch.setattr(inherited, "PAGE", 10)

    async def test(bench: LogBench) -> None:
        await begin(bench)
        await fill(bench, "order", 200, 300)
        wanted = [(number, 50) for number in range(20, 20 + count)] + [(60, 60), (61, 70)]
        for first, last in [(2, 2), *wanted]:
            await bench.ask("ZADD", f"ahead:{PAIR}", last, f"{first}-{last}")
        async with asyncio.timeout(10):
            found = await take(bench)
        assert list(found.ahead) == [(2, 2), *wanted]

    run(server, test)


@pytest.mark.parametrize("how", ["redrive", "purge"])
@pytest.mark.parametrize("name", ["order", "redrive", "ahead"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_is_put_back_or_purged_while_it_is_read_is_not_missed(
    server: Redis, monkeypatch: pytest.MonkeyPatch, how: str, name: str, number: int
) -> None:
    """Messages move before any page of any kind is read."""
    monkeypatch.setattr(inherited, "PAGE", 50)

    async def test(bench: LogBench) -> None:
        await begin(bench)
        await fill(bench, "order", 2, 140)
        await fill(bench, "redrive", 200, 320)
        await fill(bench, "ahead", 400, 520, "-")
        pipeline, pages = bench.connection.pipeline, 0

        async def moving(commands: Sequence[Command], *more: Any) -> list[Any]:
            nonlocal pages
            if commands[0][1] == bench.connection.key(name, PAIR) and len(commands) == 1:
                pages += commands[0][0] == "ZRANGEBYSCORE"
                if pages == number:
                    pages += 1  # once
                    assert await bench.lanes.take_parked("t", "alice", how, 70) == 70
            return await pipeline(commands, *more)

        with monkeypatch.context() as patch:
            patch.setattr(bench.connection, "pipeline", moving)
            found = await take(bench)
        assert pages > number
        done = {first for first, _ in found.ahead}
        assert {*range(2, 141), *range(200, 321)} <= {*parked_in(found), *done}
        assert set(range(200, 321)) <= set(found.redrives)
        assert set(range(400, 521)) <= done
        seen = await bench.ask("ZSCORE", "redriven", PAIR)
        assert (seen is None) == (how == "purge")
        assert seen is None or seen > found.seen_redrive, "it is looked at again"

    run(server, test)


def test_taking_a_lane_with_very_much_done_ahead_holds_nobody_up(server: Redis) -> None:
    """As much as a window has room for. The best of three tries counts."""
    longest_s = []

    async def test(bench: LogBench) -> None:
        await begin(bench)
        await fill(bench, "ahead", 2, AHEAD, "-")
        for _ in range(3):
            with Turns() as turns:
                found = await take(bench)
                assert (len(found.ahead), found.ahead_top) == (AHEAD - 1, AHEAD)
                del found
            longest_s.append(turns.longest)

    run(server, test)
    assert min(longest_s) < TURN_S


def test_taking_a_lane_with_a_million_messages_holds_nobody_up(server: Redis) -> None:
    """Of each command of the store the best of three tries counts."""

    async def test(bench: LogBench) -> None:
        await begin(bench)
        await fill(bench, "order", 2, MILLION)
        await bench.ask("COPY", f"order:{PAIR}", bench.connection.key("redrive", PAIR))
        with redis.Redis.from_url(server.url) as store:
            slow = SlowCommands(store, above_us=1000)
            with Turns() as turns:
                for _ in range(3):
                    slow.begin()
                    found = await take(bench)
                    assert (len(found.redrives), len(found.parked)) == (MILLION - 1, 2)
                    assert not any(some.pass_to(1) for some in found.parked)
                    del found
                    slow.end()
            assert turns.longest < TURN_S, turns.what
            assert slow.slowest_us < STORE_US

    run(server, test)
