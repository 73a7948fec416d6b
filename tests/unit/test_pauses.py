"""The ends of pauses: which is due when, and what is kept of those that were replaced."""

from __future__ import annotations

import pytest

from gearhorn.durable.pauses import SHORTEST_S, SPARE, Pauses
from gearhorn.messages.subscriptions import pause_left_s


class Clock:
    """The members' clock, set by hand."""

    clock_ms = 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses(clock: Clock) -> Pauses:
    return Pauses(clock)


def test_each_is_due_once_in_the_order_of_ends(pauses: Pauses, clock: Clock) -> None:
    for client_id, end_ms in (("a", 3000), ("b", 2000), ("c", -1), ("d", 9000)):
        pauses.keep("t", client_id, end_ms)
    assert (pauses.take_due(), pauses.wait_s) == ([], 1.0)
    clock.clock_ms = 3000
    assert pauses.take_due() == [("t", "b"), ("t", "a")]
    assert (pauses.take_due(), pauses.wait_s) == ([], 6.0)
    clock.clock_ms = 9000
    assert pauses.wait_s == SHORTEST_S
    assert pauses.take_due() == [("t", "d")]
    assert pauses.wait_s is None


def test_the_last_end_counts(pauses: Pauses, clock: Clock) -> None:
    pauses.keep("t", "a", 2000)
    pauses.keep("t", "a", 5000)
    assert pauses.wait_s == 4.0
    clock.clock_ms = 2000
    assert pauses.take_due() == []
    pauses.keep("t", "a", 3000)
    pauses.keep("t", "a", -1)
    clock.clock_ms = 6000
    assert pauses.take_due() == []
    assert pauses.wait_s is None
    pauses.keep("t", "a", 7000)
    pauses.forget("t", "a")
    clock.clock_ms = 7000
    assert pauses.take_due() == []


def test_ends_that_were_replaced_are_not_kept(pauses: Pauses) -> None:
    for end_ms in range(2000, 20_000):
        pauses.keep("t", "a", end_ms)
    assert len(pauses._heap) <= 2 + SPARE
    assert pauses.wait_s == (19_999 - 1000) / 1000


@pytest.mark.parametrize(
    ("paused_ms", "left_s"), [(0, 0.0), (999, 0.0), (1000, 0.0), (1500, 0.5), (-1, float("inf"))]
)
def test_what_is_left_of_a_pause(paused_ms: int, left_s: float) -> None:
    assert pause_left_s(paused_ms, 1000) == left_s
