"""Pruning and purging logs with very many durable subscriptions, on real stores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
from support import logs
from support.logs import LogBench
from support.servers import Redis
from support.slowlog import SlowCommands

from gearhorn.store import log as log_module
from gearhorn.store import pruned_logs
from gearhorn.store.slowest import Slowest, read_slowest

pytest_plugins = ["support.store"]
run = partial(logs.run, is_planted=True)  # lanes and messages are written without scripts
LATE_MS = 10**9  # everything is older than max_age
MANY = 2500  # more than a script reads at once
STORE_US = 20_000
FILL = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('HSET', KEYS[1], 'client' .. number, 'pull 0 ' .. ARGV[3])
end
"""


async def fill(bench: LogBench, count: int, position: int) -> None:
    """As if so many had subscribed, and each had acknowledged up to a position."""
    key = bench.connection.key("lanes", "t")
    for at in range(1, count + 1, 20_000):
        command = "EVAL", FILL, 1, key, at, min(at + 19_999, count), position
        await bench.connection.pipeline([command], 10.0)


async def begin(bench: LogBench, count: int = MANY, position: int = 5) -> None:
    """A log of nine messages that many have read up to a position, and alice up to the third."""
    await bench.begin("t", "alice", "all", pull=True)
    await bench.append("t", *"123456789", clock_ms=0)
    await fill(bench, count, position)
    await bench.fetch("t", "alice", ack=3)


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any], times: int = 1
) -> list[Slowest]:
    """Have something happen right after lanes were read, so many times; what was read."""
    found: list[Slowest] = []

    async def read(*arguments: Any) -> Slowest:
        found.append(await read_slowest(*arguments))
        if len(found) <= times:
            await what()
        return found[-1]

    monkeypatch.setattr(log_module, "read_slowest", read)
    monkeypatch.setattr(pruned_logs, "read_slowest", read)
    return found


def test_of_many_subscriptions_the_slowest_counts(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        assert await bench.prune("t", LATE_MS) == 3
        await bench.fetch("t", "alice", ack=8)
        await bench.ask("ZADD", "due", 0, "t")
        assert await bench.prune("t", LATE_MS) == 2
        assert await bench.bounds("t") == (6, 9)
        assert (await bench.due_ms("t") or 0) > LATE_MS, "it is due later again"

    run(server, test)


def test_what_many_have_not_done_with_is_not_purged(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        assert (await bench.fetch("t", purge=9)).first == 4
        place = await bench.fetch("t", "alice", ack=9, purge=4)
        assert (place.first, place.position) == (5, 9)
        assert (await bench.fetch("t", purge=9)).first == 6

    run(server, test)


@pytest.mark.parametrize("how", ["prune", "purge"])
def test_who_subscribes_while_positions_are_read_loses_nothing(
    server: Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        found = meanwhile(monkeypatch, lambda: bench.begin("t", "bob", "all", pull=True))
        if how == "purge":
            await bench.fetch("t", purge=9)
            assert [one.position for one in found] == [3, 0], "it is read again"
        else:
            assert await bench.prune("t", LATE_MS) == 0
            await bench.prune("t", LATE_MS + 1000)
            assert len(found) == 1, "not by two at once"
            assert await bench.prune("t", LATE_MS + 2000) == 0
            assert [one.position for one in found] == [3, 0]
        assert await bench.bounds("t") == (1, 9)

    run(server, test)


@pytest.mark.parametrize("how", ["prune", "purge"])
def test_who_subscribes_to_what_comes_next_holds_no_pruning_up(
    server: Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        clients = iter(range(1000))

        async def subscribe() -> None:
            await bench.append("t", "more", clock_ms=0)
            await bench.begin("t", f"new{next(clients)}", "new", pull=True)

        found = meanwhile(monkeypatch, subscribe, 1000)
        if how == "purge":
            assert (await bench.fetch("t", purge=9)).first == 4
        else:
            assert await bench.prune("t", LATE_MS) == 3
        assert len(found) == 1

    run(server, test)


def test_a_purge_ends_though_lanes_are_made_all_the_time(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        clients = iter(range(1000))

        async def subscribe() -> None:
            await bench.begin("t", f"new{next(clients)}", "all", pull=True)

        found = meanwhile(monkeypatch, subscribe, 1000)
        assert (await bench.fetch("t", purge=9)).first == 1
        assert len(found) == log_module.READINGS

    run(server, test)


def test_a_reading_is_of_no_use_in_another_epoch(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)

        async def restart() -> None:
            await bench.restart("t")
            await bench.append("t", "10", clock_ms=0)

        found = meanwhile(monkeypatch, restart)
        assert await bench.prune("t", LATE_MS) == 0
        assert await bench.prune("t", LATE_MS + 2000) == 3
        assert found[0].mark != found[1].mark

    run(server, test)


def test_pruning_goes_on_after_one_reading_while_there_is_more(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruned_logs, "PRUNED", 2)

    async def test(bench: LogBench) -> None:
        await begin(bench)
        await bench.fetch("t", "alice", ack=9)

        async def nothing() -> None:
            pass

        found = meanwhile(monkeypatch, nothing)
        assert await bench.prune("t", LATE_MS) == 5
        assert len(found) == 1

    run(server, test)


def test_pruning_with_100_000_subscriptions_does_not_hold_the_store(server: Redis) -> None:
    """Of each command the best of three tries counts."""

    async def test(bench: LogBench) -> None:
        await begin(bench, 100_000)
        with redis.Redis.from_url(server.url) as store:
            slow = SlowCommands(store, above_us=500)
            for number in range(3):
                await bench.ask("ZADD", "due", 0, "t")
                slow.begin()
                await bench.prune("t", LATE_MS + number)
                await bench.fetch("t", purge=9)
                slow.end()
            assert slow.slowest_us < STORE_US
        assert await bench.bounds("t") == (4, 9)

    run(server, test)
