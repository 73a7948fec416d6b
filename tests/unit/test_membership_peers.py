"""Membership: when a peer is reaped, and when a change counts as known to it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from support.membership import LEASE_S, Bench, peer, polled, renewal, run, turn

from gearhorn.errors import StoreError
from gearhorn.members.membership import RENEWALS
from gearhorn.members.peers import POLL_S, SENT_S
from gearhorn.store.members import Member

# Peers


def test_the_peers_are_the_others() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        me = Member(bench.member.id, b"1 0 10000")
        alice, bob = peer(name="alice"), peer(name="bob")
        assert bench.member.saw([alice, me, bob], bench.loop.at_s) == [alice, bob]
        assert bench.member.peers == {"alice": alice, "bob": bob}
        assert bench.member.saw([me], bench.loop.at_s) == []
        assert bench.member.peers == {}

    run(test)


def test_a_peer_whose_record_stood_still_for_its_lease_is_reaped_once_and_buried() -> None:
    async def test(bench: Bench) -> None:
        still = peer()
        await bench.join(renewal(members=[still]))
        seen_s = bench.loop.at_s
        while not bench.store.is_asked("reap"):
            call = await bench.renewed(renewal(members=[still]))
            assert (call.asked_s - seen_s > LEASE_S) == bench.store.is_asked("reap")
        reap = await bench.store.next("reap")
        assert reap.arguments == (still,), "with the very record that stood still"
        await bench.keep(LEASE_S / RENEWALS * 2, still)
        assert not bench.store.is_asked("reap"), "it is being reaped already"
        reap.answer.set_result(True)
        await bench.keep(LEASE_S * 3)
        assert bench.duties.take() == [("bury", "peer")]
        assert bench.member.reaped == 1
        assert len(bench.store.named("reap")) == 1

    run(test)


def test_a_peer_that_moved_is_not_reaped() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer(1)]))
        for count in range(2, 6):  # once in almost a lease is enough
            for _ in range(2):
                await bench.renewed(renewal(members=[peer(count)]))
        # a member that knows more has renewed too
        await bench.renewed(renewal(members=[peer(5, known=1)]))
        await bench.renewed(renewal(members=[peer(5, known=1)]))
        assert bench.store.named("reap") == []

    run(test)


def test_each_peer_has_the_time_of_its_own_lease() -> None:
    async def test(bench: Bench) -> None:
        short, long = peer(lease_s=2.0, name="short"), peer(lease_s=40.0, name="long")
        await bench.join(renewal(members=[short, long]))
        seen_s = bench.loop.at_s
        await bench.renewed(renewal(members=[short, long]))
        reap = await bench.store.next("reap")
        assert reap.arguments == (short,)
        reap.answer.set_result(True)
        while not bench.store.is_asked("reap"):
            call = await bench.renewed(renewal(members=[long]))
        assert (await bench.store.next("reap")).arguments == (long,)
        assert 40.0 < call.asked_s - seen_s < 40.0 + LEASE_S / RENEWALS + 0.1

    run(test)


def test_a_reading_counts_from_when_it_was_asked_for_and_not_from_when_it_came() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        still = peer(lease_s=2.0)
        bench.member.saw([still], bench.loop.at_s)
        asked_s = bench.loop.at_s + 1.9
        await asyncio.sleep(3.0)  # the answer was long on its way
        bench.member.saw([still], asked_s)
        await turn()
        assert bench.store.named("reap") == []
        bench.member.saw([still], bench.loop.at_s)
        await turn()
        assert len(bench.store.named("reap")) == 1

    run(test)


def test_a_peer_that_was_not_seen_meanwhile_is_watched_from_its_return() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        still = peer(lease_s=2.0)
        for members in ([still], [], [still]):
            bench.member.saw(members, bench.loop.at_s)
            await asyncio.sleep(1.5)
        bench.member.saw([still], bench.loop.at_s)
        await turn()
        assert bench.store.named("reap") == []

    run(test)


def test_a_peer_that_renewed_after_all_is_not_buried() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer()]))
        await bench.keep(LEASE_S * 1.4, peer())
        (await bench.store.next("reap")).answer.set_result(False)
        await bench.renewed(renewal(members=[peer(2)]))
        assert bench.duties.take() == []
        assert bench.member.reaped == 0

    run(test)


def test_a_reaping_that_failed_is_tried_again_a_lease_later() -> None:
    async def test(bench: Bench) -> None:
        still = peer()
        await bench.join(renewal(members=[still]))
        await bench.keep(LEASE_S * 1.4, still)
        first = await bench.store.next("reap")
        first.answer.set_exception(StoreError("away"))
        await bench.keep(LEASE_S * 1.4, still)
        second = await bench.store.next("reap")
        assert second.asked_s - first.asked_s > LEASE_S
        second.answer.set_result(True)
        await turn()
        assert bench.duties.take() == [("bury", "peer")]

    run(test)


# Waiting until a peer knows


def test_whoever_does_not_find_itself_takes_the_data_for_lost() -> None:
    """The store was emptied: members that it has forgotten may hold leases for one lease more."""

    async def test(bench: Bench) -> None:
        await bench.join()
        former, began_s = bench.member.id, bench.loop.at_s
        assert bench.member.saw([peer()], bench.loop.at_s + 0.001)
        assert not bench.is_held
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal(data="other"))
        await bench.member.joined.wait()
        assert bench.member.id != former
        keeping = asyncio.create_task(bench.keep(LEASE_S + 1))
        await bench.member.when_leases_hold()
        assert bench.loop.at_s - began_s >= LEASE_S
        await keeping

    run(test)


def test_a_change_is_known_once_the_peer_renewed_with_its_version() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer()]))
        over = bench.member.when_known(peer(known=5), 6, bench.loop.at_s)
        for count in range(1, 4):
            await polled(bench, peer(count, known=5))
            assert not over.done(), "it renewed without the change"
        await polled(bench, peer(4, known=6))
        assert over.done()

    run(test)


def test_a_change_is_known_once_the_peer_knows_a_later_one() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        over = bench.member.when_known(peer(known=5), 6, bench.loop.at_s)
        await polled(bench, peer(2, known=9))
        assert over.done()

    run(test)


def test_a_peer_that_has_gone_uses_no_list() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        over = bench.member.when_known(peer(), 6, bench.loop.at_s)
        await polled(bench, peer())
        assert not over.done()
        await polled(bench, peer(name="another"))
        assert over.done()

    run(test)


def test_a_peer_that_renews_without_the_change_may_use_no_list_a_lease_after_it() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        since_s = bench.loop.at_s
        over = bench.member.when_known(peer(lease_s=4.0), 6, since_s)
        for count in itertools.count(1):
            await polled(bench, peer(count, lease_s=4.0))
            assert over.done() == (bench.loop.at_s - since_s > 4.0)
            if over.done():
                break
        assert bench.loop.at_s - since_s < 4.0 + 2 * POLL_S

    run(test)


def test_a_living_peer_has_sent_once_it_says_so_however_long_that_takes() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        since_s = bench.loop.at_s
        over = bench.member.when_sent(peer(lease_s=4.0), 6, since_s)
        count = 0
        while bench.loop.at_s - since_s < 4.0 + SENT_S / 2:
            count += 1
            await polled(bench, peer(count, known=5, lease_s=4.0))
            assert not over.done()
        await polled(bench, peer(count + 1, known=6, lease_s=4.0))
        assert over.done()

    run(test)


def test_a_living_peer_that_never_says_so_is_waited_for_so_long_and_no_longer() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        since_s = bench.loop.at_s
        over = bench.member.when_sent(peer(lease_s=4.0), 6, since_s)
        for count in itertools.count(1):
            await polled(bench, peer(count, known=5, lease_s=4.0))
            if over.done():
                break
        assert 4.0 + SENT_S < bench.loop.at_s - since_s < 4.0 + SENT_S + 2 * POLL_S

    run(test)


def test_a_peer_that_stands_still_is_removed_a_lease_after_it_last_moved() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        over = bench.member.when_sent(peer(lease_s=4.0), 6, bench.loop.at_s)
        for count in range(20):
            await polled(bench, peer(count, known=5, lease_s=4.0))
        moved_s = bench.loop.at_s
        while not bench.store.is_asked("reap"):
            assert not over.done()
            await polled(bench, peer(count, known=5, lease_s=4.0))
        (await bench.store.next("reap")).answer.set_result(True)
        await polled(bench)
        assert over.done()
        assert 4.0 < bench.loop.at_s - moved_s < 4.0 + 3 * POLL_S

    run(test)


def test_the_lease_lapses_by_our_own_clock_if_the_store_says_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        since_s = bench.loop.at_s
        over = bench.member.when_known(peer(lease_s=2.0), 6, since_s)
        while not over.done():
            assert bench.loop.at_s - since_s < 2.0 + 2 * POLL_S
            (await bench.store.next("all")).answer.set_exception(StoreError("away"))
            await turn()
        assert bench.loop.at_s - since_s > 2.0

    run(test)


@pytest.mark.parametrize("reading", [[], [peer(known=6)], [peer(known=7)]])
def test_a_reading_asked_for_before_the_change_says_nothing(reading: list[Member]) -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        before = bench.member.when_known(peer(), 1, bench.loop.at_s)
        call = await bench.store.next("all")
        await asyncio.sleep(0.01)
        # a store that lost its tail may have shown a version that it then gave once more
        over = bench.member.when_known(peer(), 6, bench.loop.at_s)
        call.answer.set_result(reading)
        await turn()
        assert before.done()
        assert not over.done()
        await polled(bench, *reading)
        assert over.done()

    run(test)


def test_a_look_at_the_members_reaps_who_stood_still() -> None:
    async def test(bench: Bench) -> None:
        still = peer(lease_s=1.0)
        await bench.join(renewal(members=[still]))
        over = bench.member.when_known(still, 6, bench.loop.at_s)
        while not bench.store.is_asked("reap"):
            await polled(bench, still)
        (await bench.store.next("reap")).answer.set_result(True)
        await turn()
        assert over.done()
        assert bench.duties.take() == [("bury", "peer")]

    run(test)


def test_one_look_serves_all_who_wait_and_none_is_taken_when_nobody_does() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        alice, bob = peer(name="alice"), peer(name="bob")
        first = bench.member.when_known(alice, 6, bench.loop.at_s)
        second = bench.member.when_known(bob, 7, bench.loop.at_s)
        await polled(bench, peer(2, 6, name="alice"), peer(2, 6, name="bob"))
        assert (first.done(), second.done()) == (True, False)
        await polled(bench, peer(3, 7, name="bob"))
        assert second.done()
        looks = len(bench.store.named("all"))
        await bench.keep(1.0)
        assert len(bench.store.named("all")) == looks == 2
        again = bench.member.when_known(bob, 8, bench.loop.at_s)
        await polled(bench)
        assert again.done()

    run(test)


def test_who_waits_no_more_keeps_nobody_looking() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        bench.member.when_known(peer(), 6, bench.loop.at_s).cancel()
        await polled(bench, peer())
        await bench.keep(1.0)
        assert len(bench.store.named("all")) == 1

    run(test)
