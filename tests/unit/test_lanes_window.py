"""What a lane takes from its log, in which order it sends, and where its position stands."""

from __future__ import annotations

import pytest
from support.windows import (
    CLIENT,
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
from gearhorn.durable.lanes import SPAN, Lane
from gearhorn.durable.states import Event, LaneEvent, State
from gearhorn.store.inherited import Sequences

OTHER = "fedcba9876543210"


def rest(one: Lane) -> list[State]:
    """The states in the window."""
    return [delivery.state for delivery in one.window]


# Room


@pytest.mark.parametrize(("in_flight", "batch"), [(1, 1), (64, 1), (1, 10), (3, 2)])
def test_an_open_lane_has_room_for_what_may_be_under_way(in_flight: int, batch: int) -> None:
    assert lane(in_flight=in_flight, batch=batch).room == in_flight * batch


@pytest.mark.parametrize(
    ("in_flight", "batch", "room"),
    [(10_000, 1, 10_000), (10_000, 2, 20_000), (100, 10_000, 200_000), (10_000, 1000, 20_000)],
)
def test_so_many_messages_are_under_way_in_batches_at_most(
    in_flight: int, batch: int, room: int
) -> None:
    """A batch has 1,000 messages at most, whatever is allowed."""
    assert lane(in_flight=in_flight, batch=batch).room == room


def test_only_an_open_lane_has_room_and_sends() -> None:
    one = settling(in_flight=2)
    assert one.room == 0
    one.apply(LaneEvent.RELEASED)
    assert one.room == 2
    one.take(entries(1, 2), 0.0, 0)
    assert sequences(one.sendable()) == [[1], [2]]
    one.apply(LaneEvent.CLOSE)
    assert (one.room, list(one.sendable())) == (0, [])
    one.apply(LaneEvent.FENCE)
    assert (one.room, list(one.sendable())) == (0, [])


def test_what_is_under_way_takes_room_until_it_is_done() -> None:
    one = lane(in_flight=3, batch=2)
    one.take(entries(1, 4), 0.0, 0)
    assert (one.active, one.room) == (2, 2)
    first, _ = send(one)
    assert one.room == 2
    finish(first)
    assert (one.active, one.room) == (1, 4)


def test_what_rests_or_is_being_parked_takes_room() -> None:
    one = lane(in_flight=2)
    one.take(entries(1, 2), 0.0, 0)
    first, second = send(one)
    first.apply(Event.FAIL)
    second.apply(Event.GIVE_UP)
    assert rest(one) == [State.RESTING, State.PARKING]
    assert (one.room, send(one)) == (0, [])


def test_an_old_message_that_is_not_done_bounds_how_far_a_lane_goes_ahead() -> None:
    one = lane(in_flight=2)
    one.take(entries(1, 1), 0.0, 0)
    while one.room:
        one.take(entries(one.next, one.next), 0.0, 0)
        for delivery in send(one)[-1:]:
            if delivery.sequence > 1:
                finish(delivery)
    assert (one.position, one.active, span(one)) == (0, 1, SPAN * 2)
    [first] = one.window
    finish(first)
    assert (one.position, one.active, span(one), one.room) == (SPAN * 2, 0, 0, 2)


def test_a_lane_counts_the_jobs_that_are_with_the_job_servers() -> None:
    one = lane(in_flight=2)
    assert one.under_way == 0
    one.take(entries(1, 2), 0.0, 0)
    assert one.under_way == 0
    first, second = send(one)
    first.apply(Event.TAKE)
    assert one.under_way == 2
    finish(first)
    assert one.under_way == 1
    second.apply(Event.FAIL)
    assert one.under_way == 0


# Sending


def test_with_in_flight_1_the_next_message_waits_until_the_one_before_is_done() -> None:
    one = lane(in_flight=1)
    one.take(entries(1, 1), 0.0, 0)
    [first] = send(one)
    assert (send(one), one.room) == ([], 0)
    first.apply(Event.FAIL)
    assert (send(one), one.room) == ([], 0), "a message that fails blocks the subscription"
    first.apply(Event.DUE)
    assert send(one) == [first]
    finish(first)
    one.take(entries(2, 2), 0.0, 0)
    assert sequences(send(one)) == [[2]]


def test_with_in_flight_64_so_many_go_out_and_each_that_is_done_lets_one_more_go() -> None:
    one = lane(in_flight=64)
    one.take(entries(1, 64), 0.0, 0)
    sent = send(one)
    assert sequences(sent) == [[number] for number in range(1, 65)]
    assert (send(one), one.room) == ([], 0)
    finish(sent[10])
    finish(sent[63])
    assert one.room == 2
    one.take(entries(65, 66), 0.0, 0)
    assert sequences(send(one)) == [[65], [66]]


def test_more_than_in_flight_in_the_window_wait_for_the_oldest() -> None:
    one = lane(in_flight=2, batch=2)
    one.troubles = {number: trouble(1) for number in range(1, 5)}
    one.take(entries(1, 4), 0.0, 0)
    assert one.active == 4
    first, second = send(one)
    assert (first.sequence, second.sequence) == (1, 2)
    finish(second)
    assert sequences(send(one)) == [[3]]
    finish(first)
    assert sequences(send(one)) == [[4]]


# The position


def test_the_position_moves_when_all_before_it_are_done() -> None:
    one = lane(in_flight=4)
    one.take(entries(1, 4), 0.0, 0)
    first, second, third, fourth = send(one)
    positions = []
    for delivery in (second, fourth, first, third):
        finish(delivery)
        positions.append(one.position)
    assert positions == [0, 0, 2, 4]
    assert (one.active, list(one.window), one.epoch) == (0, [], EPOCH)


def test_the_epoch_is_that_of_the_message_at_the_position() -> None:
    one = lane(in_flight=2)
    one.take([entry(1), entry(2, epoch=OTHER)], 0.0, 0)
    first, second = send(one)
    finish(first)
    assert (one.position, one.epoch) == (1, EPOCH)
    finish(second)
    assert (one.position, one.epoch) == (2, OTHER)


def test_what_is_passed_over_counts_once_all_before_it_are_done() -> None:
    one = lane(in_flight=2)
    one.pass_over(3, EPOCH)
    assert (one.position, one.next, one.epoch) == (3, 4, EPOCH)
    one.take(entries(4, 4), 0.0, 0)
    one.pass_over(9, OTHER)
    assert (one.position, one.next) == (3, 10)
    finish(send(one)[0])
    assert (one.position, one.epoch) == (9, OTHER)


def test_a_parked_message_lets_the_position_pass() -> None:
    one = lane()
    one.take(entries(1, 1), 0.0, 0)
    [first] = send(one)
    first.apply(Event.GIVE_UP)
    assert one.position == 0, "not before it is set aside"
    first.apply(Event.PARK)
    one.done(first, is_parked=True)
    assert (one.position, one.room) == (1, 1)


# Taking: excluded messages, batches, gaps


def test_excluded_messages_are_passed_over_and_others_exclusions_are_not_ours() -> None:
    one = lane(in_flight=10)
    taken = [entry(1, CLIENT), entry(2, "other"), entry(3, "other", CLIENT), entry(4), entry(5)]
    one.take([*taken, entry(6, CLIENT)], 0.0, 0)
    assert sequences(one.window) == [[2], [4], [5]]
    assert (one.position, one.next) == (1, 7)
    sent = send(one)
    positions = []
    for delivery in sent:
        finish(delivery)
        positions.append(one.position)
    assert positions == [3, 4, 6]


def test_a_log_of_excluded_messages_is_passed_over_without_a_delivery() -> None:
    one = lane()
    for number in range(1, 4):
        one.take([entry(number, CLIENT, epoch=OTHER)], 0.0, 0)
    assert (one.position, one.epoch, one.active, one.room) == (3, OTHER, 0, 1)


def test_batches_hold_messages_that_follow_each_other_up_to_their_size() -> None:
    one = lane(in_flight=10, batch=3)
    one.take([*entries(1, 5), entry(6, CLIENT), *entries(7, 8)], 0.0, 0)
    assert sequences(one.window) == [[1, 2, 3], [4, 5], [7, 8]]
    assert [delivery.through for delivery in one.window] == [3, 6, 8]
    assert (one.active, one.next) == (3, 9)


def test_a_batch_is_not_waited_for() -> None:
    one = lane(batch=100)
    one.take(entries(1, 1), 0.0, 0)
    assert sequences(send(one)) == [[1]]


def test_a_gap_at_the_beginning_of_what_is_read_is_counted_and_passed_over() -> None:
    one = lane(3, in_flight=2)
    one.take(entries(10, 11), 0.0, 0)
    assert (one.gap, one.position, one.next) == (6, 9, 12)
    assert sequences(one.window) == [[10], [11]]


def test_a_gap_behind_what_is_under_way_does_not_move_the_position_yet() -> None:
    one = lane(in_flight=2)
    one.take(entries(1, 1), 0.0, 0)
    one.take(entries(5, 5), 0.0, 0)
    assert (one.gap, one.position, one.next) == (3, 0, 6)
    first, fifth = send(one)
    finish(first)
    assert one.position == 4
    finish(fifth)
    assert one.position == 5


def inherited(one: Lane) -> Lane:
    """The lane of the next owner, with what this one has written."""
    other = lane(one.position, in_flight=one.options.in_flight, batch=one.options.batch)
    other.passed.extend(sorted((first, last) for first, last, _ in one.ahead))
    return other


def test_what_was_missed_behind_what_is_under_way_is_counted_by_one_owner() -> None:
    one = lane(in_flight=4)
    one.take(entries(1, 3), 0.0, 0)
    _, second, _ = send(one)
    one.take(entries(6, 6), 0.0, 0)  # 4 and 5 are gone
    second.unship(Event.REFUSE)
    second.apply(Event.DUE)
    second.apply(Event.VANISH)
    one.vanish(second)
    assert (one.close_gap(), one.position) == (3, 0)
    other = inherited(one)
    other.take(entries(7, 7), 0.0, 0)
    assert other.close_gap() == 3, "1, 3 and 6, which were under way, are gone too"


def test_what_a_gap_adds_while_a_round_writes_is_written_by_the_next() -> None:
    one = lane(in_flight=4)
    one.take(entries(1, 2), 0.0, 0)
    _, second = send(one)
    finish(second)
    told = one.ahead[:]
    one.pass_gap(6, EPOCH)  # another round has read that 3 to 5 are gone
    one.note_written(one.position, len(told))
    assert one.close_gap() == 3
    other = lane(one.position, in_flight=4)
    other.passed.extend((first, last) for first, last, _ in (*told, *one.ahead))
    other.take(entries(7, 7), 0.0, 0)
    assert other.close_gap() == 2, "1 and 6"


def test_what_a_batch_lost_is_counted_by_one_owner() -> None:
    one = lane(in_flight=2, batch=3)
    one.take(entries(1, 6), 0.0, 0)
    _, second = send(one)
    assert len(one.lose_before(second, 6)) == 2
    assert one.close_gap() == 2
    other = inherited(one)
    other.take(entries(7, 7), 0.0, 0)
    assert other.close_gap() == 4


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_gap_in_the_middle_of_what_is_read_passes_over_nothing_else(batch: int) -> None:
    one = lane(in_flight=10, batch=batch)
    one.take([entry(1), entry(5)], 0.0, 0)
    assert (one.gap, one.position, one.next) == (3, 0, 6)
    for delivery in send(one):
        finish(delivery)
    assert one.position == 5


def test_what_failed_and_fell_into_a_gap_is_handed_back_and_forgotten() -> None:
    one = lane()
    one.troubles = {1: trouble(1), 3: trouble(2), 4: trouble(1), 5: trouble(1)}
    one.redrives = Sequences([3])
    assert one.pass_gap(5, EPOCH) == [1, 4]
    assert (one.gap, one.position, one.next) == (4, 4, 5)
    assert one.troubles.keys() == {3, 5}, "3 comes all the same: it was put back"


def test_a_gap_before_an_excluded_message_is_counted_too() -> None:
    one = lane()
    one.take([entry(4, CLIENT)], 0.0, 0)
    assert (one.gap, one.position, one.next) == (3, 4, 5)


# What a former owner left behind


def test_what_was_done_or_parked_under_a_former_owner_is_not_missed_in_a_gap() -> None:
    one = lane(2)
    one.passed.extend([(4, 6), (9, 12)])
    one.skip = [Sequences([1, 3, 7, 14]), Sequences([15])]
    one.pass_gap(11, EPOCH)
    assert one.close_gap() == 1, "8 alone"
    one.pass_gap(18, EPOCH)
    assert one.close_gap() == 3, "13, 16 and 17"


def test_what_is_parked_already_is_not_delivered_again() -> None:
    one = lane(in_flight=10, batch=2)
    one.skip = [Sequences([2, 6]), Sequences([3])]
    one.take(entries(1, 6), 0.0, 0)
    assert sequences(one.window) == [[1], [4, 5]]
    assert (one.position, one.skip) == (0, [])
    first, second = send(one)
    finish(first)
    assert one.position == 3
    finish(second)
    assert one.position == 6


def test_attempts_under_a_former_owner_count_on() -> None:
    one = lane(max_attempts=3)
    one.troubles = {1: trouble(2)}
    one.take(entries(1, 1), 0.0, 0)
    [delivery] = one.window
    assert (delivery.failures, delivery.since, delivery.is_last) == (2, 0, True)
    assert (delivery.first_at, delivery.error) == (5.0, "disk full")
    assert one.troubles == {}


def test_what_was_put_back_under_a_former_owner_has_no_more_attempts_than_it_had_left() -> None:
    one = lane(max_attempts=3)
    one.troubles = {1: trouble(4, since=3)}
    one.take(entries(1, 1), 0.0, 0)
    [delivery] = one.window
    assert (delivery.failures, delivery.since, delivery.is_last) == (4, 3, False)


def test_what_failed_under_a_former_owner_rests_until_it_is_due() -> None:
    one = lane(in_flight=3)
    one.troubles = {1: trouble(1, due_ms=9_000), 2: trouble(1, due_ms=5_000), 3: trouble(1)}
    resting = one.take(entries(1, 3), 100.0, 5_000)
    assert resting == list(one.window)[:1]
    assert rest(one) == [State.RESTING, State.READY, State.READY]
    assert resting[0].due_s == pytest.approx(104.0)
    assert sequences(send(one)) == [[2], [3]]


def test_a_clock_that_fell_back_lets_nothing_rest_for_more_than_max_backoff() -> None:
    one = lane(max_backoff=10.0)
    one.troubles = {1: trouble(1, due_ms=10**12)}
    [resting] = one.take(entries(1, 1), 100.0, 0)
    assert resting.due_s == pytest.approx(100.0 + 10.0 * (1 + JITTER))


def test_what_failed_before_is_no_part_of_a_batch() -> None:
    one = lane(in_flight=10, batch=3)
    one.troubles = {3: trouble(1)}
    one.take(entries(1, 6), 0.0, 0)
    assert sequences(one.window) == [[1, 2], [3], [4, 5, 6]]
