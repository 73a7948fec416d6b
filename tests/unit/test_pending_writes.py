"""What lanes have for the store besides their positions, until a round has written it."""

from __future__ import annotations

import pytest
from support.windows import EPOCH, entries, lane, trouble

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.pending_writes import (
    PARKED_BYTES,
    SEQUENCES,
    TOLD,
    WRITES,
    PendingWrites,
    Taken,
    parking,
)
from gearhorn.messages.events import LOG_DROPPED, Done, decode_done
from gearhorn.messages.logs import Info
from gearhorn.store.log import Entry
from gearhorn.store.rounds import FailureWrite


def delivery(of: Lane, sequence: int = 1, *, waiter: str = "", length: int = 1) -> Delivery:
    """One message of a lane, for which a process may wait."""
    info = Info(0.0, None, (), waiter)
    return Delivery(of, (Entry(sequence, EPOCH, info, b"", length),), sequence)


def failed(of: Lane, sequence: int = 1, **fields: object) -> Delivery:
    """One that has failed before."""
    made = delivery(of, sequence, **fields)  # type: ignore[arg-type]
    made.count_failure("disk full", 5.0)
    return made


def kinds(taken: Taken) -> list[tuple[str, list[int]]]:
    """What is known of which messages."""
    return [(write.kind, list(write.sequences)) for write in taken.failures]


def told(taken: Taken) -> dict[str, list[Done]]:
    """What each process is told."""
    return {process: decode_done(b"\n".join(lines)) for process, lines in taken.done.items()}


# What is written


def test_a_message_that_is_done_at_once_leaves_nothing_to_write() -> None:
    pending, alice = PendingWrites(), lane()
    pending.finish(delivery(alice), is_parked=False)
    assert alice not in pending.lanes
    assert pending.take([alice]) == Taken({}, {})


def test_what_failed_attempts_left_goes_when_the_message_is_done() -> None:
    pending, alice = PendingWrites(), lane()
    pending.finish(failed(alice, 7), is_parked=False)
    assert alice in pending.lanes
    assert kinds(pending.take([alice])) == [("clear", [7])]
    assert alice not in pending.lanes


def test_a_message_that_was_put_back_is_so_no_more_when_it_is_done() -> None:
    pending, alice = PendingWrites(), lane()
    back = delivery(alice, 7)
    back.redrive(trouble(20))
    pending.finish(back, is_parked=False)
    assert kinds(pending.take([alice])) == [("clear", [7]), ("redriven", [7])]


def test_a_message_that_was_set_aside_takes_what_it_left_with_it() -> None:
    pending, alice = PendingWrites(), lane()
    back = failed(alice, 7)
    back.redrive(trouble(20))
    pending.finish(back, is_parked=True)
    assert alice not in pending.lanes


def test_each_message_of_a_batch_is_written_and_many_are_in_several_writes() -> None:
    pending, alice = PendingWrites(), lane(batch=SEQUENCES)
    batch = Delivery(alice, tuple(entries(1, SEQUENCES + 1)), SEQUENCES + 1)
    pending.fail(batch, trouble(1))
    first, second = pending.take([alice]).failures
    assert (len(first.sequences), list(second.sequences)) == (SEQUENCES, [SEQUENCES + 1])
    assert first.body == second.body
    assert first.kind == "fail"


def test_a_write_names_the_term_under_which_it_happened() -> None:
    pending, alice = PendingWrites(), lane()
    alice.term = 17
    pending.late(delivery(alice, 3))
    pending.forget(alice, [4, 5])
    taken = pending.take([alice])
    assert kinds(taken) == [("late", [3]), ("clear", [4, 5])]
    assert {write.term for write in taken.failures} == {17}


def test_a_message_is_set_aside_with_its_history_and_without_its_payload() -> None:
    alice = lane()
    parked = parking(failed(alice, 7, length=1000))
    assert (parked.topic, parked.client_id, parked.sequence) == ("t", alice.client_id, 7)
    assert (parked.size, parked.message.payload) == (1000, b"")
    assert (parked.message.trouble.attempts, parked.message.trouble.error) == (1, "disk full")


# In which order


def test_what_a_lane_has_to_write_stays_in_its_order() -> None:
    pending, alice = PendingWrites(), lane()
    first, second = failed(alice, 1), failed(alice, 2)
    pending.fail(first, trouble(1))
    pending.park(second)
    pending.finish(first, is_parked=False)
    taken = pending.take([alice])
    assert [
        write.kind if isinstance(write, FailureWrite) else write.delivery
        for write in taken.writes[alice]
    ] == ["fail", second, "clear"]
    assert taken.parked == [second]


