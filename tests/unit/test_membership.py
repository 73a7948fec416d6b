"""Membership: what a member may believe of its own lease and when, as the store answers."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from support.membership import (
    EVERYTHING,
    HELD_S,
    LEASE_MS,
    LEASE_S,
    Bench,
    peer,
    renewal,
    run,
    turn,
)

from gearhorn.errors import StoreError
from gearhorn.members.membership import HEARD, LINGER_S, RENEWALS
from gearhorn.store.members import Member

# Joining


def test_it_can_be_asked_before_it_joins_and_forgets_what_was_read_before() -> None:
    async def test(bench: Bench) -> None:
        bench.member.start(bench.duties)
        call = await bench.store.next("join")
        me = bench.member.id
        assert call.arguments == (me, LEASE_MS, 0)
        assert bench.duties.take() == [("appear", me)]
        assert not bench.is_held
        call.answer.set_result(renewal(version=7))
        await bench.member.joined.wait()
        assert bench.duties.take() == [("forget",)]
        assert bench.duties.until_s == [float("-inf")], "it forgets before the lease counts"
        assert bench.is_held
        assert (await bench.renewed()).arguments[1] == 7, "it knows what there was when it joined"

    run(test)


def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    async def test(bench: Bench) -> None:
        bench.member.start(bench.duties)
        call = await bench.store.next("join")
        await asyncio.sleep(1.0)
        call.answer.set_result(renewal())
        await bench.member.joined.wait()
        assert bench.lease.until_s == call.asked_s + HELD_S
        call = await bench.store.next("renew")
        await asyncio.sleep(2.0)
        call.answer.set_result(renewal())
        await turn()
        assert bench.lease.until_s == call.asked_s + HELD_S

    run(test)


def test_while_the_store_is_away_joining_is_tried_again_without_a_lease() -> None:
    async def test(bench: Bench) -> None:
        bench.member.start(bench.duties)
        for _ in range(5):
            call = await bench.store.next("join")
            call.answer.set_exception(StoreError("away"))
            await turn()
            assert not bench.is_held
            assert not bench.member.joined.is_set()
        call = await bench.store.next("join")
        assert call.arguments[0] == bench.member.id
        call.answer.set_result(renewal())
        await bench.member.joined.wait()
        assert bench.is_held

    run(test)


def test_it_renews_thrice_in_the_time_of_a_lease() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        began_s = bench.loop.at_s
        for number in range(1, 31):
            await bench.renewed()
            assert number * 0.9 <= (bench.loop.at_s - began_s) / (LEASE_S / RENEWALS) <= number

    run(test)


def test_leaving_ends_the_lease_and_tells_the_store() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.member.leave()
        assert bench.lease.usable_until_s == float("-inf")
        assert [call.arguments for call in bench.store.named("leave")] == [(bench.member.id,)]

    run(test)


def test_who_left_while_the_join_was_under_way_tells_the_store_too() -> None:
    async def test(bench: Bench) -> None:
        bench.member.start(bench.duties)
        await bench.store.next("join")

    store = run(test)
    assert [call.name for call in store.calls] == ["join", "leave"]


def test_who_never_asked_to_join_has_nothing_to_tell() -> None:
    async def test(bench: Bench) -> None:
        bench.member.start(bench.duties)

    assert run(test).calls == []


# Renewing


def test_a_renewal_drops_what_changed_before_the_lease_counts() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former_s = bench.lease.until_s
        await bench.renewed(renewal(version=2, topics=["a", "b"]))
        assert bench.duties.take() == [("drop", "a"), ("drop", "b")]
        assert bench.duties.until_s[-2:] == [former_s, former_s]
        assert bench.lease.until_s > former_s

    run(test)


def test_a_renewal_drops_what_a_pattern_matches_before_the_lease_counts() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former_s = bench.lease.until_s
        bench.duties.dropping = asyncio.get_running_loop().create_future()
        await bench.renewed(renewal(version=2, topics=["a", " a.*"]))
        assert bench.duties.take() == [
            ("drop", "a"),
            ("drop", " a.*"),
            ("drop matching", " a.*"),
        ]
        assert bench.lease.until_s == former_s, "what is matched is being dropped"
        bench.duties.dropping.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.lease.until_s > former_s

    run(test)


def test_a_lease_that_ends_while_matches_are_dropped_is_not_granted() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        bench.duties.dropping = asyncio.get_running_loop().create_future()
        await bench.renewed(renewal(version=2, topics=[" a.*"]))
        bench.lease.end()
        bench.duties.dropping.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.lease.until_s == float("-inf")

    run(test)


def test_a_renewal_that_hands_back_everything_forgets_all() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former_s = bench.lease.until_s
        await bench.renewed(renewal(version=2, topics=EVERYTHING))
        assert bench.duties.take() == [("forget",)]
        assert bench.duties.until_s[-1] == former_s
        assert bench.lease.until_s > former_s
        assert bench.duties.settled == [None], "what holds any former list is to be sent"

    run(test)


def test_a_renewal_that_hands_back_nothing_drops_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.keep(LEASE_S * 2)
        assert bench.duties.take() == []
        assert bench.duties.settled == []

    run(test)


@pytest.mark.parametrize("topics", [["a"], EVERYTHING])
def test_a_version_is_acknowledged_only_once_what_held_the_lists_is_sent(
    topics: list[str] | None,
) -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=topics))
        assert bench.duties.settled == [topics]
        for _ in range(3):  # renewals go on meanwhile, and say what is known so far
            call = await bench.renewed(renewal(version=6, topics=topics))
            assert call.arguments[1] == 5
        bench.duties.settling.set_result(None)
        settled_s = bench.loop.at_s
        call = await bench.store.next("renew")
        assert call.arguments[1] == 6
        assert call.asked_s == settled_s, "somebody may wait for it"
        call.answer.set_result(renewal(version=6))
        assert (await bench.renewed(renewal(version=6))).arguments[1] == 6

    run(test)


def test_while_one_renewal_is_settled_later_ones_wait_together() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        first = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        second = bench.duties.settling = bench.loop.create_future()
        for version in range(7, 12):
            topics = [f"t{number}" for number in range(version)]
            await bench.renewed(renewal(version=version, topics=topics))
        assert bench.duties.settled == [["a"]]
        first.set_result(None)
        call = await bench.renewed(renewal(version=11, topics=topics))
        assert call.arguments[1] == 6
        assert bench.duties.settled == [["a"], topics], "the last one tells of all before it"
        second.set_result(None)
        assert (await bench.renewed(renewal(version=11))).arguments[1] == 11

    run(test)


def test_what_waited_to_be_settled_for_a_former_self_does_not_count_for_the_next_one() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        first = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        await bench.renewed(renewal(version=20, topics=["a", "b"]))
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal(version=8, data="another"))
        await bench.member.joined.wait()
        first.set_result(None)
        await turn()
        assert (await bench.renewed(renewal(version=8))).arguments[1] == 8
        assert bench.member.known == 8

    run(test)


def test_pairs_whose_time_is_over_are_handed_on() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        await bench.renewed(renewal(expired=[("t", "alice"), ("t", "bob")]))
        assert bench.duties.take() == [("expire", ("t", "alice"), ("t", "bob"))]
        await bench.renewed()
        assert bench.duties.take() == []

    run(test)


def test_the_members_clock_goes_on_between_renewals() -> None:
    async def test(bench: Bench) -> None:
        assert bench.member.clock_ms == 0
        await asyncio.sleep(0.25)
        assert bench.member.clock_ms == 250, "before the first answer it is a clock of one's own"
        bench.member.start(bench.duties)
        call = await bench.store.next("join")
        assert call.arguments[2] == 250
        call.answer.set_result(renewal(clock_ms=700_000))
        await bench.member.joined.wait()
        read_s = bench.loop.at_s
        await asyncio.sleep(1.5)
        assert bench.member.clock_ms == 701_500
        call = await bench.store.next("renew")
        assert call.arguments[3] == pytest.approx(700_000 + (call.asked_s - read_s) * 1000, abs=1)
        call.answer.set_exception(StoreError("away"))
        await asyncio.sleep(1.0)
        assert bench.member.clock_ms == pytest.approx(
            700_000 + (bench.loop.at_s - read_s) * 1000, abs=1
        ), "it needs no store to go on"

    run(test)


def test_the_members_clock_never_goes_back() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        before = bench.member.clock_ms
        call = await bench.store.next("renew")
        told = call.arguments[3]
        await asyncio.sleep(0.5)  # the answer takes its time: what it says is half a second old
        call.answer.set_result(renewal(clock_ms=told))
        await asyncio.sleep(0)
        assert bench.member.clock_ms >= told + 500
        await bench.renewed(renewal(clock_ms=0))  # an emptied store
        assert bench.member.clock_ms > before
        await bench.renewed(renewal(clock_ms=10**9))
        assert bench.member.clock_ms >= 10**9

    run(test)


# Losing the lease


async def rejoined(bench: Bench, former: str) -> None:
    """The member is another one, without a lease, and forgets everything as it joins."""
    call = await bench.store.next("join")
    assert not bench.is_held
    assert bench.member.id != former
    assert call.arguments[0] == bench.member.id
    await turn()
    assert bench.duties.take() == [("abandon",), ("appear", bench.member.id)]
    assert [call.arguments for call in bench.store.named("leave")] == [(former,)]
    await asyncio.sleep(LINGER_S * 1.1)
    assert bench.duties.take() == [("disappear", former)], "once nobody can learn of it any more"
    call.answer.set_result(renewal(version=9))
    await turn()
    assert bench.duties.take() == [("forget",)]
    assert bench.duties.until_s[-1] < bench.loop.at_s, "it forgets before the lease counts"
    assert bench.is_held
    assert (await bench.renewed()).arguments[:2] == (bench.member.id, 9)


def test_a_member_that_the_store_does_not_know_joins_anew_and_forgets() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former = bench.member.id
        call = await bench.store.next("renew")
        assert bench.is_held
        call.answer.set_result(None)
        await turn()
        assert bench.lease.usable_until_s == float("-inf"), "no list is used from now on"
        await rejoined(bench, former)

    run(test, stale_s=60.0)


def test_a_member_whose_lease_lapsed_while_the_store_was_away_joins_anew_and_forgets() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former, until_s = bench.member.id, bench.lease.until_s
        while bench.member.id == former:
            call = await bench.store.next("renew")
            call.answer.set_exception(StoreError("away"))
            await turn()
            assert bench.lease.until_s == until_s
            assert bench.member.id == former or bench.loop.at_s > until_s
        assert bench.loop.at_s < until_s + 1
        await rejoined(bench, former)

    run(test)


def test_a_member_that_was_answered_too_late_joins_anew_and_forgets() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former = bench.member.id
        call = await bench.store.next("renew")
        await asyncio.sleep(bench.lease.until_s - bench.loop.at_s + 0.001)
        call.answer.set_result(renewal())
        await turn()
        assert bench.lease.usable_until_s == float("-inf")
        await rejoined(bench, former)

    run(test, stale_s=60.0)


def test_a_former_self_is_served_until_the_store_has_forgotten_it_and_is_never_asked() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former = bench.member.id
        bench.store.is_away = True
        (await bench.store.next("renew")).answer.set_result(None)
        record = Member(former, b"3 0 10000")  # it stands still, and is not reaped either
        (await bench.store.next("join")).answer.set_result(renewal(members=[record, peer()]))
        await bench.keep(LEASE_S * 2, record, peer())
        assert ("disappear", former) not in bench.duties.take(), "peers may still ask it"
        assert list(bench.member.peers) == ["peer"]
        assert former not in str(bench.store.named("reap"))
        bench.store.is_away = False
        await bench.keep(LEASE_S, peer())
        assert bench.duties.take().count(("disappear", former)) == 1

    run(test)


def test_who_leaves_takes_former_selves_away_too() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        former = bench.member.id
        bench.store.is_away = True
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal())
        await turn()
        bench.store.is_away = False
        await bench.member.leave()
        assert bench.store.named("leave")[-1].arguments == (bench.member.id, former)

    run(test)


def test_a_member_that_an_emptied_store_does_not_know_lets_changes_wait_one_lease() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(data="before"))
        (await bench.store.next("renew")).answer.set_result(None)
        await turn()
        lost_s = bench.loop.at_s
        (await bench.store.next("join")).answer.set_result(renewal(data="after"))
        waiting = asyncio.ensure_future(bench.member.when_leases_hold())
        await bench.keep(LEASE_S * 0.9)
        assert not waiting.done(), "the records of others may be lost with this one's"
        await bench.keep(LEASE_S * 0.5)
        assert waiting.done()
        assert bench.loop.at_s - lost_s > LEASE_S

    run(test)


def test_a_member_that_was_removed_by_mistake_lets_changes_wait_until_it_joins() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        (await bench.store.next("renew")).answer.set_result(None)
        await turn()
        call = await bench.store.next("join")
        before = asyncio.ensure_future(bench.member.when_leases_hold())
        await asyncio.sleep(LEASE_S / 2)
        assert not before.done(), "nobody knows yet"
        call.answer.set_result(renewal())
        await turn()
        began_s = bench.loop.at_s
        await bench.member.when_leases_hold()
        assert bench.loop.at_s == began_s
        keeping = asyncio.create_task(bench.keep(LEASE_S))
        await before
        await keeping

    run(test)


def test_a_renewal_that_fails_and_then_succeeds_in_time_loses_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        me = bench.member.id
        for _ in range(10):
            (await bench.store.next("renew")).answer.set_exception(StoreError("away"))
            await turn()
        assert bench.is_held
        call = await bench.renewed(renewal(version=1, topics=["t"]))
        assert bench.member.id == me
        assert bench.lease.until_s == call.asked_s + HELD_S
        assert bench.duties.take() == [("drop", "t")]

    run(test)


def test_lists_are_used_stale_after_a_renewal_failed_and_until_the_member_has_joined_anew() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        assert bench.lease.usable_until_s == bench.lease.until_s
        usable_s = bench.lease.until_s + 60.0
        store_is_back_s = bench.lease.until_s + 30.0
        while bench.loop.at_s < store_is_back_s:
            name = "renew" if bench.loop.at_s <= bench.lease.until_s else "join"
            (await bench.store.next(name)).answer.set_exception(StoreError("away"))
            await turn()
            assert bench.lease.usable_until_s == usable_s, "it is not longer for each failure"
        call = await bench.store.next("join")
        bench.duties.take()
        call.answer.set_result(renewal())
        await turn()
        assert bench.duties.take() == [("forget",)]
        assert bench.lease.usable_until_s == bench.lease.until_s == call.asked_s + HELD_S

    run(test, stale_s=60.0)


def test_what_a_former_self_had_to_settle_does_not_count_for_the_next_one() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal(version=8))
        bench.duties.settling.set_result(None)
        await turn()
        for _ in range(2):
            assert (await bench.renewed(renewal(version=8))).arguments[1] == 8

    run(test)


def test_what_was_settled_before_the_store_was_emptied_is_not_acknowledged_after() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=100))
        bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=101, topics=["a"]))
        (await bench.store.next("renew")).answer.set_result(None)  # FLUSHALL: the same run
        (await bench.store.next("join")).answer.set_result(renewal(version=0))
        bench.duties.settling.set_result(None)
        await turn()
        for _ in range(3):
            assert (await bench.renewed(renewal(version=1, topics=EVERYTHING))).arguments[1] <= 1

    run(test)


# What is known


async def known(bench: Bench) -> int:
    """What the member says next that it knows."""
    return int((await bench.renewed()).arguments[1])


def test_versions_heard_in_order_are_known() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        for version in (6, 7):
            bench.member.heard([version])
            assert await known(bench) == version
        bench.member.heard([8, 9, 10])
        assert await known(bench) == 10

    run(test)


@pytest.mark.parametrize("order", [*itertools.permutations((6, 7, 8, 9))])
def test_versions_heard_in_any_order_are_known_as_far_as_there_is_no_gap(
    order: tuple[int, ...],
) -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        heard: set[int] = set()
        for version in order:
            heard.add(version)
            bench.member.heard([version])
            expected = 5
            while expected + 1 in heard:
                expected += 1
            assert await known(bench) == expected
        assert expected == 9

    run(test)


def test_hearing_again_what_is_known_changes_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.member.heard([3, 4, 5])
        assert await known(bench) == 5
        bench.member.heard([6, 6, 3])
        bench.member.heard([6])
        assert await known(bench) == 6

    run(test)


def test_a_renewal_closes_the_gap_below_what_was_heard() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.member.heard([7, 9])  # nobody tells of 6
        assert await known(bench) == 5
        await bench.renewed(renewal(version=7, topics=["a", "b"]))
        assert await known(bench) == 7
        bench.member.heard([8])
        assert await known(bench) == 9

    run(test)


def test_what_was_heard_under_a_former_id_is_not_known_under_the_next() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.member.heard([7, 8])
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal(version=5))
        await turn()
        bench.member.heard([6])
        assert await known(bench) == 6

    run(test)


def test_versions_out_of_order_are_remembered_up_to_a_bound_and_known_ones_are_not() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=0))
        last = 1 + HEARD
        bench.member.heard(range(2, last + 1))  # as many as there is room for, and nobody told of 1
        bench.member.heard([last + 1])
        await bench.renewed(renewal(version=last, topics=EVERYTHING))
        assert await known(bench) == last
        bench.member.heard([last + 2])
        assert await known(bench) == last, "there was no room for the one between"
        bench.member.heard([last + 1])
        assert await known(bench) == last + 2

    run(test)
