"""What becomes of lanes and of what they have written where a round does not go well."""

from __future__ import annotations

from support.proxy import on_loop
from support.round_store import DeliveringMember, delivering
from support.windows import EPOCH, entry, trouble

from gearhorn.durable.lanes import Lane
from gearhorn.durable.states import LaneState, State
from gearhorn.errors import StoreError, StoreReplaced
from gearhorn.messages.logs import Info, Parked

ALICE = ("t", "alice")


async def begin(member: DeliveringMember, **options: object) -> Lane:
    """A lane whose first message is with a receiver."""
    member.log(1, 3)
    alice = member.open(**options)  # type: ignore[arg-type]
    await member.go_on()
    assert member.sent(alice) == [1]
    return alice


def kinds(member: DeliveringMember) -> list[str]:
    """What was written of failed attempts, in order."""
    return [write.kind for work in member.store.rounds for write in work.notes]


# The order


@on_loop
async def test_the_next_message_is_sent_when_the_acknowledgement_is_written() -> None:
    async with delivering() as member:
        alice = await begin(member)
        [first] = alice.window
        member.store.free.clear()
        member.finish(first)
        await member.go_on()
        assert member.store.positions == [("alice", 1)]
        assert member.sent(alice) == [], "the store has not answered"
        member.store.free.set()
        await member.go_on()
        assert member.sent(alice) == [2]


@on_loop
async def test_a_position_passes_a_parked_message_in_a_round_of_its_own() -> None:
    async with delivering() as member:
        alice = await begin(member, max_attempts=1)
        member.finish(next(alice.window), ok=False)
        await member.go_on()
        parking = next(work for work in member.store.rounds if work.parkings)
        assert [parked.sequence for parked in parking.parkings] == [1]
        assert not parking.positions
        assert member.store.positions == [("alice", 1)]
        assert member.sent(alice) == [2]


@on_loop
async def test_a_message_that_cannot_be_set_aside_any_more_counts_as_dropped() -> None:
    async with delivering() as member:
        alice = await begin(member, max_attempts=1)
        member.store.gone = {("t", "alice", 1)}
        member.finish(next(alice.window), ok=False)
        await member.go_on()
        member.drops.passed_by.assert_called_once_with("t", "alice", 1)
        assert member.sent(alice) == [2]


@on_loop
async def test_messages_that_the_log_has_dropped_are_passed_over_and_counted() -> None:
    async with delivering() as member:
        member.log(5, 5)
        alice = member.open(position=1)
        await member.go_on()
        member.drops.passed_by.assert_called_once_with("t", "alice", 3)
        assert member.sent(alice) == [5]
        assert member.store.positions == [("alice", 4)]


@on_loop
async def test_what_was_put_back_is_read_from_there() -> None:
    async with delivering() as member:
        member.store.back = {2: Parked(EPOCH, trouble(20), Info(0.0), b"two")}
        alice = member.open(position=3, redrives=[2])
        await member.go_on()
        [delivery] = alice.window
        assert (delivery.sequence, delivery.is_redriven, delivery.failures) == (2, True, 20)
        member.finish(delivery)
        await member.go_on()
        assert kinds(member) == ["clear", "redriven"]


@on_loop
async def test_a_message_that_failed_is_read_again_before_it_is_sent_again() -> None:
    async with delivering() as member:
        alice = await begin(member, max_backoff=0.01)
        [delivery] = alice.window
        member.finish(delivery, ok=False)
        member.deliverer._log_cache.clear()
        await member.until(lambda: member.sent(alice) == [1])
        assert (delivery.failures, kinds(member)) == (1, ["fail"])


@on_loop
async def test_a_message_that_is_gone_when_it_is_to_be_sent_again_counts_as_dropped() -> None:
    async with delivering() as member:
        alice = await begin(member, max_backoff=0.01)
        [delivery] = alice.window
        member.finish(delivery, ok=False)
        member.deliverer._log_cache.clear()
        member.store.logs["t"] = [entry(3)]
        await member.until(lambda: member.sent(alice) == [3])
        assert delivery.state is State.DONE
        counts = [call.args[-1] for call in member.drops.passed_by.call_args_list]
        assert sum(counts) == 2, "with the second message, which had not been read"


# A store that does not answer


@on_loop
async def test_what_a_round_could_not_write_is_written_by_another_in_its_order() -> None:
    async with delivering() as member:
        alice = await begin(member)
        [delivery] = alice.window
        member.store.errors = [StoreError("no answer")]
        member.finish(delivery, ok=False)
        await member.until(lambda: kinds(member) == ["fail", "fail"])
        assert alice.state is LaneState.OPEN
        assert member.deliverer.lanes() == [alice]


@on_loop
async def test_a_position_that_may_not_have_been_written_is_written_again() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.errors = [StoreError("no answer")]
        member.finish(next(alice.window))
        await member.until(lambda: member.sent(alice) == [2])
        assert member.store.positions == [("alice", 1)] * 2


