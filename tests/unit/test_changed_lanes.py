"""What is to be compared with the store is taken once, and comes back where that failed."""

from __future__ import annotations

from gearhorn.durable.changed_lanes import Changed, ChangedLanes


def test_every_lane_is_to_be_compared_at_first_and_only_then() -> None:
    lanes = ChangedLanes()
    assert lanes.came.is_set()
    assert lanes.take() == Changed(set(), set(), is_all=True)
    assert not lanes.came.is_set()
    assert lanes.take() == Changed(set(), set(), is_all=False)


def test_topics_single_lanes_and_all_are_told_apart() -> None:
    lanes = ChangedLanes()
    lanes.take()
    lanes.add("t")
    lanes.add("u", "alice")
    lanes.add("u", "alice")
    assert lanes.take(["again"]) == Changed({"t", "again"}, {("u", "alice")}, is_all=False)
    lanes.add("")
    assert lanes.take().is_all


def test_what_could_not_be_compared_is_taken_with_what_came_meanwhile() -> None:
    lanes = ChangedLanes()
    failed = lanes.take()
    lanes.add("t")
    lanes.put_back(failed._replace(pairs={("u", "alice")}))
    assert lanes.came.is_set()
    assert lanes.take() == Changed({"t"}, {("u", "alice")}, is_all=True)
