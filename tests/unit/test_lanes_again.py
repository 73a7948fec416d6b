"""What a lane delivers again: messages that were put back, and batches that failed."""

from __future__ import annotations

import pytest
from support.windows import (
    EPOCH,
    entries,
    entry,
    finish,
    lane,
    send,
    sequences,
    settling,
    span,
    trouble,
)

from gearhorn.durable.delivery import JITTER
from gearhorn.durable.lanes import SPAN
from gearhorn.durable.states import Event, LaneEvent, State
from gearhorn.store.inherited import Sequences

OTHER = "fedcba9876543210"

# What was put back


def test_messages_that_were_put_back_come_before_the_log() -> None:
    one = lane(7, in_flight=2)
    one.redrives = Sequences([2, 5])
    assert one.room == 0
    one.redrives.popleft()
    one.take_redriven(entry(2), trouble(20), 0.0, 0)
    assert one.room == 0, "there are more"
    one.redrives.popleft()
    assert one.room == 1
    one.take(entries(8, 8), 0.0, 0)
    assert sequences(send(one)) == [[2], [8]]
    assert [delivery.is_redriven for delivery in one.window] == [True, False]


def test_a_message_that_was_put_back_leaves_the_position_where_it_is() -> None:
    one = lane(7, in_flight=2)
    one.take_redriven(entry(2, epoch=OTHER), trouble(20), 0.0, 0)
    one.take(entries(8, 8), 0.0, 0)
    redriven, eighth = send(one)
    finish(eighth)
    assert one.position == 7
    finish(redriven)
    assert (one.position, one.epoch) == (8, EPOCH)


def test_a_message_put_back_that_the_position_has_not_passed_moves_it_past_nothing() -> None:
    one = lane(3, in_flight=2)
    one.skip = [Sequences([5])]
    one.take_redriven(entry(5), trouble(20), 0.0, 0)
    finish(send(one)[0])
    assert one.position == 3
    one.take(entries(4, 5), 0.0, 0)
    assert sequences(one.window) == [[4]]
    finish(send(one)[0])
    assert one.position == 5


def test_a_position_moves_past_what_follows_a_message_that_was_put_back() -> None:
    one = lane(7)
    one.take_redriven(entry(2), trouble(20), 0.0, 0)
    one.pass_over(9, EPOCH)
    assert one.position == 7
    finish(send(one)[0])
    assert one.position == 9


def test_a_failure_of_before_it_was_parked_counts_no_more_when_a_message_was_put_back() -> None:
    """Its write was late: the message was parked by then."""
    one = lane(7, max_attempts=20)
    one.troubles = {2: trouble(19, due_ms=9_000)}
    assert one.take_redriven(entry(2), trouble(20), 0.0, 0) is None
    [delivery] = one.window
    assert (delivery.failures, delivery.since, delivery.is_last) == (20, 20, False)
    assert one.troubles == {}


def test_a_message_that_was_put_back_keeps_its_history_and_has_new_attempts() -> None:
    one = lane(7, max_attempts=2)
    one.take_redriven(entry(2), trouble(20), 0.0, 0)
    [delivery] = one.window
    assert (delivery.failures, delivery.since, delivery.is_last) == (20, 20, False)
    assert (delivery.first_at, delivery.error) == (5.0, "disk full")


def test_a_message_that_failed_again_under_a_former_owner_counts_on() -> None:
    one = lane(7, max_attempts=2)
    one.troubles = {2: trouble(21, since=20)}
    one.take_redriven(entry(2), trouble(20), 0.0, 0)
    [delivery] = one.window
    assert (delivery.failures, delivery.since, delivery.is_last) == (21, 20, True)
    assert one.troubles == {}


def test_what_was_put_back_and_failed_under_a_former_owner_rests_until_it_is_due() -> None:
    one = lane(7, max_backoff=10.0)
    one.troubles = {2: trouble(21, due_ms=9_000, since=20), 3: trouble(21, due_ms=10**12, since=20)}
    second = one.take_redriven(entry(2), trouble(20), 100.0, 5_000)
    third = one.take_redriven(entry(3), trouble(20), 100.0, 5_000)
    assert second is not None
    assert third is not None
    assert [delivery.state for delivery in one.window] == [State.RESTING, State.RESTING]
    assert second.due_s == pytest.approx(104.0)
    assert third.due_s == pytest.approx(100.0 + 10.0 * (1 + JITTER)), "a clock that fell back"
    assert send(one) == []


