"""What one round reads again of messages that were put back, without servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from support.windows import CLIENT, EPOCH, entry, lane, sequences, trouble

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.log_cache import LogCache
from gearhorn.durable.rereads import PUT_BACK, Redriven, Rereads
from gearhorn.durable.states import LaneEvent
from gearhorn.messages.logs import Info, Parked
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences
from gearhorn.store.log import Entry


class Looked(Lane):
    """A lane that counts how often its window is walked through."""

    __slots__ = ("looks",)

    def __init__(self, topic: str, in_flight: int) -> None:
        options = DurableOptions(in_flight=in_flight)
        super().__init__(topic, CLIENT, topic.encode(), options, False, 1, 100_000)
        self.looks = 0
        self.apply(LaneEvent.RELEASED)

    def sendable(self) -> list[Delivery]:
        self.looks += 1
        return super().sendable()


class Store:
    """Has every message that was put back, but those that are `gone`."""

    def __init__(self, *gone: int) -> None:
        self.asked: list[int] = []
        self._gone = gone

    async def put_back(
        self, wanted: Sequence[tuple[str, str, Sequence[int]]], most: int
    ) -> list[list[Parked | None]]:
        """As `Lanes.put_back`."""
        self.asked.append(sum(len(some) for _, _, some in wanted))
        return [[self._message(number) for number in some] for _, _, some in wanted]

    def _message(self, sequence: int) -> Parked | None:
        if sequence in self._gone:
            return None
        return Parked(EPOCH, trouble(1), Info(0.0), b"%d" % sequence)


class Outcomes:
    """Keeps which messages turned out to be gone."""

    def __init__(self) -> None:
        self.lost: list[int] = []
        self.before: list[int] = []

    def gone(self, delivery: Delivery) -> None:
        """The log does not have a message any more."""
        self.lost.append(delivery.sequence)

    def gone_before(self, delivery: Delivery, first: int) -> None:
        """It does not have the first messages of a batch."""
        self.before.append(first)
        delivery.lane.lose_before(delivery, first)


def read(store: Store, outcomes: Outcomes, *lanes: Lane) -> list[Lane]:
    """Read once; the lanes that have to ask again."""
    redriven = Redriven(cast(Any, store), cast(Any, outcomes))
    again, refused = asyncio.run(redriven.read(lanes, 0))
    assert refused == []
    return again


def test_a_window_is_walked_through_once_however_many_messages_are_read_again() -> None:
    one = Looked("t", 300)
    for number in range(1, 301):
        one.take_redriven(entry(number), trouble(1), 0.0, 0)
    for delivery in one.window:
        delivery.strip()
    store, outcomes = Store(7), Outcomes()
    read(store, outcomes, one)
    assert one.looks <= 3
    assert outcomes.lost == [7]
    filled = [delivery.sequence for delivery in one.window if not delivery.is_bare]
    assert filled == [number for number in range(1, 301) if number != 7]


def test_what_is_gone_is_passed_by() -> None:
    one = Looked("t", 5)
    one.redrives = Sequences([1, 2, 3])
    read(Store(2), Outcomes(), one)
    assert sequences(one.window) == [[1], [3]]
    assert not one.redrives


def test_one_round_asks_for_so_many_messages_and_no_more() -> None:
    lanes = [Looked(f"t{number}", 100) for number in range(40)]
    for one in lanes:
        one.redrives = Sequences(range(1, 101))
    store = Store()
    asking: Sequence[Lane] = lanes
    for _ in range(20):
        asking = [one for one in read(store, Outcomes(), *asking) if one.redrives]
        if not asking:
            break
    assert not asking, "every lane goes on"
    assert max(store.asked) <= PUT_BACK
    for one in lanes:
        assert sequences(one.window) == [[number] for number in range(1, 101)]


def read_again(
    one: Lane, outcomes: Outcomes, *reads: tuple[list[Entry], bool]
) -> list[dict[int, int]]:
    """Read again round by round what a lane may send; what was asked for."""
    feed = LogCache()
    feed.follow(one.topic, EPOCH)
    asked = []
    for reply in reads:
        rereads = Rereads(feed, cast(Any, outcomes))
        wanted = rereads.want([one])
        asked.append(wanted.get(one.topic, {}))
        plan = feed.plan(wanted)
        feed.take_in(plan, [reply])
        rereads.take_in(plan, [reply])
    Rereads(feed, cast(Any, outcomes)).want([one])
    return asked


def batch_of(count: int) -> tuple[Lane, Delivery]:
    """A batch whose payloads have to be read again."""
    one = lane(batch=count)
    one.take([entry(number) for number in range(1, count + 1)], 0.0, 0)
    [delivery] = one.window
    one.end_round()
    return one, delivery


def read_of(first: int, last: int) -> tuple[list[Entry], bool]:
    """A part of a log."""
    return [entry(number) for number in range(first, last + 1)], False


def test_a_batch_is_read_part_by_part() -> None:
    one, delivery = batch_of(10)
    outcomes = Outcomes()
    asked = read_again(one, outcomes, read_of(1, 4), read_of(5, 8), read_of(9, 10))
    assert asked == [{1: 10}, {5: 6}, {9: 2}]
    assert not delivery.is_bare
    assert outcomes.lost == []


def test_of_a_batch_is_left_what_its_log_has() -> None:
    for reads in ([read_of(4, 9)], [read_of(1, 2), read_of(4, 9)]):
        one, delivery = batch_of(5)
        outcomes = Outcomes()
        read_again(one, outcomes, *reads)
        assert sequences([delivery]) == [[4, 5]]
        assert not delivery.is_bare
        assert (outcomes.lost, outcomes.before) == ([], [4])


def test_a_batch_of_which_the_log_has_nothing_is_gone() -> None:
    nothing: tuple[list[Entry], bool] = [], True
    for reads in ([read_of(6, 9)], [nothing], [read_of(1, 2), read_of(6, 9)]):
        one, _ = batch_of(5)
        outcomes = Outcomes()
        read_again(one, outcomes, *reads)
        assert (outcomes.lost, outcomes.before) == ([1], [])
