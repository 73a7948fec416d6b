"""What follows for a delivery and for a lane from everything that can happen."""

from __future__ import annotations

import itertools

import pytest
from support.windows import entry, lane, settling

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.states import Action, Event, LaneEvent, LaneState, State

# One delivery. Written out here once more, row by row; whatever is not here changes nothing.

ROWS: list[tuple[str, str, str, list[str]]] = [
    ("READY", "SEND", "SENT", []),
    ("READY", "LATE", "DONE", []),
    ("READY", "VANISH", "DONE", []),
    ("READY", "LAPSE", "DONE", []),
    ("READY", "SKIP", "DONE", []),
    ("RESTING", "SKIP", "DONE", []),
    ("SENT", "TAKE", "TAKEN", []),
    ("SENT", "COMPLETE", "DONE", []),
    ("SENT", "LATE", "DONE", ["CANCEL"]),
    ("SENT", "FAIL", "RESTING", ["STORE"]),
    ("SENT", "GIVE_UP", "PARKING", ["PARK"]),
    ("SENT", "LOSE", "READY", []),  # no attempt
    ("SENT", "REFUSE", "RESTING", []),  # no attempt
    ("SENT", "WITHDRAW", "WITHDRAWING", ["CANCEL"]),  # no attempt, if nobody took it before
    ("WITHDRAWING", "TAKE", "TAKEN", []),
    ("WITHDRAWING", "WITHDRAWN", "READY", []),
    ("WITHDRAWING", "COMPLETE", "DONE", []),
    ("WITHDRAWING", "LATE", "DONE", []),
    ("WITHDRAWING", "FAIL", "RESTING", ["STORE"]),
    ("WITHDRAWING", "GIVE_UP", "PARKING", ["PARK"]),
    ("WITHDRAWING", "LOSE", "READY", []),
    ("TAKEN", "COMPLETE", "DONE", []),
    ("TAKEN", "LATE", "DONE", ["CANCEL"]),
    ("TAKEN", "FAIL", "RESTING", ["STORE"]),
    ("TAKEN", "GIVE_UP", "PARKING", ["PARK"]),
    ("TAKEN", "EXPIRE", "RESTING", ["CANCEL", "STORE"]),
    ("TAKEN", "EXPIRE_LAST", "PARKING", ["CANCEL", "PARK"]),
    ("TAKEN", "LOSE", "READY", []),
    ("RESTING", "DUE", "READY", []),
    ("RESTING", "LATE", "DONE", []),
    ("PARKING", "PARK", "DONE", []),
]
PAIRS = {(state, event) for state, event, *_ in ROWS}
OTHER_PAIRS = [
    (state.name, event.name)
    for state, event in itertools.product(State, Event)
    if (state.name, event.name) not in PAIRS
]


def delivery(state: str = "READY", max_attempts: int = 20) -> Delivery:
    one = Delivery(lane(max_attempts=max_attempts), (entry(1),), 1)
    one.state = State[state]
    return one


def test_a_delivery_begins_ready_and_untried() -> None:
    one = delivery()
    assert (one.state, one.failures, one.since, one.job) == (State.READY, 0, 0, None)
    assert (one.sequence, one.through, one.epoch) == (1, 1, one.entries[0].epoch)


@pytest.mark.parametrize(("state", "event", "after", "actions"), ROWS)
def test_a_delivery_goes_where_its_row_says(
    state: str, event: str, after: str, actions: list[str]
) -> None:
    one = delivery(state)
    assert [action.name for action in one.apply(Event[event])] == actions
    assert one.state.name == after


@pytest.mark.parametrize(("state", "event"), OTHER_PAIRS)
def test_what_has_no_row_changes_nothing_for_a_delivery(state: str, event: str) -> None:
    one = delivery(state)
    assert one.apply(Event[event]) == ()
    assert one.state.name == state


def test_nothing_happens_any_more_to_what_is_done() -> None:
    assert not [event for state, event in PAIRS if state == "DONE"]


def test_the_time_of_a_delivery_that_nobody_has_taken_does_not_run() -> None:
    for event in (Event.EXPIRE, Event.EXPIRE_LAST):
        assert delivery("SENT").apply(event) == ()


@pytest.mark.parametrize("event", list(Event))
def test_an_attempt_that_is_over_leaves_a_trace_and_what_was_no_attempt_does_not(
    event: Event,
) -> None:
    failures = {Event.FAIL, Event.GIVE_UP, Event.EXPIRE, Event.EXPIRE_LAST}
    actions = delivery("TAKEN").apply(event)
    assert bool({Action.STORE, Action.PARK} & set(actions)) == (event in failures)


# One lane

LANE_ROWS = [
    ("TAKING_OVER", "RELEASED", "OPEN"),
    ("TAKING_OVER", "CLOSE", "CLOSING"),
    ("TAKING_OVER", "FENCE", "CLOSED"),
    ("OPEN", "CLOSE", "CLOSING"),
    ("OPEN", "FENCE", "CLOSED"),
    ("CLOSING", "IDLE", "CLOSED"),
    ("CLOSING", "FENCE", "CLOSED"),
]
OTHER_LANE_PAIRS = [
    (state.name, event.name)
    for state, event in itertools.product(LaneState, LaneEvent)
    if (state.name, event.name) not in {(before, what) for before, what, _ in LANE_ROWS}
]


def lane_in(state: str) -> Lane:
    one = settling()
    one.state = LaneState[state]
    return one


def test_a_lane_begins_by_waiting_for_the_former_owners_job() -> None:
    one = settling(7)
    assert one.state is LaneState.TAKING_OVER
    assert (one.position, one.stored, one.next) == (7, 7, 8)


@pytest.mark.parametrize(("state", "event", "after"), LANE_ROWS)
def test_a_lane_goes_where_its_row_says(state: str, event: str, after: str) -> None:
    one = lane_in(state)
    assert one.apply(LaneEvent[event])
    assert one.state.name == after


@pytest.mark.parametrize(("state", "event"), OTHER_LANE_PAIRS)
def test_what_has_no_row_changes_nothing_for_a_lane(state: str, event: str) -> None:
    one = lane_in(state)
    assert not one.apply(LaneEvent[event])
    assert one.state.name == state


def test_a_closed_lane_stays_closed() -> None:
    assert not [row for row in LANE_ROWS if row[0] == "CLOSED"]


# The last attempt


@pytest.mark.parametrize("most", [1, 2, 20, 10**6])
def test_the_last_attempt_is_the_one_that_makes_max_attempts_full(most: int) -> None:
    one = delivery(max_attempts=most)
    one.failures = most - 1
    assert one.is_last
    one.failures = most - 2
    assert not one.is_last
    one.failures = most  # as where max_attempts was lowered meanwhile
    assert one.is_last


@pytest.mark.parametrize("failures", [0, 1, 19, 20, 10**7])
def test_without_max_attempts_no_attempt_is_the_last_one(failures: int) -> None:
    one = delivery(max_attempts=0)
    one.failures = failures
    assert not one.is_last


def test_what_was_put_back_has_all_its_attempts_again() -> None:
    one = delivery(max_attempts=3)
    one.failures = one.since = 3
    tried = []
    for _ in range(3):
        tried.append(one.is_last)
        one.failures += 1
    assert tried == [False, False, True]
