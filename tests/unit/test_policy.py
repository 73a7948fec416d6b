"""How often a store that may evict keys is complained of."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from support.proxy import on_loop

from gearhorn.broker import policy
from gearhorn.broker.policy import StorePolicy
from gearhorn.errors import StoreError
from gearhorn.messages.peers import StoreState

EVICTS = ("error", "the store forgets keys when its memory is full")
KEEPS = ("info", "the store keeps its keys again")


class Store:
    """Answers with one policy after another; an error where it is away."""

    def __init__(self, *answers: str | StoreError | None) -> None:
        self._answers = list(answers)
        self.is_done = asyncio.Event()

    async def state(self) -> StoreState:
        if not self._answers:
            self.is_done.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return StoreState(evicts=answer)


async def logged(*answers: str | StoreError | None) -> list[tuple[str, str]]:
    store = Store(*answers)
    with capture_logs() as lines:
        watching = asyncio.create_task(StorePolicy(store, 0.0).run())  # type: ignore[arg-type]
        await asyncio.wait_for(store.is_done.wait(), 10)
        watching.cancel()
    return [(line["log_level"], line["event"]) for line in lines]


@on_loop
async def test_a_store_that_keeps_its_keys_is_no_news() -> None:
    assert await logged(None, None, StoreError("away"), None) == []


@on_loop
async def test_a_policy_that_evicts_is_told_once_and_its_end_as_well() -> None:
    lru = "allkeys-lru"
    assert await logged(None, lru, lru, StoreError("away"), lru, None, None) == [EVICTS, KEEPS]


@on_loop
async def test_a_policy_that_stays_is_told_again() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(policy, "REPEAT_S", -1.0)
        assert await logged("allkeys-lru", "allkeys-lru") == [EVICTS, EVICTS]
