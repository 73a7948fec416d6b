"""The lanes of a member, and which of them a round has to work off."""

from __future__ import annotations

from support.windows import entries, lane, send, settling

from gearhorn.durable.held_lanes import LANES_IN_ROUND, HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import LaneEvent, LaneState


def added(held: HeldLanes, client_id: str = "alice", topic: str = "t") -> Lane:
    """A lane that delivers, and is held."""
    made = lane()
    made.client_id, made.topic, made.keeper = client_id, topic, held
    held.add(made)
    return made


# Which lanes there are


def test_lanes_are_found_by_topic() -> None:
    held = HeldLanes()
    alice, bob, other = added(held), added(held, "bob"), added(held, "alice", "u")
    assert held.find("t") == {"alice": alice, "bob": bob}
    assert held.find("nothing") == {}
    assert (held.all(), held.count, held.topics) == ([alice, bob, other], 3, ["t", "u"])


def test_the_last_lane_of_a_topic_takes_the_topic_with_it() -> None:
    held = HeldLanes()
    alice, bob = added(held), added(held, "bob")
    assert not held.remove(alice)
    assert held.remove(bob)
    assert (held.count, held.topics, held.all()) == (0, [], [])


def test_a_lane_that_another_one_replaced_is_not_removed_again() -> None:
    held = HeldLanes()
    former = added(held)
    held.remove(former)
    present = added(held)
    assert not held.remove(former)
    assert held.find("t") == {"alice": present}
    assert held.count == 1


# What a round takes


def test_a_lane_is_worked_off_once_however_often_something_happened_to_it() -> None:
    held = HeldLanes()
    alice = added(held)
    for _ in range(3):
        held.touch(alice)
    assert held.woken.is_set()
    assert held.take() == [alice]
    assert held.take() == []


def test_what_happens_while_a_lane_is_worked_off_has_it_worked_off_again_afterwards() -> None:
    held = HeldLanes()
    alice = added(held)
    held.touch(alice)
    lanes = held.take()
    held.woken.clear()
    held.touch(alice)
    assert held.take() == [], "a lane is in one round at a time"
    assert not held.woken.is_set()
    held.put(lanes)
    assert held.woken.is_set()
    assert held.take() == [alice]


def test_a_lane_to_which_nothing_happened_meanwhile_rests() -> None:
    held = HeldLanes()
    held.touch(added(held))
    lanes = held.take()
    held.woken.clear()
    held.put(lanes)
    assert not held.woken.is_set()


def test_a_round_has_so_many_lanes_and_the_others_have_the_next() -> None:
    held = HeldLanes()
    lanes = [added(held, f"c{number}") for number in range(LANES_IN_ROUND + 1)]
    for touched in lanes:
        held.touch(touched)
    held.woken.clear()
    assert held.take() == lanes[:-1]
    assert held.woken.is_set(), "there is more"
    assert held.take() == lanes[-1:]


# Which lanes are looked after


def test_lanes_with_deliveries_and_lanes_in_no_usual_state_are_busy() -> None:
    held = HeldLanes()
    idle, active, taken_over = added(held, "idle"), added(held, "active"), settling()
    active.take(entries(1, 1), 0.0, 0)
    send(active)
    for marked in (idle, active, taken_over):
        held.mark((marked,))
    assert list(held.busy) == [active, taken_over]
    taken_over.apply(LaneEvent.RELEASED)
    held.mark((taken_over,))
    assert list(held.busy) == [active]


def test_a_lane_that_closes_is_busy_until_it_has_ended() -> None:
    held = HeldLanes()
    alice = added(held)
    held.close(alice)
    assert (alice.state, list(held.busy)) == (LaneState.CLOSING, [alice])
    held.close(alice)
    alice.apply(LaneEvent.IDLE)
    held.mark((alice,))
    assert list(held.busy) == []


def test_a_lane_that_is_removed_is_not_busy() -> None:
    held = HeldLanes()
    alice = added(held)
    held.close(alice)
    held.remove(alice)
    assert list(held.busy) == []


def test_a_lane_that_has_ended_does_not_close() -> None:
    held = HeldLanes()
    alice = added(held)
    alice.apply(LaneEvent.FENCE)
    held.close(alice)
    assert (alice.state, list(held.busy)) == (LaneState.CLOSED, [])