def test_so_much_that_was_put_back_is_taken_as_may_be_under_way() -> None:
    one = settling(7, in_flight=2)
    one.redrives = Sequences([1, 2, 3])
    assert one.redrive_room == 0, "it waits for the former owner's job"
    one.apply(LaneEvent.RELEASED)
    assert one.redrive_room == 2
    one.take_redriven(entry(one.redrives.popleft()), trouble(20), 0.0, 0)
    assert one.redrive_room == 1
    one.take_redriven(entry(one.redrives.popleft()), trouble(20), 0.0, 0)
    assert one.redrive_room == 0
    finish(send(one)[0])
    assert one.redrive_room == 1
    one.redrives.popleft()
    assert one.redrive_room == 0


def test_a_message_put_back_that_is_not_done_bounds_how_many_others_are_taken() -> None:
    one = lane(1000, in_flight=2)
    one.redrives = Sequences(range(1, 1000))
    while one.redrive_room:
        sequence = one.redrives.popleft()
        one.take_redriven(entry(sequence), trouble(20), 0.0, 0)
        for delivery in send(one):
            if sequence > 1:
                finish(delivery)
    assert span(one) == SPAN * 2
    assert one.active == 1


# A batch that failed


def test_a_batch_that_failed_is_tried_one_by_one() -> None:
    one = lane(in_flight=2, batch=3)
    one.take([*entries(1, 3), *entries(4, 6)], 0.0, 0)
    one.pass_over(7, OTHER)
    first, second = send(one)
    second.apply(Event.FAIL)
    second.failures, second.first_at, second.error, second.due_s = 1, 5.0, "disk full", 60.0
    singles = one.split(second)
    assert sequences(one.window) == [[1, 2, 3], [4], [5], [6]]
    assert list(one.window)[1:] == singles
    assert [delivery.through for delivery in singles] == [4, 5, 7]
    assert {delivery.state for delivery in singles} == {State.RESTING}
    told = [(single.failures, single.since, single.error) for single in singles]
    assert told == [(1, 0, "disk full")] * 3
    assert [(single.first_at, single.due_s) for single in singles] == [(5.0, 60.0)] * 3
    assert (one.active, one.room) == (4, 0)
    for single in singles:
        single.apply(Event.DUE)
    assert sequences(send(one)) == [[4]], "the first batch is under way still"
    finish(first)
    assert sequences(send(one)) == [[5]]
    positions = []
    for single in singles:
        send(one)
        finish(single)
        positions.append(one.position)
    assert positions == [4, 5, 7]
    assert (one.active, one.epoch, one.room) == (0, OTHER, 6)


def test_of_a_batch_that_failed_in_the_middle_of_a_window_the_order_stays() -> None:
    one = lane(in_flight=3, batch=2)
    one.take(entries(1, 6), 0.0, 0)
    first, second, third = send(one)
    finish(third)
    second.apply(Event.FAIL)
    one.split(second)
    assert sequences(one.window) == [[1, 2], [3], [4]], "5 and 6 are done"
    finish(first)
    assert (one.position, one.active) == (2, 2)
    third, fourth = one.window
    for single in (third, fourth):
        single.apply(Event.DUE)
        single.ship("job", 0.0)
        finish(single)
    assert (one.position, one.active, one.beyond) == (6, 0, 0)


def test_each_message_of_a_split_batch_waits_for_the_receiver_that_has_the_batch() -> None:
    one = lane(batch=2)
    one.take(entries(1, 2), 0.0, 0)
    [batch] = send(one)
    batch.apply(Event.TAKE)
    batch.apply(Event.EXPIRE)
    batch.keep_former("job", 1)
    singles = one.split(batch)
    assert batch.singles == singles
    assert [single.former for single in (batch, *singles)] == [(), ("job",), ("job",)]


def test_a_batch_that_was_split_puts_no_more_under_way_than_before() -> None:
    one = lane(in_flight=2, batch=2)
    one.take(entries(1, 3), 0.0, 0)
    first, second = send(one)
    first.apply(Event.FAIL)
    singles = one.split(first)
    for single in singles:
        single.apply(Event.DUE)
    assert sequences(send(one)) == [[1]], "3 is under way"
    finish(second)
    assert sequences(send(one)) == [[2]]


def test_a_message_of_a_split_batch_that_fails_again_holds_up_those_behind_it() -> None:
    one = lane(batch=2)
    one.take(entries(1, 2), 0.0, 0)
    [batch] = send(one)
    batch.apply(Event.FAIL)
    first, second = one.split(batch)
    first.apply(Event.DUE)
    second.apply(Event.DUE)
    assert send(one) == [first]
    first.apply(Event.FAIL)
    assert send(one) == []
    first.apply(Event.DUE)
    finish(send(one)[0])
    assert send(one) == [second]
