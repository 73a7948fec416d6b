"""The chain of the deliveries of a lane that are not done."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from gearhorn.durable.states import State
from gearhorn.durable.window import Stateful, Window


class Link(Stateful):
    """The messages up to one sequence."""

    def __init__(self, through: int, before: Link | None = None) -> None:
        self.before, self.after = before, None
        self.through, self.epoch, self.beyond = through, f"e{through}", 0
        self.state = State.READY


def chain(count: int) -> tuple[Window[Link], list[Link]]:
    """A window of so many links."""
    window: Window[Link] = Window()
    for through in range(1, count + 1):
        window.append(Link(through, window.tail))
    return window, list(window.window)


def numbers(window: Window[Link]) -> list[int]:
    """What the links stand for; both directions must agree."""
    links = list(window.window)
    backwards, link = [], window.tail
    while link is not None:
        backwards.append(link)
        link = cast(Any, link).before
    assert backwards == links[::-1]
    assert window.active == len(links)
    return [link.through for link in links]


def test_the_oldest_leaves_and_nothing_answers_for_it() -> None:
    window, links = chain(3)
    assert window.remove(links[0])
    assert (numbers(window), window.beyond) == ([2, 3], 0)
    assert (links[0].before, links[0].after) == (None, None)


def test_a_link_answers_for_those_behind_it_that_are_done() -> None:
    window, links = chain(4)
    assert not window.remove(links[2])
    assert not window.remove(links[1])
    assert numbers(window) == [3, 4], "the first one answers for both, up to 3"
    assert (links[0].beyond, links[0].epoch, window.beyond) == (2, "e3", 2)
    assert window.remove(links[0])
    assert window.beyond == 0


def test_the_newest_reaches_over_what_needs_no_delivery() -> None:
    _, links = chain(1)
    links[0].reach(9, "e9")
    links[0].cover(Link(5))
    assert (links[0].through, links[0].epoch, links[0].beyond) == (9, "e9", 1)


def test_links_take_the_place_of_another_at_each_end_and_between() -> None:
    for at in range(3):
        window, links = chain(3)
        window.replace(links[at], [Link(10), Link(11)])
        expected: list[int] = [1, 2, 3]
        expected[at : at + 1] = [10, 11]
        assert numbers(window) == expected
        assert window.counts[State.READY] == 4


def test_a_chain_that_is_given_up_holds_nothing_together() -> None:
    window, links = chain(3)
    window.detach_all()
    assert numbers(window) == []
    assert {link.after for link in links} == {None}


def test_a_delivery_waits_while_as_many_before_it_as_may_be_under_way_are_not_done() -> None:
    window, links = chain(4)
    assert window.next_ready(4) == links
    assert window.next_ready(2) == links[:2]
    links[0].state = State.RESTING
    window.counts[State.READY] -= 1
    assert window.next_ready(2) == [links[1]]


def test_what_is_under_way_behind_leaves_less_for_the_first_ones() -> None:
    window, links = chain(4)
    for link in links[2:]:
        link.state = State.SENT
        window.counts[State.READY] -= 1
        window.counts[State.SENT] += 1
    assert window.next_ready(3) == [links[0]]
    assert window.next_ready(2) == []


@given(st.integers(1, 8), st.data())
def test_the_order_in_which_links_leave_does_not_matter(count: int, data: st.DataObject) -> None:
    window, links = chain(count)
    position = 0
    for link in data.draw(st.permutations(links)):
        through = link.through
        if window.remove(link):
            position = through
        left = set(numbers(window))
        assert position < min(left, default=count + 1) or not left
        assert window.active + window.beyond <= count
    assert (position, window.active, window.beyond) == (count, 0, 0)
