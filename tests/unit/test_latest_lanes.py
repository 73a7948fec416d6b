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
    kept = lane("k", in_flight=3)
    look(kept, [with_value(1, "a")])
    [first] = send(kept)
    kept.begin_round()
    look(kept, [with_value(2, "a"), with_value(3, "b"), with_value(4, "a")])
    assert list(kept.outdated) == [first]
    assert sequences(kept.sendable()) == [[3]], "the newest waits for what is under way"
    [other] = send(kept)
    finish(other)
    assert (kept.skipped, kept.position) == (0, 0)
    first.apply(Event.FAIL)
    first.count_failure("no", 1.0)
    assert sequences(kept.sendable()) == [[4]]
    first.apply(Event.SKIP)
    kept.give_way(first)
    assert (kept.position, kept.skipped, kept.beyond) == (3, 2, 0)
    assert not kept.outdated
    [newest] = send(kept)
    finish(newest)
    assert (kept.position, kept.skipped, kept.active) == (4, 2, 0)


def test_a_message_that_waits_for_its_own_value_holds_up_no_other() -> None:
    kept = lane("k", in_flight=2)
    look(kept, [with_value(1, "a"), with_value(2, "b")])
    _, other = send(kept)
    finish(other)
    kept.begin_round()
    look(kept, [with_value(4, "a"), with_value(5, "b"), with_value(6, "c")])
    assert sequences(kept.sendable()) == [[5]]


def test_what_was_done_under_a_former_owner_is_looked_for_however_far_it_is() -> None:
    kept = lane("k", in_flight=2)
    kept.troubles = {1: trouble(1, due_ms=9000)}
    kept.passed.extend((n, n) for n in (*range(3, 51), 60))
    kept.aim(60)
    values = [
        with_value(1, "bad"),
        with_value(2, "b"),
        *(with_value(n, f"v{n}") for n in range(3, 51)),
    ]
    kept.take(values, 0.0, 0)
    assert kept.beyond >= 32
    assert kept.sendable() == [], "60 may be newer than 2"
    assert kept.room
    kept.take([with_value(n, f"v{n}") for n in range(51, 60)], 0.0, 0)
    kept.take([with_value(60, "b")], 0.0, 0)
    assert [2] not in sequences(kept.sendable())
    assert kept.is_full, "the former bounds hold again"


def test_what_was_put_back_counts_once_while_it_rests() -> None:
    kept = lane(in_flight=2)
    kept.redrives = Sequences([1, 2, 3])
    kept.redrives.popleft()
    kept.take_redriven(entry(1), trouble(1), 0.0, 0)
    [one] = send(kept)
    one.apply(Event.FAIL)
    one.count_failure("no", 1.0)
    assert kept.redrive_room == 1


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


def test_with_strict_order_nothing_is_begun_before_the_store_has_what_was_acknowledged() -> None:
    kept = lane("k")
    look(kept, [with_value(1, "a")])
    [first] = send(kept)
    first.apply(Event.FAIL)  # it rests, and its receiver may still acknowledge
    look(kept, [with_value(2, "b")])
    assert kept.sendable() == []
    first.apply(Event.LATE)
    kept.done(first)
    assert kept.position == 1
    assert kept.sendable() == [], "in the middle of a round, which has not told it"
    kept.note_written(0, 0)
    assert kept.sendable() == []
    kept.note_written(1, 0)
    assert sequences(kept.sendable()) == [[2]]
    kept.adopt(DurableOptions(latest="k", in_flight=2), False)
    kept.done(kept.sendable()[0])
    look(kept, [with_value(3, "c")])
    assert sequences(kept.sendable()) == [[3]], "others may be under way anyhow"


def test_what_was_chosen_is_read_and_sent_before_the_lane_looks_again() -> None:
    kept = lane("k")
    look(kept, [with_value(1, "a"), with_value(2, "b")])
    assert not kept.goes_on(True), "both have payloads"
    kept.end_round()
    kept.begin_round()
    look(kept, [with_value(3, "b")])
    assert not kept.goes_on(False), "nothing can be sent at present"
    assert kept.goes_on(True), "the first one is to be read"
    kept.end_round()
    kept.begin_round()
    assert (kept.room, sequences(kept.sendable())) == (0, [[1]])
    [chosen] = kept.sendable()
    assert chosen.refill([with_value(1, "a")])
    chosen.ship(("shipment", 0), 0.0)
    assert kept.goes_on(True), "it may have missed what came meanwhile"
    kept.end_round()
    kept.begin_round()
    assert not kept.has_looked
    assert not kept.goes_on(True)


def test_what_is_outdated_is_not_sent_however_long_it_stays() -> None:
    kept = lane(in_flight=2)
    waiting = [entry(1), entry(2)]
    for one in waiting:
        one.info = Info(0.0, waiter="process")
    look(kept, waiting)
    assert sequences(kept.window) == [[1], [2]], "who waits for the first is to be told"
    assert sequences(kept.sendable()) == [[2]]


def test_a_lane_keeps_its_goal_while_it_comes_closer_and_no_longer() -> None:
    kept = lane()
    kept.aim(6)
    kept.take(entries(1, 3), 0.0, 0)
    assert not kept.goes_on(True)
    kept.end_round()
    kept.begin_round()
    kept.aim(99)
    kept.take(entries(4, 6), 0.0, 0)
    assert kept.has_looked, "however much came behind it"
    kept.end_round()
    kept.begin_round()
    kept.aim(8)
    kept.take(entries(7, 7), 0.0, 0)
    kept.end_round()  # the round has failed
    kept.begin_round()
    kept.aim(9)
    kept.take(entries(8, 8), 0.0, 0)
    assert not kept.has_looked, "the store may have been away for long"
