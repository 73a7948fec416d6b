"""Log messages in memory: what is kept, what goes first, and what follows without a gap."""

from __future__ import annotations

import random

from support.windows import EPOCH, entries, entry

from gearhorn.durable.entries import ENTRY_BYTES, Entries
from gearhorn.store.log import Entry

SIZE = ENTRY_BYTES + 1  # of an entry with a payload of one byte


def run(cache: Entries, topic: str, first: int, count: int) -> list[int]:
    """The sequences that are found."""
    found = cache.run(topic, first, count)
    return [one.sequence for one in found]


def test_entries_that_follow_each_other_are_found_up_to_the_count() -> None:
    cache = Entries()
    cache.add("t", entries(3, 9))
    assert run(cache, "t", 3, 3) == [3, 4, 5]
    assert run(cache, "t", 8, 1) == [8]
    assert run(cache, "t", 8, 100) == [8, 9]
    assert run(cache, "t", 10, 5) == []
    assert run(cache, "t", 10, 1) == []


def test_a_run_ends_at_the_first_entry_that_is_not_there() -> None:
    cache = Entries()
    cache.add("t", [*entries(1, 2), *entries(4, 5)])
    assert run(cache, "t", 1, 10) == [1, 2]
    assert run(cache, "t", 3, 10) == []
    assert run(cache, "t", 4, 10) == [4, 5]


def test_runs_go_on_where_another_read_began() -> None:
    cache = Entries()
    cache.add("t", entries(5, 8))
    cache.add("t", entries(1, 4))
    assert run(cache, "t", 2, 6) == [2, 3, 4, 5, 6, 7]


def test_topics_know_nothing_of_each_other() -> None:
    cache = Entries()
    cache.add("t", entries(1, 2))
    cache.add("u", entries(2, 3))
    assert run(cache, "t", 1, 9) == [1, 2]
    assert run(cache, "u", 2, 9) == [2, 3]
    assert run(cache, "v", 1, 9) == []


def test_what_was_found_is_what_was_added() -> None:
    cache = Entries()
    one = entry(1, "somebody", epoch=EPOCH, payload=b"x")
    cache.add("t", [one])
    assert cache.run("t", 1, 1) == [one]


def test_nothing_is_added_for_a_read_that_found_nothing() -> None:
    cache = Entries(0)
    cache.add("t", entries(1, 1))
    cache.add("u", [])
    assert run(cache, "t", 1, 1) == [1]


def test_what_was_read_longest_ago_goes_first() -> None:
    cache = Entries(4 * SIZE)
    cache.add("t", entries(1, 2))
    cache.add("u", entries(1, 2))
    assert run(cache, "t", 1, 2) == [1, 2], "the bound is what fits exactly"
    cache.add("v", entries(1, 1))
    assert run(cache, "t", 1, 2) == []
    assert run(cache, "u", 1, 2) == [1, 2]
    cache.add("t", entries(3, 4))
    assert run(cache, "u", 1, 2) == []
    assert run(cache, "v", 1, 1) == [1]
    assert run(cache, "t", 3, 2) == [3, 4]


def test_payloads_count() -> None:
    cache = Entries(100_000)
    for number in range(1, 6):
        cache.add("t", [entry(number, payload=bytes(30_000))])
    assert [number for number in range(1, 6) if run(cache, "t", number, 1)] == [3, 4, 5]


def test_one_read_stays_whatever_its_size() -> None:
    cache = Entries(10)
    cache.add("t", entries(1, 1))
    cache.add("t", [entry(2, payload=bytes(5000)), entry(3)])
    assert run(cache, "t", 1, 1) == []
    assert run(cache, "t", 2, 2) == [2, 3]


def test_what_was_read_again_stays_when_the_former_read_goes() -> None:
    cache = Entries(2 * SIZE)
    cache.add("t", entries(1, 2))
    cache.add("t", entries(2, 3))
    assert run(cache, "t", 1, 1) == []
    assert run(cache, "t", 2, 2) == [2, 3]
    cache.add("t", entries(2, 3))
    assert run(cache, "t", 2, 2) == [2, 3]
    cache.add("u", entries(1, 1))
    assert run(cache, "t", 2, 1) == []
    assert run(cache, "u", 1, 1) == [1]


