"""What becomes of the jobs that lanes have sent, and what waits for them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from support.delivering import Bed
from support.proxy import on_loop
from support.windows import EPOCH, entries

from gearhorn.durable import shipping as shipping_module
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.outcomes import PARKED_LATE
from gearhorn.durable.retries import FORMER
from gearhorn.durable.states import Event, LaneState, State
from gearhorn.messages.events import LOG_DROPPED
from gearhorn.messages.logs import Info
from gearhorn.store.log import Entry
from gearhorn.store.rounds import FailureWrite


async def until(holds: Callable[[], bool]) -> None:
    """Let others go on until it holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def kinds(bed: Bed, lane: Lane) -> list[str]:
    """What a lane has to write, besides messages to set aside."""
    return [one.kind for one in bed.pending.take([lane]).failures]


# What is withdrawn


@on_loop
async def test_a_job_that_is_taken_while_it_is_withdrawn_may_be_acknowledged() -> None:
    bed = Bed()
    one = bed.lane()
    [delivery] = bed.send(one)
    job = delivery.job
    bed.held.close(one)
    assert not one.is_releasable
    bed.outcomes.waiting(delivery)
    await until(lambda: bool(bed.client.asked))
    assert (bed.admin.cancelled, bed.client.late) == ([b"H:0"], [0])
    assert not one.is_releasable, "a receiver may have taken it just before"
    bed.client.asked.pop()(True, True)
    assert delivery.state is State.TAKEN
    assert not one.is_releasable
    bed.complete(delivery, job)
    assert (delivery.state, one.position, one.is_releasable) == (State.DONE, 1, True)


@on_loop
async def test_a_job_that_nobody_has_taken_is_withdrawn_and_taken_off_its_queue() -> None:
    bed = Bed()
    one = bed.lane(in_flight=2)
    sent = bed.send(one, 2)
    bed.admin.queued[one.queue] = 2
    bed.held.close(one)
    for delivery in sent:
        bed.outcomes.waiting(delivery)
    await until(lambda: len(bed.client.asked) == 2)
    assert bed.cluster.reaped == [one.queue]
    for told in bed.client.asked:
        told(True, False)
    assert {delivery.state for delivery in sent} == {State.READY}
    assert one.is_releasable
    assert sorted(bed.client.dropped) == [0, 1]


@on_loop
async def test_a_queue_with_other_jobs_is_left_alone() -> None:
    bed = Bed()
    one = bed.lane()
    [delivery] = bed.send(one)
    bed.admin.queued[one.queue] = 2
    bed.held.close(one)
    bed.outcomes.waiting(delivery)
    await until(lambda: bool(bed.client.asked))
    assert bed.cluster.reaped == []


@on_loop
async def test_a_lane_that_ends_has_its_jobs_taken_off() -> None:
    bed = Bed()
    one = bed.lane()
    bed.send(one)
    bed.admin.queued[one.queue] = 1
    bed.outcomes.end(one)
    await until(lambda: bool(bed.cluster.reaped))
    assert (bed.admin.cancelled, list(one.window)) == ([b"H:0"], [])


@on_loop
async def test_whatever_ends_its_last_job_a_closing_lane_can_be_given_up() -> None:
    for event in (Event.REFUSE, Event.LOSE, Event.FAIL):
        bed = Bed()
        one = bed.lane()
        [delivery] = bed.send(one)
        bed.held.close(one)
        bed.held.put(bed.held.take())
        assert not one.is_releasable
        delivery.unship(event)
        assert one.is_releasable
        assert bed.held.take() == [one], "a round looks at it"


@on_loop
async def test_a_lost_job_is_waited_for_like_that_of_a_former_owner() -> None:
    bed = Bed()
    one = bed.lane()
    [delivery] = bed.send(one)
    assert one.is_quiet
    bed.outcomes.lost(delivery.job[0])
    assert one.is_quiet, "it was answered"
    shipment, index = delivery.job
    shipment.answered = 0
    bed.outcomes.lost(shipment)
    assert (one.is_quiet, one.is_releasable, delivery.job) == (False, True, None)
    del index


