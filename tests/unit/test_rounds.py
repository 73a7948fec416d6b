"""How much of what lanes have to tell goes to the store in one round, without servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

from support.delivering import Bed
from support.proxy import on_loop
from support.windows import entry

from gearhorn.durable.filling import Filling
from gearhorn.durable.latest import Latest
from gearhorn.durable.rounds import AHEAD, Rounds
from gearhorn.durable.shipping import UNSENT_BYTES
from gearhorn.gearman.results import DONE
from gearhorn.messages.logs import FailureHistory, Info, Parked
from gearhorn.store.inherited import Sequences
from gearhorn.store.rounds import PIECE, RANGES, Commands, PositionWrite, Round, RoundReply


class Store:
    """Takes every round, and keeps what it was told."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    async def round(self, member: str, work: Round, run_id: str) -> RoundReply:
        """As `Lanes.round`."""
        self.rounds.append(work)
        await asyncio.sleep(0)
        return RoundReply(set(), {}, set(), [])

    async def put_back(
        self, wanted: Sequence[tuple[str, str, Sequence[int]]], most: int
    ) -> list[list[Parked | None]]:
        """As `Lanes.put_back`."""
        message = Parked("e", FailureHistory(1, 0.0, 0.0, "no"), Info(0.0), b"x")
        return [[message] * len(some) for _, _, some in wanted]


def rounds_of(bed: Bed, store: Store) -> Rounds:
    """What works the lanes of a bed off."""
    until = SimpleNamespace(until_s=float("inf"))
    membership = cast(Any, SimpleNamespace(id="me", lease=until, clock_ms=0))
    filling = Filling(
        job_servers=cast(Any, bed.cluster),
        clock=membership,
        held=bed.held,
        log_cache=bed.log_cache,
        outcomes=bed.outcomes,
        latest=Latest(bed.log_cache, bed.pending, bed.outcomes.shipping),
        drops=Mock(),
    )
    return Rounds(
        store=cast(Any, store),
        job_servers=cast(Any, bed.cluster),
        membership=membership,
        held=bed.held,
        log_cache=bed.log_cache,
        pending=bed.pending,
        outcomes=bed.outcomes,
        endings=bed.endings,
        changed_lanes=bed.changed_lanes,
        filling=filling,
    )


def ranges(work: Round) -> list[tuple[int, int, str]]:
    """What is told of messages done beyond positions."""
    return [
        one for some in work.positions.values() for *_, ahead, _, _ in some for one in ahead or ()
    ]


@on_loop
async def test_what_many_lanes_have_done_beyond_their_positions_is_told_part_by_part() -> None:
    bed, store = Bed(), Store()
    rounds = rounds_of(bed, store)
    lanes, count = 40, AHEAD // 10
    for number in range(lanes):
        one = bed.lane(f"t{number}", in_flight=count + 1)
        for delivery in bed.send(one, count + 1)[1:]:
            shipment, index = delivery.job
            bed.outcomes.finished(shipment, index, DONE)
    task = asyncio.create_task(rounds.run())
    async with asyncio.timeout(20):
        while sum(len(ranges(work)) for work in store.rounds) < lanes * count:
            await asyncio.sleep(0)
    task.cancel()
    await rounds.stop()
    assert max(len(ranges(work)) for work in store.rounds) <= AHEAD
    told = [
        (topic, first)
        for work in store.rounds
        for topic, some in work.positions.items()
        for *_, ahead, _, _ in some
        for first, _, _ in ahead or ()
    ]
    assert len(told) == len(set(told)), "nothing is told twice"
    assert set(told) == {(f"t{n}", at) for n in range(lanes) for at in range(2, count + 2)}


@on_loop
async def test_what_was_put_back_goes_on_when_job_servers_have_room_again() -> None:
    bed = Bed()
    rounds = rounds_of(bed, Store())
    other, one = bed.lane("u"), bed.lane()
    one.redrives = Sequences([1])
    other.take([entry(1)], 0.0, 0)
    bed.outcomes.shipping.add(other.sendable()[0])
    bed.outcomes.shipping._unsent += UNSENT_BYTES
    bed.outcomes.shipping.ship(0.0)
    task = asyncio.create_task(rounds.run())
    bed.held.touch(one)
    async with asyncio.timeout(20):
        while one.is_dirty or one.in_round:
            await asyncio.sleep(0)
        assert one.redrives, "job servers take nothing now"
        bed.outcomes.shipping._unsent -= UNSENT_BYTES
        bed.cluster.accept()
        while not bed.cluster.submitted:
            await asyncio.sleep(0)
    assert not one.redrives
    task.cancel()
    await rounds.stop()


def pieces(*counts: int | None) -> list[int]:
    """How many lanes there are in each command, for lanes with so many ranges."""
    some: list[PositionWrite] = [
        (f"c{at}", 1, 0, "", None if count is None else [(2, 2, "e")] * count, 0, 0)
        for at, count in enumerate(counts)
    ]
    scripts: list[int] = []

    def script(name: str, keys: Any, *arguments: Any) -> tuple[str]:
        scripts.append((len(arguments) - 3) // 5)
        return (name,)

    connection = SimpleNamespace(key=lambda *names: "k", script=script)
    Commands(cast(Any, connection), "me", Round({"t": some}, [], [], [], {}, {}))
    return scripts


def test_one_script_has_so_many_lanes_and_so_many_ranges() -> None:
    assert pieces(*[None] * (2 * PIECE + 1)) == [PIECE, PIECE, 1]
    assert pieces(*[RANGES // 2] * 5) == [2, 2, 1]
    assert pieces(RANGES * 3, 1, None, RANGES) == [1, 2, 1]
    assert pieces(None) == [1]
    assert pieces(*[1] * (RANGES // 2)) == [PIECE] * (RANGES // 2 // PIECE)
