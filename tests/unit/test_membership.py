"""Membership: what a member may believe and when, with every answer of the store forced.

Time passes only when nothing is left to do, and then at once, so that whole leases cost nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from gearhorn.broker.lease import SAFE_PART, Lease
from gearhorn.broker.membership import HEARD, POLL_S, RENEWALS, Membership
from gearhorn.errors import StoreError
from gearhorn.store.members import Member, Renewal
from gearhorn.timing import now_s

LEASE_S = 10.0
LEASE_MS = 10_000
HELD_S = LEASE_S * SAFE_PART  # what a member counts of its lease
PATIENCE_S = 300.0  # of the test, in time that costs nothing


class _Selector(selectors.SelectSelector):
    """Lets the loop's time pass instead of waiting."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is left that could ever happen")
        self._loop.at_s += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that never waits; ``at_s`` is its time."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.at_s


class Call(NamedTuple):
    """What the store was asked, and the answer that the test gives."""

    name: str
    arguments: tuple[Any, ...]
    asked_s: float
    answer: asyncio.Future[Any]


class Store:
    """Stands for ``Members``: each call waits for the test, but for those that leave."""

    def __init__(self, loop: Loop) -> None:
        self.run_id = "run-1"
        self.calls: list[Call] = []
        self._loop = loop
        self._asked: dict[str, asyncio.Queue[Call]] = {}

    def _of(self, name: str) -> asyncio.Queue[Call]:
        return self._asked.setdefault(name, asyncio.Queue())

    async def _ask(self, name: str, *arguments: Any) -> Any:
        call = Call(name, arguments, self._loop.at_s, self._loop.create_future())
        self.calls.append(call)
        self._of(name).put_nowait(call)
        return await call.answer

    async def join(self, member: str, lease_ms: int, clock_ms: int) -> Renewal:
        return await self._ask("join", member, lease_ms, clock_ms)  # type: ignore[no-any-return]

    async def renew(
        self, member: str, known: int, lease_ms: int, clock_ms: int, is_settled: bool
    ) -> Renewal | None:
        asked = ("renew", member, known, lease_ms, clock_ms, is_settled)
        return await self._ask(*asked)  # type: ignore[no-any-return]

    async def all(self) -> list[Member]:
        return await self._ask("all")  # type: ignore[no-any-return]

    async def reap(self, member: Member) -> bool:
        return await self._ask("reap", member)  # type: ignore[no-any-return]

    async def leave(self, member: str) -> None:
        self.calls.append(Call("leave", (member,), self._loop.at_s, self._loop.create_future()))

    async def next(self, name: str) -> Call:
        """Return the next call of this name, from when it comes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._of(name).get()

    def is_asked(self, name: str) -> bool:
        """Whether there is a call of this name that the test has not taken."""
        return not self._of(name).empty()

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


class Duties:
    """Writes down what a member was made to do, and how its lease stood meanwhile."""

    def __init__(self, lease: Lease) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.until_s: list[float] = []  # of the lease, at each drop and forget
        self.settling: asyncio.Future[None] | None = None  # settle waits for it
        self.settled: list[Sequence[str] | None] = []
        self._lease = lease

    async def appear(self, member: str) -> None:
        self.events.append(("appear", member))

    async def disappear(self, member: str) -> None:
        self.events.append(("disappear", member))

    def drop(self, topic: str) -> None:
        self.events.append(("drop", topic))
        self.until_s.append(self._lease.until_s)

    def forget(self) -> None:
        self.events.append(("forget",))
        self.until_s.append(self._lease.until_s)

    async def settle(self, topics: Sequence[str] | None) -> None:
        self.settled.append(topics)
        if self.settling is not None:
            await self.settling

    def expire(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.events.append(("expire", *pairs))

    async def bury(self, member: str) -> None:
        self.events.append(("bury", member))

    def take(self) -> list[tuple[Any, ...]]:
        """Take what was done since the last call."""
        events, self.events = self.events, []
        return events


def renewal(
    version: int = 0,
    topics: Sequence[str] | None = (),
    members: Sequence[Member] = (),
    clock_ms: int = 0,
    expired: Sequence[tuple[str, str]] = (),
    is_same_run: bool = True,
) -> Renewal:
    """What the store hands back."""
    changed = None if topics is None else list(topics)
    return Renewal(version, changed, list(members), clock_ms, list(expired), is_same_run)


EVERYTHING = None


def peer(count: int = 1, known: int = 0, lease_s: float = LEASE_S, name: str = "peer") -> Member:
    """A peer after so many renewals."""
    return Member(name, b"%d %d %d" % (count, known, lease_s * 1000))


class Bench:
    """One member, its store and its duties."""

    def __init__(self, loop: Loop, stale_s: float) -> None:
        self.loop = loop
        self.store = Store(loop)
        self.lease = Lease(LEASE_S, stale_s)
        self.duties = Duties(self.lease)
        self.member = Membership(self.store, self.lease)  # type: ignore[arg-type]

    async def join(self, answer: Renewal | None = None) -> None:
        """Start, and join at once."""
        self.member.start(self.duties)
        (await self.store.next("join")).answer.set_result(answer or renewal())
        await self.member.joined.wait()
        self.duties.take()

    async def renewed(self, answer: Renewal | None = None) -> Call:
        """Answer the next renewal, at once; return what was asked."""
        call = await self.store.next("renew")
        call.answer.set_result(answer or renewal())
        await turn()
        return call

    async def keep(self, seconds: float, *members: Member) -> None:
        """Renew for so long; the store shows these members."""
        until_s = self.loop.at_s + seconds
        while self.loop.at_s < until_s:
            await self.renewed(renewal(members=members))

    @property
    def is_held(self) -> bool:
        """Whether the lease holds now."""
        return self.loop.at_s <= self.lease.until_s


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(
    test: Callable[[Bench], Coroutine[None, None, None]],
    clock: Callable[[], float] | None = None,
    stale_s: float = 0.0,
) -> Store:
    """Run a test on a bench of its own; nothing may crash meanwhile. ``clock``: another one than
    the loop's."""

    async def main() -> Store:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gearhorn.broker.membership.now_s", clock or loop.time)
            bench = Bench(loop, stale_s)
            try:
                await test(bench)
            finally:
                await bench.member.leave()
        return bench.store

    with capture_logs() as logs, asyncio.Runner(loop_factory=Loop) as runner:
        store = runner.run(main())
    assert [one for one in logs if "exc_info" in one] == []
    return store


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


