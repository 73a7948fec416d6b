"""What holds of the tables of states as a whole; their rows are in ``test_lanes``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import pytest

from gearhorn.durable.states import (
    DELIVERIES,
    LANES,
    UNDER_WAY,
    Action,
    Event,
    LaneEvent,
    LaneState,
    State,
)

DELIVERY_STEPS = {pair: after for pair, (after, _) in DELIVERIES.items()}


def reached(steps: Mapping[tuple[Any, Any], Any], *first: Enum) -> set[Enum]:
    """The states that may follow, sooner or later, these included."""
    found = set(first)
    while more := {after for (before, _), after in steps.items() if before in found} - found:
        found |= more
    return found


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [(DELIVERY_STEPS, State.READY, State.DONE), (LANES, LaneState.TAKING_OVER, LaneState.CLOSED)],
)
def test_every_state_is_reached_and_leads_to_the_end_where_nothing_follows(
    steps: Mapping[tuple[Any, Any], Any], first: Enum, last: Enum
) -> None:
    every = set(type(first))
    assert reached(steps, first) == every
    assert all(last in reached(steps, state) for state in every)
    assert reached(steps, last) == {last}


def test_every_event_has_a_row() -> None:
    assert {event for _, event in DELIVERIES} == set(Event)
    assert {event for _, event in LANES} == set(LaneEvent)


@pytest.mark.parametrize("state", UNDER_WAY)
def test_whatever_a_job_server_may_tell_of_a_job_under_way_is_dealt_with(state: State) -> None:
    for event in (Event.COMPLETE, Event.FAIL, Event.GIVE_UP, Event.LOSE, Event.LATE):
        assert (state, event) in DELIVERIES, event


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_nothing_is_sent_but_what_is_ready(state: State) -> None:
    assert (state, Event.SEND) not in DELIVERIES


def test_a_failed_attempt_is_kept_or_sets_its_message_aside_and_never_both() -> None:
    for (_, event), (after, actions) in DELIVERIES.items():
        assert (Action.PARK in actions) == (after is State.PARKING), event
        assert not {Action.PARK, Action.STORE} <= set(actions)
        is_failure = event in (Event.FAIL, Event.EXPIRE)
        assert (Action.STORE in actions) == is_failure, event


def test_only_a_job_under_way_is_cancelled() -> None:
    cancelling = {
        state for (state, _), (_, actions) in DELIVERIES.items() if Action.CANCEL in actions
    }
    assert cancelling <= set(UNDER_WAY)


def test_the_time_of_a_receiver_runs_only_while_it_is_known_to_have_the_job() -> None:
    expiring = {state for state, event in DELIVERIES if event in (Event.EXPIRE, Event.EXPIRE_LAST)}
    assert expiring == {State.TAKEN}


@pytest.mark.parametrize("state", [state for state in LaneState if state is not LaneState.CLOSED])
def test_a_lane_can_be_taken_away_in_any_state(state: LaneState) -> None:
    assert LANES[state, LaneEvent.FENCE] is LaneState.CLOSED


def test_a_lane_is_given_up_only_after_it_was_closed() -> None:
    assert [state for state, event in LANES if event is LaneEvent.IDLE] == [LaneState.CLOSING]
