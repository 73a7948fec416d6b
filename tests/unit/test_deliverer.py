"""The lanes of a member from where they are taken to where they are given up, without servers."""

from __future__ import annotations

from support.proxy import on_loop
from support.round_store import delivering
from support.windows import EPOCH, trouble

from gearhorn.durable.states import LaneState, State
from gearhorn.gearman.results import DONE
from gearhorn.messages.logs import Info, Parked

# Taking a lane


@on_loop
async def test_a_free_lane_delivers_at_once_from_behind_its_position() -> None:
    async with delivering() as member:
        member.log(1, 5)
        alice = member.open(position=3, in_flight=5)
        await member.go_on()
        assert member.sent(alice) == [4, 5]
        assert (member.deliverer.count, member.deliverer.topics) == (1, ["t"])
        assert member.deliverer.lanes() == [alice]


@on_loop
async def test_a_lane_of_a_former_owner_waits_until_its_receivers_have_ended() -> None:
    async with delivering() as member:
        member.log(1, 1)
        alice = member.open(former="other")
        member.deliverer.appended("t", 1)
        await member.go_on()
        assert (alice.state, member.sent(alice)) == (LaneState.TAKING_OVER, [])
        assert list(member.deliverer.held.busy) == [alice], "it is looked after"
        member.deliverer.quiet(alice)
        await member.go_on()
        assert (alice.state, member.sent(alice)) == (LaneState.OPEN, [1])


@on_loop
async def test_a_lane_that_is_taken_anew_ends_the_one_of_its_former_term() -> None:
    async with delivering() as member:
        former = member.open()
        present = member.open()
        assert (former.state, present.state) == (LaneState.CLOSED, LaneState.OPEN)
        assert member.deliverer.find("t") == {"alice": present}
        member.log(1, 1)
        member.deliverer.appended("t", 1)
        await member.go_on()
        assert member.sent(present) == [1], "the log is followed still"


@on_loop
async def test_messages_that_were_put_back_are_delivered_before_the_log() -> None:
    async with delivering() as member:
        member.log(4, 5)
        member.store.back = {
            number: Parked(EPOCH, trouble(20), Info(0.0), b"back") for number in (1, 3)
        }
        alice = member.open(position=3, redrives=[1, 2, 3])
        seen = []
        for _ in range(3):
            await member.go_on()
            seen += member.sent(alice)
            member.finish(next(alice.window))
        assert seen == [1, 3, 4], "the second is gone from where it was put back"


# What wakes lanes


@on_loop
async def test_a_message_that_is_logged_is_delivered_when_an_event_tells_of_it() -> None:
    async with delivering() as member:
        alice = member.open()
        await member.go_on()
        rounds = len(member.store.rounds)
        member.log(1, 1)
        await member.go_on()
        assert len(member.store.rounds) == rounds, "a lane that has everything does not ask"
        member.deliverer.appended("t", 1)
        await member.go_on()
        assert member.sent(alice) == [1]


@on_loop
async def test_an_event_wakes_only_lanes_with_room_and_only_once() -> None:
    async with delivering() as member:
        member.log(1, 1)
        alice, bob = member.open("alice"), member.open("bob", position=1)
        await member.go_on()
        assert member.sent(alice) == [1]
        held = member.deliverer.held
        member.deliverer.appended("t", 2)
        assert held.take() == [bob], "the window of the other one is full"
        held.put([bob])
        member.deliverer.appended("t", 2)
        member.deliverer.appended("nothing", 2)
        assert held.take() == []


@on_loop
async def test_a_message_whose_event_was_lost_is_delivered_when_the_channel_is_back() -> None:
    async with delivering() as member:
        alice = member.open()
        await member.go_on()
        member.log(1, 1)
        member.deliverer.missed()
        await member.go_on()
        assert member.sent(alice) == [1]


@on_loop
async def test_every_lane_goes_on_when_a_job_server_comes_back() -> None:
    async with delivering() as member:
        member.log(1, 1)
        member.cluster.turn(is_up=False)
        alice = member.open()
        await member.go_on()
        assert member.store.rounds == [], "nothing is read that could not be sent"
        member.cluster.turn(is_up=True)
        await member.go_on()
        assert member.sent(alice) == [1]


# Giving a lane up


@on_loop
async def test_a_lane_that_closes_is_released_once_its_receiver_has_ended() -> None:
    async with delivering() as member:
        member.log(1, 2)
        alice = member.open()
        await member.go_on()
        [delivery] = alice.window
        member.deliverer.close(alice)
        await member.go_on()
        assert member.store.released == [], "a receiver may have the job"
        member.finish(delivery)
        await member.go_on()
        assert [write[:3] for write in member.store.released] == [("alice", 1, 1)]
        assert (alice.state, member.deliverer.count) == (LaneState.CLOSED, 0)
        assert member.changed_lanes.take().topics == {"t"}


@on_loop
async def test_a_fenced_lane_has_its_waiting_jobs_withdrawn_and_writes_nothing_more() -> None:
    async with delivering() as member:
        member.log(1, 1)
        alice = member.open()
        await member.go_on()
        [delivery] = alice.window
        shipment, index = delivery.job
        member.cluster.accept()
        rounds = len(member.store.rounds)
        member.deliverer.fence(alice)
        await member.go_on()
        assert member.cluster.admins[0].cancelled == [b"H:0"]
        member.deliverer.outcomes.finished(shipment, index, DONE)
        await member.go_on()
        assert (len(member.store.rounds), delivery.state) == (rounds, State.SENT)
        assert member.deliverer.count == 0


@on_loop
async def test_every_lane_and_every_message_is_forgotten_where_the_lease_is_lost() -> None:
    async with delivering() as member:
        member.log(1, 1)
        lanes = [member.open(), member.open("bob", "u")]
        await member.go_on()
        member.deliverer.abandon()
        assert {lane.state for lane in lanes} == {LaneState.CLOSED}
        assert (member.deliverer.count, member.deliverer.topics) == (0, [])
        again = member.open()
        reads = len(member.store.rounds)
        await member.go_on()
        assert member.store.rounds[reads].wanted, "it is read again"
        assert member.sent(again) == [1]
