"""How durable subscriptions begin, change and end in a store, and what is parked for them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.logs import LogBench, direct, durable, failed, item, parked, retain, run, trouble
from support.servers import Redis
from support.store import expire, subscribe, unsubscribe

from gearhorn.store.lanes import LaneRecord
from gearhorn.store.subscriptions import Applied, Change

pytest_plugins = ["support.store"]
namespaces = (f"test{number}" for number in itertools.count())
on_shared = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Where a subscription begins


@pytest.mark.parametrize(
    ("start", "position"),
    [
        ("new", 5),
        ("all", 2),
        ("last", 4),
        ({"sequence": 4}, 4),
        ({"sequence": 5}, 5),
        ({"sequence": 0}, 2),
        ({"sequence": 1}, 2),
        ({"window": 1}, 5),
        ({"window": 2}, 3),
        ({"window": 2.001}, 3),
        ({"window": 3}, 2),
        ({"window": 10**9}, 2),
    ],
)
def test_a_subscription_begins_where_it_says(server: Redis, start: Any, position: int) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_messages=3))  # 1 and 2 are gone
        for number, clock_ms in enumerate([1000, 2000, 3000, 4000, 4000], 1):
            assert await bench.append("t", "x", clock_ms=clock_ms) == [number]
        assert await bench.bounds("t") == (3, 5)
        applied = await bench.begin("t", "alice", start, clock_ms=6000)
        assert applied == Applied(applied.version, False, is_durable=True)
        assert await bench.held("t", "alice") == LaneRecord("-", 0, position)

    run(server, test)


@pytest.mark.parametrize("start", ["new", "all", "last", {"sequence": 0}, {"window": 5}])
def test_in_a_new_log_every_subscription_begins_at_the_first_message(
    server: Redis, start: Any
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", start)
        assert await bench.position("t", "alice") == 0
        assert await bench.append("t", "1") == [1]

    run(server, test)


@pytest.mark.parametrize("start", ["new", "all", "last", {"sequence": 2}, {"window": 5}])
def test_in_a_log_that_was_emptied_every_subscription_begins_at_the_next_message(
    server: Redis, start: Any
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_messages=10))
        await bench.append("t", "1", "2")
        await bench.fetch("t", purge=2)
        await bench.begin("t", "alice", start)
        assert await bench.position("t", "alice") == 2

    run(server, test)


def test_nobody_begins_beyond_the_log_and_what_is_refused_leaves_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        assert await bench.begin("t", "alice", {"sequence": 1}) == Applied(0, False, last=0)
        assert await bench.keys() == set()
        await bench.one(retain("t", max_messages=10))
        await bench.append("t", "1", "2")
        before = await bench.everything()
        assert await bench.begin("t", "alice", {"sequence": 3}) == Applied(0, False, last=2)
        assert await bench.everything() == before
        assert (await bench.begin("t", "alice", {"sequence": 2})).version

    run(server, test)


@given(
    steps=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3000)), min_size=1, max_size=12),
    window_ms=st.integers(1, 40_000),
    later_ms=st.integers(0, 5000),
    purged=st.integers(0, 20),
)
@on_shared
def test_a_window_begins_with_the_first_message_that_is_young_enough(
    shared: Redis, steps: list[tuple[int, int]], window_ms: int, later_ms: int, purged: int
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=10**9))
        clock_ms = 10**6
        logged_ms = []
        for count, passed_ms in steps:
            clock_ms += passed_ms
            await bench.append("t", *"x" * count, clock_ms=clock_ms)
            logged_ms += [clock_ms] * count
        purged_now = min(purged, len(logged_ms))
        await bench.fetch("t", purge=purged_now)
        clock_ms += later_ms
        await bench.begin("t", "alice", {"window": window_ms / 1000}, clock_ms=clock_ms)
        old = sum(one < clock_ms - window_ms for one in logged_ms)
        assert await bench.position("t", "alice") == max(old, purged_now)

    run(shared, test, next(namespaces))


# Made again, and changed


def test_a_subscription_made_again_keeps_its_position_and_its_owner(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all", in_flight=3)
        await bench.append("t", *"12345")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.settle("t", "alice", acquired.term, 2)
        held = LaneRecord("me", acquired.term, 2)
        for change in (
            subscribe("t", "alice"),
            subscribe("t", "alice", b'{"envelope":true}'),
            durable("t", "alice"),
            durable("t", "alice", "all"),
            durable("t", "alice", {"sequence": 10**6}, timeout=5),
        ):
            applied = await bench.one(change)
            assert (applied.existed, applied.is_durable, applied.parked) == (True, True, None)
            assert await bench.held("t", "alice") == held
        found = await bench.lanes.find({"t": ["alice", "nobody"]})
        assert list(found["t"]) == ["alice"]
        _, options, has_envelope = found["t"]["alice"]
        assert (options.in_flight, options.timeout, has_envelope) == (3, 5, True)

    run(server, test)


def test_a_direct_subscription_becomes_durable_where_it_says(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice", b'{"envelope":true}'))
        await bench.one(retain("t", max_messages=10))
        await bench.append("t", "1", "2")
        applied = await bench.begin("t", "alice", {"sequence": 1}, batch=2)
        assert (applied.existed, applied.is_durable) == (True, True)
        looked, more = await bench.lanes.page({"t": 0, "none": 0})
        assert (looked["none"], more) == ({}, {})
        held, options, has_envelope = looked["t"]["alice"]
        assert (held.position, options.batch, has_envelope) == (1, 2, True)
        assert await bench.lanes.topics() == ["t"]

    run(server, test)


def test_pull_and_back_keeps_the_position(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all")
        await bench.append("t", *"12345")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.settle("t", "alice", acquired.term, 2)
        await bench.begin("t", "alice", pull=True)
        assert (await bench.held("t", "alice") or acquired)[0::2] == ("pull", 2)
        assert not await bench.settle("t", "alice", acquired.term, 3), "nobody delivers any more"
        await bench.fetch("t", "alice", ack=4)
        await bench.begin("t", "alice", timeout=5)
        assert (await bench.held("t", "alice") or acquired)[0::2] == ("pull", 4)
        await bench.begin("t", "alice", pull=False)
        assert (await bench.held("t", "alice") or acquired)[0::2] == ("?", 4)
        assert (await bench.fetch("t", "alice", ack=5)).what == "pull"

    run(server, test)


# The end


async def used(bench: LogBench, client_id: str = "alice") -> None:
    """A subscription with everything that one can have."""
    await bench.join()
    await bench.one(durable("t", client_id, "all", max_attempts=1))
    await bench.append_items("t", item("1", "key"))
    await bench.append("t", *"23456")
    acquired = await bench.acquire("t", client_id)
    assert acquired is not None
    assert await bench.park("t", client_id, acquired.term, 1, 2, 3)
    await bench.note(failed("t", client_id, acquired.term, 4, trouble()))
    await bench.lanes.take_parked("t", client_id, "redrive", 1)
    assert await bench.settle("t", client_id, acquired.term, 3)


ENDS = {
    "unsubscribed": unsubscribe("t", "alice"),
    "direct": direct("t", "alice"),
    "expired": expire("t", "alice"),
}
TOPIC_KEYS = {"clients:t", "options:t", "drops:t"}


@pytest.mark.parametrize("how", list(ENDS))
def test_nothing_is_left_of_a_durable_subscription_that_ended(server: Redis, how: str) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice", b'{"ttl":5}'))
        await used(bench)
        pair = {name for name in await bench.keys() if name.endswith("\0alice")}
        kinds = ("order", "parked", "redrive", "trouble")
        assert pair == {f"{name}:t\0alice" for name in kinds}
        applied = await bench.one(ENDS[how], clock_ms=10**6)
        assert (applied.existed, applied.is_durable, applied.parked) == (True, True, 3)
        left = await bench.keys()
        assert not [name for name in left if "alice" in name]
        assert {name for name in left if ":t" in name} <= TOPIC_KEYS
        assert await bench.ask("ZSCORE", "durable", "t") is None
        assert await bench.due_ms("t") is None
        assert (await bench.one(ENDS[how])).parked is None, "there is nothing to end any more"

    run(server, test)


@pytest.mark.parametrize("how", list(ENDS))
def test_a_log_outlives_a_subscription_that_is_not_its_last(server: Redis, how: str) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice", b'{"ttl":5}'))
        await bench.begin("t", "bob")
        await used(bench)
        own = (await bench.state("t"))["epoch"]
        await bench.one(ENDS[how], clock_ms=10**6)
        assert not [name for name in await bench.keys() if "alice" in name]
        assert await bench.bounds("t") == (1, 6)
        assert (await bench.lanes.positions("t"))[0].keys() == {"bob"}
        assert await bench.lanes.topics() == ["t"]
        await bench.one(unsubscribe("t", "bob"))
        assert await bench.log.describe(["t"]) == [None]
        await bench.begin("t", "bob", "all")
        assert await bench.append("t", "new") == [1]
        assert (await bench.state("t"))["epoch"] != own, "it is another log"

    run(server, test)


def test_a_log_with_a_setting_outlives_every_subscription(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=5))
        await used(bench)
        await bench.one(unsubscribe("t", "alice"))
        assert not [name for name in await bench.keys() if "alice" in name]
        assert await bench.bounds("t") == (1, 6)
        assert await bench.lanes.topics() == []
        assert await bench.due_ms("t") is not None
        await bench.begin("t", "alice", "all")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert (acquired.position, acquired.troubles, acquired.parked) == (0, {}, [])

    run(server, test)


def test_ending_what_is_not_durable_discards_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        for change in (direct("t", "alice"), direct("t", "alice"), unsubscribe("t", "alice")):
            assert (await bench.one(change)).parked is None
        await bench.begin("t", "alice")
        assert (await bench.one(unsubscribe("t", "bob"))).parked is None
        assert await bench.position("t", "alice") == 0
        assert (await bench.one(unsubscribe("t", "alice"))).parked == 0

    run(server, test)


def test_an_expiry_before_its_time_ends_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(subscribe("t", "alice", b'{"ttl":5}'))
        await used(bench)
        before = await bench.everything()
        assert await bench.one(expire("t", "alice"), clock_ms=4999) == Applied(0, False)
        assert await bench.everything() == before

    run(server, test)


@pytest.mark.parametrize("change", [unsubscribe("t", "alice"), direct("t", "alice")])
def test_what_an_owner_writes_after_the_end_leaves_nothing(server: Redis, change: Change) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_messages=10))
        await used(bench)
        held = await bench.held("t", "alice")
        assert held is not None
        await bench.one(change)
        before = await bench.everything()
        assert not await bench.settle("t", "alice", held.term, 5)
        assert not await bench.park("t", "alice", held.term, 5)
        await bench.note(failed("t", "alice", held.term, 5, trouble()))
        assert await bench.everything() == before

    run(server, test)


# Parked messages


def test_parked_messages_are_listed_the_oldest_first_with_what_happened(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all")
        await bench.append("t", *(f"{number}" for number in range(1, 13)))
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.park("t", "alice", acquired.term, 10, 9, 11)
        assert await bench.listed("t", "alice") == [9, 10, 11]
        assert await bench.listed("t", "alice", 2) == [9, 10]
        nine, one, eleven = await bench.lanes.parked("t", "alice", [9, 1, 11])
        assert (one, nine and nine.payload, eleven and eleven.payload) == (None, b"9", b"11")
        assert nine is not None
        assert (nine.trouble, nine.info) == (parked(9).trouble, parked(9).info)
        assert await bench.listed("t", "bob") is None
        assert await bench.listed("u", "alice") is None

    run(server, test)


@pytest.mark.parametrize("how", ["redrive", "purge"])
def test_parked_messages_are_taken_the_oldest_first_up_to_the_limit(
    server: Redis, how: str
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all")
        await bench.append("t", *"x" * 12)
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.park("t", "alice", acquired.term, 10, 9, 11, 2)
        steps: list[object] = []
        for limit in (1, 2, None, 5):
            steps.append(await bench.lanes.take_parked("t", "alice", how, limit))
            steps.append(await bench.listed("t", "alice"))
        assert steps == [1, [9, 10, 11], 2, [11], 1, [], 0, []]
        again = await bench.acquire("t", "alice")
        assert again is not None
        is_kept = how == "redrive"
        assert again.redrives.lowest(9) == ([2, 9, 10, 11] if is_kept else [])
        found = await bench.lanes.parked("t", "alice", [2, 9, 10, 11])
        assert [one is not None for one in found] == [is_kept] * 4
        assert await bench.lanes.take_parked("t", "bob", how, None) is None

    run(server, test)


def test_a_message_that_was_put_back_is_done_with_or_parked_again(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await used(bench)
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert acquired.redrives.lowest(9) == [1]
        assert await bench.lanes.counts([("t", "alice")]) == [(2, {4: trouble()}, 0, 0)]
        note = failed("t", "alice", acquired.term, 1, trouble())._replace(kind="redriven")
        await bench.note(note)
        first, second = await bench.lanes.parked("t", "alice", [1, 2])
        assert first is None
        assert second is not None
        await bench.lanes.take_parked("t", "alice", "redrive", 1)
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert acquired.redrives.lowest(9) == [2]
        assert await bench.park("t", "alice", acquired.term, 2)
        assert await bench.listed("t", "alice") == [2, 3]
        again = await bench.acquire("t", "alice")
        assert again is not None
        assert not again.redrives

    run(server, test)
