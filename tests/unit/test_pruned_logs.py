"""Which logs are pruned, and when the next one is, without a store. What the script forgets:
tests/contract/test_store_retention.py."""

from __future__ import annotations

from typing import Any

import pytest
from support.proxy import on_loop
from support.scripted_store import ScriptedConnection

from gearhorn.errors import StoreError, StoreRefused
from gearhorn.store.pruned_logs import DUE, TROUBLED_MS, PrunedLogs
from gearhorn.store.wire import Command


def connection(due: list[bytes], following: Any, **scripts: Any) -> Any:
    """A store with logs that are due, the next one, and what the script returns for each topic."""

    def answer(command: Command) -> Any:
        if command[0] == "ZRANGEBYSCORE":
            return due if command[2] == "-inf" else following
        if command[0] == "prune":
            return scripts[command[9]]
        return 1

    return ScriptedConnection(answer)


@on_loop
@pytest.mark.parametrize(
    ("following", "at"), [([], None), ([b"t", b"1500"], 1500), ([(b"t", 1500.0)], 1500)]
)
async def test_where_nothing_is_due_the_next_one_is_told(following: Any, at: int | None) -> None:
    store = connection([], following)
    assert await PrunedLogs(store).prune(1000) == at
    assert len(store.asked) == 2


@on_loop
async def test_each_log_that_is_due_is_pruned_and_a_refused_one_later() -> None:
    store = connection([b"a", b"b"], [], a=3, b=StoreRefused("WRONGTYPE"))
    assert await PrunedLogs(store).prune(1000) == 1000, "there may be more"
    assert store.asked[0][-1] == DUE
    assert [command[9] for command in store.asked if command[0] == "prune"] == ["a", "b"]
    assert store.asked[-1][2:] == ("XX", 1000 + TROUBLED_MS, "b")


@on_loop
async def test_a_store_that_does_not_answer_is_told_to_the_caller() -> None:
    def answer(_: Command) -> Any:
        return StoreError("away")

    logs: Any = PrunedLogs(ScriptedConnection(answer))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="away"):
        await logs.prune(1000)