def test_a_message_is_set_aside_the_same_way_each_time() -> None:
    pending, alice = PendingWrites(), lane()
    pending.park(failed(alice))
    first = pending.take([alice])
    pending.put_back(alice, first.writes[alice])
    assert pending.take([alice]).parkings == first.parkings


def test_messages_that_the_log_lost_leave_nothing_and_are_told_as_such() -> None:
    pending, alice = PendingWrites(), lane()
    back = failed(alice, 7, waiter="caller")
    back.redrive(trouble(20))
    pending.vanish(back, back.entries)
    taken = pending.take([alice])
    assert kinds(taken) == [("clear", [7]), ("redriven", [7])]
    assert told(taken) == {"caller": [Done("t", alice.client_id, 7, LOG_DROPPED, False, EPOCH)]}


def test_what_was_not_written_comes_before_what_came_meanwhile() -> None:
    pending, alice = PendingWrites(), lane()
    first = failed(alice)
    pending.fail(first, trouble(1))
    taken = pending.take([alice])
    pending.finish(first, is_parked=False)
    pending.put_back(alice, taken.writes[alice])
    assert kinds(pending.take([alice])) == [("fail", [1]), ("clear", [1])]


def test_only_the_lanes_of_a_round_are_written() -> None:
    pending, alice, bob = PendingWrites(), lane(), lane()
    pending.late(delivery(alice))
    pending.late(delivery(bob))
    assert list(pending.take([alice]).writes) == [alice]
    assert bob in pending.lanes


def test_a_lane_that_is_not_ours_any_more_writes_nothing() -> None:
    pending, alice = PendingWrites(), lane()
    pending.late(delivery(alice))
    pending.drop(alice)
    pending.drop(alice)
    assert alice not in pending.lanes
    assert pending.take([alice]).writes == {}


# How much


def test_one_round_writes_so_much_and_the_rest_is_left() -> None:
    pending, alice, bob = PendingWrites(), lane(), lane()
    for sequence in range(1, WRITES):
        pending.late(delivery(alice, sequence))
    for sequence in (1, 2):
        pending.late(delivery(bob, sequence))
    taken = pending.take([alice, bob])
    assert [len(writes) for writes in taken.writes.values()] == [WRITES - 1, 1]
    assert alice not in pending.lanes
    assert kinds(pending.take([alice, bob])) == [("late", [2])]


def test_a_lane_gets_nothing_where_others_have_taken_the_whole_round() -> None:
    pending, alice, bob = PendingWrites(), lane(), lane()
    for sequence in range(1, WRITES + 1):
        pending.late(delivery(alice, sequence))
    pending.late(delivery(bob))
    assert list(pending.take([alice, bob]).writes) == [alice]
    assert bob in pending.lanes


@pytest.mark.parametrize(
    ("lengths", "rounds"),
    [
        ([PARKED_BYTES // 2] * 3, [2, 1]),
        ([2 * PARKED_BYTES, 1], [1, 1]),
        ([1, 2 * PARKED_BYTES], [1, 1]),
        ([PARKED_BYTES, 1], [1, 1]),
    ],
)
def test_messages_are_set_aside_up_to_so_many_bytes_but_one_at_least(
    lengths: list[int], rounds: list[int]
) -> None:
    pending, alice = PendingWrites(), lane()
    for sequence, length in enumerate(lengths, 1):
        pending.park(failed(alice, sequence, length=length))
    found = []
    while alice in pending.lanes:
        found.append(len(pending.take([alice]).parked))
    assert found == rounds


# Processes that wait


def test_a_process_that_waits_is_told_of_its_messages() -> None:
    pending, alice = PendingWrites(), lane()
    pending.finish(delivery(alice, 1, waiter="p"), is_parked=False)
    pending.finish(delivery(alice, 2), is_parked=False)
    pending.finish(failed(alice, 3, waiter="q"), is_parked=True)
    client_id = alice.client_id
    assert told(pending.take([])) == {
        "p": [Done("t", client_id, 1, "", False, EPOCH)],
        "q": [Done("t", client_id, 3, "disk full", False, EPOCH)],
    }
    assert pending.take([]).done == {}, "it is told once"


def test_only_so_many_receivers_wait_to_be_told_of() -> None:
    pending, alice = PendingWrites(), lane()
    for sequence in range(TOLD + 5):
        pending.finish(delivery(alice, sequence, waiter="p"), is_parked=False)
    assert len(pending.take([]).done["p"]) == TOLD
    pending.finish(delivery(alice, 1, waiter="p"), is_parked=False)
    assert len(pending.take([]).done["p"]) == 1
