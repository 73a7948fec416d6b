"""What becomes of deliveries whose messages expire, and what lanes count of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support.delivering import Bed
from support.proxy import on_loop
from support.windows import EPOCH, entries, lane

from gearhorn.durable.expired import Expired
from gearhorn.durable.expiry import MARGIN_S, SWEPT, end_of
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.sending import Sending
from gearhorn.durable.states import LaneEvent, LaneState, State
from gearhorn.durable.worked import Worked
from gearhorn.messages.events import decode_done
from gearhorn.messages.logs import FailureHistory, Info
from gearhorn.store.log import Entry


def message(sequence: int, expires_ms: int = 0, **info: Any) -> Entry:
    """One that expires, unless that is 0."""
    return Entry(sequence, EPOCH, Info(0.0, expires_ms=expires_ms, **info), b"%d" % sequence)


def history(attempts: int = 1, due_ms: int = 0) -> FailureHistory:
    return FailureHistory(attempts, 1.0, 2.0, "disk full", due_ms)


def state_of(delivery: Delivery) -> str:
    return delivery.state.name


def sequences(one: Lane) -> list[int]:
    return [entry.sequence for delivery in one.window for entry in delivery.entries]


class Clocked(Bed):
    """A bed with a clock that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = self.outcomes.expiry._clock = SimpleNamespace(clock_ms=0)

    def take(self, one: Lane, *some: Entry) -> None:
        """A lane takes messages, which are sent and accepted."""
        one.take(some, 0.0, self.clock.clock_ms)
        sending = Sending(self.outcomes)
        sending.add(one)
        sending.ship(0.0)
        one.end_round()
        self.cluster.accept()

    @property
    def notes(self) -> list[tuple[str, list[int]]]:
        """What is written besides positions."""
        taken = self.pending.take(self.held.all())
        self.done = {who: decode_done(b"\n".join(some)) for who, some in taken.done.items()}
        return [(write.kind, list(write.sequences)) for write in taken.failures]


# A lane, as it takes messages


def test_a_lane_passes_over_what_has_expired_and_counts_it() -> None:
    one = lane(in_flight=4)
    one.take([message(1, 10), message(2), message(3, 10), message(4, 11)], 0.0, 10)
    assert (one.next, one.position, sequences(one)) == (5, 1, [2, 4])
    assert (one.expired.count, one.expired.unwritten, one.expired.is_possible) == (2, 2, True)
    one.expired.note_written(2)
    assert one.expired.unwritten == 0


def test_a_lane_that_never_takes_what_expires_is_not_looked_at() -> None:
    one = lane(in_flight=4)
    one.take(entries(1, 3), 0.0, 10**12)
    assert not one.expired.is_possible
    one.take([message(4, 100)], 0.0, 10)
    assert one.expired.is_possible


def test_what_excludes_a_client_is_not_counted() -> None:
    one = lane(in_flight=4)
    one.take([message(1, 10, exclude=(one.client_id,))], 0.0, 10)
    assert (one.position, one.expired.count) == (1, 0)


def test_what_is_counted_behind_a_delivery_is_done_beyond_the_position() -> None:
    one = lane(in_flight=4)
    some = [message(1), message(2, 5), message(3, 5), message(4), message(5, 5)]
    one.take(some, 0.0, 10)
    assert one.position == 0
    assert one.ahead == [(2, 3, EPOCH), (5, 5, EPOCH)]  # or the next owner would count them too
    assert (one.ahead_top, one.beyond) == (5, 2)
    first, second = one.window
    for delivery in (second, first):
        delivery.state = State.DONE
        one.done(delivery)
    assert (one.position, one.beyond, one.active) == (5, 0, 0)


def test_a_message_that_had_failed_leaves_no_attempts() -> None:
    one = lane(in_flight=4)
    one.troubles = {1: history(), 2: history()}
    one.take([message(1, 5), message(2)], 0.0, 10)
    assert list(one.troubles) == []
    assert [(entry.sequence, failed) for entry, failed in one.expired.take_left()] == [(1, True)]
    assert one.expired.take_left() == []


def test_only_what_somebody_may_ask_for_is_told() -> None:
    expired = Expired()
    some = [message(1, 5), message(2, 5, waiter="p"), message(3, 5, unique="u"), message(4, 50)]
    assert [expired.passes(entry, 10, {}) for entry in some] == [True, True, True, False]
    assert [entry.sequence for entry, _ in expired.take_left()] == [2, 3]


# Deliveries


@on_loop
async def test_what_expires_before_it_is_sent_is_done() -> None:
    bed = Clocked()
    one = bed.lane(in_flight=4)
    one.take([message(1, 10, waiter="p"), message(2, 20), message(3)], 0.0, 0)
    bed.clock.clock_ms = 10
    bed.outcomes.expiry.sweep(one)
    assert (one.position, sequences(one), one.expired.count) == (1, [2, 3], 1)
    assert bed.notes == [("lapsed", [1])]
    [told] = bed.done["p"]
    assert (told.sequence, told.error, told.is_expired) == (1, "", True)
    assert one.is_dirty


@on_loop
async def test_what_has_expired_is_not_sent_though_it_is_not_swept_yet() -> None:
    bed = Clocked()
    one = bed.lane(in_flight=SWEPT + 10)
    one.take([message(n, 10) for n in range(1, SWEPT + 6)], 0.0, 0)
    bed.clock.clock_ms = 10
    sending = Sending(bed.outcomes)
    sending.add(one)
    sending.ship(0.0)
    assert bed.cluster.submitted == []
    assert one.active == 5  # for the next round
    assert one.is_dirty


