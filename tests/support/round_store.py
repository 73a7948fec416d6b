"""A store that takes rounds in memory, and a member that delivers from it, for unit tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from gearhorn.durable.changed_lanes import ChangedLanes
from gearhorn.durable.deliverer import Deliverer
from gearhorn.durable.lanes import Delivery, Lane
from gearhorn.errors import StoreError
from gearhorn.gearman.results import DONE, Result
from gearhorn.messages.logs import Parked
from gearhorn.messages.subscriptions import DurableOptions
from gearhorn.store.inherited import Sequences
from gearhorn.store.lanes import Acquired
from gearhorn.store.log import Entry
from gearhorn.store.rounds import Pair, PositionWrite, Round, RoundReply, Wanted
from support.delivering import Cluster
from support.windows import entries


class Store:
    """Has logs, takes every round, and answers as the test says."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Entry]] = {}
        self.rounds: list[Round] = []
        self.run_ids: list[str] = []  # that rounds named
        self.errors: list[Exception | None] = []  # with which the next rounds fail
        self.fenced: set[Pair] = set()
        self.refused: dict[Pair, StoreError] = {}
        self.gone: set[tuple[str, str, int]] = set()  # cannot be set aside
        self.unread: dict[str, StoreError] = {}  # topics whose logs cannot be read
        self.back: dict[int, Parked] = {}  # messages that were put back
        self.free = asyncio.Event()  # it answers
        self.free.set()

    async def round(self, member: str, work: Round, run_id: str) -> RoundReply:
        """As `Lanes.round`."""
        self.rounds.append(work)
        self.run_ids.append(run_id)
        await self.free.wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        return RoundReply(
            self.fenced, self.refused, self.gone, [self._read(wanted) for wanted in work.wanted]
        )

    def _read(self, wanted: Wanted) -> tuple[list[Entry], bool] | StoreError:
        if wanted.topic in self.unread:
            return self.unread[wanted.topic]
        there = [
            entry for entry in self.logs.get(wanted.topic, ()) if entry.sequence >= wanted.first
        ]
        return there[: wanted.limit], len(there) <= wanted.limit

    async def put_back(
        self, wanted: Sequence[tuple[str, str, Sequence[int]]], limit: int
    ) -> list[list[Parked | None]]:
        """As `Lanes.put_back`."""
        return [[self.back.get(number) for number in numbers] for _, _, numbers in wanted]

    @property
    def positions(self) -> list[tuple[str, int]]:
        """The positions that were written, each with its client_id, in order."""
        return [
            (client_id, position)
            for work in self.rounds
            for writes in (*work.positions.values(), *work.released.values())
            for client_id, _, position, *_ in writes
        ]

    @property
    def released(self) -> list[PositionWrite]:
        """What was written of lanes that were given up."""
        return [
            write for work in self.rounds for writes in work.released.values() for write in writes
        ]


class DeliveringMember:
    """A member that delivers, with a job server that accepts what the test has it accept."""

    def __init__(self) -> None:
        self.store = Store()
        self.cluster = Cluster()
        self.membership = SimpleNamespace(
            id="me", lease=SimpleNamespace(until_s=float("inf")), clock_ms=0
        )
        self.changed_lanes = ChangedLanes()
        self.changed_lanes.take()
        self.drops = Mock()
        parts: Any = self.store, self.cluster, self.membership
        store, job_servers, membership = parts
        self.deliverer = Deliverer(
            store=store,
            job_servers=job_servers,
            membership=membership,
            changed_lanes=self.changed_lanes,
            drops=self.drops,
        )

    def log(self, first: int, last: int, topic: str = "t") -> None:
        """Messages come into a log, and nothing tells of them."""
        self.store.logs.setdefault(topic, []).extend(entries(first, last))

    def open(
        self,
        client_id: str = "alice",
        topic: str = "t",
        *,
        position: int = 0,
        former: str = "-",
        redrives: Sequence[int] = (),
        **options: Any,
    ) -> Lane:
        """Take a lane."""
        lane = Lane(
            topic,
            client_id,
            f"{topic}_{client_id}".encode(),
            DurableOptions(**options),
            False,
            1,
            position,
            keeper=self.deliverer.held,
        )
        put_back = Sequences(redrives)
        acquired = Acquired(client_id, 1, position, former, {}, [], put_back)
        self.deliverer.open(lane, acquired)
        return lane

    async def go_on(self, seconds: float = 0.0) -> None:
        """Let everything go on that can, or for so many seconds."""
        await asyncio.sleep(seconds)
        for _ in range(50):
            await asyncio.sleep(0)

    async def until(self, is_so: Any) -> None:
        """Let others go on until it holds."""
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.005)

    def sent(self, lane: Lane) -> list[int]:
        """The messages of a lane that are with a job server."""
        return [delivery.sequence for delivery in lane.window if delivery.job is not None]

    def finish(self, delivery: Delivery, *, ok: bool = True) -> None:
        """A receiver ends its job; the job server has accepted it."""
        shipment, index = delivery.job
        if not shipment.answered:
            self.cluster.accept()
        self.deliverer.outcomes.finished(shipment, index, DONE if ok else Result(False))


@asynccontextmanager
async def delivering() -> AsyncIterator[DeliveringMember]:
    """A member whose rounds run."""
    member = DeliveringMember()
    task = asyncio.create_task(member.deliverer.run())
    try:
        yield member
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        member.store.free.set()
        await member.deliverer.stop()