@on_loop
async def test_a_job_that_was_refused_rests_though_the_connection_ended_before_the_others() -> None:
    bed = Bed()
    refused, unknown = bed.lane("t"), bed.lane("u")
    deliveries = []
    for lane in (refused, unknown):
        lane.take(entries(1, 1), 0.0, 0)
        deliveries += lane.sendable()
    for delivery in deliveries:
        bed.outcomes.shipping.add(delivery)
    bed.outcomes.shipping.ship(0.0)
    [shipment] = bed.cluster.submitted
    shipment.refuses(b"queue_full")
    shipment.answered = 1
    bed.outcomes.lost(shipment)
    assert [delivery.state for delivery in deliveries] == [State.RESTING, State.READY]
    assert (refused.state, unknown.state) == (LaneState.OPEN, LaneState.CLOSING)


# What is held in memory


@on_loop
async def test_a_delivery_that_was_sent_holds_no_payload() -> None:
    bed = Bed()
    one = bed.lane(in_flight=3)
    sent = bed.send(one, 3)
    assert all(delivery.is_bare for delivery in sent)
    assert {entry.payload for delivery in sent for entry in delivery.entries} == {b""}
    assert [entry.length for delivery in sent for entry in delivery.entries] == [1, 1, 1]
    assert {len(delivery.job[0].heads) for delivery in sent} == {0}
    assert bed.outcomes.shipping._unsent == 0
    again = entries(1, 1)
    sent[0].unship(Event.REFUSE)
    sent[0].apply(Event.DUE)
    assert sent[0].refill(again)
    assert (sent[0].is_bare, sent[0].entries[0].payload) == (False, b"1")


@on_loop
async def test_nothing_holds_a_delivery_that_is_done() -> None:
    bed = Bed()
    one = bed.lane(timeout=1000)
    [delivery] = bed.send(one)
    bed.outcomes.taken(delivery)
    bed.complete(delivery, delivery.job)
    del delivery
    bed.pending.take([one])
    gc.collect()
    left = [thing for thing in gc.get_objects() if isinstance(thing, Delivery)]
    assert [delivery for delivery in left if delivery.lane is one] == []


@on_loop
async def test_a_delivery_that_waits_for_long_holds_nothing_of_those_sent_with_it() -> None:
    bed = Bed()
    one = bed.lane(in_flight=500, timeout=1000)
    sent = bed.send(one, 500)
    for delivery in sent[1:400]:
        bed.complete(delivery, delivery.job)
    for delivery in sent[400:]:
        bed.outcomes.retries.fail(delivery, "no")
        delivery.lane.done(delivery)
        delivery.end()
    waits = sent[0]
    del sent, delivery
    bed.pending.take([one])
    bed.pending.drop(one)
    gc.collect()
    left = [thing for thing in gc.get_objects() if isinstance(thing, Delivery)]
    assert [delivery for delivery in left if delivery.lane is one] == [waits]
    shipment = waits.job[0]
    assert bed.outcomes.shipping.handle_of(waits.job)
    assert len([handle for handle in shipment.handles if handle]) == 1
    assert len(shipment.deliveries) <= 100


@on_loop
async def test_the_last_attempts_that_timed_out_are_listened_to() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=0)
    [delivery] = bed.send(one)
    jobs = []
    for number in range(FORMER + 5):
        jobs.append(delivery.job)
        bed.outcomes.taken(delivery)
        bed.outcomes.retries.fail(delivery, f"late {number}", is_late=True)
        delivery.apply(Event.DUE)
        assert delivery.refill(entries(1, 1))
        bed.outcomes.shipping.add(delivery)
        bed.outcomes.shipping.ship(0.0)
        one.end_round()
        bed.cluster.accept()
    assert list(delivery.former) == jobs[5:]
    bed.complete(delivery, jobs[-FORMER])
    assert (delivery.state, one.position) == (State.DONE, 1)


