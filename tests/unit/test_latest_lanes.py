"""Lanes that want the latest message only: what takes whose place, and what is counted when."""

from __future__ import annotations

from typing import Any

import pytest
from support.windows import CLIENT, EPOCH, entries, entry, finish, send, sequences, trouble

from gearhorn.durable.lanes import Lane
from gearhorn.durable.latest_lanes import CANDIDATES, LatestLane, lane_class, wants_more
from gearhorn.durable.states import Event, LaneEvent
from gearhorn.messages.logs import Info
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences
from gearhorn.store.log import Entry


def lane(latest: bool | str = True, **options: Any) -> LatestLane:
    """A lane that delivers, and has begun a round."""
    kept = LatestLane("t", CLIENT, b"t_me", DurableOptions(latest=latest, **options), False, 1, 0)
    kept.apply(LaneEvent.RELEASED)
    kept.begin_round()
    return kept


def with_value(sequence: int, value: str = "", expires_ms: int = 0) -> Entry:
    """A message with a header, or without."""
    info = Info(0.0, headers={"k": value} if value else None, expires_ms=expires_ms)
    return Entry(sequence, EPOCH, info, b"x")


def look(kept: LatestLane, found: list[Entry]) -> None:
    """Look at these messages, behind which there are no more."""
    kept.aim(found[-1].sequence)
    kept.take(found, 0.0, 1000)


def test_the_kind_of_lane_follows_from_the_options() -> None:
    assert lane_class(DurableOptions()) is Lane
    assert lane_class(DurableOptions(latest=True)) is LatestLane
    assert lane_class(DurableOptions(latest="k")) is LatestLane


def test_the_newest_is_sent_and_the_others_are_counted_with_the_position() -> None:
    kept = lane()
    look(kept, entries(1, 5))
    assert (kept.position, kept.unwritten_skips) == (4, 4)
    [delivery] = send(kept)
    assert delivery.sequence == 5
    finish(delivery)
    assert (kept.position, kept.skipped, kept.ahead) == (5, 4, [])
    kept.note_skipped(4)
    assert kept.unwritten_skips == 0


def test_nothing_is_sent_before_the_goal_and_what_comes_later_is_for_the_next_round() -> None:
    kept = lane()
    kept.aim(None)
    kept.take(entries(1, 3), 0.0, 0)
    assert not kept.has_looked
    assert kept.sendable() == []
    kept.aim(5)
    kept.aim(9)  # the first one counts
    kept.take(entries(4, 5), 0.0, 0)
    assert sequences(kept.sendable()) == [[5]]
    kept.begin_round()
    assert kept.sendable() == []
    kept.aim(9)
    kept.take(entries(6, 8), 0.0, 0)
    kept.reach_end()
    assert sequences(kept.sendable()) == [[8]]


def test_of_each_value_the_newest_in_their_order() -> None:
    kept = lane("k", in_flight=9)
    values = ("a", "b", "", "a", "c", "", "b")
    look(kept, [with_value(at, value) for at, value in enumerate(values, 1)])
    assert sequences(kept.sendable()) == [[4], [5], [6], [7]]
    assert kept.skipped == 3


def test_excluded_and_expired_messages_take_the_place_of_none() -> None:
    kept = lane()
    look(kept, [entry(1), entry(2, CLIENT), with_value(3, expires_ms=1)])
    assert sequences(kept.sendable()) == [[1]]
    assert (kept.skipped, kept.expired.count) == (0, 1)


@pytest.mark.parametrize("where", ["ahead", "parked"])
def test_what_was_done_under_a_former_owner_takes_the_place_of_what_is_before_it(
    where: str,
) -> None:
    kept = lane(in_flight=2)
    if where == "ahead":
        kept.passed.append((3, 3))
    else:
        kept.skip = [Sequences([3])]
    look(kept, entries(1, 3))
    assert (kept.sendable(), kept.position, kept.skipped) == ([], 3, 2)


def test_what_is_under_way_is_outdated_and_counts_once_it_has_failed() -> None:
    kept = lane(in_flight=2)
    look(kept, entries(1, 1))
    [first] = send(kept)
    kept.begin_round()
    look(kept, entries(2, 4))
    assert list(kept.outdated) == [first]
    [second] = [one for one in kept.sendable() if one is not first]
    assert (second.sequence, kept.skipped, kept.position) == (4, 0, 0)
    second.ship(("shipment", 1), 0.0)
    finish(second)
    assert kept.skipped == 0, "the position has not moved over them"
    first.apply(Event.FAIL)
    first.count_failure("no", 1.0)
    first.apply(Event.SKIP)
    kept.give_way(first)
    assert (kept.position, kept.skipped, kept.active, kept.beyond) == (4, 3, 0, 0)
    assert not kept.outdated


def test_what_has_failed_before_gives_way_through_the_shell() -> None:
    kept = lane()
    kept.troubles = {1: trouble(1, due_ms=9000)}
    kept.aim(2)
    [resting] = kept.take(entries(1, 1), 0.0, 1000)
    assert kept.room
    assert wants_more(kept)
    kept.take(entries(2, 2), 0.0, 1000)
    assert list(kept.outdated) == [resting], "what it left in the store has to be cleared"


def test_what_was_put_back_is_sent_first_whatever_is_newer() -> None:
    kept = lane()
    look(kept, entries(1, 2))
    kept.redrives = Sequences([7])
    assert (kept.room, kept.redrive_room) == (0, 1)
    kept.redrives.popleft()
    kept.take_redriven(entry(7), trouble(3), 0.0, 0)
    assert sequences(kept.window) == [[7], [2]]
    assert sequences(kept.sendable()) == [[7]]


def test_a_lane_looks_ahead_so_far_and_no_further() -> None:
    kept = lane("k")
    kept.aim(10**6)
    first = 1
    while kept.room:
        some = range(first, first + 100)
        kept.take([with_value(at, f"{at}") for at in some], 0.0, 0)
        first += 100
    assert CANDIDATES <= kept.active <= CANDIDATES + 101
    assert kept.is_full
    assert sequences(kept.sendable()) == [[1]]
    kept.clear()
    assert kept.active == 0