def test_a_message_that_was_read_again_is_the_new_one() -> None:
    cache = Entries()
    cache.add("t", [entry(1, payload=b"old")])
    cache.add("t", [entry(1, payload=b"new")])
    [found] = cache.run("t", 1, 1)
    assert found.payload == b"new"


def test_a_topic_that_is_forgotten_leaves_the_others_and_their_room() -> None:
    cache = Entries(4 * SIZE)
    cache.add("t", entries(1, 2))
    cache.add("u", entries(1, 2))
    cache.forget("t")
    cache.forget("never")
    assert run(cache, "t", 1, 2) == []
    assert run(cache, "u", 1, 2) == [1, 2]
    cache.add("t", [entry(1, payload=b"!"), entry(2, payload=b"!")])
    assert [one.payload for one in cache.run("t", 1, 2)] == [b"!", b"!"]
    assert run(cache, "u", 1, 2) == [1, 2], "what was forgotten takes no room"
    cache.add("v", entries(1, 1))
    assert run(cache, "u", 1, 2) == []
    assert run(cache, "t", 1, 2) == [1, 2]


def test_nothing_is_left_after_a_clear() -> None:
    cache = Entries(2 * SIZE)
    cache.add("t", entries(1, 2))
    cache.clear()
    assert run(cache, "t", 1, 2) == []
    cache.add("t", entries(1, 1))
    cache.add("t", entries(2, 2))
    assert run(cache, "t", 1, 2) == [1, 2]


def test_whatever_is_read_it_is_found_then_and_memory_is_bounded() -> None:
    chance = random.Random(20)
    cache = Entries(20 * (ENTRY_BYTES + 2))
    recent: list[tuple[str, list[Entry]]] = []
    for _ in range(3000):
        topic = chance.choice("tuv")
        if not chance.randrange(50):
            cache.forget(topic)
            recent = [read for read in recent if read[0] != topic]
            continue
        first = chance.randint(1, 60)
        read = entries(first, min(60, first + chance.randrange(12)))
        cache.add(topic, read)
        recent.append((topic, read))
        assert cache.run(topic, read[0].sequence, len(read)) == read
        while sum(len(some) for _, some in recent) > 20:
            recent.pop(0)
        for name, some in recent:
            kept_run = run(cache, name, some[0].sequence, len(some))
            assert kept_run == [one.sequence for one in some]
        kept = sum(bool(cache.run(name, n, 1)) for name in "tuv" for n in range(1, 61))
        assert kept <= 20


class Named(str):
    """A topic that counts how often a topic is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Named.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_forgetting_a_topic_costs_nothing_for_what_is_kept_of_others() -> None:
    cache = Entries()
    for number in range(2000):
        cache.add(Named(number % 100), entries(number + 1, number + 1))
    Named.compared = 0
    for number in range(50):
        cache.forget(Named(number))
    assert Named.compared <= 100, "each is looked up, and no read of another is looked at"
    assert run(cache, "50", 51, 1) == [51]
    assert run(cache, "49", 50, 1) == []


def test_what_is_forgotten_makes_room() -> None:
    cache = Entries(4 * SIZE)
    for first in (1, 2, 3):
        cache.add("t", entries(first, first))
    cache.add("u", entries(1, 1))
    cache.forget("t")
    for first in (2, 3, 4):
        cache.add("u", entries(first, first))
    assert run(cache, "u", 1, 9) == [1, 2, 3, 4]
    cache.add("t", entries(5, 5))
    assert run(cache, "u", 1, 1) == []
    assert run(cache, "t", 5, 1) == [5]


def test_single_entries_are_dropped_and_the_others_stay() -> None:
    cache = Entries(4 * SIZE)
    cache.add("t", entries(1, 4))
    cache.drop("t", [2, 9])
    cache.drop("u", [1])
    assert (run(cache, "t", 1, 9), run(cache, "t", 2, 9), run(cache, "t", 3, 9)) == (
        [1],
        [],
        [3, 4],
    )
    cache.add("t", entries(2, 2))
    assert run(cache, "t", 2, 9) == [2]
