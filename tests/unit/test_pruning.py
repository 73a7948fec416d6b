"""Pruning looks after logs and after those who asked, and goes on whatever the store refuses."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from gearhorn.durable import pruning
from gearhorn.durable.pruning import Pruner
from gearhorn.errors import StoreError


class Store:
    """Stands for the logs, or for those who asked; refuses every second call."""

    def __init__(self) -> None:
        self.clocks: list[int] = []
        self.enough = asyncio.Event()

    async def prune(self, clock_ms: int) -> None:
        self.clocks.append(clock_ms)
        if len(self.clocks) == 4:
            self.enough.set()
        if len(self.clocks) % 2:
            raise StoreError("not now")


def test_both_are_pruned_again_after_what_the_store_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "LONGEST_S", 0.001)
    monkeypatch.setattr(pruning, "SHORTEST_S", 0.001)

    async def test() -> None:
        logs, askers = Store(), Store()
        parts: Any = logs, askers, SimpleNamespace(clock_ms=7)
        task = asyncio.create_task(Pruner(*parts).run())
        async with asyncio.timeout(30):
            await logs.enough.wait()
            await askers.enough.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert set(logs.clocks) == set(askers.clocks) == {7}

    asyncio.run(test())
