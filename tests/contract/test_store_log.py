"""Logs in a store, on real servers and without a worker: numbers, epochs, repeats, caps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.logs import LogBench, item, retain, run
from support.servers import Redis

from gearhorn.messages.codec import encode
from gearhorn.messages.logs import Info, Logged
from gearhorn.store.log import Item

pytest_plugins = ["support.store"]
REMEMBERED_MS = 120_000
namespaces = (f"test{number}" for number in itertools.count())
on_shared = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Numbers


def test_a_topic_without_a_log_logs_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        assert await bench.append_items("t", item("1")) is None
        assert await bench.log.describe(["t"]) == [None]
        assert await bench.log.fetch("t", "", epoch="", ack=None, purge=None) is None
        await bench.begin("u", "alice")
        found = await bench.log.append(bench.log.number({"t": [item("1")], "u": [item("1")]}), 0)
        assert (found["t"], found["u"]) == (None, [Logged(1, await epoch(bench, "u"), False)])
        assert await bench.keys() & {"log:t", "messages:t"} == set()

    run(server, test)


async def epoch(bench: LogBench, topic: str) -> str:
    one: str = (await bench.state(topic))["epoch"]
    return one


def test_messages_are_numbered_from_1_without_gaps_each_topic_by_itself(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        for topic in ("t", "u"):
            await bench.begin(topic, "alice")
        assert await bench.bounds("t") == (1, 0)
        assert await bench.append("t", "a") == [1]
        assert await bench.append("t", "b", "c", "d") == [2, 3, 4]
        assert await bench.append("u", "e") == [1]
        assert await bench.append("t", "f") == [5]
        assert await bench.bounds("t") == (1, 5)
        assert await epoch(bench, "t") != await epoch(bench, "u")

    run(server, test)


def test_a_log_gives_back_what_was_logged(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t ü", "alice")
        info = Info(1.5, "ü", ("bob", "carol"), "process")
        payloads = [b"", b"\0\xff\r\n", bytes(100_000)]
        await bench.append_items("t ü", *(("", encode(info), one) for one in payloads))
        found = await bench.log.read("t ü", 1, 10)
        assert [one.payload for one in found] == payloads
        assert [one.info for one in found] == [info] * 3
        assert {one.epoch for one in found} == {await epoch(bench, "t ü")}
        assert [one.sequence for one in await bench.log.read("t ü", 2, 1)] == [2]
        assert await bench.log.read("t ü", 4, 10) == []

    run(server, test)


def test_what_is_read_at_once_has_at_most_8_mib_of_payloads_but_one_message(
    server: Redis,
) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        mib = 1024 * 1024
        for size in (8 * mib + 1, 4 * mib, 4 * mib, 1, 0):
            await bench.append("t", bytes(size))
        parts = [await bench.log.read("t", first, 100) for first in range(1, 7)]
        found = [[one.sequence for one in part] for part in parts]
        assert found == [[1], [2, 3], [3, 4, 5], [4, 5], [5], []]

    run(server, test)


# Repeats


def test_the_same_unique_is_logged_once_within_120_s_of_the_members_clock(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        own = await epoch(bench, "t")
        once = item("a", "key")

        async def logged(clock_ms: int, one: Item = once) -> Logged:
            found = await bench.append_items("t", one, clock_ms=clock_ms)
            assert found is not None
            return found[0]

        assert await logged(1000) == Logged(1, own, False)
        assert await logged(1000) == Logged(1, own, True)
        assert await logged(1000, item("another payload", "key")) == Logged(1, own, True)
        assert await logged(1000, item("a", "other")) == Logged(2, own, False)
        assert await logged(1000 + REMEMBERED_MS - 1) == Logged(1, own, True), "no time is added"
        assert await logged(1000 + REMEMBERED_MS) == Logged(3, own, False)
        assert await logged(1000 + REMEMBERED_MS) == Logged(3, own, True)
        assert await bench.bounds("t") == (1, 3)

    run(server, test)


def test_the_clock_of_repeats_is_the_latest_that_anybody_has_told(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append_items("t", item("a", "key"), clock_ms=1000)
        await bench.join(clock_ms=1000 + REMEMBERED_MS)
        [again] = await bench.append_items("t", item("a", "key"), clock_ms=1000) or []
        assert (again.sequence, again.is_repeat) == (2, False)

    run(server, test)


def test_repeats_are_known_within_one_call_and_only_within_one_topic(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        for topic in ("t", "u"):
            await bench.begin(topic, "alice")
        items = [item("a", "key"), item("b"), item("a", "key"), item("b"), item("c", "other")]
        found = await bench.append_items("t", *items)
        assert found is not None
        expected = [(1, False), (2, False), (1, True), (3, False), (4, False)]
        assert [(one.sequence, one.is_repeat) for one in found] == expected
        assert await bench.append_items("u", *items[:1]) == [
            Logged(1, await epoch(bench, "u"), False)
        ]

    run(server, test)


def test_a_repeat_of_what_the_log_has_forgotten_is_still_one(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.one(retain("t", max_messages=1))
        first = await bench.append_items("t", item("a", "key"))
        await bench.append("t", "b")
        assert await bench.bounds("t") == (2, 2)
        again = await bench.append_items("t", item("a", "key"))
        assert first is not None
        assert again == [first[0]._replace(is_repeat=True)]

    run(server, test)


def test_what_tells_repeats_does_not_pile_up(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append_items("t", *(item("a", f"key {n}") for n in range(300)))

        async def remembered() -> int:
            count: int = await bench.ask("ZCARD", "logged", topic="t")
            assert await bench.ask("HLEN", "places", topic="t") == count
            return count

        assert await remembered() == 300
        await bench.append_items("t", item("a", "new"), clock_ms=REMEMBERED_MS)
        assert await remembered() == 301 - 102, "some go with every message"
        [again] = await bench.append_items("t", item("a", "key 299"), clock_ms=REMEMBERED_MS) or []
        assert not again.is_repeat, "what is too old is no repeat, though it is still there"
        before = await remembered()
        await bench.append("t", "a", clock_ms=REMEMBERED_MS)
        assert await remembered() == before, "nothing comes, so nothing piles up"
        for word in ("more", "most"):
            await bench.append_items("t", item("a", word), clock_ms=REMEMBERED_MS)
        assert await remembered() == 4

    run(server, test)


def test_ten_thousand_old_uniques_are_forgotten_by_a_big_append(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        for part in range(20):
            items = [item("", f"{part} {n}") for n in range(500)]
            await bench.append_items("t", *items)
        items = [item("", f"new {n}") for n in range(500)]
        await bench.append_items("t", *items, clock_ms=REMEMBERED_MS)
        assert await bench.ask("ZCARD", "logged", topic="t") == 10_000 - 1100 + 500

    run(server, test)


# Epochs


def test_another_server_begins_another_epoch_and_the_numbers_go_on(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append_items("t", item("a", "key"))
        old = await epoch(bench, "t")
        await bench.restart("t")
        found = await bench.append_items("t", item("b"), item("a", "key"), item("c"))
        new = await epoch(bench, "t")
        assert new != old
        assert found == [Logged(2, new, False), Logged(1, old, True), Logged(3, new, False)]
        state = await bench.state("t")
        assert (state["base"], state["run"]) == (2, bench.connection.run_id)
        assert [one.epoch for one in await bench.log.read("t", 1, 9)] == [old, new, new]
        assert await bench.append("t", "d") == [4]
        assert await epoch(bench, "t") == new, "once"

    run(server, test)


def test_a_tail_that_was_lost_gets_its_numbers_under_another_epoch(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.append("t", "a", "b")
        [backup] = await bench.connection.pipeline([("HGETALL", bench.connection.key("log", "t"))])
        lost = await bench.append_items("t", item("lost"))
        # what a restart without persistence leaves behind
        await bench.ask("XDEL", "messages", "3-0", topic="t")
        await bench.ask("DEL", "messages", topic="t")
        fields = [part for pair in backup.items() for part in pair]
        await bench.ask("HSET", "log", *fields, topic="t")
        await bench.restart("t")
        assert lost is not None
        [found] = await bench.append_items("t", item("new")) or []
        assert found.sequence == lost[0].sequence
        assert found.epoch != lost[0].epoch
        assert (await bench.state("t"))["base"] == 3

    run(server, test)


def test_a_repeat_alone_begins_another_epoch_too(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        first = await bench.append_items("t", item("a", "key"))
        await bench.restart("t")
        again = await bench.append_items("t", item("a", "key"))
        assert first is not None
        assert again == [first[0]._replace(is_repeat=True)]
        state = await bench.state("t")
        assert state["epoch"] != first[0].epoch
        assert state["base"] == 2

    run(server, test)


def test_a_reader_that_knows_another_epoch_is_told_and_changes_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", pull=True)
        await bench.append("t", "a", "b")
        old = await epoch(bench, "t")
        await bench.restart("t")
        await bench.append("t", "c")
        place = await bench.fetch("t", "alice", epoch=old, ack=2, purge=2)
        assert place == ("epoch", await epoch(bench, "t"), 1, 3, 0, 0)
        assert await bench.position("t", "alice") == 0
        assert await bench.bounds("t") == (1, 3)

    run(server, test)


# Caps


@pytest.mark.parametrize("most", [1, 3, 10])
def test_a_log_keeps_the_newest_max_messages(server: Redis, most: int) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.one(retain("t", max_messages=most))
        for number in range(1, 13):
            await bench.append("t", "x")
            assert await bench.bounds("t") == (max(1, number - most + 1), number)
        await bench.append("t", *"yyyyy")
        assert await bench.bounds("t") == (17 - most + 1, 17)
        assert (await bench.state("t"))["dropped"] == 17 - most

    run(server, test)


def test_a_log_keeps_the_newest_max_bytes_of_payloads(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.one(retain("t", max_bytes=100))
        await bench.append("t", bytes(60), bytes(40))
        assert await bench.bounds("t") == (1, 2), "exactly"
        await bench.append("t", b"")
        assert await bench.bounds("t") == (1, 3), "nothing takes no room"
        await bench.append("t", b"1")
        assert await bench.bounds("t") == (2, 4)
        await bench.append("t", bytes(99))
        assert await bench.bounds("t") == (3, 5)
        state = await bench.state("t")
        assert state["bytes"] - state["floor"] <= 100

    run(server, test)


def test_the_newest_message_stays_whatever_its_size(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        await bench.one(retain("t", max_bytes=100))
        for number in range(1, 4):
            await bench.append("t", bytes(1000 * number))
            assert await bench.bounds("t") == (number, number)
        await bench.append("t", b"small")
        assert await bench.bounds("t") == (4, 4)
        await bench.append("t", b"small", bytes(200))
        assert await bench.bounds("t") == (6, 6)
        assert (await bench.state("t"))["dropped"] == 5

    run(server, test)


@given(
    calls=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=8),
    most=st.integers(1, 12),
    size=st.integers(1, 120),
)
@on_shared
def test_caps_are_exact(shared: Redis, calls: list[list[int]], most: int, size: int) -> None:
    async def test(bench: LogBench) -> None:
        await bench.one(retain("t", max_messages=most, max_bytes=size))
        kept: list[tuple[int, int]] = []
        count = 0
        for call in calls:
            await bench.append("t", *map(bytes, call))
            kept += [(count + at, one) for at, one in enumerate(call, 1)]
            count += len(call)
            while len(kept) > most or (len(kept) > 1 and sum(one for _, one in kept) > size):
                kept.pop(0)
            state = await bench.state("t")
            assert await bench.bounds("t") == (kept[0][0], count)
            assert state["bytes"] - state["floor"] == sum(one for _, one in kept)
            assert state["dropped"] == kept[0][0] - 1

    run(shared, test, next(namespaces))


def test_a_log_that_has_seen_a_hundred_terabytes_is_like_any_other(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice", "all")
        passed = 10**14 + 7
        await bench.ask("HSET", "log", "bytes", passed, "floor", passed, topic="t")
        await bench.one(retain("t", max_bytes=10))
        for number in range(1, 8):
            await bench.append("t", bytes(4), clock_ms=1000 * number)
            assert await bench.bounds("t") == (max(1, number - 1), number)
        await bench.begin("t", "bob", {"window": 1.0}, clock_ms=7000)
        assert await bench.position("t", "bob") == 5
        state = await bench.state("t")
        assert state["bytes"] - state["floor"] == 8

    run(server, test)