@on_loop
async def test_every_lane_is_taken_anew_where_the_store_is_another_one() -> None:
    async with delivering() as member:
        member.deliverer.begin_run("first run")
        alice = await begin(member)
        assert set(member.store.run_ids) == {"first run"}
        member.store.errors = [StoreReplaced("another run")]
        member.finish(next(alice.window))
        await member.go_on()
        assert (alice.state, member.deliverer.count) == (LaneState.CLOSED, 0)
        assert member.changed_lanes.take().is_all


@on_loop
async def test_a_fault_in_a_round_costs_its_lanes_and_no_other_round() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.errors = [ValueError("a bug")]
        member.finish(next(alice.window))
        await member.go_on()
        assert (alice.state, member.deliverer.count) == (LaneState.CLOSED, 0)
        assert member.changed_lanes.take().is_all
        again = member.open(position=1)
        await member.go_on()
        assert member.sent(again) == [2]


# Lanes that are another's


@on_loop
async def test_a_lane_that_another_member_holds_ends_and_sends_nothing_more() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.fenced = {ALICE}
        member.finish(next(alice.window))
        await member.go_on()
        assert (alice.state, member.sent(alice), member.deliverer.count) == (
            LaneState.CLOSED,
            [],
            0,
        )
        assert member.changed_lanes.take().topics == {"t"}


@on_loop
async def test_what_is_answered_to_a_former_life_is_not_heard() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.free.clear()
        member.finish(next(alice.window))
        await member.go_on()
        member.membership.id = "me again"
        member.deliverer.abandon()
        member.store.free.set()
        await member.go_on()
        assert (alice.state, alice.stored) == (LaneState.CLOSED, 0)


@on_loop
async def test_nothing_is_written_or_sent_without_a_lease() -> None:
    async with delivering() as member:
        member.membership.lease.until_s = 0.0
        member.log(1, 1)
        alice = member.open()
        await member.go_on(0.1)
        assert (member.store.rounds, member.sent(alice)) == ([], [])
        member.membership.lease.until_s = float("inf")
        await member.until(lambda: member.sent(alice) == [1])


@on_loop
async def test_a_lease_that_ends_during_a_round_has_nothing_sent() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.free.clear()
        member.finish(next(alice.window))
        await member.go_on()
        member.membership.lease.until_s = 0.0
        member.store.free.set()
        await member.go_on()
        assert (alice.stored, member.sent(alice)) == (1, [])


# What the store refuses


@on_loop
async def test_a_lane_that_the_store_refuses_waits_alone_and_is_tried_again() -> None:
    async with delivering() as member:
        alice = await begin(member)
        bob = member.open("bob", "u")
        member.log(1, 2, "u")
        member.deliverer.appended("u", 2)
        await member.go_on()
        member.store.refused = {ALICE: StoreError("WRONGTYPE")}
        member.finish(next(alice.window))
        member.finish(next(bob.window))
        await member.go_on()
        assert (alice.stored, member.sent(alice)) == (0, [])
        assert (bob.stored, member.sent(bob)) == (1, [2])
        member.store.refused = {}
        await member.until(lambda: member.sent(alice) == [2])
        assert (alice.stored, alice.state) == (1, LaneState.OPEN)


@on_loop
async def test_what_the_store_refuses_of_a_lane_is_kept_for_the_next_try() -> None:
    async with delivering() as member:
        alice = await begin(member, max_attempts=1)
        member.store.refused = {ALICE: StoreError("WRONGTYPE")}
        member.finish(next(alice.window), ok=False)
        await member.go_on()
        assert [delivery.state for delivery in alice.window] == [State.PARKING]
        member.store.refused = {}
        await member.until(lambda: member.sent(alice) == [2])
        assert sum(len(work.parkings) for work in member.store.rounds) == 2


@on_loop
async def test_a_log_that_cannot_be_read_has_its_lanes_wait_and_no_others() -> None:
    async with delivering() as member:
        member.store.unread = {"t": StoreError("WRONGTYPE")}
        member.log(1, 1)
        member.log(1, 1, "u")
        alice, bob = member.open(), member.open("bob", "u")
        await member.go_on()
        assert (member.sent(alice), member.sent(bob)) == ([], [1])
        member.store.unread = {}
        await member.until(lambda: member.sent(alice) == [1])


@on_loop
async def test_a_lane_that_ends_is_not_tried_again() -> None:
    async with delivering() as member:
        alice = await begin(member)
        member.store.refused = {ALICE: StoreError("WRONGTYPE")}
        member.finish(next(alice.window))
        await member.go_on()
        member.deliverer.fence(alice)
        rounds = len(member.store.rounds)
        await member.go_on(0.3)
        assert len(member.store.rounds) == rounds
