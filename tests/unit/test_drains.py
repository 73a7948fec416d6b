"""The mark of a drain goes when its drain is over, however that came about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gearhorn.errors import StoreError
from gearhorn.gearman.drain import Drained
from gearhorn.members.drains import Drains
from gearhorn.store.subscriptions import Change

CHANGE = Change("unsubscribe", "t", "c", b"t_c", drainer="me", request="r")


class Bench:
    """Drains of a member; `events` is what happened."""

    def __init__(self, left: Sequence[Any] = (), error: Exception | None = None) -> None:
        self.events: list[str] = []
        self.refusals = 0  # of the store, from now on
        self.membership = SimpleNamespace(id="me", holds=lambda member: member == "me")
        self._drained, self._error = Drained(2, left), error
        self.drains = Drains(
            SimpleNamespace(drained=self._unmark),  # type: ignore[arg-type]
            SimpleNamespace(drain=self._drain),  # type: ignore[arg-type]
            SimpleNamespace(release=self._release),  # type: ignore[arg-type]
            self.membership,  # type: ignore[arg-type]
        )

    async def _drain(self, queue: bytes, may_go_on: Callable[[], bool]) -> Drained:
        self.events.append(f"drain {may_go_on()}")
        if self._error is not None:
            raise self._error
        return self._drained

    async def _unmark(self, queue: bytes, member: str, request: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("away")
        self.events.append(f"unmark {member} {request}")

    def _release(self, queue: bytes) -> None:
        self.events.append(f"release {queue.decode()}")


def test_a_queue_is_emptied_its_mark_goes_and_others_go_on() -> None:
    async def test() -> None:
        bench = Bench()
        drained = await bench.drains.run(CHANGE)
        assert drained.jobs == 2
        assert bench.events == ["drain True", "unmark me r", "release t_c"]

    asyncio.run(test())


def test_the_mark_goes_where_the_drain_fails() -> None:
    async def test() -> None:
        bench = Bench(error=OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            await bench.drains.run(CHANGE)
        while "release t_c" not in bench.events:
            await asyncio.sleep(0.001)
        assert bench.events == ["drain True", "unmark me r", "release t_c"]

    asyncio.run(test())


def test_a_store_that_is_away_is_asked_again_for_the_mark() -> None:
    async def test() -> None:
        bench = Bench()
        bench.refusals = 2
        await bench.drains.unmark(CHANGE)
        assert bench.events == ["unmark me r", "release t_c"]

    asyncio.run(test())


def test_the_mark_of_a_former_self_is_left_to_go_with_it() -> None:
    async def test() -> None:
        bench = Bench()
        bench.membership.id = "another"
        await bench.drains.unmark(CHANGE)
        assert bench.events == ["release t_c"]

    asyncio.run(test())
