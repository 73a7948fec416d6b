"""Who may move the positions of durable subscriptions, on real stores without a worker."""

from __future__ import annotations

from typing import Any

import pytest
from support.logs import NOTHING, LogBench, direct, durable, failed, parked_in, retain, run, trouble
from support.servers import Redis
from support.store import unsubscribe

from gearhorn.store.inherited import Sequences
from gearhorn.store.lanes import Acquired, LaneRecord
from gearhorn.store.parked import Passed

pytest_plugins = ["support.store"]
ME, OTHER = "me", "other"


async def begin(bench: LogBench, count: int = 3, **options: object) -> Acquired:
    """A log of some messages, and a lane that this member has taken."""
    await bench.join(ME)
    await bench.join(OTHER)
    await bench.begin("t", "alice", "all", **options)
    await bench.append("t", *"x" * count)
    acquired = await bench.acquire("t", "alice")
    assert acquired is not None
    return acquired


# Taking and giving up


def test_a_lane_that_nobody_holds_is_taken_with_what_is_there(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        assert acquired == Acquired(
            "alice", acquired.term, 0, "-", {}, [], Sequences(), 0, [], 0, acquired.epoch
        )
        assert acquired.epoch == (await bench.state("t"))["epoch"]
        assert acquired.term > 0
        assert await bench.held("t", "alice") == LaneRecord(ME, acquired.term, 0)

    run(server, test)


def test_a_living_owner_is_not_robbed_and_a_dead_one_is(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first = await begin(bench)
        assert await bench.settle("t", "alice", first.term, 2)
        assert await bench.lanes.acquire(OTHER, {"t": ["alice"]}) == ({}, {"t"})
        assert await bench.held("t", "alice") == LaneRecord(ME, first.term, 2)
        await bench.members.leave(ME)
        second = await bench.acquire("t", "alice", OTHER)
        assert second is not None
        assert second.term > first.term
        assert (second.position, second.former) == (2, ME)

    run(server, test)


def test_who_is_no_member_takes_nothing(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.begin("t", "alice")
        assert await bench.lanes.acquire(ME, {"t": ["alice"]}) == ({}, {"t"})
        await bench.join(ME)
        assert await bench.acquire("t", "alice") is not None
        await bench.members.leave(ME)
        assert await bench.acquire("t", "alice") is None, "not even what was its own"

    run(server, test)


def test_an_owner_that_takes_its_lane_again_has_another_term(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first = await begin(bench)
        again = await bench.acquire("t", "alice")
        assert again is not None
        assert again.term > first.term
        assert again.former == ME
        assert not await bench.settle("t", "alice", first.term, 1), "its own former life"
        assert await bench.settle("t", "alice", again.term, 1)

    run(server, test)


def test_nobody_takes_what_is_read_from_or_is_not_there(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join(ME)
        await bench.begin("t", "alice", pull=True)
        wanted = {"t": ["alice", "nobody"], "u": ["nobody"]}
        assert await bench.lanes.acquire(ME, wanted) == ({}, {"t"})
        assert (await bench.held("t", "alice") or LaneRecord("", 0, 0)).owner == "pull"
        assert await bench.keys() & {"lanes:u"} == set()

    run(server, test)


def test_many_lanes_are_taken_at_once(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join(ME)
        await bench.join(OTHER)
        for topic in ("t", "u"):
            for client in ("alice", "bob"):
                await bench.begin(topic, client)
        assert await bench.acquire("u", "alice", OTHER) is not None
        wanted = {"t": ["alice", "bob"], "u": ["alice", "bob"]}
        found, held = await bench.lanes.acquire(ME, wanted)
        taken = {topic: [one.client_id for one in some] for topic, some in found.items()}
        assert (taken, held) == ({"t": ["alice", "bob"], "u": ["bob"]}, {"u"})

    run(server, test)


def test_a_term_never_comes_again(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        terms = [(await begin(bench)).term]
        await bench.begin("t", "bob", pull=True)  # so that the log stays

        async def take() -> None:
            acquired = await bench.acquire("t", "alice")
            assert acquired is not None
            terms.append(acquired.term)

        await bench.begin("t", "alice", pull=True)
        await bench.begin("t", "alice", pull=False)
        await take()
        await bench.begin("t", "alice", pull=True)
        await bench.fetch("t", "alice", ack=1)
        await bench.begin("t", "alice", pull=False)
        await take()
        await bench.one(unsubscribe("t", "alice"))
        await bench.begin("t", "alice", "all")
        await take()
        assert terms == sorted(set(terms))

    run(server, test)


@pytest.mark.parametrize(("is_quiet", "holder"), [(True, "-"), (False, "?")])
def test_a_lane_that_is_given_up_is_free_and_keeps_its_position(
    server: Redis, is_quiet: bool, holder: str
) -> None:
    async def test(bench: LogBench) -> None:
        first = await begin(bench)
        own = (await bench.state("t"))["epoch"]
        one = ("alice", first.term, 2, own, None, 0, 0)
        await bench.lanes.release(OTHER, {("t", is_quiet): [one]})
        assert await bench.held("t", "alice") == LaneRecord(ME, first.term, 0), (
            "it is not the other's"
        )
        await bench.lanes.release(ME, {("t", is_quiet): [one]})
        assert await bench.held("t", "alice") == LaneRecord(holder, first.term, 2)
        assert not await bench.settle("t", "alice", first.term, 3), "it has given it up"
        second = await bench.acquire("t", "alice", OTHER)
        assert second is not None
        assert second.term > first.term
        assert (second.position, second.former) == (2, holder)

    run(server, test)


def test_a_thousand_lanes_of_one_topic_are_given_up_together(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join(ME)
        clients = [f"c{number}" for number in range(1000)]
        await bench.apply(*(durable("t", client) for client in clients))
        found, _ = await bench.lanes.acquire(ME, {"t": clients})
        given = [(one.client_id, one.term, 0, "", None, 0, 0) for one in found["t"]]
        await bench.lanes.release(ME, {("t", True): given})
        records = await bench.lanes.records("t", clients)
        assert {records[client].owner for client in clients} == {"-"}

    run(server, test)


# Positions


def test_only_the_owner_moves_a_position_and_only_under_its_term(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        assert await bench.settle("t", "alice", acquired.term, 1)
        assert not await bench.settle("t", "alice", acquired.term, 2, member=OTHER)
        assert not await bench.settle("t", "alice", acquired.term - 1, 2)
        assert not await bench.settle("t", "alice", acquired.term + 1, 2)
        assert not await bench.settle("t", "nobody", acquired.term, 2)
        assert await bench.held("t", "alice") == LaneRecord(ME, acquired.term, 1)
        assert await bench.settle("t", "alice", acquired.term, 3)
        assert await bench.position("t", "alice") == 3

    run(server, test)


def test_a_position_that_comes_late_takes_nothing_back(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        term = (await begin(bench, 5)).term
        epoch = (await bench.state("t"))["epoch"]
        assert await bench.settle("t", "alice", term, 4, ahead=[])
        assert await bench.settle("t", "alice", term, 2, ahead=[(3, 3, epoch)])
        assert await bench.position("t", "alice") == 4
        assert "ahead:t\0alice" not in await bench.keys()

    run(server, test)


def test_an_owner_whose_id_another_ones_begins_with_is_another_owner(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await bench.join("me-1")
        acquired = await begin(bench)
        assert not await bench.settle("t", "alice", acquired.term, 1, member="m")
        assert not await bench.settle("t", "alice", acquired.term, 1, member="me-1")
        shorter = int(str(acquired.term)[:-1])
        assert not await bench.settle("t", "alice", shorter, 1)

    run(server, test)


def test_who_lost_a_lane_moves_nothing_and_is_told_so_lane_by_lane(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        await bench.begin("t", "bob", "all")
        other = await bench.acquire("t", "bob", OTHER)
        assert other is not None
        own = (await bench.state("t"))["epoch"]
        some = [
            ("bob", other.term, 2, own, None, 0, 0),
            ("alice", acquired.term, 2, own, None, 0, 0),
        ]
        reply = await bench.lanes.round(ME, NOTHING._replace(positions={"t": some}))
        assert reply.fenced == {("t", "bob")}
        assert await bench.position("t", "alice") == 2
        assert await bench.position("t", "bob") == 0

    run(server, test)


def test_a_position_beyond_the_log_was_lost_by_the_store(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        assert not await bench.settle("t", "alice", acquired.term, 4)
        assert not await bench.settle("t", "alice", acquired.term, 4, "")
        assert await bench.position("t", "alice") == 0

    run(server, test)


def test_a_message_of_a_former_epoch_moves_a_position_only_before_the_new_one(
    server: Redis,
) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        old = (await bench.state("t"))["epoch"]
        await bench.restart("t")
        await bench.append("t", "4", "5")
        term = acquired.term
        assert await bench.settle("t", "alice", term, 3, old), "what both epochs know"
        assert not await bench.settle("t", "alice", term, 4, old), "another message has its number"
        assert await bench.position("t", "alice") == 3
        assert await bench.settle("t", "alice", term, 4)
        assert await bench.settle("t", "alice", term, 5, ""), "passed over: no message is there"

    run(server, test)


# Failed attempts, parked messages


def test_what_failed_attempts_left_behind_goes_to_the_next_owner(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        first = await begin(bench)
        term = first.term
        await bench.note(failed("t", "alice", term, 1, trouble(1)))
        await bench.note(failed("t", "alice", term, 1, trouble(2, 5000)))
        await bench.note(failed("t", "alice", term, 2, trouble(1)))
        await bench.note(failed("t", "alice", term, 2, None))
        assert await bench.lanes.counts([("t", "alice")]) == [(0, {1: trouble(2, 5000)}, 0, 0)]
        await bench.members.leave(ME)
        second = await bench.acquire("t", "alice", OTHER)
        assert second is not None
        assert second.troubles == {1: trouble(2, 5000)}

    run(server, test)


def test_a_failure_that_comes_late_undoes_nothing_of_what_was_written_since(server: Redis) -> None:
    """A round whose answer was lost is written again, and the first one may still be on its way."""

    async def test(bench: LogBench) -> None:
        await bench.join()
        await bench.begin("t", "alice", "all", in_flight=9)
        await bench.append("t", *"12345")
        acquired = await bench.acquire("t", "alice")
        assert acquired is not None
        term = acquired.term
        late = [failed("t", "alice", term, number, trouble(19)) for number in (1, 2, 3, 4)]
        for note in late:
            await bench.note(note)
        await bench.note(failed("t", "alice", term, 1, trouble(20, 5000)))
        assert await bench.park("t", "alice", term, 2, 4)
        assert await bench.lanes.take_parked("t", "alice", "redrive", 1) == 1
        own = (await bench.state("t"))["epoch"]
        await bench.note(failed("t", "alice", term, 3, None))
        assert await bench.settle("t", "alice", term, 0, ahead=[(3, 3, own)])
        for note in late:
            await bench.note(note)
        second = await bench.acquire("t", "alice")
        assert second is not None
        assert second.troubles[1] == trouble(20, 5000)
        assert 4 not in second.troubles, "it is parked"
        await bench.note(failed("t", "alice", second.term, 2, trouble(21, since=20)))
        assert await bench.settle("t", "alice", second.term, 3)
        await bench.note(failed("t", "alice", second.term, 1, trouble(20, 5000)))
        third = await bench.acquire("t", "alice")
        assert third is not None
        assert third.troubles == {2: trouble(21, since=20)}
        [counts] = await bench.lanes.counts([("t", "alice")])
        assert counts.failures.keys() == {2}

    run(server, test)


@pytest.mark.parametrize("kind", ["fail", "clear", "redriven"])
def test_who_does_not_hold_a_lane_leaves_nothing_behind(server: Redis, kind: Any) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        assert await bench.park("t", "alice", acquired.term, 2)
        await bench.lanes.take_parked("t", "alice", "redrive", None)
        await bench.note(failed("t", "alice", acquired.term, 2, trouble(21, since=20)))
        before = await bench.everything()
        note = failed("t", "alice", acquired.term, 2, trouble(22))._replace(kind=kind)
        await bench.note(note, OTHER)
        await bench.note(note._replace(term=acquired.term - 1))
        await bench.note(note._replace(client_id="nobody"))
        assert await bench.everything() == before
        await bench.note(note)
        assert await bench.everything() != before

    run(server, test)


def test_a_message_is_parked_by_the_owner_alone(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench)
        before = await bench.everything()
        assert not await bench.park("t", "alice", acquired.term, 1, member=OTHER)
        assert not await bench.park("t", "alice", acquired.term - 1, 1)
        assert not await bench.park("t", "nobody", acquired.term, 1)
        assert await bench.everything() == before
        await bench.note(failed("t", "alice", acquired.term, 1, trouble(1)))
        assert await bench.park("t", "alice", acquired.term, 1)
        assert await bench.lanes.counts([("t", "alice")]) == [(1, {}, 0, 0)], (
            "its attempts are with it"
        )
        assert await bench.listed("t", "alice") == [1]
        messages = [("alice", 1), ("alice", 2), ("bob", 1)]
        passed = await bench.lanes.passed("t", messages)
        assert [one.is_parked for one in passed] == [True, False, False]

    run(server, test)


def test_it_is_known_what_a_position_passed_without_its_being_done(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench)
        [passed] = await bench.lanes.passed("t", [("alice", 1)])
        assert passed == Passed(False, False, False, 0, (await bench.state("t"))["epoch"])
        await bench.one(retain("t", max_messages=1))
        await bench.append("t", "y", "y")
        found = await bench.lanes.passed("t", [("alice", number) for number in (1, 4, 5)])
        assert [one.is_capped for one in found] == [True, True, False]
        turned = await bench.one(direct("t", "alice"))
        [passed] = await bench.lanes.passed("t", [("alice", 5)])
        assert passed.ended == turned.version
        ended = await bench.one(unsubscribe("t", "alice"))
        await bench.one(durable("t", "alice"))
        [alice, bob] = await bench.lanes.passed("t", [("alice", 5), ("bob", 5)])
        assert (alice.ended, bob.ended) == (ended.version, 0)
        await bench.ask("ZADD", "ended", 7, "")
        [bob] = await bench.lanes.passed("t", [("bob", 5)])
        assert bob.ended == 7, "what is forgotten may have been one of bob's"

    run(server, test)


def test_it_is_known_which_numbers_are_of_the_present_epoch(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        await begin(bench, 2)
        [passed] = await bench.lanes.passed("t", [("alice", 2)])
        former = passed.epoch
        await bench.restart("t")
        await bench.append("t", "y")
        found = await bench.lanes.passed("t", [("alice", 2), ("alice", 3)])
        assert [one.epoch for one in found] == ["", (await bench.state("t"))["epoch"]]
        assert former != found[1].epoch
        await bench.one(unsubscribe("t", "alice"))
        [passed] = await bench.lanes.passed("t", [("alice", 2)])
        assert passed.epoch not in ("", former), "there is none of that number"

    run(server, test)


def test_a_new_owner_hears_of_what_is_parked_past_the_position(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench, 5)
        assert await bench.park("t", "alice", acquired.term, 1, 2, 4, 5)
        assert await bench.settle("t", "alice", acquired.term, 2)
        await bench.lanes.take_parked("t", "alice", "redrive", 3)
        again = await bench.acquire("t", "alice")
        assert again is not None
        assert parked_in(again) == [4, 5], "what is put back comes once, and not from the log too"
        assert again.redrives.lowest(9) == [1, 2, 4]

    run(server, test)


def test_what_failed_and_was_passed_is_forgotten_by_the_next_owner(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        acquired = await begin(bench, 5)
        term = acquired.term
        assert await bench.park("t", "alice", term, 2)
        await bench.lanes.take_parked("t", "alice", "redrive", None)
        for sequence in (1, 2, 4):
            await bench.note(failed("t", "alice", term, sequence, trouble(21, since=20)))
        assert await bench.settle("t", "alice", term, 3)
        again = await bench.acquire("t", "alice")
        assert again is not None
        assert again.troubles.keys() == {2, 4}, "2 was put back"
        [(_, left, _, _)] = await bench.lanes.counts([("t", "alice")])
        assert left.keys() == {2, 4}

    run(server, test)


def test_many_lanes_of_a_topic_are_read_part_by_part(server: Redis) -> None:
    async def test(bench: LogBench) -> None:
        many = {f"c{number}" for number in range(1500)}
        for client in many:
            await bench.begin("t", client)
        await bench.begin("u", "alice")
        cursors, parts = {"t": 0, "u": 0}, []
        while cursors:
            looked, cursors = await bench.lanes.page(cursors)
            parts.append(looked)
        assert list(parts[0]["u"]) == ["alice"]
        assert set().union(*(part.get("t", {}) for part in parts)) == many
        assert max(len(part.get("t", {})) for part in parts) < 500

    run(server, test)
