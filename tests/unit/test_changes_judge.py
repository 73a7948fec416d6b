"""The judge of changing subscriptions knows each thing that must not happen, and nothing else."""

from __future__ import annotations

import math

import pytest
from support.changes_judge import (
    Away,
    Span,
    Taken,
    came_outdated,
    came_too_often,
    came_while_away,
    came_while_pulled,
    disordered,
    seek_order,
    strict,
)
from support.durable_history import DeliveryId, Fault, Message

EPOCH = "01234567"
NEAR_S = 10.0


def taken(
    sequence: int, at_s: float, is_done: bool = True, *, term: int = 1, n: int = 1, more: int = 0
) -> Taken:
    """A delivery of this message, and of so many that follow it."""
    messages = {number: f"m{number}" for number in range(sequence, sequence + 1 + more)}
    done_s = at_s + 0.1 if is_done else math.inf
    return Taken(at_s, DeliveryId(EPOCH, sequence, term, n), messages, done_s)


def messages(*first_s: float) -> dict[str, Message]:
    """Messages m1, m2 … that were first tried at these times."""
    return {
        f"m{number}": Message("t", at_s, at_s, replies=[(EPOCH, number)])
        for number, at_s in enumerate(first_s, 1)
    }


@pytest.mark.parametrize(
    ("at_s", "first_s", "last", "is_wrong"),
    [
        (9.9, 1.0, 5, False),  # before
        (10.5, 1.0, 5, False),  # a host may be late
        (11.5, 1.0, 5, True),  # an old copy
        (10.5, 10.2, 5, True),  # a new message
        (12.5, 11.9, 5, True),  # logged before the next subscription
        (12.5, 11.9, 0, False),  # it may have been logged after
        (12.5, 12.1, 0, False),
    ],
)
def test_nothing_comes_after_a_drain_until_something_new_does(
    at_s: float, first_s: float, last: int, is_wrong: bool
) -> None:
    away = Away(10.0, 12.0, last)
    found = list(came_while_away([taken(1, at_s)], [away], messages(first_s), []))
    assert len(found) == is_wrong


@pytest.mark.parametrize(
    ("kind", "thawed_s", "is_wrong"),
    [
        ("gearmand killed", 11.0, True),
        ("worker frozen", 9.0, False),
        ("gearmand and worker frozen", 10.5, False),
        ("worker frozen", 2.0, True),
    ],
)
def test_old_copies_come_from_the_sockets_of_a_frozen_worker_and_new_messages_do_not(
    kind: str, thawed_s: float, is_wrong: bool
) -> None:
    faults = [Fault(kind, 1.0, thawed_s)]
    away = Away(10.0, 12.0, 5)
    for first_s, expected in ((1.0, is_wrong), (10.2, True)):
        found = list(came_while_away([taken(1, 11.5)], [away], messages(first_s), faults))
        assert len(found) == expected


@pytest.mark.parametrize(
    ("second", "redrives", "fault", "is_wrong"),
    [
        (taken(1, 5.0, n=2), [], None, True),  # parked, and nobody asked
        (taken(1, 5.0, n=2), [(3.0, 4.0)], None, False),
        (taken(1, 5.0, n=2), [(0.1, 0.9)], None, True),  # that was before
        (taken(1, 5.0, n=2), [(5.1, 6.0)], None, True),  # and that later
        (taken(1, 5.0, n=2), [], "gearmand killed", False),
        (taken(1, 5.0, n=2), [], "redis killed", True),
        (taken(1, 5.0, n=1), [], None, False),  # the job server gave it to another
        (taken(1, 5.0, n=2, term=2), [], None, False),  # another worker's
    ],
)
def test_a_message_that_failed_comes_again_for_a_redrive(
    second: Taken, redrives: list[tuple[float, float]], fault: str | None, is_wrong: bool
) -> None:
    faults = [Fault(fault, 0.5, 1.5)] if fault else []
    runs = [taken(1, 1.0, False), second]
    assert len(list(came_too_often(runs, redrives, faults, NEAR_S))) == is_wrong


