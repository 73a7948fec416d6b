"""What comes after a failed attempt, and what waits for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from unittest import mock

import pytest
from support.delivering import Bed
from support.proxy import on_loop
from support.windows import sequences

from gearhorn.durable.delivery import JITTER
from gearhorn.durable.lanes import Delivery
from gearhorn.durable.retries import FORMER, Wait
from gearhorn.durable.states import Event, State
from gearhorn.messages.logs import FailureHistory, decode_history
from gearhorn.store.rounds import FailureWrite
from gearhorn.timing import now_s


@pytest.fixture(autouse=True)
def _jitter() -> Iterator[None]:
    """A part of the wait that is random is half of what it may be."""
    with mock.patch("random.random", return_value=0.5):
        yield


async def rest(seconds: float = 0.03) -> None:
    """Let timers fire."""
    await asyncio.sleep(seconds)


def written(bed: Bed, delivery: Delivery) -> list[FailureWrite]:
    """What its lane has to write of failed attempts."""
    return bed.pending.take([delivery.lane]).failures


# A failed attempt


@on_loop
async def test_a_failed_attempt_rests_and_the_store_learns_until_when() -> None:
    bed = Bed()
    alice = bed.lane()
    [delivery] = bed.send(alice)
    bed.outcomes.retries.fail(delivery, "disk full")
    assert (delivery.state, delivery.failures, delivery.job) == (State.RESTING, 1, None)
    assert delivery.timer is not None
    [write] = written(bed, delivery)
    assert (write.kind, list(write.sequences)) == ("fail", [1])
    history = decode_history(write.body)
    assert (history.attempts, history.error, history.since) == (1, "disk full", 0)
    assert history.due_ms == int(2000 * (1 + JITTER / 2)), "by the members' clock, which is 0"
    assert bed.held.take() == [alice], "a round writes it"


@on_loop
async def test_a_rest_follows_the_failures_since_a_message_was_put_back() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane())
    delivery.remember(FailureHistory(21, 5.0, 6.0, "", 0, 20))
    bed.outcomes.retries.fail(delivery, "disk full")
    history = decode_history(written(bed, delivery)[0].body)
    assert (history.attempts, history.since, history.first_at) == (22, 20, 5.0)
    assert history.due_ms == int(3000 * (1 + JITTER / 2))


@on_loop
async def test_the_last_attempt_sets_the_message_aside() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(max_attempts=1))
    bed.outcomes.retries.fail(delivery, "disk full")
    assert (delivery.state, delivery.timer) == (State.PARKING, None)
    assert bed.pending.take([delivery.lane]).parked == [delivery]
    assert bed.admin.cancelled == []


@on_loop
async def test_a_receiver_that_had_its_time_is_waited_for_all_the_same() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane())
    job = delivery.job
    delivery.apply(Event.TAKE)
    bed.outcomes.retries.fail(delivery, "no answer", is_late=True)
    await rest()
    assert (delivery.state, delivery.former) == (State.RESTING, (job,))
    assert (bed.admin.cancelled, bed.client.late, bed.client.dropped) == ([b"H:0"], [0], [])


@on_loop
async def test_the_last_attempt_of_a_receiver_that_had_its_time_sets_the_message_aside() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(max_attempts=1))
    job = delivery.job
    delivery.apply(Event.TAKE)
    bed.outcomes.retries.fail(delivery, "no answer", is_late=True)
    assert (delivery.state, delivery.former) == (State.PARKING, (job,))


@on_loop
async def test_an_attempt_too_many_that_timed_out_is_listened_to_no_more() -> None:
    bed = Bed()
    alice = bed.lane(max_attempts=0)
    [delivery] = bed.send(alice)
    jobs = []
    for _ in range(FORMER + 1):
        if delivery.state is State.RESTING:
            delivery.apply(Event.DUE)
            bed.outcomes.shipping.add(delivery)
            bed.outcomes.shipping.ship(0.0)
            bed.cluster.accept()
        jobs.append(delivery.job)
        delivery.apply(Event.TAKE)
        bed.outcomes.retries.fail(delivery, "no answer", is_late=True)
    assert delivery.former == tuple(jobs[1:])
    assert bed.client.dropped == [0]


@on_loop
async def test_a_batch_is_tried_one_by_one_even_if_that_was_its_last_attempt() -> None:
    bed = Bed()
    alice = bed.lane(batch=3, max_attempts=1)
    [batch] = bed.send(alice, 3)
    bed.outcomes.retries.fail(batch, "disk full")
    singles = list(alice.window)
    assert sequences(singles) == [[1], [2], [3]]
    assert {single.state for single in singles} == {State.RESTING}
    assert len({single.timer for single in singles}) == 1, "they rest together"
    [write] = written(bed, batch)
    assert list(write.sequences) == [1, 2, 3]


@on_loop
async def test_what_failed_already_does_not_fail_again() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane())
    bed.outcomes.retries.fail(delivery, "disk full")
    written(bed, delivery)
    timer = delivery.timer
    bed.outcomes.retries.fail(delivery, "once more")
    assert (delivery.failures, delivery.error, delivery.timer) == (1, "disk full", timer)
    assert written(bed, delivery) == []


# What a receiver asks for


@on_loop
async def test_the_rest_is_as_long_as_the_receiver_asks_for() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane())
    bed.outcomes.retries.fail(delivery, "retry_after: 0.01", after_s=0.01)
    assert (delivery.state, delivery.failures) == (State.RESTING, 1)
    history = decode_history(written(bed, delivery)[0].body)
    assert (history.attempts, history.due_ms) == (1, 10), "another owner heeds it as well"
    await rest()
    assert delivery.state is State.READY


@on_loop
async def test_max_backoff_bounds_what_a_receiver_asks_for() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(max_backoff=5.0))
    bed.outcomes.retries.fail(delivery, "retry_after: 1e99", after_s=1e99)
    assert decode_history(written(bed, delivery)[0].body).due_ms == 5000


@on_loop
async def test_the_last_attempt_is_the_last_one_whatever_the_receiver_asks_for() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(max_attempts=1))
    bed.outcomes.retries.fail(delivery, "retry_after: 1", after_s=1.0)
    assert (delivery.state, delivery.timer) == (State.PARKING, None)


@on_loop
async def test_a_receiver_has_a_message_set_aside_with_attempts_left() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane(max_attempts=0))
    bed.outcomes.retries.fail(delivery, "no such user", parks=True)
    assert (delivery.state, delivery.failures, delivery.timer) == (State.PARKING, 1, None)
    taken = bed.pending.take([delivery.lane])
    assert taken.parked == [delivery]
    assert taken.parkings[0].message.trouble.error == "no such user"


@on_loop
async def test_a_batch_is_not_set_aside_but_tried_one_by_one() -> None:
    bed = Bed()
    alice = bed.lane(batch=2)
    [batch] = bed.send(alice, 2)
    bed.outcomes.retries.fail(batch, "one of them", parks=True)
    singles = list(alice.window)
    assert {single.state for single in singles} == {State.RESTING}
    assert bed.pending.take([alice]).parked == []


@on_loop
async def test_a_lane_that_closes_still_heeds_what_a_receiver_asks_for() -> None:
    bed = Bed()
    [delivery] = bed.send(bed.lane())
    bed.held.close(delivery.lane)
    delivery.apply(Event.WITHDRAW)
    bed.outcomes.retries.fail(delivery, "no such user", parks=True)
    assert delivery.state is State.PARKING


# What waits


def resting(bed: Bed, count: int = 1) -> list[Delivery]:
    """Deliveries that were refused, and wait for nothing yet."""
    sent = bed.send(bed.lane(in_flight=count), count)
    for delivery in sent:
        delivery.unship(Event.REFUSE)
    return sent


@on_loop
async def test_a_delivery_is_ready_again_and_worked_off_after_its_rest() -> None:
    bed = Bed()
    [delivery] = resting(bed)
    bed.outcomes.retries.rest([delivery], 0.01)
    await rest(0)
    assert delivery.state is State.RESTING
    await rest()
    assert (delivery.state, delivery.timer) == (State.READY, None)
    assert bed.held.take() == [delivery.lane]


@on_loop
async def test_what_failed_under_a_former_owner_rests_until_it_is_due() -> None:
    bed = Bed()
    [delivery] = resting(bed)
    delivery.apply(Event.DUE)
    delivery.rest_until(now_s() - 5.0)
    bed.outcomes.retries.rest_until(delivery)
    await rest(0)
    await rest(0.005)
    assert delivery.state is State.READY, "its time is over"


@on_loop
async def test_each_of_several_that_wait_together_may_end_before() -> None:
    bed = Bed()
    first, second = resting(bed, 2)
    bed.outcomes.retries.rest([first, second], 0.01)
    first.apply(Event.LATE)
    await rest()
    assert (first.state, second.state) == (State.DONE, State.READY)


@on_loop
async def test_a_wait_is_over_when_it_waits_for_nothing_any_more() -> None:
    bed = Bed()
    first, second = resting(bed, 2)
    due: list[Delivery] = []
    wait = Wait([first, second], 0.01, due.append)
    first.end()
    wait.drop(first)
    second.end()
    await rest()
    assert due == []
    assert wait._handle.cancelled()


@on_loop
async def test_what_is_due_once_is_not_due_again() -> None:
    bed = Bed()
    [delivery] = resting(bed)
    due: list[Delivery] = []
    Wait([delivery], 0.0, due.append)
    await rest()
    assert due == [delivery]
    delivery.apply(Event.DUE)
    await rest()
    assert due == [delivery]