@on_loop
async def test_a_batch_that_fails_rests_as_one_and_each_of_it_can_end_before() -> None:
    bed = Bed()
    one = bed.lane(batch=3, max_backoff=0.05)
    [batch] = bed.send(one, 3)
    bed.outcomes.retries.fail(batch, "no")
    first, second, third = one.window
    second.apply(Event.LATE)
    bed.outcomes.finish(second)
    await until(lambda: first.state is State.READY)
    assert third.state is State.READY
    assert kinds(bed, one) == ["fail", "clear"]
    assert [(a, b) for a, b, _ in one.ahead] == [(2, 2)]


@on_loop
async def test_a_lane_that_has_to_wait_for_room_is_worked_off_when_there_is_some() -> None:
    bed = Bed()
    one, other = bed.lane(), bed.lane("u")
    other.take(entries(1, 1), 0.0, 0)
    [delivery] = other.sendable()
    bed.outcomes.shipping.add(delivery)
    bed.outcomes.shipping._unsent += shipping_module.UNSENT_BYTES
    bed.outcomes.shipping.ship(0.0)
    assert bed.outcomes.shipping.is_full
    bed.outcomes.hold_up(one)
    assert bed.held.take() == []
    bed.outcomes.shipping._unsent -= shipping_module.UNSENT_BYTES
    bed.cluster.accept()
    assert bed.held.take() == [one]


# Late acknowledgements of what was set aside


@on_loop
async def test_a_message_that_is_acknowledged_while_it_is_set_aside_is_taken_out_again() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=1)
    [delivery] = bed.send(one)
    job = delivery.job
    bed.outcomes.taken(delivery)
    bed.outcomes.retries.fail(delivery, "late", is_late=True)
    assert delivery.state is State.PARKING
    bed.complete(delivery, job)
    assert bed.pending.take([one]).parked == [delivery]
    bed.outcomes.parked(delivery, is_gone=False)
    taken = bed.pending.take([one])
    assert [(note.kind, note.sequences) for note in taken.failures] == [("late", [1])]
    assert one.position == 1


@on_loop
async def test_late_receivers_of_so_many_messages_are_waited_for() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=1)
    jobs = []
    for _ in range(PARKED_LATE + 1):
        [delivery] = bed.send(one)
        jobs.append((delivery, delivery.job))
        bed.outcomes.taken(delivery)
        bed.outcomes.retries.fail(delivery, "late", is_late=True)
        bed.pending.take([one])
        bed.outcomes.parked(delivery, is_gone=False)
    for delivery, job in (jobs[0], jobs[1], jobs[-1]):
        bed.complete(delivery, job)
    late = [note for note in bed.pending.take([one]).failures if isinstance(note, FailureWrite)]
    assert [note.sequences for note in late] == [[2], [PARKED_LATE + 1]]


@on_loop
async def test_a_message_that_the_log_lost_before_it_was_set_aside_counts_as_dropped() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=1)
    [delivery] = bed.send(one)
    bed.outcomes.retries.fail(delivery, "no")
    bed.pending.take([one])
    bed.outcomes.parked(delivery, is_gone=True)
    assert (delivery.state, one.position, one.close_gap()) == (State.DONE, 1, 1)
    assert one.close_gap() == 0


@on_loop
async def test_what_the_log_lost_is_told_to_who_waits_and_is_no_success() -> None:
    bed = Bed()
    one = bed.lane()
    one.take([Entry(1, EPOCH, Info(0.0, waiter="caller"), b"1")], 0.0, 0)
    [delivery] = one.window
    bed.outcomes.gone(delivery)
    [told] = bed.pending.take([one]).done["caller"]
    assert told.split(b"\0")[3] == LOG_DROPPED.encode()


@on_loop
async def test_a_message_acknowledged_while_the_log_lost_it_is_done() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=1)
    [delivery] = bed.send(one)
    job = delivery.job
    bed.outcomes.taken(delivery)
    bed.outcomes.retries.fail(delivery, "late", is_late=True)
    bed.complete(delivery, job)
    bed.pending.take([one])
    bed.outcomes.parked(delivery, is_gone=True)
    assert (delivery.state, one.position, one.close_gap()) == (State.DONE, 1, 0)


