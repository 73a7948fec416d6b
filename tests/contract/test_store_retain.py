"""Retention settings that come, change and go in a store, without a worker."""

from __future__ import annotations

import pytest
from support.logs import LogBench, direct, item, retain, run
from support.servers import Redis

pytest_plugins = ["support.store"]


def test_settings_that_are_given_replace_and_null_returns_to_the_default(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        async def own() -> dict[str, float]:
            state = await bench.state("t")
            return {name: one for name, one in state.items() if name.startswith("max_")}

        assert (await bench.one(retain("t", max_age=0.1, max_messages=10**12))).version == 1
        assert await own() == {"max_age": 0.1, "max_messages": 1e12}
        await bench.one(retain("t", max_bytes=5, max_age=None))
        assert await own() == {"max_messages": 1e12, "max_bytes": 5}
        applied = await bench.one(retain("t"))
        assert (applied.version, applied.is_durable) == (3, True)
        assert await own() == {"max_messages": 1e12, "max_bytes": 5}

    run(server, test)


@pytest.mark.parametrize("what", [{}, {"max_age": 5}, {"max_messages": 5, "max_bytes": None}])
def test_a_topic_with_a_setting_has_a_log_until_the_last_one_is_null(
    server: Redis, what: dict[str, int | None]
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.one(retain("t", **what))
        assert await bench.append("t", "1") == [1]
        await bench.begin("t", "alice")
        await bench.one(direct("t", "alice"))
        assert await bench.append("t", "2") == [2], "it stays without a subscription"
        await bench.one(retain("t", max_age=None, max_messages=None, max_bytes=None))
        assert await bench.append_items("t", item("3")) is None
        left = {name for name in await bench.keys() if name.endswith(":t")}
        assert left == {"clients:t"}, "a direct subscription is left"
        assert await bench.due_ms("t") is None

    run(server, test)


def test_null_where_there_is_no_log_makes_none(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        assert (await bench.one(retain("t", max_age=None))).version == 1
        assert await bench.log.describe(["t"]) == [None]
        assert await bench.changed_since(0) == {"t"}, "the members are told all the same"

    run(server, test)


def test_settings_that_are_null_leave_the_log_of_a_subscription(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.one(retain("t", max_age=5))
        await bench.one(retain("t", max_age=None))
        assert await bench.append("t", "1") == [1]
        await bench.one(direct("t", "alice"))
        assert await bench.log.describe(["t"]) == [None], "the last subscription takes it along"

    run(server, test)


def test_bounds_that_are_lowered_hold_at_once(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all")
        await bench.append("t", *("12345",) * 9, clock_ms=0)
        await bench.one(retain("t", max_messages=7))
        assert await bench.bounds("t") == (3, 9)
        await bench.one(retain("t", max_bytes=21))
        assert await bench.bounds("t") == (6, 9)
        await bench.one(retain("t", max_bytes=1, max_messages=None))
        assert await bench.bounds("t") == (9, 9), "the newest stays"
        assert (await bench.state("t"))["dropped"] == 8
        await bench.one(retain("t", max_age=1), clock_ms=5000)
        assert await bench.due_ms("t") == 5000

    run(server, test)