def test_what_is_settled_later_does_not_take_back_what_is_known() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        first = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        second = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=7, topics=["a", "b"]))
        second.set_result(None)
        assert (await bench.renewed(renewal(version=7))).arguments[1] == 7
        first.set_result(None)
        assert (await bench.renewed(renewal(version=7))).arguments[1] == 7

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


# Losing the lease


async def rejoined(bench: Bench, former: str) -> None:
    """The member is another one, without a lease, and forgets everything as it joins."""
    call = await bench.store.next("join")
    assert not bench.is_held
    assert bench.member.id != former
    assert call.arguments[0] == bench.member.id
    await turn()
    assert sorted(bench.duties.take()) == [("appear", bench.member.id), ("disappear", former)]
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


async def polled(bench: Bench, *members: Member) -> Call:
    """Answer the next look at the members."""
    call = await bench.store.next("all")
    call.answer.set_result([peer(name=bench.member.id), *members])
    await turn()
    return call


def test_whoever_does_not_find_itself_takes_the_data_for_lost() -> None:
    """The store was emptied: members that it has forgotten may hold leases for one lease more."""

    async def test(bench: Bench) -> None:
        await bench.join()
        former, began_s = bench.member.id, bench.loop.at_s
        assert bench.member.saw([peer()], bench.loop.at_s + 0.001)
        assert not bench.is_held
        (await bench.store.next("renew")).answer.set_result(None)
        (await bench.store.next("join")).answer.set_result(renewal())
        await bench.member.joined.wait()
        assert bench.member.id != former
        keeping = asyncio.create_task(bench.keep(LEASE_S + 1))
        await bench.member.settled()
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


# Another run of the store


def test_another_run_of_the_store_forgets_everything_and_knows_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        call = await bench.store.next("renew")
        former_s = bench.lease.until_s
        bench.store.run_id = "run-2"  # the answer comes over a new connection
        call.answer.set_result(renewal(version=5, topics=["a"], is_same_run=False))
        await turn()
        assert ("drop", "a") not in bench.duties.events, "what changed in another past is of no use"
        assert ("forget",) in bench.duties.take()
        assert bench.duties.until_s[-1] == former_s
        assert bench.is_held, "the lease goes on"
        assert bench.duties.settled == [None]

    run(test)


def test_what_was_known_of_another_run_is_not_said_to_the_next() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        bench.member.heard([7])
        bench.store.run_id = "run-2"  # somebody else's question noticed
        bench.duties.settling = bench.loop.create_future()
        answer = renewal(version=6, topics=EVERYTHING, is_same_run=False)
        assert (await bench.renewed(answer)).arguments[1] == -1
        assert (await bench.renewed(answer)).arguments[1] == -1
        bench.duties.settling.set_result(None)
        assert (await bench.renewed(answer)).arguments[1] == 6
        bench.member.heard([6])
        assert (await bench.renewed(answer)).arguments[1] == 6, "7 was heard of another past"

    run(test)


