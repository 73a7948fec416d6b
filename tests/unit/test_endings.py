"""How lanes cease to be this member's, and who lets go of them."""

from __future__ import annotations

import pytest
from support.windows import lane

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.endings import Endings
from gearhorn.durable.held_lanes import HeldLanes
from gearhorn.durable.lanes import Lane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.states import LaneEvent, LaneState


class Holder:
    """Keeps which lanes ended, and whether they were held then."""

    def __init__(self, name: str, bench: Bench) -> None:
        self._name = name
        self._bench = bench

    def end(self, lane: Lane) -> None:
        is_held = lane in self._bench.held.all()
        self._bench.told.append((self._name, lane.client_id, is_held))


class Bench:
    """Lanes that are held, and two that hold parts of them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []
        self.held = HeldLanes()
        self.log_cache = LogCache()
        self.changed_lanes = ChangedLanes()
        self.changed_lanes.take()
        self.endings = Endings(
            held=self.held, log_cache=self.log_cache, changed_lanes=self.changed_lanes
        )
        self.endings.attach(Holder("first", self), Holder("second", self))

    def lane(self, client_id: str, topic: str = "t") -> Lane:
        """One that is held."""
        held = lane()
        held.client_id, held.topic = client_id, topic
        self.log_cache.follow(topic, "")
        self.held.add(held)
        return held

    def reads(self, topic: str) -> bool:
        """Whether messages of a topic are read."""
        return not self.log_cache.is_at_end(topic, 1)


def test_everything_that_holds_a_lane_is_told_in_order_while_the_lane_is_found() -> None:
    bench = Bench()
    bench.endings.fence(bench.lane("alice"))
    assert bench.told == [("first", "alice", True), ("second", "alice", True)]
    assert bench.held.count == 0


def test_a_lane_ends_once() -> None:
    bench = Bench()
    alice = bench.lane("alice")
    bench.endings.fence(alice)
    bench.endings.fence(alice)
    bench.endings.release(alice)
    assert len(bench.told) == 2
    assert not bench.changed_lanes.came.is_set()


def test_a_log_is_read_until_the_last_lane_of_its_topic_has_ended() -> None:
    bench = Bench()
    alice, bob = bench.lane("alice"), bench.lane("bob")
    bench.endings.fence(alice)
    assert bench.reads("t")
    bench.endings.fence(bob)
    assert not bench.reads("t")


def test_a_released_lane_has_its_topic_compared_and_a_fenced_one_has_not() -> None:
    bench = Bench()
    alice, bob = bench.lane("alice"), bench.lane("bob", "u")
    alice.apply(LaneEvent.CLOSE)
    bench.endings.fence(bob)
    assert bench.changed_lanes.take().topics == set()
    bench.endings.release(alice)
    assert alice.state is LaneState.CLOSED
    assert bench.changed_lanes.take().topics == {"t"}


def test_a_lane_that_delivers_is_not_released() -> None:
    bench = Bench()
    alice = bench.lane("alice")
    bench.endings.release(alice)
    assert (alice.state, bench.told) == (LaneState.OPEN, [])


@pytest.mark.parametrize("is_over", [False, True])
def test_where_every_lane_ends_the_store_is_asked_only_to_start_over(is_over: bool) -> None:
    bench = Bench()
    lanes = [bench.lane("alice"), bench.lane("bob", "u")]
    if is_over:
        bench.endings.start_over()
    else:
        bench.endings.fence_all()
    assert {lane.state for lane in lanes} == {LaneState.CLOSED}
    assert (bench.held.count, bench.held.topics) == (0, [])
    assert bench.changed_lanes.take().is_all is is_over
