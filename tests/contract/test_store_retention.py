"""What a log keeps and for how long, on real stores and without a worker."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.logs import LogBench, item, retain, run
from support.servers import Redis
from support.store import unsubscribe

from gearhorn.store import pruned_logs

pytest_plugins = ["support.store"]
AGE_MS = 120_000  # max_age, unless it is set
namespaces = (f"test{number}" for number in itertools.count())
on_shared = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def settled(bench: LogBench, topic: str, client_id: str, position: int) -> None:
    """A subscription has done with the log up to here."""
    acquired = await bench.acquire(topic, client_id)
    assert acquired is not None
    assert await bench.settle(topic, client_id, acquired.term, position)


# Pruning


def test_a_message_goes_when_everybody_has_done_with_it_and_it_is_older_than_max_age(
    server: Redis,
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all")
        await bench.begin("t", "bob", "all")
        await bench.append("t", "1", clock_ms=1000)
        await bench.append("t", "2", clock_ms=2000)
        await bench.append("t", "3", clock_ms=3000)
        late_ms = 10**9
        assert await bench.prune("t", late_ms) == 0, "nobody has done with any"
        await settled(bench, "t", "alice", 3)
        await bench.ask("ZADD", "due", 0, "t")
        assert await bench.prune("t", late_ms) == 0, "the slowest counts"
        await settled(bench, "t", "bob", 2)
        for clock_ms, kept in (
            (1000 + AGE_MS, (1, 3)),
            (1001 + AGE_MS, (2, 3)),
            (2000 + AGE_MS, (2, 3)),
            (late_ms, (3, 3)),
        ):
            await bench.ask("ZADD", "due", 0, "t")
            await bench.prune("t", clock_ms)
            assert await bench.bounds("t") == kept
        assert (await bench.state("t"))["dropped"] == 0, "that was no drop"
        assert await bench.append("t", "4") == [4], "the numbers go on"

    run(server, test)


def test_a_log_that_is_only_retained_is_pruned_by_age_alone(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=0.5))
        await bench.append("t", "1", "2", clock_ms=0)
        await bench.append("t", "3", clock_ms=600)
        assert await bench.prune("t", 999) == 0, "it is not due"
        assert await bench.prune("t", 1100) == 2
        assert await bench.bounds("t") == (3, 3)

    run(server, test)


def test_a_message_that_is_parked_is_done_with_once_the_position_has_passed_it(
    server: Redis,
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all")
        await bench.append("t", "1", "2")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        assert await bench.park("t", "alice", acquired.term, 1, 2)
        await bench.prune("t", 10**9)
        assert await bench.bounds("t") == (1, 2)
        assert await bench.settle("t", "alice", acquired.term, 2)
        await bench.ask("ZADD", "due", 0, "t")
        await bench.prune("t", 10**9)
        assert await bench.bounds("t") == (2, 2), "the newest stays"
        assert await bench.listed("t", "alice") == [1, 2], "they are kept apart"

    run(server, test)


def test_a_position_that_a_cap_has_passed_by_keeps_what_is_left(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all")
        await bench.one(retain("t", max_messages=2))
        await bench.append("t", *"12345")
        await bench.prune("t", 10**9)
        assert await bench.bounds("t") == (4, 5)

    run(server, test)


def test_pruning_goes_in_steps_and_at_once_again_while_there_is_more(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruned_logs, "PRUNED", 10)

    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=1))
        await bench.append("t", *"x" * 25)
        steps: list[float | None] = []
        for _ in range(3):
            steps.append(await bench.prune("t", 5000))
            steps.append(await bench.due_ms("t"))
        assert steps == [10, 5000, 10, 5000, 4, float("inf")]
        assert await bench.bounds("t") == (25, 25)

    run(server, test)


@pytest.mark.parametrize(
    ("max_age", "interval_ms"), [(0.5, 1000), (20, 40_000), (30, 60_000), (10**9, 60_000)]
)
def test_a_log_is_due_every_twice_its_max_age_but_at_least_every_minute(
    server: Redis, max_age: float, interval_ms: int
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all")
        assert await bench.due_ms("t") == float("inf"), "there is nothing to prune"
        await bench.one(retain("t", max_age=max_age))
        await bench.append("t", "1", clock_ms=7000)
        assert await bench.due_ms("t") == 7000 + interval_ms
        await bench.append("t", "2", clock_ms=7500)
        assert await bench.due_ms("t") == 7000 + interval_ms, "more messages put nothing off"
        assert await bench.log.prune(7000 + interval_ms - 1) == 7000 + interval_ms
        assert await bench.due_ms("t") == 7000 + interval_ms
        await bench.log.prune(9000 + interval_ms)
        assert await bench.due_ms("t") == 9000 + 2 * interval_ms

    run(server, test)


def test_a_log_with_nothing_to_prune_is_not_due_until_something_is_logged(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=10))
        await bench.append("t", "1", clock_ms=0)
        await bench.log.prune(20_000)
        assert await bench.due_ms("t") == float("inf")
        assert await bench.log.prune(10**12) is None
        await bench.append("t", "2", clock_ms=50_000)
        assert await bench.due_ms("t") == 70_000

    run(server, test)


def test_the_clock_of_pruning_is_the_latest_that_anybody_has_told(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=10))
        await bench.append("t", "1", "2", clock_ms=0)
        await bench.join(clock_ms=100_000)
        assert await bench.prune("t", 20_000) == 1

    run(server, test)


def test_of_members_that_prune_at_once_one_does(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=10))
        await bench.append("t", "1", "2", clock_ms=0)
        key = bench.connection.key
        names = ("log", "messages", "marks", "lanes", "logged", "places")
        keys = [*(key(name, "t") for name in names), key("clock"), key("due")]
        command = bench.connection.script("prune", keys, "t", 20_000, 1, "", 0)
        assert await bench.connection.pipeline([command]) == [1]
        await bench.ask("ZADD", "due", 20_001, "t")
        assert await bench.connection.pipeline([command]) == [-1], "another one has"
        assert await bench.bounds("t") == (2, 2)

    run(server, test)


def test_repeats_are_forgotten_with_the_log_idle(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=1))
        await bench.append_items("t", *(item("", f"key {n}") for n in range(1500)))
        await bench.prune("t", 60_000)
        assert await bench.ask("ZCARD", "logged", topic="t") == 1500
        assert await bench.due_ms("t") == 62_000, "there is something to forget still"
        await bench.prune("t", 120_000)
        assert await bench.ask("ZCARD", "logged", topic="t") == 500
        assert await bench.due_ms("t") == 120_000, "and at once again"
        await bench.prune("t", 120_000)
        assert await bench.keys() & {"logged:t", "places:t", "messages:t"} <= {"messages:t"}
        assert await bench.due_ms("t") == float("inf")

    run(server, test)


def test_a_log_that_ended_is_not_due_any_more(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append("t", "1", clock_ms=0)
        await bench.one(unsubscribe("t", "alice"))
        assert await bench.due_ms("t") is None
        await bench.ask("ZADD", "due", 0, "gone")
        await bench.log.prune(10**9)
        assert await bench.due_ms("gone") is None

    run(server, test)


@given(
    steps=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 700)), min_size=1, max_size=12),
    positions=st.lists(st.integers(0, 50), max_size=3),
    max_age=st.integers(1, 4),
    later_ms=st.integers(0, 5000),
)
@on_shared
def test_exactly_what_nobody_needs_is_pruned(
    shared: Redis,
    steps: list[tuple[int, int]],
    positions: list[int],
    max_age: int,
    later_ms: int,
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_age=max_age))
        for number in range(len(positions)):
            await bench.begin("t", f"c{number}", "all", pull=True)
        clock_ms = 0
        logged_ms = []
        for count, passed_ms in steps:
            clock_ms += passed_ms
            await bench.append("t", *"x" * count, clock_ms=clock_ms)
            logged_ms += [clock_ms] * count
        positions_held = [min(position, len(logged_ms)) for position in positions]
        for number, position in enumerate(positions_held):
            await bench.fetch("t", f"c{number}", ack=position)
        clock_ms += later_ms
        await bench.ask("ZADD", "due", 0, "t")
        await bench.log.prune(clock_ms)
        old = sum(one < clock_ms - 1000 * max_age for one in logged_ms)
        forgotten = min([old, len(logged_ms) - 1, *positions_held])
        assert await bench.bounds("t") == (forgotten + 1, len(logged_ms))

    run(shared, test, next(namespaces))


# Acknowledging and purging


def test_an_acknowledgement_moves_the_position_and_never_back(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all", pull=True)
        await bench.append("t", *"12345")
        own = (await bench.state("t"))["epoch"]
        assert await bench.fetch("t", "alice") == ("ok", own, 1, 5, 0, 0)
        assert await bench.fetch("t", "alice", ack=3) == ("ok", own, 1, 5, 3, 0)
        assert await bench.fetch("t", "alice", ack=1) == ("ok", own, 1, 5, 3, 0)
        assert await bench.fetch("t", "alice", epoch=own, ack=5) == ("ok", own, 1, 5, 5, 0)
        assert await bench.fetch("t", "alice", ack=6) == ("ack", own, 1, 5, 5, 0)
        assert await bench.position("t", "alice") == 5

    run(server, test)


def test_only_a_pull_subscription_acknowledges(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all")
        await bench.append("t", "1")
        assert (await bench.fetch("t", "alice")).what == "ok"
        assert (await bench.fetch("t", "alice", ack=1)).what == "pull"
        assert (await bench.fetch("t", "nobody", ack=1)).what == "client"
        assert (await bench.fetch("t", "nobody", epoch="another")).what == "client"
        assert await bench.position("t", "alice") == 0

    run(server, test)


def test_a_purge_forgets_what_everybody_has_done_with_and_no_more(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all", pull=True)
        await bench.begin("t", "bob", "all", pull=True)
        await bench.append("t", *"12345")
        await bench.fetch("t", "alice", ack=4)
        assert (await bench.fetch("t", purge=5))[:4:2] == ("ok", 1)
        assert await bench.bounds("t") == (1, 5)
        await bench.fetch("t", "bob", ack=3)
        assert (await bench.fetch("t", purge=2)).first == 3
        assert (await bench.fetch("t", purge=1)).first == 3
        assert (await bench.fetch("t", "bob", ack=4, purge=5)).first == 5, "ack comes first"
        assert (await bench.fetch("t", purge=6)).what == "purge"
        assert await bench.bounds("t") == (5, 5)
        assert (await bench.state("t"))["dropped"] == 0

    run(server, test)


def test_what_is_refused_changes_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all", pull=True)
        await bench.append("t", *"123")
        assert (await bench.fetch("t", "alice", ack=1, purge=4)).what == "purge"
        assert (await bench.fetch("t", "alice", ack=4, purge=1)).what == "ack"
        assert (await bench.fetch("t", "alice", epoch="another", ack=1, purge=1)).what == "epoch"
        assert await bench.position("t", "alice") == 0
        assert await bench.bounds("t") == (1, 3)

    run(server, test)


def test_a_log_that_was_purged_to_its_end_goes_on(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_bytes=10))
        await bench.append("t", "12345", "6789", clock_ms=0)
        assert (await bench.fetch("t", purge=2)).first == 3
        assert await bench.bounds("t") == (3, 2)
        assert await bench.append("t", "1234567890", clock_ms=5000) == [3]
        assert await bench.bounds("t") == (3, 3), "what is forgotten takes no room"
        assert await bench.due_ms("t") == 60_000

    run(server, test)