def test_a_message_that_was_redriven_and_done_does_not_come_once_more() -> None:
    runs = [taken(1, 1.0, False), taken(1, 3.0, n=2), taken(1, 3.5, n=3)]
    [found] = came_too_often(runs, [(2.0, 4.0)], [], NEAR_S)
    assert "done at 3.000, came again at 3.500" in found


def test_spans_of_one_delivery_at_once_are_joined_where_nothing_else_is_between() -> None:
    spans = [
        Span(1, 2, 1, False),
        Span(2, 3, 1, False),
        Span(3, 4, 8, False),
        Span(4, 5, 1, False),
        Span(5, 6, 1, True),
    ]
    assert strict(spans) == [Span(1, 3, 1, False), Span(4, 5, 1, False)]


def test_where_the_options_were_not_certain_nothing_is_joined_and_nothing_judged() -> None:
    doubtful = Span(2, 3, 1, False, is_certain=False)
    spans = [Span(1, 2, 1, False), doubtful, Span(3, 4, 1, False)]
    assert strict(spans) == [spans[0], spans[2]]
    pulled = doubtful._replace(is_pulled=True)
    assert list(came_while_pulled([taken(1, 2.8)], [pulled], messages(2.5))) == []


@pytest.mark.parametrize(
    ("runs", "is_wrong"),
    [
        ([taken(1, 5.0), taken(2, 6.0)], False),
        ([taken(2, 5.0), taken(1, 6.0)], True),
        ([taken(1, 5.0, False), taken(2, 6.0), taken(1, 7.0, n=2)], True),
        ([taken(1, 5.0, False), taken(1, 6.0, n=2), taken(2, 7.0)], False),
        ([taken(2, 5.0)], True),  # 1 was passed by
        ([taken(1, 5.0, more=1)], False),
        ([taken(1, 5.0, False, more=1), taken(1, 6.0, n=2), taken(2, 7.0, n=3)], False),
        ([taken(2, 25.0), taken(1, 26.0)], False),  # other options were in force by then
        ([taken(1, 5.0, term=2), taken(2, 6.0, term=2), taken(1, 7.0, term=1)], False),
    ],
)
def test_messages_come_in_order_where_one_may_be_under_way(
    runs: list[Taken], is_wrong: bool
) -> None:
    known = messages(2.0, 2.1)
    assert bool(list(disordered(runs, [Span(1, 20, 1, False)], known))) == is_wrong
    assert list(disordered(runs, [Span(1, 20, 8, False)], known)) == []
    assert list(disordered(runs, [Span(3, 20, 1, False)], known)) == [], "it may be older"


def test_what_is_published_while_a_subscription_is_pulled_is_not_delivered() -> None:
    spans = [Span(1, 3, 1, True), Span(3, 5, 1, False)]
    runs = [taken(1, 2.0), taken(2, 2.5), taken(3, 4.0)]
    [found] = came_while_pulled(runs, spans, messages(0.5, 1.5, 2.5))
    assert found.startswith("m2 came at 2.500")


def test_what_is_fetched_rises_from_what_was_acknowledged() -> None:
    found: list[str] = []
    seek_order([5, 7, 8], 4, found.append)
    assert found == []
    seek_order([4, 7, 7], 4, found.append)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("came", "count"),
    [
        ([(1, 1, 1), (3, 1, 2)], 0),
        ([(3, 1, 2), (1, 1, 1)], 1),  # an older one
        ([(1, 1, 1), (3, 1, 2), (1, 1, 3)], 1),  # which was tried again
        ([(1, 1, 1), (3, 1, 2), (1, 2, 1)], 1),  # by another owner
        ([(1, 1, 1), (3, 1, 2), (1, 1, 1)], 0),  # the job server gives it out again
        ([(3, 2, 1), (1, 1, 1)], 0),  # of a former owner: receivers drop it
        ([(3, 1, 2), (2, 1, 1)], 0),  # of another value
    ],
)
def test_nothing_older_comes_after_something_newer_of_its_value(
    came: list[tuple[int, int, int]], count: int
) -> None:
    deliveries = [
        taken(sequence, at_s, term=term, n=n) for at_s, (sequence, term, n) in enumerate(came)
    ]
    found = list(came_outdated(deliveries, lambda payload: str(int(payload[1:]) % 2)))
    assert len(found) == count