# Jobs that a job server has not accepted yet


@on_loop
async def test_a_job_that_is_not_accepted_yet_is_withdrawn_once_it_is() -> None:
    for end in ("late", "lane"):
        bed = Bed()
        one = bed.lane(max_attempts=0)
        [delivery] = bed.send(one)
        job = delivery.job
        bed.outcomes.taken(delivery)
        bed.outcomes.retries.fail(delivery, "late", is_late=True)
        await until(lambda: bed.admin.cancelled == [b"H:0"])  # noqa: B023 (called at once)
        delivery.apply(Event.DUE)
        assert delivery.refill(entries(1, 1))
        bed.outcomes.shipping.add(delivery)
        bed.outcomes.shipping.ship(0.0)
        one.end_round()
        if end == "late":
            bed.complete(delivery, job)
            assert delivery.state is State.DONE
        else:
            bed.outcomes.end(one)
        bed.cluster.accept()
        await until(lambda: bed.admin.cancelled == [b"H:0"] * 2)  # noqa: B023


@on_loop
async def test_a_job_that_was_being_withdrawn_when_another_was_acknowledged_is_forgotten() -> None:
    bed = Bed()
    one = bed.lane(max_attempts=0)
    [delivery] = bed.send(one)
    former = delivery.job
    bed.outcomes.taken(delivery)
    bed.outcomes.retries.fail(delivery, "late", is_late=True)
    delivery.apply(Event.DUE)
    assert delivery.refill(entries(1, 1))
    bed.outcomes.shipping.add(delivery)
    bed.outcomes.shipping.ship(0.0)
    one.end_round()
    bed.cluster.accept()
    bed.held.close(one)
    bed.outcomes.waiting(delivery)
    bed.complete(delivery, former)
    assert (delivery.state, one.position) == (State.DONE, 1)
    await until(lambda: bed.client.dropped == [0])
    assert bed.client.asked == []


# A batch that was split


@on_loop
async def test_a_late_batch_is_acknowledged_whatever_became_of_its_messages() -> None:
    bed = Bed()
    one = bed.lane(batch=5, in_flight=5, max_attempts=2)
    [batch] = bed.send(one, 5)
    job = batch.job
    bed.outcomes.taken(batch)
    bed.outcomes.retries.fail(batch, "late", is_late=True)
    done, parks, parked, rests, last = one.window
    for single in (last, parked, parks):
        single.apply(Event.DUE)
        single.ship(("another", 0), 0.0)
    bed.pending.take([one])
    last.apply(Event.COMPLETE)
    bed.outcomes.finish(last)
    done.apply(Event.LATE)
    bed.outcomes.finish(done)
    for single in (parked, parks):
        bed.outcomes.retries.fail(single, "no")
    bed.outcomes.parked(parked, is_gone=False)
    assert bed.client.dropped == [], "others wait for that receiver"
    bed.pending.take([one])
    bed.complete(batch, job)
    assert (rests.state, parks.state) == (State.DONE, State.PARKING)
    bed.outcomes.parked(parks, is_gone=False)
    late = [note for note in bed.pending.take([one]).failures if note.kind == "late"]
    assert sorted(note.sequences[0] for note in late) == [2, 3]
    assert (one.position, one.active) == (5, 0)


@on_loop
async def test_a_receiver_of_a_batch_is_forgotten_with_the_last_message() -> None:
    bed = Bed()
    one = bed.lane(batch=3)
    [batch] = bed.send(one, 3)
    bed.outcomes.taken(batch)
    bed.outcomes.retries.fail(batch, "late", is_late=True)
    first, second, third = one.window
    for single, dropped in ((third, []), (first, []), (second, [0])):
        single.apply(Event.LATE)
        bed.outcomes.finish(single)
        assert bed.client.dropped == dropped
