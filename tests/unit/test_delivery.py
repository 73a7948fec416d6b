"""What is known of a delivery: how often it was tried, what it holds, and what waits for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.windows import EPOCH, entries, entry, lane, trouble

from gearhorn.durable.delivery import (
    JITTER,
    LARGEST_BATCH,
    UNDER_WAY,
    Timer,
    batches,
    rest_s,
)
from gearhorn.durable.lanes import Delivery
from gearhorn.durable.states import Event, State
from gearhorn.messages.logs import FailureHistory
from gearhorn.messages.subscriptions import DurableOptions


class Told(Timer):
    """A timer that keeps what it was told to drop."""

    def __init__(self) -> None:
        self.dropped: list[Delivery] = []

    def drop(self, delivery: Delivery) -> None:
        self.dropped.append(delivery)


def delivery(first: int = 1, last: int = 1) -> Delivery:
    """One of a lane with batches."""
    return Delivery(lane(batch=10), tuple(entries(first, last)), last)


# The wait before the next attempt


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 2), (2, 3), (3, 5), (4, 9), (5, 17), (6, 33), (12, 2049)]
)
def test_the_wait_doubles_but_for_a_second(failures: int, seconds: int) -> None:
    assert rest_s(failures, 3600.0, 0.0) == seconds


@pytest.mark.parametrize("failures", [13, 14, 100, 5000, 10**6])
def test_the_wait_is_at_most_max_backoff(failures: int) -> None:
    assert rest_s(failures, 3600.0, 0.0) == 3600.0


@pytest.mark.parametrize("failures", [1, 2, 50])
def test_a_max_backoff_below_the_first_wait_holds_from_the_beginning(failures: int) -> None:
    assert rest_s(failures, 0.25, 0.0) == 0.25


@given(failures=st.integers(1, 10**6), limit_s=st.floats(0.001, 10**9), jitter=st.floats(0.0, 1.0))
def test_jitter_makes_the_wait_longer_and_by_a_tenth_at_most(
    failures: int, limit_s: float, jitter: float
) -> None:
    shortest_s = rest_s(failures, limit_s, 0.0)
    wait_s = rest_s(failures, limit_s, jitter)
    assert shortest_s <= wait_s <= shortest_s * 1.1 * (1 + 1e-12)
    assert wait_s == pytest.approx(shortest_s * (1 + JITTER * jitter))


# How many batches are under way


@pytest.mark.parametrize(
    ("in_flight", "batch", "count"),
    [
        (3, 10, 3),
        (100, 1000, UNDER_WAY // 1000),
        (1000, 10**6, UNDER_WAY // LARGEST_BATCH),
        (1, 10**6, 1),
    ],
)
def test_batches_are_as_many_as_in_flight_and_their_messages_allow(
    in_flight: int, batch: int, count: int
) -> None:
    assert batches(DurableOptions(in_flight=in_flight, batch=batch)) == count


# Attempts


def test_a_delivery_bears_the_number_of_its_first_message() -> None:
    assert delivery(3, 5).sequence == 3


def test_failures_are_counted_from_the_first_one_with_the_text_of_the_last() -> None:
    failing = delivery()
    failing.job = ("shipment", 0)
    failing.count_failure("disk full", 5.0)
    assert (failing.failures, failing.first_at, failing.error) == (1, 5.0, "disk full")
    assert failing.job is None
    failing.count_failure("still full", 9.0)
    assert (failing.failures, failing.first_at, failing.error) == (2, 5.0, "still full")


def test_attempts_under_a_former_owner_count_on() -> None:
    inherited = delivery()
    inherited.remember(FailureHistory(4, 5.0, 6.0, "disk full", 0, 3))
    assert (inherited.failures, inherited.since) == (4, 3)
    inherited.count_failure("still full", 9.0)
    assert (inherited.failures, inherited.first_at) == (5, 5.0)


def test_attempts_before_a_message_was_put_back_are_known_and_count_no_more() -> None:
    back = delivery()
    back.redrive(trouble(20))
    assert (back.is_redriven, back.failures, back.since) == (True, 20, 20)
    assert (back.first_at, back.error) == (5.0, "disk full")


def test_the_newest_attempts_that_timed_out_are_waited_for() -> None:
    slow = delivery()
    assert slow.keep_former("first", 2) == ()
    assert slow.keep_former("second", 2) == ()
    assert slow.keep_former("third", 2) == ("first",)
    assert slow.former == ("second", "third")
    assert slow.forget_former() == ("second", "third")
    assert slow.forget_former() == ()


def test_one_message_goes_on_as_the_batch_that_failed() -> None:
    batch, single = delivery(1, 3), delivery(3, 3)
    batch.remember(trouble(4, since=2))
    batch.keep_former("job", 16)
    batch.state, batch.due_s = State.RESTING, 7.0
    single.go_on_as(batch)
    assert (single.state, single.due_s, single.is_bare) == (State.RESTING, 7.0, True)
    assert (single.failures, single.since) == (4, 2)
    assert (single.first_at, single.error) == (5.0, "disk full")
    assert single.former == ("job",), "who has the batch still may acknowledge it"


def test_when_to_ask_for_a_job_and_that_it_was_acknowledged_are_kept() -> None:
    asked = delivery()
    asked.ask_at(12.5)
    assert asked.ask_s == 12.5
    asked.acknowledge()
    assert asked.is_acknowledged


# What it holds


@pytest.mark.parametrize("count", [1, 3])
def test_a_delivery_that_is_on_its_way_holds_what_names_its_messages_and_no_payload(
    count: int,
) -> None:
    sent = delivery(1, count)
    names = [made.name for made in sent.entries]
    sent.strip()
    assert sent.is_bare
    assert [stripped.payload for stripped in sent.entries] == [b""] * count
    assert [stripped.length for stripped in sent.entries] == [1] * count
    assert [stripped.name for stripped in sent.entries] == names
    stripped = sent.entries
    sent.strip()
    assert sent.entries is stripped, "there is nothing left to let go of"


def test_messages_are_taken_again_only_if_they_are_the_same_ones() -> None:
    sent = delivery(1, 2)
    sent.strip()
    assert not sent.refill([entry(1), entry(2, epoch="fedcba9876543210")])
    assert sent.is_bare
    assert sent.refill(entries(1, 2))
    assert [(again.payload, again.epoch) for again in sent.entries] == [
        (b"1", EPOCH),
        (b"2", EPOCH),
    ]
    assert sent.lane.laden == [sent], "until the round is over"


@pytest.mark.parametrize(("first", "lost"), [(3, []), (5, [3, 4]), (9, [3, 4, 5])])
def test_a_batch_lets_go_of_messages_that_the_log_has_dropped(first: int, lost: list[int]) -> None:
    batch = delivery(3, 5)
    assert [gone.sequence for gone in batch.keep_from(first)] == lost
    assert [kept.sequence for kept in batch.entries] == [
        number for number in (3, 4, 5) if number not in lost
    ]


# What waits for it


def test_what_waits_for_a_delivery_is_dropped_when_its_state_changes() -> None:
    timer, waited = Told(), delivery()
    waited.wait(timer)
    assert waited.apply(Event.DUE) == ()
    assert timer.dropped == [], "nothing has changed"
    waited.apply(Event.SEND)
    assert (timer.dropped, waited.timer) == ([waited], None)
    waited.apply(Event.TAKE)
    assert timer.dropped == [waited], "it is told once"


def test_nothing_waits_for_a_delivery_that_has_ended() -> None:
    timer, waited = Told(), delivery()
    waited.job = ("shipment", 0)
    waited.wait(timer)
    waited.end()
    assert (timer.dropped, waited.timer, waited.job) == ([waited], None, None)
    waited.end()
    assert timer.dropped == [waited]
