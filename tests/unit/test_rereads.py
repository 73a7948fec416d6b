"""What one round reads again of messages that were put back, without servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from support.windows import CLIENT, EPOCH, entry, sequences, trouble

from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.durable.rereads import PUT_BACK, Redriven
from gearhorn.durable.states import LaneEvent
from gearhorn.messages.logs import Info, Parked
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences


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

    def gone(self, delivery: Delivery) -> None:
        """The log does not have a message any more."""
        self.lost.append(delivery.sequence)


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