def test_what_was_settled_under_another_run_is_not_acknowledged() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(version=5))
        former = bench.duties.settling = bench.loop.create_future()
        await bench.renewed(renewal(version=6, topics=["a"]))
        bench.store.run_id = "run-2"
        bench.duties.settling = bench.loop.create_future()
        answer = renewal(version=3, topics=EVERYTHING, is_same_run=False)
        assert (await bench.renewed(answer)).arguments[1] == -1
        former.set_result(None)
        await turn()
        assert (await bench.renewed(answer)).arguments[1] == -1

    run(test)


def settled(bench: Bench) -> asyncio.Task[None]:
    return asyncio.create_task(bench.member.settled())


async def unsettled_s(bench: Bench, waiting: asyncio.Task[None]) -> float:
    """How long it takes until a change is settled."""
    began_s = bench.loop.at_s
    while not waiting.done():
        name = "renew" if bench.member.joined.is_set() else "join"
        call = asyncio.create_task(bench.store.next(name))
        await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result().answer.set_result(renewal(is_same_run=False))
            await turn()
        else:
            call.cancel()
    return bench.loop.at_s - began_s


def test_changes_do_not_wait_while_the_store_is_the_same() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        for _ in range(3):
            waiting = settled(bench)
            await turn()
            assert waiting.done()
            await bench.renewed()

    run(test)


def test_under_another_run_of_the_store_changes_wait_a_lease() -> None:
    async def test(bench: Bench) -> None:
        await bench.join()
        bench.store.run_id = "run-2"
        waiting = settled(bench)  # it is the change itself that notices
        await turn()
        assert ("forget",) in bench.duties.take()
        assert not waiting.done()
        assert await unsettled_s(bench, waiting) == pytest.approx(LEASE_S)
        waiting = settled(bench)
        await turn()
        assert waiting.done(), "a lease later nothing is left of the former run"

    run(test)


def test_under_another_run_of_the_store_changes_wait_the_longest_lease_of_all() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer(lease_s=25.0), peer(lease_s=3.0, name="short")]))
        bench.store.run_id = "run-2"
        assert await unsettled_s(bench, settled(bench)) == pytest.approx(25.0)

    run(test)


def test_who_joins_a_store_that_began_another_run_waits_a_lease_with_its_changes() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(members=[peer(lease_s=25.0)], is_same_run=False))
        assert await unsettled_s(bench, settled(bench)) == pytest.approx(25.0)

    run(test)


def test_the_store_is_told_that_its_run_is_settled_a_lease_later_and_not_before() -> None:
    async def test(bench: Bench) -> None:
        await bench.join(renewal(is_same_run=False))
        joined_s = bench.loop.at_s
        said = False
        while not said:
            call = await bench.renewed(renewal(is_same_run=False))
            said = call.arguments[4]
            assert said == (call.asked_s - joined_s > LEASE_S)
        await bench.renewed(renewal(is_same_run=True))
        for _ in range(3):
            assert (await bench.renewed()).arguments[4] is False

    run(test)


# The wall clock


async def a_life(bench: Bench) -> None:
    """Join, wait for a peer, reap another, lose the store and the lease, and join anew."""
    still, moving = peer(), itertools.count(1)

    def members() -> list[Member]:
        return [still, peer(next(moving), name="moving")]

    await bench.join(renewal(members=members()))
    over = bench.member.when_known(peer(name="moving"), 6, bench.loop.at_s)
    answered = 0
    while not over.done():
        await asyncio.sleep(POLL_S / 2)
        for call in bench.store.calls[answered:]:
            if call.name == "all":
                call.answer.set_result([peer(name=bench.member.id), *members()])
            elif call.name == "renew":
                call.answer.set_result(renewal(members=members()))
            answered += call.name != "reap"
    (await bench.store.next("reap")).answer.set_result(True)
    former = bench.member.id
    while bench.member.id == former:
        await asyncio.sleep(POLL_S / 2)
        for call in bench.store.named("renew"):
            if not call.answer.done():
                call.answer.set_exception(StoreError("away"))
    (await bench.store.next("join")).answer.set_result(renewal())
    await turn()
    assert bench.is_held
    assert bench.duties.take()[-1] == ("forget",)


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def life(*readings: float) -> list[tuple[str, float]]:
        wall = itertools.cycle(readings)

        def clock_gettime(clock: int) -> float:
            is_wall = clock == time.CLOCK_REALTIME
            return next(wall) if is_wall else asyncio.get_running_loop().time()

        with monkeypatch.context() as patch:
            patch.setattr("random.uniform", lambda low, high: high)
            patch.setattr("time.clock_gettime", clock_gettime)
            patch.setattr("time.time", lambda: next(wall))
            patch.setattr("time.time_ns", lambda: int(next(wall) * 1e9))
            return [(call.name, call.asked_s) for call in run(a_life, now_s).calls]

    steady = life(1e9)
    assert {name for name, _ in steady} == {"join", "renew", "all", "reap", "leave"}
    assert life(0.0, 2e9, 1e9, 86400.0, 1e9 + 5) == steady
