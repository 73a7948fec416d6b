"""Who works lanes off."""

from __future__ import annotations

import pytest
from support.windows import entries, lane, settling

from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.keeper import NO_KEEPER, Keeper
from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import Event, LaneEvent, LaneState
from gearhorn.messages.subscriptions import DurableOptions


class Told:
    """A keeper that keeps what it was told of."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def touch(self, lane: Lane) -> None:
        self.lanes.append(lane)


def kept_by(keeper: Keeper) -> Lane:
    """A lane that delivers."""
    kept = Lane("t", "alice", b"t_alice", DurableOptions(), False, 1, 0, keeper=keeper)
    kept.apply(LaneEvent.RELEASED)
    return kept


def test_a_lane_without_a_keeper_delivers_and_closes_like_any_other() -> None:
    alone = lane()
    assert alone.keeper is NO_KEEPER
    alone.take(entries(1, 1), 0.0, 0)
    [delivery] = alone.sendable()
    delivery.ship(("shipment", 0), 0.0)
    alone.apply(LaneEvent.CLOSE)
    delivery.unship(Event.LOSE)
    assert (alone.is_releasable, alone.is_dirty) == (True, False)


def test_a_keeper_hears_nothing_of_a_lane_that_delivers() -> None:
    keeper = Told()
    kept = kept_by(keeper)
    kept.take(entries(1, 1), 0.0, 0)
    kept.sendable()[0].ship(("shipment", 0), 0.0)
    assert keeper.lanes == []


def test_a_keeper_hears_that_a_lane_closes_and_of_all_that_happens_to_it_from_then_on() -> None:
    keeper = Told()
    kept = kept_by(keeper)
    kept.take(entries(1, 1), 0.0, 0)
    [delivery] = kept.sendable()
    delivery.ship(("shipment", 0), 0.0)
    kept.apply(LaneEvent.CLOSE)
    assert keeper.lanes == [kept]
    delivery.unship(Event.FAIL)
    assert keeper.lanes == [kept, kept]


@pytest.mark.parametrize("event", [LaneEvent.RELEASED, LaneEvent.FENCE])
def test_a_keeper_does_not_hear_of_what_its_caller_does_itself(event: LaneEvent) -> None:
    keeper = Told()
    kept = settling()
    kept.keeper = keeper
    kept.apply(event)
    assert (kept.state is LaneState.TAKING_OVER, keeper.lanes) == (False, [])


def test_a_lane_that_closes_is_worked_off_by_the_round_of_the_lanes_that_are_held() -> None:
    held = HeldLanes()
    kept = kept_by(held)
    kept.apply(LaneEvent.CLOSE)
    assert held.take() == [kept]