@on_loop
async def test_a_batch_is_split_and_its_other_messages_are_sent_alone() -> None:
    bed = Clocked()
    one = bed.lane(batch=5, in_flight=1)
    one.take([message(1), message(2, 10), message(3, 20)], 0.0, 0)
    bed.clock.clock_ms = 10
    bed.outcomes.expiry.sweep(one)
    assert [(delivery.sequence, len(delivery.entries)) for delivery in one.window] == [
        (1, 1),
        (3, 1),
    ]
    assert (one.position, one.ahead, one.expired.count) == (0, [(2, 2, EPOCH)], 1)


@on_loop
async def test_a_rest_ends_when_the_message_expires() -> None:
    bed = Clocked()
    one = bed.lane(max_backoff=3600)
    bed.take(one, message(1, 50))
    [delivery] = one.window
    bed.outcomes.retries.fail(delivery, "disk full")
    assert state_of(delivery) == "RESTING"
    bed.clock.clock_ms = 50
    await asyncio.sleep(0.1)
    assert state_of(delivery) == "READY"  # instead of in two seconds
    bed.outcomes.expiry.sweep(one)
    assert (one.position, one.expired.count) == (1, 1)
    assert bed.notes == [("fail", [1]), ("clear", [1])]


@on_loop
async def test_a_rest_goes_on_where_the_members_clock_fell_behind() -> None:
    bed = Clocked()
    one = bed.lane(max_backoff=3600)
    bed.take(one, message(1, 50))
    [delivery] = one.window
    bed.outcomes.retries.fail(delivery, "disk full")
    bed.clock.clock_ms = -50  # by now it should be 50
    await asyncio.sleep(0.08)
    assert state_of(delivery) == "RESTING"
    bed.clock.clock_ms = 50
    await asyncio.sleep(0.15)
    assert state_of(delivery) == "READY"


@on_loop
async def test_a_job_that_no_receiver_has_is_withdrawn_when_its_message_expires() -> None:
    bed = Clocked()
    one = bed.lane()
    bed.take(one, message(1, 1))
    [delivery] = one.window
    assert state_of(delivery) == "SENT"
    bed.clock.clock_ms = 1
    await asyncio.sleep(0.2)
    [asked] = bed.client.asked
    asked(True, False)
    assert state_of(delivery) == "WITHDRAWING"
    while len(bed.client.asked) < 2:
        await asyncio.sleep(0.01)
    bed.client.asked[1](True, False)
    assert state_of(delivery) == "READY"
    assert one.is_dirty
    bed.outcomes.expiry.sweep(one)
    assert (one.position, one.expired.count, one.active) == (1, 1, 0)


@on_loop
async def test_a_job_that_a_receiver_has_goes_on_though_its_message_has_expired() -> None:
    bed = Clocked()
    one = bed.lane()
    bed.take(one, message(1, 1))
    [delivery] = one.window
    bed.clock.clock_ms = 1
    await asyncio.sleep(0.2)
    [asked] = bed.client.asked
    asked(True, True)
    assert state_of(delivery) == "TAKEN"
    bed.complete(delivery, delivery.job)
    assert (one.position, one.expired.count) == (1, 0)
    assert bed.notes == []


@on_loop
async def test_a_job_that_ends_before_its_message_expires_is_not_asked_for() -> None:
    bed = Clocked()
    one = bed.lane()
    bed.take(one, message(1, 1), message(2))
    delivery = next(iter(one.window))
    bed.complete(delivery, delivery.job)
    await asyncio.sleep(0.2)
    assert bed.client.asked == []


@on_loop
async def test_one_that_was_put_back_is_done_as_such() -> None:
    bed = Clocked()
    one = bed.lane(in_flight=2)
    one.position = 5
    one.take_redriven(message(3, 10), history(3), 0.0, 20)
    bed.clock.clock_ms = 20
    bed.outcomes.expiry.sweep(one)
    assert bed.notes == [("clear", [3]), ("redriven", [3])]
    assert (one.position, one.ahead, one.redriving, one.expired.count) == (5, [], 0, 1)


@on_loop
async def test_a_lane_that_closes_sweeps_nothing() -> None:
    bed = Clocked()
    one = bed.lane()
    one.take([message(1, 10)], 0.0, 0)
    bed.clock.clock_ms = 10
    one.apply(LaneEvent.CLOSE)
    assert one.state is LaneState.CLOSING
    bed.outcomes.expiry.sweep(one)
    assert one.expired.count == 0  # the next owner counts it


@pytest.mark.parametrize(("ends", "first"), [([], 0), ([0], 0), ([5], 5), ([0, 9, 7], 7)])
def test_a_delivery_ends_with_its_first_message(ends: list[int], first: int) -> None:
    some = tuple(message(at, end) for at, end in enumerate(ends or [0], 1))
    assert end_of(Delivery(lane(), some, 1)) == first


@on_loop
async def test_how_long_a_delivery_may_rest() -> None:
    bed = Clocked()
    one = bed.lane()
    bed.clock.clock_ms = 1000
    for end, limit, left in ((0, 5.0, 5.0), (3000, 5.0, 2.0 + MARGIN_S), (3000, 1.0, 1.0)):
        assert bed.outcomes.expiry.left_s(Delivery(one, (message(1, end),), 1), limit) == left
    past = Delivery(one, (message(1, 500),), 1)
    assert bed.outcomes.expiry.left_s(past, 5.0) == MARGIN_S


# Being worked off


def test_what_happens_while_a_lane_is_worked_off_has_it_worked_off_again() -> None:
    worked: Worked[Any] = Worked()
    assert worked.stir()
    assert not worked.stir()  # a round is to come
    worked.begin_round()
    assert not worked.stir()  # it is under way
    assert worked.end_round()
    worked.begin_round()
    assert not worked.end_round()
