"""Fan-outs that wait for durable receivers learn from positions what nobody told them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from support.proxy import on_loop

from gearhorn.durable.ack_waiters import AckWaiters
from gearhorn.errors import StoreError
from gearhorn.messages.events import encode_done
from gearhorn.messages.logs import Logged
from gearhorn.store.parked import Passed

EPOCH, LATER = "0123456789abcdef", "fedcba9876543210"


def logged(sequence: int, epoch: str = EPOCH) -> Logged:
    """Where a message stands."""
    return Logged(sequence, epoch, False)


class Store:
    """Positions that a test moves."""

    def __init__(self, **positions: int) -> None:
        self.all = dict(positions)
        self.parked: set[tuple[str, int]] = set()
        self.capped = 0
        self.expired: set[tuple[str, int]] = set()
        self.ended: dict[str, int] = {}
        self.known = 0  # by the member
        self.is_away = False
        self.epoch, self.base = EPOCH, 1

    async def positions(self, topic: str, cursor: int = 0) -> tuple[dict[str, int], int]:
        """Two in each part."""
        if self.is_away:
            raise StoreError("away")
        part = list(self.all.items())[cursor : cursor + 2]
        return dict(part), cursor + 2 if cursor + 2 < len(self.all) else 0

    async def passed(self, topic: str, messages: Sequence[tuple[str, int]]) -> list[Passed]:
        """As `Lanes.passed`."""
        return [
            Passed(
                pair in self.parked,
                pair in self.expired,
                pair[1] <= self.capped,
                self.ended.get(pair[0], 0),
                self.epoch if pair[1] >= self.base else "",
            )
            for pair in messages
        ]


class Fanout:
    """One that waits, and counts what it is asked."""

    def __init__(self, *clients: str) -> None:
        self.left = dict.fromkeys(clients)
        self.told: dict[str, str] = {}
        self.asked = 0

    def done(self, client_id: str, error: str, is_expired: bool) -> None:
        """A receiver has done with the message."""
        if client_id in self.left:
            del self.left[client_id]
            self.told[client_id] = "expired" if is_expired else error

    def missing(self) -> list[str]:
        """Those that have not."""
        self.asked += 1
        return list(self.left)

    def misses(self, client_id: str) -> bool:
        """Whether one has not."""
        self.asked += 1
        return client_id in self.left


def waiting(store: Store) -> AckWaiters:
    """What looks at a store."""
    return AckWaiters(cast(Any, store), store)


async def look(one: AckWaiters, times: int = 2) -> None:
    """Look; what is waited for only now is looked at by the second."""
    for _ in range(times):
        await one.poll()


@on_loop
async def test_positions_tell_what_nobody_told() -> None:
    store = Store(alice=3, bob=2, carol=0)
    one, other = Fanout("alice", "bob", "carol"), Fanout("bob", "carol")
    both = waiting(store)
    both.add("t", logged(3), one)
    both.add("t", logged(4), other)
    await look(both)
    assert (one.told, other.told) == ({"alice": ""}, {})
    store.all.update(bob=4, carol=3)
    store.parked.add(("bob", 4))
    await look(both, 1)
    assert one.told == {"alice": "", "bob": "", "carol": ""}
    assert other.told == {"bob": "too many attempts"}
    store.all["carol"] = 9
    await look(both, 1)
    assert other.told.keys() == {"bob", "carol"}


@on_loop
async def test_who_comes_when_all_have_done_learns_it_too() -> None:
    store = Store(alice=7, bob=7, carol=2)
    first, second = Fanout("alice", "carol"), Fanout("bob", "carol")
    both = waiting(store)
    both.add("t", logged(5), first)
    await look(both)
    assert first.told == {"alice": ""}
    both.add("t", logged(5), second)  # a repeated message
    await look(both)
    assert second.told == {"bob": ""}
    store.all["carol"] = 5
    await look(both, 1)
    assert "carol" in first.told
    assert "carol" in second.told


@on_loop
async def test_what_was_not_read_is_read_the_next_time() -> None:
    store = Store(alice=1, bob=0)
    one = Fanout("alice", "bob")
    some = waiting(store)
    some.add("t", logged(1), one)
    store.is_away = True
    await look(some, 3)
    assert one.told == {}
    store.is_away = False
    await look(some, 1)
    assert one.told == {"alice": ""}
    store.is_away, store.all["bob"] = True, 1
    await look(some, 1)
    store.is_away = False
    await look(some, 1)
    assert one.told == {"alice": "", "bob": ""}


@on_loop
async def test_who_waits_no_more_is_not_told() -> None:
    store = Store(alice=0)
    one = Fanout("alice")
    some = waiting(store)
    some.add("t", logged(1), one)
    await look(some)
    some.remove("t", 1, one)
    some.remove("t", 1, one)
    store.all["alice"] = 1
    await look(some)
    assert one.told == {}
    some.add("t", logged(1), one)
    await look(some)
    assert one.told == {"alice": ""}


@on_loop
async def test_a_look_at_what_has_not_moved_asks_no_fan_out() -> None:
    clients = [f"c{number}" for number in range(50)]
    store = Store(**dict.fromkeys(clients, 0))
    fanouts = [Fanout(*clients) for _ in range(20)]
    some = waiting(store)
    for sequence, one in enumerate(fanouts, 1):
        some.add("t", logged(sequence), one)
    await look(some)
    before = sum(one.asked for one in fanouts)
    await look(some, 10)
    assert sum(one.asked for one in fanouts) == before
    store.all["c7"] = 10
    await look(some)
    assert sum("c7" in one.told for one in fanouts) == 10
    assert sum(one.asked for one in fanouts) <= before + 10


@on_loop
async def test_a_position_proves_nothing_of_a_message_that_the_caps_took() -> None:
    store = Store(alice=0, bob=0)
    store.parked.add(("bob", 2))
    one, two = Fanout("alice", "bob"), Fanout("alice")
    both = waiting(store)
    both.add("t", logged(2), one)
    both.add("t", logged(3), two)
    await look(both)
    store.all.update(alice=3, bob=3)
    store.capped = 2
    await look(both)
    assert set(one.told) == {"bob"}, "it was parked before"
    assert two.told == {"alice": ""}


@on_loop
async def test_a_subscription_that_was_made_anew_has_not_done_what_a_former_one_had_to() -> None:
    store = Store(alice=3, bob=3)
    former, later = Fanout("alice", "bob"), Fanout("alice", "bob")
    both = waiting(store)
    store.known = 6
    both.add("t", logged(3), former)
    store.ended["alice"] = store.known = 7
    both.add("t", logged(3), later)
    await look(both)
    assert set(former.told) == {"bob"}
    assert set(later.told) == {"alice", "bob"}


@on_loop
async def test_numbers_that_come_again_under_another_epoch_are_other_messages() -> None:
    store = Store(alice=0, bob=0)
    kept, lost, later = Fanout("alice", "bob"), Fanout("alice", "bob"), Fanout("alice", "bob")
    all_three = waiting(store)
    all_three.add("t", logged(4), kept)
    all_three.add("t", logged(5), lost)
    store.epoch, store.base = LATER, 5  # the store was restarted, and has lost 5
    all_three.add("t", logged(5, LATER), later)
    all_three.hear(encode_done("t", "alice", 5, "", epoch=LATER))
    assert (lost.told, later.told) == ({}, {"alice": ""})
    store.all.update(alice=5, bob=5)
    await look(all_three)
    both = {"alice", "bob"}
    assert (set(kept.told), set(lost.told), set(later.told)) == (both, set(), both)
    all_three.hear(encode_done("t", "bob", 5, "disk full", epoch=EPOCH))
    all_three.hear(b"t\0alice\x005\0")  # as an older release tells it
    assert lost.told == {"bob": "disk full", "alice": ""}
