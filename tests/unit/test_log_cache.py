"""What lanes deliver from: what is read in one round, and what is taken at once."""

from __future__ import annotations

from support.windows import EPOCH, entries, entry

from gearhorn.durable.log_cache import (
    FIRST_READS,
    MAX_ENTRIES,
    READ_ENTRIES,
    ROUND_BYTES,
    ROUND_ENTRIES,
    RUN_BYTES,
    RUN_ENTRIES,
    LogCache,
)


def test_a_lane_with_room_for_a_million_has_a_few_thousand_read() -> None:
    cache = LogCache()
    cache.follow("t", EPOCH)
    [wanted] = cache.plan({"t": {1: 1_000_000}}).reads
    assert (wanted.first, wanted.limit) == (1, MAX_ENTRIES)
    reads = cache.plan({"t": dict.fromkeys(range(1, 10**6, 10000), 1000000)}).reads
    assert sum(wanted.limit for wanted in reads) <= ROUND_ENTRIES + MAX_ENTRIES
    reads = cache.plan({f"t{number}": {1: 1} for number in range(100)}).reads
    assert [wanted.limit for wanted in reads] == [READ_ENTRIES] * FIRST_READS


def test_fewer_parts_are_read_while_they_turn_out_to_be_large() -> None:
    cache = LogCache()
    topics = [f"t{number}" for number in range(100)]
    for topic in topics:
        cache.follow(topic, EPOCH)

    def reads(payload: bytes) -> int:
        plan = cache.plan({topic: {1: 1} for topic in topics})
        cache.take_in(plan, [([entry(1, payload=payload)], True) for _ in plan.reads])
        return len(plan.reads)

    large = b"x" * (ROUND_BYTES // 2)
    assert [reads(b"small") for _ in range(5)] == [4, 8, 16, 32, 32]
    assert [reads(large) for _ in range(6)] == [32, 16, 8, 4, 2, 4]


def test_a_lane_takes_a_few_thousand_at_once() -> None:
    cache = LogCache()
    cache.follow("t", EPOCH)
    plan = cache.plan({"t": {1: 10_000}})
    cache.take_in(plan, [(entries(1, 10_000), True)])
    assert len(cache.run("t", 1, 1_000_000)) == RUN_ENTRIES
    assert len(cache.run("t", 9_999, 1_000_000)) == 2


def test_a_lane_takes_a_mebibyte_at_once_or_one_message() -> None:
    cache = LogCache()
    cache.follow("t", EPOCH)
    plan = cache.plan({"t": {1: 10}})
    sizes = [RUN_BYTES // 2, RUN_BYTES // 2, 1, RUN_BYTES + 1, 1]
    some = [entry(number, payload=bytes(size)) for number, size in enumerate(sizes, 1)]
    cache.take_in(plan, [(some, True)])
    assert [len(cache.run("t", first, 10)) for first in range(1, 6)] == [2, 2, 1, 1, 1]


def test_what_was_read_of_a_log_is_not_taken_for_that_of_another_one() -> None:
    cache = LogCache()
    cache.follow("t", EPOCH)
    cache.take_in(cache.plan({"t": {1: 10}}), [(entries(1, 3), True)])
    cache.follow("t", EPOCH)
    assert len(cache.run("t", 1, 10)) == 3
    under_way = cache.plan({"t": {4: 10}})
    cache.follow("t", "another")
    cache.take_in(under_way, [(entries(4, 5), True)])
    assert not cache.run("t", 1, 10)
    assert not cache.run("t", 4, 10)
    assert not cache.is_at_end("t", 1)
    cache.forget("t")
    cache.take_in(cache.plan({"t": {1: 10}}), [(entries(1, 1), True)])
    cache.follow("t", "another")
    assert len(cache.run("t", 1, 10)) == 1


def test_where_a_log_begins_is_news_once() -> None:
    cache = LogCache()
    assert not cache.begins("t", 5), "it is not delivered from"
    cache.follow("t", EPOCH)
    assert [cache.begins("t", first) for first in (0, 5, 5, 4, 6)] == [
        False,
        True,
        False,
        False,
        True,
    ]
